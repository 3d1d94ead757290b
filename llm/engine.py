"""One thread that owns the model and steps a continuous batch for many callers. Knows nothing about LangChain or HTTP."""

import dataclasses
import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Literal

import callers
from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong
from llm.admission import Admission
from llm.backend import Backend, BackendLost, Output
from llm.prefixes import Prefixes
from llm.requests import Deliver, Failed, Finished, Request, Sampling
from llm.running import Running, deliver_to
from llm.tokens import Tokens

log = logging.getLogger(__name__)

EXPECTED_ANSWER = 256  # tokens; room kept for an answer where the backend can put a request back that needs more
LONGEST_PAUSE = 30.0  # seconds between attempts to start a backend again

State = Literal["starting", "ready", "restarting", "closed"]


class Engine:
    """Queues requests, admits them in fair order, passes tokens on as text, and ends each request exactly once."""

    def __init__(self, open_backend: Callable[[], Backend], tokenizer: Any, *, window: int, max_queue: int) -> None:
        """Start the backend and wait until it can serve; what it raises is raised here.

        `open_backend` is called in the engine's thread, again after each breakdown. `window` is the longest prompt plus answer
        in tokens, lowered to what the backend's memory holds; `max_queue` is how many requests may wait.
        """
        self.window = window
        self._tokens = Tokens(tokenizer)
        self._open_backend = open_backend
        self._admission = Admission(max_queue)
        self._waiting: deque[Request] = deque()
        self._running: dict[int, Running] = {}
        self._changed = threading.Condition()
        self._state: State = "starting"
        self._draining = False
        self._refusing = False
        self._closed = False
        self._keys = 0
        self._restarts = 0
        self._generated = 0
        self._ends: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=20)
        self._prefixes: Prefixes | None = None
        self._capacity = 0
        self._slots = 0
        self._refused: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="llm-engine", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._state != "starting")
        if self._refused:
            self._thread.join()
            raise self._refused

    def count_tokens(self, text: str) -> int:
        """Tokens in `text`, without any the tokenizer would add by itself."""
        return self._tokens.count(text)

    def render(self, messages: list[dict[str, str]]) -> str:
        """Messages as the prompt text the model was tuned on; see Tokens.render."""
        return self._tokens.render(messages)

    def submit(self, prompt: str, sampling: Sampling, deliver: Deliver) -> Request:
        """Queue a rendered prompt; `deliver` is called in the engine's thread and must not block.

        Raises InvalidRequest for an empty prompt, PromptTooLong for one that can never fit, QueueFull, and EngineError when the
        model is away or the server shuts down.
        """
        ids = self._tokens.encode(prompt)
        if not ids:
            raise InvalidRequest("the prompt is empty")
        if len(ids) >= self.window:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens and the model's window is {self.window}")
        request = Request(ids, sampling, deliver, callers.current.get())
        with self._changed:
            self._enter(asks=True)
            self._waiting.append(request)
            self._changed.notify()
        return request

    def check(self) -> None:
        """Raise EngineError if new requests are not taken now."""
        if self._draining:
            raise EngineError("the server is shutting down")
        self._check_running()

    def check_queue(self) -> None:
        """Raise what `submit` would raise now, whatever the prompt; if it raises nothing, the call that asks keeps a place."""
        self._enter(asks=False)

    def _enter(self, *, asks: bool) -> None:
        with self._changed:
            self._check_running()
            waiting = [request.caller for request in self._waiting if not request.cancelled]
            self._admission.enter(callers.current.get(), waiting, asks=asks, retry_after=self._expected_wait)

    def _check_running(self) -> None:
        if self._refusing:
            raise EngineError("the server is shutting down")
        if self._state == "restarting":
            raise EngineError("the model is being started again")
        if self._state != "ready" or not self._thread.is_alive():
            raise EngineError("the model is not running")

    def metrics(self) -> dict[str, Any]:
        """What the engine does now, and since its start: requests, tokens, and how they ended."""
        with self._changed:
            waiting = self._count_waiting()
            running = list(self._running.values())
        prefixes = self._prefixes
        return {
            "alive": self._state == "ready" and self._thread.is_alive(),
            "state": "draining" if self._draining and self._state == "ready" else self._state,
            "running": len(running),
            "waiting": waiting,
            "max_running": self._slots,
            "max_queue": self._admission.limit,
            "generated_tokens": self._generated,
            "ended": dict(self._ends),
            "restarts": self._restarts,
            "kv_cache": {
                "capacity_tokens": self._capacity,
                "reserved_tokens": sum(each.held for each in running),
                "prompt_tokens": prefixes.prompt_tokens if prefixes else 0,
                "reused_tokens": prefixes.cached_tokens if prefixes else 0,
                "hit_rate": round(prefixes.hit_rate, 3) if prefixes else 0.0,
            },
        }

    def drain(self) -> None:
        """Say that the server shuts down. Calls that have begun may still submit: an answer can take several requests."""
        with self._changed:
            self._draining = True

    def cancel_all(self) -> None:
        """Cancel what runs and what waits, each is told so, and take nothing more."""
        with self._changed:
            self._refusing = True
            for request in (*self._waiting, *(each.request for each in self._running.values())):
                request.cancel()
            self._changed.notify()
            busy = self._state == "ready"
        if not busy:  # the thread is starting the model and cannot tell them
            self._end_waiting()

    def close(self) -> None:
        """Cancel what runs and what waits, and end the thread and the backend."""
        self._closed = True
        self.cancel_all()
        self._thread.join(timeout=30)

    # -- the engine's thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._keep_serving()
        except Exception:
            log.exception("the engine's thread has ended")
        finally:
            self._set_state("closed")
            self._end_waiting()
            self._fail_all(EngineError("the model is not running"))

    def _keep_serving(self) -> None:
        pause = 1.0
        while not self._closed:
            try:
                backend = self._open_backend()
            except Exception as exc:  # noqa: BLE001 -- raised to whoever started us, or logged at each attempt
                if self._state == "starting":
                    self._refused = exc
                    return
                log.error("the model cannot be started again: %s", exc)  # noqa: TRY400 -- the line says it all
                self._fail_all(EngineError("the model is away"))
                self._wait_closed(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            try:
                self._begin(backend)
                pause = 1.0
                self._serve(backend)
            except Exception as exc:
                log.log(
                    logging.ERROR,
                    "the model broke down and is started again: %s",
                    exc,
                    exc_info=not isinstance(exc, FccRagError),
                )
                self._set_state("restarting")
                self._restarts += 1
                self._fail_running(exc)
            finally:
                backend.close()

    def _begin(self, backend: Backend) -> None:
        self._slots, self._capacity = backend.slots, backend.capacity
        self.window = min(self.window, backend.capacity)
        if self._prefixes is None:
            self._prefixes = Prefixes(capacity=backend.capacity, block=backend.block)
        self._prefixes.clear()
        self._set_state("ready")

    def _serve(self, backend: Backend) -> None:
        while not self._closed:
            self._end_cancelled(backend)
            self._admit(backend)
            if self._running:
                for output in backend.step():
                    self._take(backend, output)
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closed, timeout=1)
                backend.check()
        self._end_cancelled(backend)

    def _admit(self, backend: Backend) -> None:
        while (request := self._next(backend)) is not None:
            self._keys += 1
            running = Running(request, self._keys, self._tokens.tokenizer)
            room = min(request.sampling.max_tokens, self.window - len(request.ids))
            running.reserved = _reserved(request, backend, self.window)
            assert self._prefixes is not None
            self._prefixes.look_up(request.ids)
            sampling = request.sampling
            if sampling.seed is None:  # said here, so that no backend falls back on the same one each time
                sampling = dataclasses.replace(sampling, seed=random.getrandbits(63))
            with self._changed:
                self._running[running.key] = running
            try:
                backend.add(running.key, request.ids, sampling, room)
            except BackendLost:  # which ends this one with all that run
                raise
            except FccRagError as exc:
                self._end(running, Failed(exc))

    def _next(self, backend: Backend) -> Request | None:
        """The request that is admitted now: of the caller who has the fewest running, then the first that came."""
        with self._changed:
            if not self._waiting or len(self._running) >= backend.slots:
                return None
            hosts = Counter(each.request.caller.host for each in self._running.values())
            calls = Counter(each.request.caller for each in self._running.values())
            request = min(self._waiting, key=lambda waiting: (hosts[waiting.caller.host], calls[waiting.caller]))
            reserved = sum(each.held for each in self._running.values())
            if self._running and reserved + _reserved(request, backend, self.window) > backend.capacity:
                return None  # nobody overtakes it, or a long prompt would wait for ever
            self._waiting.remove(request)
            return request

    def _take(self, backend: Backend, output: Output) -> None:
        running = self._running.get(output.key)
        if running is None:
            return
        if output.error:
            self._end(running, Failed(output.error))
            return
        if output.tokens and not running.count:
            self._keep(running)
        text = running.feed(output.tokens)
        self._generated += len(output.tokens)
        if output.end or running.stopped:
            if not output.end:
                backend.cancel(output.key)
            text += running.flush()
            running.pass_on(text, last=True)
            self._end(running, running.finished(output.end))
        else:
            running.pass_on(text)

    def _keep(self, running: Running) -> None:
        assert self._prefixes is not None
        self._prefixes.keep([*running.request.ids, *running.tokens])

    def _end_waiting(self) -> None:
        """End those who wait and have gone; from any thread."""
        with self._changed:
            gone = [request for request in self._waiting if request.cancelled]
            for request in gone:
                self._waiting.remove(request)
        for request in gone:
            self._tell(request, Finished("cancelled", 0, 0))

    def _end_cancelled(self, backend: Backend) -> None:
        """End the requests whose callers have gone."""
        self._end_waiting()
        for running in [each for each in self._running.values() if each.request.cancelled]:
            backend.cancel(running.key)
            self._end(running, Finished("cancelled", len(running.request.ids), running.count))

    def _fail_running(self, exc: Exception) -> None:
        error = exc if isinstance(exc, FccRagError) else EngineError(f"the model failed: {type(exc).__name__}")
        for running in list(self._running.values()):
            self._end(running, Failed(error))

    def _fail_all(self, error: FccRagError) -> None:
        self._fail_running(error)
        with self._changed:
            waiting, self._waiting = list(self._waiting), deque()
        for request in waiting:
            self._tell(request, Failed(error))

    def _end(self, running: Running, event: Finished | Failed) -> None:
        with self._changed:
            del self._running[running.key]
        if running.count:
            self._seconds.append(time.monotonic() - running.since)
            self._keep(running)
        self._tell(running.request, event)

    def _tell(self, request: Request, event: Finished | Failed) -> None:
        self._ends[_kind(event)] += 1
        deliver_to(request, event)

    def _count_waiting(self) -> int:
        return sum(not request.cancelled for request in self._waiting)

    def _expected_wait(self, waiting: int) -> int:
        """Seconds until a request that came now would run, from how long the last ones took."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 5.0
        return max(1, round(mean * waiting / max(1, len(self._running))))

    def _set_state(self, state: State) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _wait_closed(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=seconds)


def _reserved(request: Request, backend: Backend, window: int) -> int:
    """Tokens of keys and values to keep free for a request, in whole blocks."""
    most = min(request.sampling.max_tokens, window - len(request.ids))
    length = len(request.ids) + (min(most, EXPECTED_ANSWER) if backend.preempts else most)
    return -(-length // backend.block) * backend.block


def _kind(event: Finished | Failed) -> str:
    if isinstance(event, Failed):
        return "failed"
    return "stop_string" if event.stop is not None else event.reason
