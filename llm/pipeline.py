"""LangChain's HuggingFacePipeline on our engine: async native, per-call sampling, stop strings, cancellation. Knows no chat."""

import asyncio
import itertools
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_huggingface import HuggingFacePipeline
from pydantic import Field

from errors import InvalidRequest
from llm.engine import Engine
from llm.requests import Event, Failed, Finished, Piece, Sampling

SAMPLING = ("max_tokens", "temperature", "top_p", "seed")


class StreamingPipeline(HuggingFacePipeline):
    """Text in, text out, by an engine that many callers share.

    The stock class starts a thread for each stream that nobody can stop and has no async methods; this one replaces all four ways
    of calling. `max_tokens`, `temperature`, `top_p`, `seed` and `stop` may be given per call, by `bind` or as arguments.
    """

    engine: Engine = Field(exclude=True)

    model_config = HuggingFacePipeline.model_config | {"arbitrary_types_allowed": True}

    @classmethod
    def wrap(cls, engine: Engine, *, name: str, model: Any = None, tokenizer: Any = None) -> Self:
        """Put LangChain's face on an engine; a model that transformers runs is also there as `pipeline`, as users expect it."""
        if model is None:
            return cls(pipeline=None, model_id=name, engine=engine)
        from transformers import pipeline

        return cls(pipeline=pipeline("text-generation", model=model, tokenizer=tokenizer), model_id=name, engine=engine)

    def get_num_tokens(self, text: str) -> int:
        return self.engine.count_tokens(text)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        request = self.engine.submit(prompt, _sampling(stop, kwargs), events.put)
        try:
            while True:
                event = events.get()
                chunk = _chunk(event)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
                if isinstance(event, Finished):
                    return
        finally:
            request.cancel()

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(event: Event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        request = self.engine.submit(prompt, _sampling(stop, kwargs), deliver)
        try:
            while True:
                for event in _together([await events.get(), *_waiting(events)]):
                    chunk = _chunk(event)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                    if isinstance(event, Finished):
                        return
        finally:
            request.cancel()

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        chunks = [_joined(list(self._stream(prompt, stop, **kwargs))) for prompt in prompts]
        return LLMResult(generations=[[chunk] for chunk in chunks])

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        async def one(prompt: str) -> Generation:
            return _joined([chunk async for chunk in self._astream(prompt, stop, **kwargs)])

        try:
            async with asyncio.TaskGroup() as group:  # a failure of one cancels the others at once
                tasks = [group.create_task(one(prompt)) for prompt in prompts]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return LLMResult(generations=[[task.result()] for task in tasks])


def _waiting(events: "asyncio.Queue[Event]") -> list[Event]:
    return [events.get_nowait() for _ in range(events.qsize())]


def _together(events: list[Event]) -> Iterator[Event]:
    """The same events with neighbouring pieces as one: a reader slower than the model shall not fall behind ever more."""
    for pieces, group in itertools.groupby(events, lambda event: isinstance(event, Piece)):
        if pieces:
            yield Piece("".join(event.text for event in group if isinstance(event, Piece)))
        else:
            yield from group


def _sampling(stop: list[str] | str | None, kwargs: dict[str, Any]) -> Sampling:
    if unknown := kwargs.keys() - set(SAMPLING):
        raise InvalidRequest(f"unknown generation argument: {min(unknown)}; known are stop, {', '.join(SAMPLING)}")
    given = {name: value for name, value in kwargs.items() if value is not None}
    return Sampling(**given, stop=(stop,) if isinstance(stop, str) else tuple(stop or ()))


def _chunk(event: Event) -> GenerationChunk:
    match event:
        case Piece(text):
            return GenerationChunk(text=text)
        case Finished(reason, prompt_tokens, completion_tokens):
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
            return GenerationChunk(text="", generation_info={"finish_reason": reason, "usage": usage})
        case Failed(error):
            raise error


def _joined(chunks: list[GenerationChunk]) -> Generation:
    return Generation(text="".join(chunk.text for chunk in chunks), generation_info=chunks[-1].generation_info)
