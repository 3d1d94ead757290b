"""The chat chain: condense, retrieve, fit, answer, check, summarise. Composed in LCEL from what it is given.

In: a dict with the fields of ChatRequest. Out: AddableDict chunks that add up to the fields of Answer: `sources` once, `content`
in pieces, `sentences` one by one, each after the piece that ends it, `summary` if there is one, and `finish_reason`, `citations`,
`withheld`, `usage` and `timings` at the end.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
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

import prompts
from chains import answer, condense, summarize
from chains.markers import Markers
from chains.schema import ChatRequest, Citation, FinishReason, Given, Timings, Usage, checked
from chains.withhold import Gate
from errors import FccRagError

PASSAGE = "<passage"  # begins a passage in the prompt, and never an answer's sentence

log = logging.getLogger(__name__)


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
    def sources(self) -> list[Given]:
        return [Given.of(number, passage) for number, passage in enumerate(self.passages, start=1)]

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
        return checked(ChatRequest, defaults | checked(ChatRequest, input).model_dump(exclude_none=True))

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
    strict: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Runnable[Any, AddableDict]:
    """Compose the chain; `window` and `summary_threshold` are in tokens. It is asynchronous: ainvoke, abatch, astream.

    With `strict` unsupported sentences are withheld; an answer that has no others becomes the refusal, with "no_evidence".
    `check` is called first and raises if the model would refuse a request now, which saves retrieving for it.
    """
    defaults = Defaults(max_tokens=max_tokens, temperature=temperature, k=k).configurable_fields(
        max_tokens=ConfigurableField(id="max_tokens", name="max_tokens", description="New tokens at most"),
        temperature=ConfigurableField(id="temperature", name="temperature", description="0 is greedy"),
        k=ConfigurableField(id="k", name="k", description="Passages to answer from, at most"),
    )
    condenser = condense.build(model)
    summarizer = summarize.build(model, window=window)

    def admit(request: ChatRequest) -> ChatRequest:  # counts tokens: LangChain runs a plain function beside the event loop
        check()
        return answer.admit(request, model, window=window)

    async def stand_alone(request: ChatRequest) -> Turn:
        turn = Turn(request)
        turn.question = await condenser.ainvoke(request)
        return turn

    async def retrieve(turn: Turn) -> Turn:
        filters = turn.request.filters.model_dump(exclude_none=True) if turn.request.filters else {}
        turn.passages = await retriever.ainvoke(turn.question, k=turn.request.k, filters=filters)
        turn.retrieved = time.monotonic()
        return turn

    def fit(turn: Turn) -> Turn:  # as admit
        request = turn.request
        turn.prompt, turn.passages = answer.fit(
            request, turn.question, turn.passages, model, window=window, max_tokens=request.max_tokens or max_tokens
        )
        return turn

    async def respond(turns: AsyncIterator[Turn]) -> AsyncIterator[AddableDict]:
        async for turn in turns:
            async for chunk in _answered(Draft(turn, model, strict=strict), summarizer, summary_threshold):
                yield chunk

    return (
        defaults
        | RunnableLambda(admit, name="admit")
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
        yield AddableDict(finish_reason="no_evidence", citations=[], withheld=0, usage=Usage(), timings=turn.timings())


async def _answered(draft: "Draft", summarizer: Runnable[str, str], summary_threshold: int) -> AsyncIterator[AddableDict]:
    turn = draft.turn
    yield AddableDict(sources=turn.sources)
    async for chunk in draft.write():
        yield chunk
    if (ending := draft.ending()) or not draft.content:
        yield AddableDict(content=ending)
    usage = await draft.usage()
    whole = draft.content.strip() and draft.finish_reason != "cancelled"
    if whole and _is_long(turn.request, usage, summary_threshold):
        try:
            yield AddableDict(summary=await summarizer.ainvoke(draft.content))
        except FccRagError as exc:  # the answer is there, and must not be lost for want of its summary
            log.warning("an answer goes without its summary: %s", exc)
    yield AddableDict(
        finish_reason=draft.finish_reason,
        citations=draft.citations,
        withheld=draft.withheld,
        usage=usage,
        timings=turn.timings(draft.first),
    )


class Draft:
    """An answer while the model writes it, and what is known of it afterwards."""

    def __init__(self, turn: Turn, model: BaseChatModel, *, strict: bool) -> None:
        self.turn = turn
        self.content = ""  # as it is shown
        self.citations: list[Citation] = []  # of what is shown
        self.first: float | None = None  # when the first text came
        self._ended: FinishReason = "stop"
        self._markers = Markers(turn.sources)
        self._gate = Gate(strict=strict)
        self._model = model
        self._written = ""  # by the model, before its markers were seen to
        self._counted: UsageMetadata | None = None

    @property
    def withheld(self) -> int:
        return self._gate.withheld

    @property
    def finish_reason(self) -> FinishReason:
        """Why the model ended; "no_evidence" for an answer of which nothing was left."""
        nothing_left = self.withheld and not self.content and self._ended != "cancelled"
        return "no_evidence" if nothing_left else self._ended

    async def write(self) -> AsyncIterator[AddableDict]:
        """Call the model and yield the answer's text and its sentences until it ends or repeats itself."""
        request = self.turn.request
        stream = self._model.astream(
            self.turn.prompt,
            stop=_stops(request),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
        )
        async with contextlib.aclosing(cast("AsyncGenerator[AIMessageChunk]", stream)):  # what is not read is not written
            async for message in stream:
                for chunk in self._take(message):
                    yield chunk
                if self._markers.repeating:
                    break
        for chunk in self._show(self._markers.flush()):
            yield chunk

    def ending(self) -> str:
        """What is told below the answer: the refusal if nothing was left of it, else how much is withheld, else nothing."""
        if self.finish_reason == "no_evidence":
            return prompts.text_of("refusal").strip()
        if not self.withheld:
            return ""
        note = prompts.text_of("withheld").strip().format(count=self.withheld)
        return f"\n\n{note}" if self.content else note

    async def usage(self) -> Usage:
        """As the model counted it; of an answer that was cut off, as its tokenizer counts it now."""
        if counted := self._counted:
            before, after = counted["input_tokens"], counted["output_tokens"]
        else:
            before = await asyncio.to_thread(self._model.get_num_tokens_from_messages, self.turn.prompt)
            after = await asyncio.to_thread(self._model.get_num_tokens, self._written)
        return Usage(prompt_tokens=before, completion_tokens=after, total_tokens=before + after)

    def _take(self, message: AIMessageChunk) -> Iterator[AddableDict]:
        if message.text and self.first is None:
            self.first = time.monotonic()
        self._written += message.text
        self._counted = message.usage_metadata or self._counted
        self._ended = message.response_metadata.get("finish_reason") or self._ended
        return self._show(self._markers.feed(message.text))

    def _show(self, text: str) -> Iterator[AddableDict]:
        for piece, closed in self._gate.feed(text, self._markers.closed()):
            self.content += piece
            if piece:
                yield AddableDict(content=piece)
            if closed:
                self.citations += closed.citations
            if closed and closed.sentence:
                yield AddableDict(sentences=[closed.sentence])


def _stops(request: ChatRequest) -> list[str]:
    """The caller's stop strings, and one for a model that goes on to write passages of its own, if four allow for it.

    Services of OpenAI's kind take four at most.
    """
    stops = request.stop or []
    return [*stops, PASSAGE] if len(stops) < 4 else stops


def _is_long(request: ChatRequest, usage: Usage, threshold: int) -> bool:
    return request.summarize == "always" or (request.summarize == "auto" and usage.completion_tokens > threshold)
