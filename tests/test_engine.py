"""The engine, with both backends, on a tiny real Llama: what it answers, when it stops, and what it survives."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny
from conftest import ROOT
from engines import KINDS, Engines, Kind, wait_until

import callers
from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong, QueueFull
from llm.engine import Engine
from llm.requests import Event, Failed, Finished, Piece, Request, Sampling

PROMPT = "<s>[user]\nWhat is the maximum power?\n[assistant]\n"
LIMIT = 30  # seconds nothing here ever takes


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return Engines(tiny.make(tmp_path_factory.mktemp("models") / "tiny"), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def shared(engines: Engines, kind: Kind) -> Iterator[Engine]:
    made = engines.make(kind)
    yield made
    made.close()


@pytest.fixture
def engine(shared: Engine) -> Engine:
    """An engine that is idle when a test begins."""
    wait_until(lambda: not shared._running and not shared._waiting)
    return shared


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


def workers() -> list[psutil.Process]:
    """The processes that OpenVINO runs in."""
    return [child for child in psutil.Process().children() if "llm.openvino_worker" in child.cmdline()]


def newest_worker() -> psutil.Process:
    return max(workers(), key=lambda worker: worker.create_time())


def all_workers() -> list[psutil.Process]:
    """Also those whose parents are gone."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "llm.openvino_worker" in process.cmdline():
                found.append(process)
    return found


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


def test_greedy(engine: Engine, engines: Engines) -> None:
    """At temperature 0 an answer is what the model itself finds likeliest, every time."""
    model, tokenizer = engines.parts()
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
    """A prompt that can never fit is refused at once, with its length and the most there may be."""
    with pytest.raises(PromptTooLong, match=f"{engine.count_tokens('word ' * 400)} tokens.* 256"):
        send(engine, "word " * 400)


def test_window_is_what_memory_holds(engines: Engines, kind: Kind) -> None:
    """Where less keys and values are kept than the model's window, that is the window."""
    engine = engines.make(kind, capacity=128, slots=2)
    assert engine.window == 128
    text, end = ask(engine, max_tokens=10_000)
    assert end.prompt_tokens + end.completion_tokens == 128
    assert text
    with pytest.raises(PromptTooLong, match="128"):
        send(engine, "x" * 300)
    engine.close()


def test_empty_prompt(engine: Engine) -> None:
    """An empty prompt is the caller's mistake, not the engine's failure."""
    with pytest.raises(InvalidRequest):
        send(engine, "")


@pytest.mark.parametrize("start", [4, 20, 45])
def test_stop_string(engine: Engine, start: int) -> None:
    """A stop string ends the generation where it starts and is never shown, however many tokens it spans."""
    whole, _ = ask(engine, max_tokens=200)
    stop = whole[start : start + 9]
    assert engine.count_tokens(stop) > 1
    before = engine.metrics()["generated_tokens"]
    text, end = ask(engine, max_tokens=200, stop=(stop, "never said"))
    assert (text, end.reason, end.stop) == (whole[: whole.index(stop)], "stop", stop)
    assert engine.metrics()["generated_tokens"] - before == end.completion_tokens < 60


def test_end_token(engines: Engines, kind: Kind) -> None:
    """An answer that the model ends itself says so, whichever of several end tokens it was, and does not show it."""
    model, tokenizer = engines.parts()
    ids = tokenizer(PROMPT, add_special_tokens=False, return_tensors="pt")
    best = model.generate(**ids, do_sample=False, max_new_tokens=3)[0, ids["input_ids"].shape[1] :].tolist()
    engine = engines.make(kind, end_tokens=(2, best[2]))
    _, end = ask(engine)
    assert (end.reason, end.completion_tokens, end.stop) == ("stop", 3, None)
    engine.close()


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
    assert len(inbox.pieces) <= 2
    assert ask(engine)[1].reason == "length"


def test_call_is_over(engine: Engine) -> None:
    """What was asked for a call that is over ends within a token or two, though nobody cancels it."""
    caller, stays = callers.Caller("a", "1"), callers.Caller("a", "2")

    def leave(_: Event) -> None:
        caller.over.set()

    inboxes = []
    for whose, before in ((caller, leave), (stays, None)):
        token = callers.current.set(whose)
        inboxes.append(send(engine, before=before, max_tokens=100)[1])
        callers.current.reset(token)
    left, stayed = (inbox.end() for inbox in inboxes)
    assert isinstance(left, Finished)
    assert isinstance(stayed, Finished)
    assert (left.reason, stayed.reason) == ("cancelled", "length")
    assert left.completion_tokens < 8


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
        request, inbox = send(engine, "x" * 200)
        request.cancel()
        inboxes.append(inbox)
    gate.opened.set()
    assert ask(engine)[1].reason == "length"
    assert all(inbox.end() == Finished("cancelled", 0, 0) and inbox.events.empty() for inbox in inboxes)


def test_queue_full(engines: Engines, kind: Kind) -> None:
    """A full queue refuses at once and says when to come back; a cancelled request makes room."""
    engine, held = engines.make(kind, max_queue=2, slots=1), Gate()
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


def test_queue_is_shared(engines: Engines, kind: Kind) -> None:
    """One host takes at most three quarters of the queue, so that its batch never has another host refused."""
    engine, held = engines.make(kind, max_queue=4, slots=1), Gate()
    inboxes = [send(engine, before=held)[1]]
    assert held.reached.wait(LIMIT)
    token = callers.current.set(callers.Caller("a", "batch"))
    try:
        inboxes += [send(engine)[1] for _ in range(3)]
        with pytest.raises(QueueFull, match="3 requests of yours are waiting already"):
            send(engine)
    finally:
        callers.current.reset(token)
    inboxes.append(send(engine)[1])
    with pytest.raises(QueueFull, match="4 requests are waiting already"):
        send(engine)
    held.opened.set()
    assert all(isinstance(inbox.end(), Finished) for inbox in inboxes)
    engine.close()


def test_pieces_are_gathered(engine: Engine) -> None:
    """Text comes at once first, then in pieces for a reader's eye rather than one for each token; none of it is lost."""
    text, _ = ask(engine, max_tokens=200)
    _, inbox = send(engine, max_tokens=200)
    end = inbox.end()
    assert isinstance(end, Finished)
    assert inbox.text == text
    assert len(inbox.pieces[0]) <= len(max(engine._tokens.tokenizer.get_vocab(), key=len))
    assert len(inbox.pieces) < end.completion_tokens / 2


def test_place_is_kept(engines: Engines, kind: Kind) -> None:
    """Who was let in is not refused later, however many come at the same instant; a call that ends gives its place back."""
    engine, held = engines.make(kind, max_queue=3, slots=1), Gate()
    first, second, third, late = (callers.Caller(f"host {call}", call) for call in "abcd")

    def as_caller(caller: callers.Caller, do: Callable[[], Any]) -> Any:
        token = callers.current.set(caller)
        try:
            return do()
        finally:
            callers.current.reset(token)

    send(engine, before=held)
    assert held.reached.wait(LIMIT)
    for caller in (first, second, third):
        as_caller(caller, engine.check_queue)
    with pytest.raises(QueueFull, match="3 requests are waiting already"):
        as_caller(late, engine.check_queue)
    with pytest.raises(QueueFull, match="3 requests are waiting already"):
        as_caller(late, lambda: send(engine))
    inboxes = [as_caller(caller, lambda: send(engine))[1] for caller in (first, second)]
    third.over.set()
    inboxes.append(as_caller(late, lambda: send(engine))[1])
    with pytest.raises(QueueFull):
        as_caller(first, lambda: send(engine))
    held.opened.set()
    assert all(isinstance(inbox.end(), Finished) for inbox in inboxes)
    engine.close()


def test_fair(engines: Engines, kind: Kind) -> None:
    """One caller's batch of 50 does not make another wait for all of it, whether the other comes from elsewhere or not."""
    engine, held = engines.make(kind, max_queue=80, slots=2), Gate()
    order: list[str] = []

    def sent(host: str, call: str, before: Any = None) -> Inbox:
        def note(event: Event) -> None:
            if isinstance(event, Finished):
                order.append(call)

        token = callers.current.set(callers.Caller(host, call))
        try:
            return send(engine, before=before or note, max_tokens=4)[1]
        finally:
            callers.current.reset(token)

    gate = sent("a", "gate", held)
    assert held.reached.wait(LIMIT)
    inboxes = [gate, *(sent("a", "batch") for _ in range(50)), sent("b", "other host"), sent("a", "other call")]
    held.opened.set()
    assert all(isinstance(inbox.end(), Finished) for inbox in inboxes)
    assert order.index("other host") < 6
    assert order.index("other call") < 8
    engine.close()


def test_memory_is_shared_out(engines: Engines, kind: Kind) -> None:
    """More requests than the keys and values of which fit wait their turn; all are answered, none is lost."""
    engine = engines.make(kind, capacity=256, slots=8)
    alone, _ = ask(engine, max_tokens=100)
    inboxes = [send(engine, max_tokens=100)[1] for _ in range(12)]
    ends = [inbox.end() for inbox in inboxes]
    assert {(inbox.text, type(end)) for inbox, end in zip(inboxes, ends, strict=True)} == {(alone, Finished)}
    assert engine.metrics()["kv_cache"]["reserved_tokens"] == 0
    engine.close()


def test_long_prompt_does_not_stall(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a long prompt is read in pieces, a stream that runs goes on: it gets tokens before the prompt is done."""
    monkeypatch.setattr("llm.running.GATHER", 0)  # a piece for each token
    _, running = send(engine, max_tokens=60)
    assert isinstance(running.events.get(timeout=LIMIT), Piece)
    _, long = send(engine, "What is the limit of power? " * 30, max_tokens=1)
    between = 0
    while long.events.empty():
        if isinstance(running.events.get(timeout=LIMIT), Finished):
            break
        between += 1
    assert isinstance(long.end(), Finished)
    assert between >= 2  # the prompt takes four steps of 64 tokens


def test_prefix_is_reused(engine: Engine) -> None:
    """A prompt that begins like an earlier one is not read again, as far as whole blocks go; its answer is the same."""
    shared = "The transmitter power is measured at the antenna input. " * 6
    first, before = ask(engine, shared + "first?"), engine.metrics()["kv_cache"]
    again, after = ask(engine, shared + "first?"), engine.metrics()["kv_cache"]
    assert again == first
    assert after["reused_tokens"] - before["reused_tokens"] > 0.6 * first[1].prompt_tokens
    assert 0 < after["hit_rate"] < 1


def test_failure(engines: Engines, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the model breaks down, those in flight are told at once, new ones are refused for a while, then all is well again."""
    engine = engines.make(kind)
    _, inbox = send(engine, max_tokens=200)
    assert isinstance(inbox.events.get(timeout=LIMIT), Piece)
    opened = threading.Event()
    reopen, engine._open_backend = engine._open_backend, lambda: opened.wait(LIMIT) and reopen()  # type: ignore[assignment, return-value]
    if kind == "openvino":
        os.kill(newest_worker().pid, signal.SIGKILL)
        why = "signal 9"
    else:
        monkeypatch.setattr(engines.parts()[0], "forward", lambda *_, **__: 1 / 0)
        why = "ZeroDivisionError"
    end = inbox.end()
    assert isinstance(end, Failed)
    assert isinstance(end.error, EngineError)
    assert why in str(end.error)
    with pytest.raises(EngineError, match="started again") as refused:
        send(engine)
    assert refused.value.retry_after
    with pytest.raises(EngineError, match="started again"):
        engine.check()
    assert engine.metrics()["alive"] is False
    monkeypatch.undo()
    opened.set()
    wait_until(lambda: engine.metrics()["alive"])
    assert ask(engine)[1].reason == "length"
    assert engine.metrics()["restarts"] == 1
    engine.close()


def test_restart_fails(engines: Engines, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that cannot be started again at once is tried again, and those who wait are told meanwhile."""
    engine = engines.make(kind)
    tries = []
    reopen = engine._open_backend

    def stubborn() -> Any:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise EngineError("no memory")
        return reopen()

    engine._open_backend = stubborn

    with monkeypatch.context() as broken:
        broken.setattr(engine, "_take", lambda *_: 1 / 0)
        first = send(engine, max_tokens=200)[1].end()
    assert isinstance(first, Failed)
    wait_until(lambda: engine.metrics()["alive"])
    assert len(tries) == 2
    assert tries[1] - tries[0] > 0.5
    assert ask(engine)[1].reason == "length"
    engine.close()


def test_drain(engines: Engines, kind: Kind) -> None:
    """While the server shuts down what has begun is finished, then all is cancelled and nothing new is taken."""
    engine = engines.make(kind)
    _, inbox = send(engine, max_tokens=60)
    engine.drain()
    with pytest.raises(EngineError, match="shutting down"):
        engine.check()
    assert ask(engine)[1].reason == "length"  # the second request of a call that had begun
    end = inbox.end()
    assert isinstance(end, Finished)
    assert end.reason == "length"
    _, late = send(engine, max_tokens=200)
    engine.cancel_all()
    with pytest.raises(EngineError, match="shutting down"):
        send(engine)
    end = late.end()
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    engine.close()


def test_worker_dies_while_idle(engines: Engines) -> None:
    """A model's process that is killed while nothing runs is started again before anybody asks."""
    engine = engines.make("openvino")
    ask(engine)
    os.kill(newest_worker().pid, signal.SIGKILL)
    wait_until(lambda: engine.metrics()["restarts"] == 1 and engine.metrics()["alive"])
    assert ask(engine)[1].reason == "length"
    engine.close()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages of a file are in memory")
def test_weights_are_held_once(engines: Engines) -> None:
    """At rest the file of the weights takes no memory: the model's products read copies of their own."""
    engine = engines.make("openvino")
    ask(engine)

    def held() -> list[int]:
        return [each.rss for each in newest_worker().memory_maps() if each.path.endswith("openvino_model.bin")]

    assert held()
    wait_until(lambda: not sum(held()))
    assert ask(engine)[1].reason == "length"
    engine.close()


def test_worker_hangs(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's process that does not answer any more is noticed and replaced; until then requests can be cancelled."""
    from llm import openvino

    engine = engines.make("openvino")
    ask(engine)
    newest_worker().suspend()
    request, gone = send(engine)
    request.cancel()
    end = gone.end()
    assert isinstance(end, Finished)
    assert end.reason == "cancelled"
    monkeypatch.setattr(openvino, "STEP_LIMIT", 2)
    end = send(engine)[1].end()
    assert isinstance(end, Failed)
    assert "not answered" in str(end.error)
    wait_until(lambda: engine.metrics()["alive"])
    assert ask(engine)[1].reason == "length"
    newest_worker().suspend()
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 15
    assert engine.metrics()["state"] == "closed"


def test_cancelled_while_restarting(engines: Engines) -> None:
    """Who waits while the model is started again is told at once when the server gives up on it."""
    engine, held = engines.make("openvino", slots=1), Gate()
    _, running = send(engine, before=held)
    assert held.reached.wait(LIMIT)
    _, waiting = send(engine)
    opened = threading.Event()
    reopen, engine._open_backend = engine._open_backend, lambda: opened.wait(LIMIT) and reopen()  # type: ignore[assignment, return-value]
    os.kill(newest_worker().pid, signal.SIGKILL)
    held.opened.set()
    assert isinstance(running.end(), Failed)
    engine.cancel_all()
    assert waiting.end() == Finished("cancelled", 0, 0)
    opened.set()
    engine.close()


def test_program_that_does_not_close(engines: Engines, tmp_path: Path) -> None:
    """A program without a main guard that ends, or is killed, without closing the engine leaves no process behind."""
    program = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
from engines import Engines
engine = Engines(Path({str(engines.folder)!r}), Path({str(engines.cache)!r})).make("openvino")
print(engine.metrics()["state"], flush=True)
"""
    (tmp_path / "llm.py").write_text("raise SystemExit('the current folder is not where the worker comes from')")
    before = {worker.pid for worker in all_workers()}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr
    wait_until(lambda: {worker.pid for worker in all_workers()} <= before)


def test_no_end_token(engines: Engines, kind: Kind) -> None:
    """A model that no token ends runs to its limit."""
    engine = engines.make(kind, end_tokens=())
    assert ask(engine)[1].reason == "length"
    engine.close()


@pytest.mark.parametrize("error", [RuntimeError("the event loop is closed"), ValueError("a defect")])
def test_deaf_caller(engine: Engine, error: Exception) -> None:
    """A caller who cannot be told anything any more does not end the engine, and is not generated for."""

    def refuse(_: Event) -> None:
        raise error

    before = engine.metrics()["generated_tokens"]
    send(engine, before=refuse, max_tokens=200)
    asked = ask(engine)[1].completion_tokens
    assert engine.metrics()["generated_tokens"] - before - asked < 8


def test_close(engines: Engines, kind: Kind) -> None:
    """Closing ends what runs and what waits; later requests are refused, and nothing is left running."""
    threads, children = threading.active_count(), len(workers())
    engine, held = engines.make(kind, slots=1), Gate()
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
    with pytest.raises(EngineError, match="shutting down"):
        send(engine)
    wait_until(lambda: threading.active_count() <= threads)
    assert len(workers()) == children


def test_cannot_start(engines: Engines) -> None:
    """What keeps a model from starting is raised where the engine is made, not at the first request."""

    def refuse() -> Any:
        raise EngineError("no such graph")

    with pytest.raises(EngineError, match="no such graph"):
        Engine(refuse, engines.parts()[1], window=256, max_queue=1)


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


def test_ends_are_counted(engine: Engine) -> None:
    """Metrics tell how requests ended, a stop string apart from the model's own end."""
    before = engine.metrics()["ended"]
    whole, _ = ask(engine)
    ask(engine, stop=(whole[4:9],))
    request, inbox = send(engine, max_tokens=200)
    request.cancel()
    inbox.end()
    after = engine.metrics()["ended"]
    assert {kind: after[kind] - before.get(kind, 0) for kind in ("length", "stop_string", "cancelled")} == {
        "length": 1,
        "stop_string": 1,
        "cancelled": 1,
    }


def test_silent(engines: Engines, kind: Kind, capfd: pytest.CaptureFixture[str]) -> None:
    """A model whose own configuration samples, as Llama 2's does, is not warned about at every request."""
    model, _ = engines.parts()
    own = model.generation_config.to_dict()
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, max_length=4096)
    engine = engines.make(kind)
    greedy = ask(engine, max_tokens=2)
    ask(engine, max_tokens=2, temperature=0.5)
    engine.close()
    model.generation_config.update(**own)
    assert capfd.readouterr().err == ""
    assert greedy[1].completion_tokens == 2
