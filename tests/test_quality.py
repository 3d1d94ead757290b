"""What the default engine makes of the default model, against transformers in float32 with the same weights."""

import math
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, cache
from engines import wait_until

import settings
from llm import checkpoint, engines, graphs, loader
from llm.openvino import properties
from llm.requests import Finished, Piece, Sampling

pytestmark = pytest.mark.models

# Of perplexity: weights of 8 bits lose 0.001, activations of 8 bits beside them 0.004, where the CPU can have those.
MOST_LOSS: dict[settings.Activations, float] = {"float": 0.003, "int8": 0.01}
ROW = 512  # tokens
QUESTIONS = (
    "How often must an amateur station transmit its call sign?",
    "What is a class B digital device?",
    "Which frequencies may a 2.4 GHz transmitter use?",
    "Who may operate a ship station?",
)


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    """The default model in float32, as transformers runs it, and its tokenizer."""
    found = loader.prepare(settings.LLM(device_map="cpu"), cache=cache())
    model = checkpoint.load(found.folder, variable=found.variable)
    return model, checkpoint.load_tokenizer(found.folder, variable=found.variable)


def rows(tokenizer: Any) -> list[list[int]]:
    """Text of our own, in rows of tokens."""
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(Path(ROOT / "samples").glob("*.md")))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [ids[start : start + ROW] for start in range(0, 6 * ROW, ROW)]


def test_perplexity(reference: tuple[Any, Any]) -> None:
    """The default engine predicts text as well as the float32 model does, on whatever CPU: its perplexity is hardly higher.

    With LLM_ACTIVATIONS=int8, which is not the default, it may be somewhat higher.
    """
    import torch

    model, tokenizer = reference
    texts = rows(tokenizer)
    expected = []
    with torch.inference_mode():
        for ids in texts:
            tensor = torch.tensor([ids])
            expected.append(float(model(input_ids=tensor, labels=tensor).loss))
    before = math.exp(sum(expected) / len(expected))
    assert 3 < before < 60  # it is a language model, and this is text
    for activations, most in MOST_LOSS.items():
        got = losses(texts, activations)
        after = math.exp(sum(got) / len(got))
        assert after / before - 1 < most, f"{before:.3f} in float32, {after:.3f} in OpenVINO with activations in {activations}"


def losses(texts: list[list[int]], activations: settings.Activations) -> list[float]:
    """Mean negative log-probability of each row's tokens, by OpenVINO with the settings we serve with."""
    import numpy as np
    import openvino  # type: ignore[import-untyped]
    import openvino_genai as genai  # type: ignore[import-untyped]

    graph = graphs.prepare(settings.LLM(), cache=cache())
    scheduler = genai.SchedulerConfig()
    scheduler.num_kv_blocks = 64
    scheduler.max_num_batched_tokens = engines.CHUNK
    pipe = genai.ContinuousBatchingPipeline(str(graph.folder), scheduler, "CPU", properties(activations))
    config = genai.GenerationConfig(max_new_tokens=1, echo=True, logprobs=1, apply_chat_template=False)
    config.set_eos_token_id(graph.end_tokens[0])
    means = []
    for number, ids in enumerate(texts):
        handle = pipe.add_request(number, openvino.Tensor(np.array([ids], dtype=np.int64)), config)
        while pipe.has_non_finished_requests():
            pipe.step()
        log_probs = handle.read_all()[0].generated_log_probs[1 : len(ids)]  # the first token has nothing before it
        assert len(log_probs) == len(ids) - 1
        means.append(-sum(log_probs) / len(log_probs))
    return means


def test_alone_and_together() -> None:
    """Greedy answers are the same alone, again from kept prefixes, and in a batch with prompts of other lengths."""
    opened = engines.open(settings.LLM(device_map="cpu"), cache=cache())
    assert opened.engine_name == "openvino"
    engine = opened.engine
    notes = [path.read_text(encoding="utf-8") for path in sorted(Path(ROOT / "samples").glob("*.md"))[: len(QUESTIONS)]]
    prompts = [
        engine.render([{"role": "user", "content": f"{note * repeated}\n\n{question}"}])
        for repeated, (note, question) in enumerate(zip(notes, QUESTIONS, strict=True))
    ]
    alone = [answers(engine, [prompt])[0] for prompt in prompts]
    again = [answers(engine, [prompt])[0] for prompt in prompts]
    together = answers(engine, prompts)
    metrics = engine.metrics()
    engine.close()
    assert together == again == alone
    assert len(set(alone)) == len(QUESTIONS)
    assert metrics["kv_cache"]["hit_rate"] > 0.4  # two of three times, as far as whole blocks go


def answers(engine: Any, prompts: list[str]) -> list[str]:
    """The engine's greedy answers to all of these at once."""
    events: list[list[Any]] = [[] for _ in prompts]
    for prompt, inbox in zip(prompts, events, strict=True):
        engine.submit(prompt, Sampling(max_tokens=24, temperature=0), inbox.append)
    wait_until(lambda: all(inbox and isinstance(inbox[-1], Finished) for inbox in events), limit=120)
    return ["".join(event.text for event in inbox if isinstance(event, Piece)) for inbox in events]
