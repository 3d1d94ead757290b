"""The chat chain: condense, retrieve, fit, answer, check, summarise. Composed in LCEL from what it is given.

In: a dict with the fields of ChatRequest. Out: AddableDict chunks that add up to the fields of Answer: `sources` once, `content`
in pieces, `summary` if there is one, and `finish_reason`, `citations`, `usage` and `timings` at the end.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    RunnableSerializable,
)
from langchain_core.runnables.utils import AddableDict
from pydantic import ValidationError

import prompts
from chains import answer, condense, summarize
from chains.markers import Markers
from chains.schema import ChatRequest, Source, Timings, Usage
from errors import InvalidRequest


@dataclass(slots=True)
class Turn:
    """One request on its way through the chain; each step fills in its own fields."""

    request: ChatRequest
    started: float = field(default_factory=time.monotonic)
    question: str = ""
    passages: list[Document] = field(default_factory=list)
    prompt: list[BaseMessage] = field(default_factory=list)
    retrieved: float = 0.0

    @property
    def sources(self) -> list[Source]:
        return [Source.of(number, passage) for number, passage in enumerate(self.passages, start=1)]

    def timings(self, first: float | None = None) -> Timings:
        def ms(moment: float) -> int:
            return round(1000 * (moment - self.started))

        return Timings(
            retrieval_ms=ms(self.retrieved),
            first_token_ms=None if first is None else ms(first),
            total_ms=ms(time.monotonic()),
        )


class Defaults(RunnableSerializable[Any, ChatRequest]):
    """Checks a request and fills in what it leaves open; the first step, and the place of the configurable fields."""

    max_tokens: int
    temperature: float
    k: int

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> ChatRequest:  # noqa: A002 -- LangChain's name
        """Raise InvalidRequest, naming the field, for anything a ChatRequest refuses."""
        defaults = {"max_tokens": self.max_tokens, "temperature": self.temperature, "k": self.k}
        try:
            request = input if isinstance(input, ChatRequest) else ChatRequest.model_validate(input)
            given = request.model_dump(exclude_none=True)
            return ChatRequest.model_validate(defaults | given)
        except ValidationError as exc:
            first = exc.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidRequest(f"{where}: {first['msg']}" if where else first["msg"]) from None

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> ChatRequest:  # noqa: A002
        return self.invoke(input, config, **kwargs)


def build(
    retriever: BaseRetriever,
    model: BaseChatModel,
    *,
    window: int,
    max_tokens: int,
    temperature: float,
    k: int,
    summary_threshold: int,
) -> Runnable[Any, AddableDict]:
    """Compose the chain; `window` and `summary_threshold` are in tokens. It is asynchronous: ainvoke, abatch, astream."""
    defaults = Defaults(max_tokens=max_tokens, temperature=temperature, k=k).configurable_fields(
        max_tokens=ConfigurableField(id="max_tokens", name="max_tokens", description="New tokens at most"),
        temperature=ConfigurableField(id="temperature", name="temperature", description="0 is greedy"),
        k=ConfigurableField(id="k", name="k", description="Passages to answer from, at most"),
    )
    condenser = condense.build(model)
    summarizer = summarize.build(model, window=window)

    async def stand_alone(request: ChatRequest) -> Turn:
        turn = Turn(request)
        turn.question = await condenser.ainvoke(request)
        return turn

    async def retrieve(turn: Turn) -> Turn:
        filters = turn.request.filters.model_dump(exclude_none=True) if turn.request.filters else {}
        turn.passages = await retriever.ainvoke(turn.question, k=turn.request.k, filters=filters)
        turn.retrieved = time.monotonic()
        return turn

    def fit(turn: Turn) -> Turn:  # counts tokens: LangChain runs a plain function beside the event loop
        request = turn.request
        turn.prompt, turn.passages = answer.fit(
            request, request.question, turn.passages, model, window=window, max_tokens=request.max_tokens or max_tokens
        )
        return turn

    async def respond(turns: AsyncIterator[Turn]) -> AsyncIterator[AddableDict]:
        async for turn in turns:
            async for chunk in _answered(turn, model, summarizer, summary_threshold):
                yield chunk

    return (
        defaults
        | RunnableLambda(stand_alone, name="condense")
        | RunnableLambda(retrieve, name="retrieve")
        | RunnableBranch(
            (lambda turn: bool(turn.passages), RunnableLambda(fit, name="fit") | RunnableGenerator(respond, name="answer")),
            RunnableGenerator(_refused, name="refuse"),
        )
    )


async def _refused(turns: AsyncIterator[Turn]) -> AsyncIterator[AddableDict]:
    """Nothing found: the fixed refusal, without a call of the model."""
    async for turn in turns:
        yield AddableDict(sources=[])
        yield AddableDict(content=prompts.text_of("refusal").strip())
        yield AddableDict(finish_reason="no_evidence", citations=[], usage=Usage(), timings=turn.timings())


async def _answered(
    turn: Turn, model: BaseChatModel, summarizer: Runnable[str, str], summary_threshold: int
) -> AsyncIterator[AddableDict]:
    request, sources = turn.request, turn.sources
    yield AddableDict(sources=sources)
    markers, first, content = Markers(sources), None, ""
    last = AIMessageChunk(content="")
    stream = model.astream(
        turn.prompt,
        stop=request.stop,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
    )
    async for message in stream:
        first = first or time.monotonic()
        last = message if message.usage_metadata else last
        if text := markers.feed(message.text):
            content += text
            yield AddableDict(content=text)
    if text := markers.flush():
        content += text
        yield AddableDict(content=text)
    usage = _usage(last)
    if _is_long(request, usage, summary_threshold) and content.strip():
        yield AddableDict(summary=await summarizer.ainvoke(content))
    yield AddableDict(
        finish_reason=last.response_metadata.get("finish_reason", "stop"),
        citations=markers.citations,
        usage=usage,
        timings=turn.timings(first),
    )


def _is_long(request: ChatRequest, usage: Usage, threshold: int) -> bool:
    return request.summarize == "always" or (request.summarize == "auto" and usage.completion_tokens > threshold)


def _usage(message: AIMessageChunk) -> Usage:
    if not (counted := message.usage_metadata):
        return Usage()
    return Usage(
        prompt_tokens=counted["input_tokens"],
        completion_tokens=counted["output_tokens"],
        total_tokens=counted["total_tokens"],
    )
