"""Stock LangServe over a stock HuggingFacePipeline, as the documentation of both puts them together.

python benchmarks/alternatives/stock_langserve.py --model FOLDER --port 8001 --max-tokens 64

Only what a measurement asks for is added: greedy decoding, a fixed number of new tokens (handed over on each call, because the
constructor's are not honoured) and `skip_prompt`, so that a stream holds the answer alone.
"""

import argparse

import uvicorn
from fastapi import FastAPI
from langchain_core.prompts import PromptTemplate
from langchain_huggingface import HuggingFacePipeline
from langserve import add_routes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--max-tokens", type=int, default=64)
    given = parser.parse_args()
    model = HuggingFacePipeline.from_model_id(model_id=given.model, task="text-generation")
    generation = {"max_new_tokens": given.max_tokens, "min_new_tokens": given.max_tokens, "do_sample": False}
    prompt = PromptTemplate.from_template("{prompt}")  # the client has applied the model's chat template
    app = FastAPI()
    add_routes(app, prompt | model.bind(pipeline_kwargs=generation, skip_prompt=True), path="/chain")
    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
