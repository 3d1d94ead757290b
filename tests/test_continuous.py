"""Continuous batching on a tiny real Llama: what each request gets, whoever runs beside it, and what is left behind."""

import copy
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong
from llm.backend import Backend, Output
from llm.continuous import Continuous, _Sampler
from llm.requests import Sampling

GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.5, seed=7)
PROMPTS = [[1, *range(10 + n, 10 + n + length)] for n, length in enumerate((1, 5, 31, 32, 33, 64, 100, 170))]
Make = Callable[..., Continuous]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import torch
    from transformers import AutoModelForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # products this small gain nothing from a second one, and wait for it on a busy machine
    yield AutoModelForCausalLM.from_pretrained(tiny.make(tmp_path_factory.mktemp("models") / "tiny"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def best(model: Any) -> list[list[int]]:
    """For each prompt the thirty tokens `generate` finds likeliest; fewer are the first of these."""
    return [generate(model, ids, 30) for ids in PROMPTS]


@pytest.fixture
def make(model: Any) -> Iterator[Make]:
    made = []

    def build(**options: Any) -> Continuous:
        chosen: dict[str, Any] = {"end_tokens": [2], "slots": 8, "capacity": 2048, "window": 512, "chunk": 64, **options}
        made.append(Continuous(chosen.pop("model", model), **chosen))
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture
def backend(make: Make) -> Backend:
    return make()


class Answers(dict[int, list[int]]):
    """Tokens by key, gathered by stepping; `ends` holds how each request ended."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.ends: dict[int, str | FccRagError | None] = {}

    def ask(self, key: int, ids: list[int], sampling: Sampling = GREEDY, count: int = 12) -> None:
        self.backend.add(key, ids, sampling, count)
        self[key] = []

    def step(self) -> list[Output]:
        outputs = self.backend.step()
        for output in outputs:
            assert output.key not in self.ends
            self[output.key].extend(output.tokens)
            if output.end or output.error:
                self.ends[output.key] = output.end or output.error
        return outputs

    def finish(self) -> "Answers":
        while len(self.ends) < len(self):
            self.step()
        assert self.backend.step() == []
        return self


def alone(backend: Backend, ids: list[int], sampling: Sampling = GREEDY, count: int = 12) -> list[int]:
    answers = Answers(backend)
    answers.ask(0, ids, sampling, count)
    return answers.finish()[0]


def generate(model: Any, ids: list[int], count: int) -> list[int]:
    import torch

    tokens = torch.tensor([ids])
    whole = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=count)
    return [int(token) for token in whole[0, len(ids) :]]


def test_greedy(backend: Backend, best: list[list[int]]) -> None:
    """A greedy answer is the one `generate` gives, alone and in a batch of eight prompts of all lengths."""
    answers = Answers(backend)
    for key, ids in enumerate(PROMPTS):
        answers.ask(key, ids)
    answers.finish()
    for key, ids in enumerate(PROMPTS):
        assert answers[key] == best[key][:12] == alone(backend, ids)
    assert set(answers.ends.values()) == {"length"}


def test_new_tokens_only(backend: Backend) -> None:
    """Each step brings one new token of every request whose prompt has been read."""
    answers = Answers(backend)
    for key in range(3):
        answers.ask(key, PROMPTS[key], count=5)
    for _ in range(5):
        assert [(output.key, len(output.tokens)) for output in answers.step()] == [(0, 1), (1, 1), (2, 1)]
    assert answers.ends == dict.fromkeys(range(3), "length")


def test_join(backend: Backend, best: list[list[int]]) -> None:
    """Requests that join later change nothing in the answers of those that run, nor wait for them."""
    answers = Answers(backend)
    for key, ids in enumerate(PROMPTS):
        answers.ask(key, ids, count=30)
        answers.step()
        answers.step()
    assert not answers.ends
    answers.finish()
    assert [answers[key] for key in range(8)] == best


def test_no_stall(backend: Backend) -> None:
    """A long prompt that joins is read in pieces: whoever is being answered gets a token from every step."""
    answers = Answers(backend)
    answers.ask(0, PROMPTS[0], count=30)
    answers.step()
    answers.ask(1, [1, *range(10, 260)], count=2)
    while not answers[1]:
        assert 0 in {output.key for output in answers.step()}
    assert len(answers[0]) == 1 + 4  # 251 tokens in pieces of 63


@pytest.mark.parametrize("count", [1, 3, 9])
def test_end_token(make: Make, best: list[list[int]], count: int) -> None:
    """An answer the model ends by itself says so, and the token that ended it is the last."""
    answer = best[2][:count]
    backend = make(end_tokens=[2, answer[-1]])
    answers = Answers(backend)
    answers.ask(0, PROMPTS[2])
    answers.finish()
    assert answers.ends == {0: "stop"}
    assert answers[0] == answer[: answer.index(answer[-1]) + 1]


def test_own_settings(model: Any, make: Make, best: list[list[int]], capfd: pytest.CaptureFixture[str]) -> None:
    """What the model's own configuration says about sampling does not matter, and nothing is warned of."""
    other = copy.deepcopy(model)
    other.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, max_length=40, eos_token_id=list(range(512)))
    with_its_own, warm = make(model=other), Sampling(temperature=0.5, seed=1)
    assert alone(with_its_own, PROMPTS[6]) == best[6][:12]
    assert alone(with_its_own, PROMPTS[6], warm) == alone(make(), PROMPTS[6], warm)
    with_its_own.close()
    assert capfd.readouterr().err == ""


def test_settings_of_each(backend: Backend, best: list[list[int]]) -> None:
    """Requests of different temperatures, top_p and seeds in one batch each get what they would get alone."""
    chosen = [
        GREEDY,
        WARM,
        Sampling(temperature=1.5, seed=8),
        Sampling(temperature=0.3, seed=7),
        Sampling(temperature=2, top_p=0.5, seed=2**63 - 1),
        Sampling(temperature=2, top_p=1e-9, seed=7),
        Sampling(temperature=0.01, seed=0),
        WARM,
    ]
    single = [alone(backend, PROMPTS[3], sampling) for sampling in chosen]
    answers = Answers(backend)
    for key, sampling in enumerate(chosen):
        answers.ask(key, PROMPTS[3], sampling)
        answers.step()
    answers.finish()
    assert [answers[key] for key in range(8)] == single
    assert single[0] == single[5] == single[6] == best[3][:12]
    assert single[1] == single[7]
    assert len({tuple(answer) for answer in single[:5]}) == 5


def test_no_seed(backend: Backend) -> None:
    """Without a seed the same question is answered differently each time."""
    assert alone(backend, PROMPTS[3], Sampling(temperature=2)) != alone(backend, PROMPTS[3], Sampling(temperature=2))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (2.0, 1.0), (0.5, 0.8)])
def test_distribution(temperature: float, top_p: float) -> None:
    """Tokens are drawn as often as temperature and top_p make them likely."""
    import torch

    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 1.5])
    draws = 20_000
    requests = []
    for n in range(draws):
        how = {"temperature": temperature, "top_p": top_p, "seed": n // 100}
        state = SimpleNamespace(logit_processor_kwargs=how, position_offset=n % 100)
        requests.append(SimpleNamespace(state=state, has_new_token=True))
    sampler, storage = _Sampler(), torch.zeros(3, draws, dtype=torch.int32)
    sampler.prepare_tensor_args(requests, storage)
    drawn = Counter(sampler(None, logits.repeat(draws, 1), storage).argmax(-1).tolist())
    likely = (logits / temperature).softmax(-1).tolist()
    kept = [sum(p for p in likely if p > own) < top_p for own in likely]
    expected = [p * keep for p, keep in zip(likely, kept, strict=True)]
    for token, chance in enumerate(expected):
        assert drawn[token] / draws == pytest.approx(chance / sum(expected), abs=0.015)


def test_cancel(make: Make, best: list[list[int]]) -> None:
    """A cancelled request gives its place up at once, and nothing of it follows."""
    backend = make(slots=2, capacity=256)
    answers = Answers(backend)
    answers.ask(0, PROMPTS[2], count=30)
    answers.ask(1, PROMPTS[7], count=20)
    with pytest.raises(EngineError, match="no room"):
        backend.add(2, PROMPTS[0], GREEDY, 1)
    for _ in range(6):
        answers.step()
    backend.cancel(1)
    backend.cancel(1)
    backend.cancel(99)
    partial = list(answers.pop(1))
    answers.ask(1, PROMPTS[6], count=12)
    answers.finish()
    assert partial
    assert answers == {0: best[2], 1: best[6][:12]}


def test_nothing_is_left(make: Make) -> None:
    """A thousand requests that came and went, at whatever moment, leave no trace."""
    backend = make()
    for key in range(1000):
        backend.add(key % 8, PROMPTS[key % 8], GREEDY, 40)
        if key % 100 < 4:
            backend.step()
        backend.cancel(key % 8)
    backend.step()
    manager = backend._manager
    batch, allocators = manager.batch_processor, manager.batch_processor.cache.cache_allocators.values()
    kept = [backend._running, batch.scheduler.active_requests, batch.scheduler.waiting_requests, manager.input_queue.queue]
    kept += [manager.cancel_queue.queue, manager.output_router.output_queue.queue, manager.output_router.result_handlers]
    kept += [allocator.block_table for allocator in allocators]
    assert not any(kept)
    batch.cache.evict_cached_blocks()
    assert batch.cache.compute_free_capacity() == 1


@pytest.mark.parametrize("sampling", [GREEDY, WARM])
def test_nan(backend: Backend, model: Any, sampling: Sampling) -> None:
    """NaN among a request's logits ends that request with an error; the others are answered as ever."""
    answers = Answers(backend)
    for key in range(3):
        answers.ask(key, PROMPTS[key], sampling)
    answers.step()

    def spoil(_: Any, __: Any, logits: Any) -> None:
        logits[0, 1, 300] = float("nan")

    with model.lm_head.register_forward_hook(spoil):
        answers.step()
    answers.finish()
    error = answers.ends.pop(1)
    assert isinstance(error, EngineError)
    assert "NaN" in str(error)
    assert len(answers[1]) == 1
    assert answers.ends == {0: "length", 2: "length"}
    for key in (0, 2):
        assert answers[key] == alone(backend, PROMPTS[key], sampling)


@pytest.mark.parametrize("count", [1, 12])
def test_nan_is_not_kept(backend: Backend, model: Any, best: list[list[int]], count: int) -> None:
    """Keys and values that went wrong once are not shared with later requests of the same prompt."""
    answers = Answers(backend)
    answers.ask(0, PROMPTS[7], count=count)
    answers.ask(1, PROMPTS[6], count=count)
    with model.model.layers[0].self_attn.v_proj.register_forward_hook(lambda _, __, values: values * float("nan")):
        answers.finish()
    assert all(isinstance(end, EngineError) for end in answers.ends.values())
    assert alone(backend, PROMPTS[7]) == best[7][:12]
    assert alone(backend, PROMPTS[6]) == best[6][:12]


def test_failure(make: Make, model: Any, best: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass that fails is raised by the step it failed in, in one line; a new backend on the same model works."""
    backend, logged = make(), list[str]()
    monkeypatch.setattr("llm.continuous.log.exception", logged.append)  # pytest would keep the traceback
    cache = weakref.ref(backend._manager.batch_processor.cache)
    backend.add(0, PROMPTS[0], GREEDY, 9)
    backend.step()
    with model.model.layers[1].register_forward_pre_hook(lambda *_: next(iter(()))), pytest.raises(EngineError) as failed:
        backend.step()
    assert str(failed.value) == "the model failed: StopIteration"
    assert logged
    backend.close()
    gc.collect()
    assert cache() is None
    assert alone(make(), PROMPTS[4]) == best[4][:12]


def test_too_large(make: Make, best: list[list[int]]) -> None:
    """A request that cannot fit is refused by itself, with the numbers; one that just fits is answered."""
    backend = make(window=256, capacity=100)  # three blocks: 65 tokens and 30 fit by one
    with pytest.raises(PromptTooLong, match=r"171 tokens .* 9; 96 is"):
        backend.add(0, PROMPTS[7], GREEDY, 9)
    with pytest.raises(PromptTooLong, match="256"):
        make(window=256).add(0, PROMPTS[7], GREEDY, 86)
    with pytest.raises(InvalidRequest, match="empty"):
        backend.add(0, [], GREEDY, 9)
    assert alone(backend, PROMPTS[5], GREEDY, 30) == best[5]


def test_no_memory(make: Make) -> None:
    """More room than the machine has is refused when the backend is made."""
    with pytest.raises(EngineError, match="available memory") as refused:
        make(capacity=10**12)
    assert "\n" not in str(refused.value)


def test_spread_model(make: Make, model: Any) -> None:
    """A model spread over several devices is refused when the backend is made, not when the first question comes."""
    other = copy.copy(model)
    other.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    with pytest.raises(EngineError, match="several devices"):
        make(model=other)


def test_full(make: Make, model: Any) -> None:
    """All room taken to the last block, again and again, every request still gets its whole answer."""
    backend = make(slots=4, capacity=4 * 128)
    for turn in range(3):
        answers = Answers(backend)
        prompts = [[1, *range(20 + 9 * turn + key, 140 + 9 * turn + key)] for key in range(4)]
        for key, ids in enumerate(prompts):
            answers.ask(key, ids, count=7)
        answers.finish()
        assert [answers[key] for key in range(4)] == [generate(model, ids, 7) for ids in prompts]


def test_prefix(backend: Backend, model: Any) -> None:
    """What prompts have in common is computed once, while the first of them is being answered and after it was."""
    computed: list[int] = []
    answers = Answers(backend)

    def count(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        computed.append(inputs["input_ids"].numel())

    def steps(key: int, ids: list[int], tokens: int) -> list[int]:
        computed.clear()
        answers.ask(key, ids, count=tokens)
        while not answers[key]:
            answers.step()
        return list(computed)

    common = [1, *range(100, 260)]  # five blocks and one token
    with model.register_forward_pre_hook(count, with_kwargs=True):
        assert steps(0, [*common, 7], 20) == [64, 64, 34]
        assert steps(1, [*common, 8], 5) == [1 + 2]
        answers.finish()
        assert steps(2, [*common, 9], 5) == [2]
    assert answers.finish()[2] == generate(model, [*common, 9], 5)


def test_reopen(make: Make, model: Any, best: list[list[int]]) -> None:
    """A closed backend has freed its memory, and the model can be run by the next one, or by itself."""
    for _ in range(2):
        backend = make()
        assert alone(backend, PROMPTS[6]) == best[6][:12]
        cache = weakref.ref(backend._manager.batch_processor.cache)
        backend.add(1, PROMPTS[0], GREEDY, 9)
        backend.step()
        backend.close()
        gc.collect()
        assert cache() is None
        assert generate(model, PROMPTS[6], 3) == best[6][:3]
