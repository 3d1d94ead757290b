"""A LangChain chat model on any OpenAI-compatible service: vLLM, SGLang, TGI, llama.cpp. Knows no weights and no documents.

Contents are sent as they are: that no text in them can end its turn or begin another is the service's own business.

Tokens are counted with `LLM_TOKENIZER` if it is set. If not, they are estimated on the safe side: one for each three lower-case
letters or spaces, one for each other byte of UTF-8, and a tenth more. Either way room is kept for the service's chat template.
"""
# ruff: noqa: ARG002 -- LangChain's signatures

import asyncio
import contextlib
import math
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from anyio.from_thread import start_blocking_portal
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import BaseTool
from pydantic import Field, PrivateAttr

import callers
from errors import EngineError, InvalidRequest, PromptTooLong, SettingsError
from llm.endpoint import Cards, Endpoint, Event
from llm.messages import last, turns
from llm.requests import Sampling
from settings import LLM

TEMPLATE_TOKENS, TURN_TOKENS = 32, 16  # room for what a chat template writes around a prompt and around each message
SPARSE = b"abcdefghijklmnopqrstuvwxyz "  # what tokenizers join into longer tokens
SAMPLING = ("max_tokens", "temperature", "top_p", "seed")


def open(llm: LLM) -> "RemoteChat":  # noqa: A001 -- it is read as `remote.open`
    """Ask the service once what it serves. Raises SettingsError, which names the variable, or EngineError if nothing answers."""
    endpoint = Endpoint(llm.llm_base_url, llm.llm_api_key.get_secret_value(), llm.llm_timeout_s)
    cards, name = endpoint.models(), llm.llm_model
    if not name or not _serves(cards, name):
        wrong = f"{endpoint.url} does not serve {name!r}" if name else "name the model to ask for"
        raise SettingsError(f"LLM_MODEL: {wrong}; it serves {', '.join(sorted(cards)) or 'what it does not list'}")
    if not (window := llm.llm_window or _window(cards, name)):
        raise SettingsError(
            f"LLM_WINDOW: {endpoint.url} does not tell it; set the tokens that prompt and answer may have together"
        )
    return RemoteChat(name=name, endpoint=endpoint, window=window, tokenizer=_tokenizer(llm.llm_tokenizer))


class RemoteChat(BaseChatModel):
    """Speaks with one model of a service; every method has a true async twin.

    `max_tokens`, `temperature`, `top_p`, `seed` and `stop` may be given per call. What is not given is the service's choice, but
    for `max_tokens`; that is lowered to what the window leaves.
    """

    name: str
    endpoint: Endpoint = Field(exclude=True)
    window: int  # longest prompt plus answer, in tokens
    tokenizer: Any = Field(default=None, exclude=True)

    model_config = BaseChatModel.model_config | {"arbitrary_types_allowed": True}

    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _running: set[Callable[[], object]] = PrivateAttr(default_factory=set)  # what ends each answer, from any thread
    _draining: bool = PrivateAttr(default=False)
    _refusing: bool = PrivateAttr(default=False)
    _generated: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return "fcc-rag-remote-chat"

    def get_num_tokens(self, text: str) -> int:
        if self.tokenizer is not None:
            return len(self.tokenizer.encode(text, add_special_tokens=False).ids)
        data = text.encode("utf-8", "replace")
        dense = len(data.translate(None, SPARSE))
        return math.ceil(1.1 * (dense + (len(data) - dense) / 3))

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """Tokens of the whole prompt, with room for the template."""
        return TEMPLATE_TOKENS + sum(TURN_TOKENS + self.get_num_tokens(turn["content"]) for turn in _turns(messages))

    def metrics(self) -> dict[str, Any]:
        """What this process asks for; `alive` tells whether the service answered when it was last asked."""
        running, state = len(self._running), "draining" if self._draining else "ready"
        return {
            "alive": self.endpoint.alive,
            "state": state,
            "running": running,
            "waiting": 0,
            "generated_tokens": self._generated,
        }

    async def check(self) -> None:
        """Raise EngineError if the service is away or no longer serves the model, or new requests are not taken now."""
        if self._draining:
            raise EngineError("the server is shutting down")
        try:
            cards = await asyncio.to_thread(self.endpoint.models)
        except SettingsError as exc:
            raise EngineError(str(exc)) from exc
        if not _serves(cards, self.name):
            raise EngineError(f"{self.endpoint.url} no longer serves {self.name}")

    def check_queue(self) -> None:
        """Raise EngineError if a request would be refused now; whether the service has room it tells when it is asked."""
        if self._refusing:
            raise EngineError("the server is shutting down")

    def drain(self) -> None:
        """Say that the server shuts down. Calls that have begun may still ask: an answer can take several requests."""
        self._draining = True

    def cancel_all(self) -> None:
        """End what runs, each caller is told, and ask nothing more."""
        with self._lock:
            self._refusing = True
            for end in self._running:
                with contextlib.suppress(RuntimeError):  # its event loop is closed, and so is the answer
                    end()

    def close(self) -> None:
        """End what runs and take nothing new; no connection outlives its answer."""
        self.drain()
        self.cancel_all()

    async def aclose(self) -> None:
        self.close()

    async def _pieces(
        self, messages: list[BaseMessage], stop: list[str] | str | None, given: dict[str, Any]
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        self.check_queue()
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        reading = asyncio.create_task(self._read(self._body(messages, stop, given), events.put_nowait))
        end = partial(asyncio.get_running_loop().call_soon_threadsafe, reading.cancel)

        def over(_: asyncio.Task[None]) -> None:  # whether or not anybody reads on
            with self._lock:
                self._running.discard(end)
            events.put_nowait(None)

        reading.add_done_callback(over)
        said, reason, usage = list[str](), "", dict[str, int]()
        with self._lock:
            self._running.add(end)
        try:
            while event := await events.get():
                reason, usage = event.reason or reason, event.usage or usage
                if event.text:
                    said.append(event.text)
                    yield ChatGenerationChunk(message=AIMessageChunk(content=event.text))
            if reading.cancelled():
                reason = "cancelled"
            else:
                reading.result()  # raises what broke it
            if reason in {"", "abort", "error"}:
                raise EngineError("the model service broke off its answer")
            before = usage.get("prompt_tokens") or self.get_num_tokens_from_messages(messages)
            yield last(reason, before, usage.get("completion_tokens") or self.get_num_tokens("".join(said)))
        finally:
            with self._lock:
                self._generated += usage.get("completion_tokens") or self.get_num_tokens("".join(said))
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)  # until the connection is closed

    async def _read(self, body: dict[str, Any], put: Callable[[Event], None]) -> None:
        caller = callers.current.get()
        async with aclosing(self.endpoint.answer(body)) as events:
            async for event in events:
                if caller.over.is_set():
                    raise asyncio.CancelledError
                put(event)

    def _body(self, messages: list[BaseMessage], stop: list[str] | str | None, given: dict[str, Any]) -> dict[str, Any]:
        """What to ask for. Raises InvalidRequest, or PromptTooLong if the window has no room for an answer."""
        if unknown := given.keys() - set(SAMPLING):
            raise InvalidRequest(f"unknown generation argument: {min(unknown)}; known are stop, {', '.join(SAMPLING)}")
        given = {name: value for name, value in given.items() if value is not None}
        sampling = Sampling(**given, stop=(stop,) if isinstance(stop, str) else tuple(stop or ()))
        if sampling.greedy:
            given["temperature"] = 0.0
        turns, prompt = _turns(messages), self.get_num_tokens_from_messages(messages)
        if prompt >= self.window:
            about = "about " if self.tokenizer is None else ""
            raise PromptTooLong(f"the prompt has {about}{prompt} tokens; the model's window is {self.window}")
        fixed = {"model": self.name, "messages": turns, "stream": True, "stream_options": {"include_usage": True}}
        stops = {"stop": list(sampling.stop)} if sampling.stop else {}
        return fixed | given | stops | {"max_tokens": min(sampling.max_tokens, self.window - prompt)}

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        chunks: queue.SimpleQueue[ChatGenerationChunk | None] = queue.SimpleQueue()

        async def receive() -> None:
            async with aclosing(self._pieces(messages, stop, kwargs)) as pieces:
                async for piece in pieces:
                    chunks.put(piece)

        with start_blocking_portal() as portal:
            receiving = portal.start_task_soon(receive)
            receiving.add_done_callback(lambda _: chunks.put(None))
            try:
                while chunk := chunks.get():
                    if run_manager:
                        run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                receiving.result()
            finally:
                receiving.cancel()

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        async with aclosing(self._pieces(messages, stop, kwargs)) as pieces:
            async for chunk in pieces:
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._pieces(messages, stop, kwargs))


def _serves(cards: Cards, name: str) -> bool:
    """Whether the service lists the model, or lists none; SGLang names an adapter BASE:ADAPTER and may list BASE alone."""
    return not cards or name in cards or name.rpartition(":")[0] in cards


def _window(cards: Cards, name: str) -> int | None:
    """The window as vLLM and SGLang tell it, for an adapter its base's, or as llama.cpp does."""
    card = cards.get(name) or cards.get(name.rpartition(":")[0], {})
    base, meta = cards.get(card.get("parent") or "", {}), card.get("meta") or {}
    found = card.get("max_model_len") or base.get("max_model_len") or meta.get("n_ctx") or meta.get("n_ctx_train")
    return int(found) if found else None


def _tokenizer(folder: str) -> Any:
    if not folder:
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer: Any = Tokenizer.from_file(str(Path(folder).expanduser() / "tokenizer.json"))
    except Exception as exc:  # noqa: BLE001 -- tokenizers raises nothing narrower
        raise SettingsError(f"LLM_TOKENIZER: {folder} holds no tokenizer.json that can be read ({exc})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _turns(messages: list[BaseMessage]) -> list[dict[str, str]]:
    """JSON has no lone surrogates, so they are replaced."""
    return [turn | {"content": turn["content"].encode("utf-8", "replace").decode()} for turn in turns(messages)]
