"""The engine on a tiny real Llama: what it answers, when it stops, and what it survives."""

import copy
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import tiny

from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong, QueueFull
from llm.engine import Engine
from llm.requests import Event, Failed, Finished, Piece, Request, Sampling

PROMPT = "<s>[user]\nWhat is the maximum power?\n[assistant]\n"
LIMIT = 30  # seconds nothing here ever takes


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny.make(tmp_path_factory.mktemp("models") / "tiny")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def engine(parts: tuple[Any, Any]) -> Iterator[Engine]:
    made = Engine(*parts, window=256, max_queue=64)
    yield made
    made.close()


@dataclass
class Inbox:
    """What a request was sent; `before` is called in the engine's thread for each event, ahead of keeping it."""

    before: Any = None
    events: "queue.Queue[Event]" = field(default_factory=queue.Queue)
    pieces: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if self.before:
            self.before(event)
        self.events.put(event)

    def end(self) -> Finished | Failed:
        while isinstance(event := self.events.get(timeout=LIMIT), Piece):
            self.pieces.append(event.text)
        return event

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def send(engine: Engine, prompt: str = PROMPT, before: Any = None, **sampling: Any) -> tuple[Request, Inbox]:
    inbox = Inbox(before)
    return engine.submit(prompt, Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling}), inbox), inbox


def ask(engine: Engine, prompt: str = PROMPT, **sampling: Any) -> tuple[str, Finished]:
    _, inbox = send(engine, prompt, **sampling)
    end = inbox.end()
    assert isinstance(end, Finished), end
    return inbox.text, end


def fails(engine: Engine, prompt: str = PROMPT, **sampling: Any) -> FccRagError:
    end = send(engine, prompt, **sampling)[1].end()
    assert isinstance(end, Failed)
    return end.error


@dataclass
class Gate:
    """Holds the engine at a request's first event until it is opened."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def __call__(self, _: Event) -> None:
        self.reached.set()
        assert self.opened.wait(LIMIT)


@pytest.fixture
def gate(engine: Engine) -> Iterator[Gate]:
    """A gate at which the engine is held by a request that runs."""
    held = Gate()
    send(engine, before=held)
    assert held.reached.wait(LIMIT)
    yield held
    held.opened.set()


def test_greedy(engine: Engine, parts: tuple[Any, Any]) -> None:
    """At temperature 0 an answer is what the model itself finds likeliest, every time."""
    model, tokenizer = parts
    ids = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    best = model.generate(**ids, do_sample=False, max_new_tokens=24)[0, ids["input_ids"].shape[1] :]
    text, end = ask(engine)
    assert text == tokenizer.decode(best, skip_special_tokens=True)
    assert end == Finished("length", ids["input_ids"].shape[1], 24)
    assert ask(engine) == ask(engine, temperature=1e-40) == (text, end)


def test_seed(engine: Engine) -> None:
    """A seed makes a sampled answer repeatable; another seed gives another answer."""
    first = ask(engine, temperature=1, seed=7)
    assert ask(engine, temperature=1, seed=7) == first
    assert ask(engine, temperature=1, seed=8) != first
    assert ask(engine, temperature=2, seed=2**63 - 1, top_p=1)


def test_top_p(engine: Engine) -> None:
    """A small top_p leaves only the likeliest token, at any temperature."""
    assert ask(engine, temperature=2, top_p=1e-6, seed=1) == ask(engine)


def test_max_tokens(engine: Engine) -> None:
    """A max_tokens larger than the window is lowered to what fits, not refused."""
    _, end = ask(engine, max_tokens=100_000)
    assert end.reason == "length"
    assert end.prompt_tokens + end.completion_tokens == engine.window


def test_prompt_too_long(engine: Engine) -> None:
    """A prompt that can never fit says how long it is and how long it may be."""
    error = fails(engine, "word " * 400)
    assert isinstance(error, PromptTooLong)
    assert str(engine.count_tokens("word " * 400)) in str(error)
    assert "256" in str(error)


def test_empty_prompt(engine: Engine) -> None:
    """An empty prompt is the caller's mistake, not the engine's failure."""
    assert isinstance(fails(engine, ""), InvalidRequest)


@pytest.mark.parametrize("start", [4, 20, 45])
def test_stop_string(engine: Engine, start: int) -> None:
    """A stop string ends the generation where it starts and is never shown, however many tokens it spans."""
    whole, _ = ask(engine, max_tokens=200)
    stop = whole[start : start + 9]
    assert engine.count_tokens(stop) > 1
    before = engine.metrics()["generated_tokens"]
    text, end = ask(engine, max_tokens=200, stop=(stop, "never said"))
    assert (text, end.reason) == (whole[: whole.index(stop)], "stop")
    assert engine.metrics()["generated_tokens"] - before == end.completion_tokens < 60


def test_end_token(engine: Engine, parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that the model ends itself says so."""
    model, tokenizer = parts
    ids = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    third = int(model.generate(**ids, do_sample=False, max_new_tokens=3)[0, -1])
    monkeypatch.setattr(model.generation_config, "eos_token_id", [third])
    _, end = ask(engine)
    assert (end.reason, end.completion_tokens) == ("stop", 3)


def test_cancel(engine: Engine) -> None:
    """Generation stops within a token or two of being cancelled, and the next request is answered."""
    sent: list[Request] = []
    ready = threading.Event()

    def cancel(_: Event) -> None:
        assert ready.wait(LIMIT)
        sent[0].cancel()

    request, inbox = send(engine, before=cancel, max_tokens=200)
    sent.append(request)
    ready.set()
    end = inbox.end()
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    assert end.completion_tokens < 8
    assert len(inbox.pieces) == 1
    assert ask(engine)[1].reason == "length"


def test_cancel_waiting(engine: Engine, gate: Gate) -> None:
    """A request cancelled while it waits ends without being run, once."""
    request, inbox = send(engine)
    request.cancel()
    request.cancel()
    gate.opened.set()
    assert inbox.end() == Finished("cancelled", 0, 0)
    ask(engine)
    assert inbox.events.empty()


def test_cancelled_ones_leave(engine: Engine, gate: Gate) -> None:
    """Callers who come and go while the engine is busy leave nothing behind, and each is told of its end once."""
    inboxes = []
    for _ in range(200):
        request, inbox = send(engine, "x" * 1000)
        request.cancel()
        inboxes.append(inbox)
    assert len(engine._waiting) <= 1
    gate.opened.set()
    assert ask(engine)[1].reason == "length"
    assert all(inbox.end() == Finished("cancelled", 0, 0) and inbox.events.empty() for inbox in inboxes)


def test_queue_full(parts: tuple[Any, Any]) -> None:
    """A full queue refuses at once and says when to come back; a cancelled request makes room."""
    engine, held = Engine(*parts, window=256, max_queue=2), Gate()
    send(engine, before=held)
    assert held.reached.wait(LIMIT)
    (first, _), (_, second) = send(engine), send(engine)
    with pytest.raises(QueueFull) as refused:
        send(engine)
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    assert engine.metrics()["waiting"] == 2
    first.cancel()
    _, third = send(engine)
    held.opened.set()
    assert isinstance(second.end(), Finished)
    assert isinstance(third.end(), Finished)
    engine.close()


def test_failure(engine: Engine, parts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of the model ends that request with an error and no other."""
    with monkeypatch.context() as broken:
        broken.setattr(parts[0], "generate", lambda **_: 1 / 0)
        error = fails(engine)
    assert isinstance(error, EngineError)
    assert error.retry_after
    assert "ZeroDivisionError" in str(error)
    assert ask(engine)[1].reason == "length"
    assert engine.metrics()["alive"]


@pytest.mark.parametrize("error", [RuntimeError("the event loop is closed"), ValueError("a defect")])
def test_deaf_caller(engine: Engine, error: Exception) -> None:
    """A caller who cannot be told anything any more does not end the engine, and is not generated for."""

    def refuse(_: Event) -> None:
        raise error

    send(engine, before=refuse, max_tokens=200)
    before = ask(engine)[1].completion_tokens
    assert engine.metrics()["generated_tokens"] - before < 8


def test_close(parts: tuple[Any, Any]) -> None:
    """Closing ends what runs and what waits; later requests are refused."""
    engine, held = Engine(*parts, window=256, max_queue=9), Gate()
    _, running = send(engine, before=held, max_tokens=200)
    assert held.reached.wait(LIMIT)
    waiting = [send(engine)[1] for _ in range(3)]
    threading.Timer(0.1, held.opened.set).start()
    engine.close()
    end = running.end()
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    assert [inbox.end() for inbox in waiting] == [Finished("cancelled", 0, 0)] * 3
    assert engine.metrics()["alive"] is False
    with pytest.raises(EngineError, match="not running"):
        send(engine)


def test_concurrent(engine: Engine) -> None:
    """Twenty callers at once each get the answer to their own question."""
    prompts = [f"<s>[user]\nHow much power on channel {n}?\n[assistant]\n" for n in range(20)]
    alone = [ask(engine, prompt, max_tokens=8)[0] for prompt in prompts]
    assert len(set(alone)) > 10
    together: dict[str, str] = {}

    def caller(prompt: str) -> None:
        together[prompt] = ask(engine, prompt, max_tokens=8)[0]

    threads = [threading.Thread(target=caller, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert [together[prompt] for prompt in prompts] == alone


def test_silent(parts: tuple[Any, Any], capfd: pytest.CaptureFixture[str]) -> None:
    """A model whose own configuration samples, as Llama 2's does, is not warned about at every request."""
    model, tokenizer = copy.deepcopy(parts[0]), parts[1]
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, max_length=4096)
    engine = Engine(model, tokenizer, window=256, max_queue=1)
    ask(engine, max_tokens=2)
    ask(engine, max_tokens=2, temperature=0.5)
    engine.close()
    assert capfd.readouterr().err == ""
