"""OpenVINO GenAI's ContinuousBatchingPipeline without anything around it, driven over stdin and stdout.

python benchmarks/alternatives/bare_openvino.py --model FOLDER --end-tokens 2 --scheduler '{"cache_size": 1}'

Reads a JSON object a line, `{"prompts": [[token id, ...], ...], "max_tokens": 64}`, answers all of its prompts together, and
writes a line `{"first": [seconds, ...], "total": [...], "tokens": [...]}`, each counted from when the prompts were read.
"""

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with openvino_model.xml")
    parser.add_argument("--end-tokens", type=int, nargs="+", required=True)
    parser.add_argument("--scheduler", type=json.loads, default={}, help="fields of SchedulerConfig")
    parser.add_argument("--properties", type=json.loads, default={}, help="properties of the device")
    given = parser.parse_args()
    scheduler = genai.SchedulerConfig()
    for name, value in given.scheduler.items():
        setattr(scheduler, name, value)
    pipe = genai.ContinuousBatchingPipeline(given.model, scheduler, "CPU", given.properties)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(pipe, given.end_tokens, **json.loads(line))), flush=True)


def answer(pipe: Any, end_tokens: list[int], prompts: list[list[int]], max_tokens: int) -> dict[str, list[float]]:
    """All prompts in one batch, greedily; the times of each and the tokens it got."""
    began = time.perf_counter()
    config = genai.GenerationConfig(max_new_tokens=max_tokens, apply_chat_template=False, do_sample=False)
    config.set_eos_token_id(end_tokens[0])
    config.stop_token_ids = set(end_tokens)
    handles = [
        pipe.add_request(number, openvino.Tensor(np.array([prompt], dtype=np.int64)), config)
        for number, prompt in enumerate(prompts)
    ]
    first, total, tokens = ([0.0] * len(prompts) for _ in range(3))
    while pipe.has_non_finished_requests():
        pipe.step()
        now = time.perf_counter() - began
        for i, handle in enumerate(handles):
            while handle.can_read():
                tokens[i] += sum(len(output.generated_ids) for output in handle.read().values())
                first[i] = first[i] or now
                total[i] = now
    return {"first": first, "total": total, "tokens": tokens}


if __name__ == "__main__":
    main()
