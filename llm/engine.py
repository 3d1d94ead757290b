"""One thread that owns model and tokenizer and answers one request after another. Knows nothing about LangChain or HTTP.

A request is submitted with a callback and ends in every case with exactly one `Finished` or `Failed`, also when it was cancelled
while it waited.
"""

import copy
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong, QueueFull
from llm.detokenize import Detokenizer
from llm.stops import StopMatcher

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request is sampled. `temperature` 0 is greedy; `max_tokens` counts new tokens only."""

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise InvalidRequest, which names the field, for a value out of range."""
        if self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1")
        if not 0 <= self.temperature <= 2:
            raise InvalidRequest("temperature must be between 0 and 2")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest("top_p must be above 0 and at most 1")
        if not all(self.stop):
            raise InvalidRequest("a stop string must not be empty")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has just become final."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request that did not fail; counts are in tokens."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a request that failed."""

    error: FccRagError


Event = Piece | Finished | Failed
Deliver = Callable[[Event], None]


@dataclass(eq=False, slots=True)
class Request:
    """A submitted request; `cancel()` may be called from any thread, any number of times."""

    prompt: str
    sampling: Sampling
    deliver: Deliver
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()


class Engine:
    """Runs `model.generate` for one request at a time, in the order in which they came."""

    def __init__(self, model: Any, tokenizer: Any, *, window: int, max_queue: int) -> None:
        """`window` is the longest prompt plus answer in tokens; `max_queue` how many requests may wait."""
        self.window = window
        self._model = model
        self._tokenizer = tokenizer
        # Fast tokenizers are not thread-safe: the worker has one, everybody else shares a copy under a lock.
        self._counter = copy.deepcopy(tokenizer)
        self._counter_lock = threading.Lock()
        self._max_queue = max_queue
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._running: Request | None = None
        self._seconds: deque[float] = deque(maxlen=20)
        self._generated = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="llm-engine", daemon=True)
        self._thread.start()

    def count_tokens(self, text: str) -> int:
        """Tokens in `text`, without any the tokenizer would add by itself."""
        with self._counter_lock:
            return len(self._counter(text, add_special_tokens=False)["input_ids"])

    def render(self, messages: list[dict[str, str]]) -> str:
        """Messages as the prompt text the model was tuned on, by its own chat template, BOS included.

        Raises InvalidRequest where the template does not take these messages (Llama-2's wants the roles to alternate).
        """
        from jinja2.exceptions import TemplateError

        try:
            with self._counter_lock:
                text = self._counter.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as exc:
            raise InvalidRequest(f"the model's chat template refuses these messages: {exc}") from exc
        return str(text)

    def submit(self, prompt: str, sampling: Sampling, deliver: Deliver) -> Request:
        """Queue a rendered prompt; `deliver` is called from the engine's thread and must not block.

        Raises QueueFull, and EngineError when the engine has stopped.
        """
        request = Request(prompt, sampling, deliver)
        with self._changed:
            if self._closed or not self._thread.is_alive():
                raise EngineError("the model is not running")
            if (waiting := self._count_waiting()) >= self._max_queue:
                raise QueueFull(f"{waiting} requests are waiting already", retry_after=self._expected_wait(waiting))
            self._waiting.append(request)
            self._changed.notify()
        return request

    def metrics(self) -> dict[str, int | bool]:
        """What the engine does now: requests running and waiting, tokens generated since the start."""
        with self._changed:
            waiting = self._count_waiting()
        return {
            "alive": self._thread.is_alive() and not self._closed,
            "running": int(self._running is not None),
            "waiting": waiting,
            "max_queue": self._max_queue,
            "generated_tokens": self._generated,
        }

    def close(self) -> None:
        """Cancel what runs and what waits, and end the thread."""
        with self._changed:
            self._closed = True
            for request in (*self._waiting, *([self._running] if self._running else [])):
                request.cancel()
            self._changed.notify()
        self._thread.join(timeout=30)

    def _count_waiting(self) -> int:
        return sum(not request.cancelled for request in self._waiting)

    def _next(self) -> Request | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            self._running = self._waiting.popleft()
            return self._running

    def _expected_wait(self, waiting: int) -> int:
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 5.0
        return max(1, round(mean * waiting))

    def _work(self) -> None:
        while (request := self._next()) is not None:
            started = time.monotonic()
            try:
                end: Event = self._answer(request)
            except FccRagError as exc:
                end = Failed(exc)
            except Exception as exc:  # one bad request must not end the thread that serves all
                log.exception("generation failed")
                end = Failed(EngineError(f"the model failed on this request: {type(exc).__name__}"))
            self._seconds.append(time.monotonic() - started)
            self._running = None
            _deliver(request, end)

    def _answer(self, request: Request) -> Finished:
        if request.cancelled:
            return Finished("cancelled", 0, 0)
        inputs = self._tokenizer(request.prompt, add_special_tokens=False, return_tensors="pt").to(self._model.device)
        length = int(inputs["input_ids"].shape[1])
        room = self.window - length
        if room < 1:
            raise PromptTooLong(f"the prompt has {length} tokens and the model's window is {self.window}")
        sampling = request.sampling
        stream = _Stream(request, self._tokenizer)
        self._generate(inputs, sampling, min(sampling.max_tokens, room), stream)
        stream.close()
        self._generated += stream.count
        return Finished(stream.reason(self._end_tokens()), length, stream.count)

    def _generate(self, inputs: Any, sampling: Sampling, max_new_tokens: int, stream: "_Stream") -> None:
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        if sampling.seed is None:
            torch.seed()
        else:
            torch.manual_seed(sampling.seed)
        greedy = sampling.temperature == 0
        config = GenerationConfig(  # type: ignore[no-untyped-call] # transformers leaves it untyped
            max_new_tokens=max_new_tokens,
            do_sample=not greedy,
            eos_token_id=sorted(self._end_tokens()),
            pad_token_id=self._tokenizer.pad_token_id,
            **({} if greedy else {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}),
        )
        with torch.inference_mode():
            self._model.generate(
                **inputs, generation_config=config, streamer=stream, stopping_criteria=StoppingCriteriaList([stream])
            )

    def _end_tokens(self) -> set[int]:
        configured = self._model.generation_config.eos_token_id
        several = configured if isinstance(configured, list) else [configured]
        return {token for token in (*several, self._tokenizer.eos_token_id) if token is not None}


class _Stream:
    """What `generate` calls for each token: its streamer and its stopping criterion in one."""

    def __init__(self, request: Request, tokenizer: Any) -> None:
        self.count = 0
        self._request = request
        self._last = -1
        self._prompt_seen = False
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(request.sampling.stop)

    def put(self, value: Any) -> None:
        if not self._prompt_seen:  # generate hands the prompt over first
            self._prompt_seen = True
            return
        for token in value.flatten().tolist():
            self.count += 1
            self._last = token
            self._pass_on(self._matcher.feed(self._detokenizer.feed(token)))

    def end(self) -> None:
        """`generate` says so when it returns; `close` is called by the engine, which also knows of failures."""

    def __call__(self, input_ids: Any, *_: Any, **__: Any) -> Any:
        import torch

        done = self._request.cancelled or self._matcher.found
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)

    def close(self) -> None:
        self._pass_on(self._matcher.feed(self._detokenizer.flush()))
        self._pass_on(self._matcher.flush())

    def reason(self, end_tokens: set[int]) -> FinishReason:
        if self._matcher.found or self._last in end_tokens:
            return "stop"
        return "cancelled" if self._request.cancelled else "length"

    def _pass_on(self, text: str) -> None:
        if text and not self._request.cancelled:
            _deliver(self._request, Piece(text))


def _deliver(request: Request, event: Event) -> None:
    try:
        request.deliver(event)
    except RuntimeError:  # the caller's event loop is closed; nobody is left to tell
        request.cancel()
