"""One thread that owns model and tokenizer and answers one request after another. Knows nothing about LangChain or HTTP."""

import copy
import logging
import threading
import time
from collections import deque
from typing import Any

from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong, QueueFull
from llm.detokenize import Detokenizer
from llm.requests import Deliver, Event, Failed, Finished, FinishReason, Piece, Request, Sampling
from llm.stops import StopMatcher

log = logging.getLogger(__name__)

COLDEST = 0.01  # a lower temperature is greedy: logits divided by it would overflow
TURN_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")  # Llama 2 marks turns in plain text; other models have special tokens


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
        self._marks = [*TURN_MARKS, *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)]
        for name in ("max_length", "temperature", "top_p", "top_k"):  # each request says; a model's own would only be warned of
            setattr(model.generation_config, name, None)
        self._thread = threading.Thread(target=self._work, name="llm-engine", daemon=True)
        self._thread.start()

    def count_tokens(self, text: str) -> int:
        """Tokens in `text`, without any the tokenizer would add by itself."""
        with self._counter_lock:
            return len(self._counter(text, add_special_tokens=False)["input_ids"])

    def render(self, messages: list[dict[str, str]]) -> str:
        """Messages as the prompt text the model was tuned on, by its own chat template, BOS included.

        What marks a turn is made inert where a message's own text holds it: no document or user can speak in another role.
        Raises InvalidRequest where the template does not take these messages (Llama-2's wants the roles to alternate).
        """
        from jinja2.exceptions import TemplateError

        inert = [message | {"content": self._inert(message["content"])} for message in messages]
        try:  # without the lock, which may be held long: a template is text only
            text = self._counter.apply_chat_template(inert, tokenize=False, add_generation_prompt=True)
        except TemplateError as exc:
            raise InvalidRequest(f"the model's chat template refuses these messages: {exc}") from exc
        return str(text)

    def submit(self, prompt: str, sampling: Sampling, deliver: Deliver) -> Request:
        """Queue a rendered prompt; `deliver` must not block.

        It is called from the engine's thread, or from that of a later `submit` for a request cancelled while it waited.
        Raises QueueFull, and EngineError when the engine has stopped.
        """
        request = Request(prompt, sampling, deliver)
        for gone in self._take_cancelled():
            _deliver(gone, Finished("cancelled", 0, 0))
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

    def _take_cancelled(self) -> list[Request]:
        with self._changed:
            gone = [request for request in self._waiting if request.cancelled]
            for request in gone:
                self._waiting.remove(request)
        return gone

    def _inert(self, text: str) -> str:
        for mark in self._marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text

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
            with self._changed:
                self._seconds.append(time.monotonic() - started)
                self._running = None
            _deliver(request, end)

    def _answer(self, request: Request) -> Finished:
        if request.cancelled:
            return Finished("cancelled", 0, 0)
        if not request.prompt:
            raise InvalidRequest("the prompt is empty")
        inputs = self._tokenizer(request.prompt, add_special_tokens=False, return_tensors="pt").to(self._model.device)
        length = int(inputs["input_ids"].shape[1])
        room = self.window - length
        if room < 1:
            raise PromptTooLong(f"the prompt has {length} tokens and the model's window is {self.window}")
        sampling = request.sampling
        stream = _Stream(request, self._tokenizer)
        try:
            self._generate(inputs, sampling, min(sampling.max_tokens, room), stream)
        finally:
            self._generated += stream.count
        stream.close()
        return Finished(stream.reason(self._end_tokens()), length, stream.count)

    def _generate(self, inputs: Any, sampling: Sampling, max_new_tokens: int, stream: "_Stream") -> None:
        import torch
        from transformers import GenerationConfig, StoppingCriteriaList

        if sampling.seed is None:
            torch.seed()
        else:
            torch.manual_seed(sampling.seed)
        greedy = sampling.temperature < COLDEST
        config = GenerationConfig(  # type: ignore[no-untyped-call] # transformers leaves it untyped
            max_new_tokens=max_new_tokens,
            do_sample=not greedy,
            eos_token_id=sorted(self._end_tokens()),
            pad_token_id=self._tokenizer.pad_token_id,
            **({} if greedy else {"temperature": float(sampling.temperature), "top_p": float(sampling.top_p), "top_k": 0}),
        )
        with torch.inference_mode():
            self._model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                generation_config=config,
                streamer=stream,
                stopping_criteria=StoppingCriteriaList([stream]),
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
    except Exception:  # noqa: BLE001 -- most often the caller's event loop is closed: nobody is left to tell
        request.cancel()
