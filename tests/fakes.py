"""Fakes of our own interfaces: a chat model that says what it is told to, and a retriever that finds what it is given."""

# ruff: noqa: ARG002 -- LangChain's signatures

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForLLMRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import BaseTool
from pydantic import Field

Say = Callable[[list[BaseMessage]], Sequence[str]]


@dataclass(frozen=True)
class Call:
    """One call of a ScriptedModel."""

    messages: list[BaseMessage]
    kwargs: dict[str, Any]

    @property
    def text(self) -> str:
        return "\n".join(message.text for message in self.messages)


class ScriptedModel(BaseChatModel):
    """Streams the pieces that `say` gives for the messages, and ends as llm/chat.py does, with usage and finish_reason."""

    say: Say = Field(default=lambda _: ["Yes."])
    finish_reason: str = "stop"
    delay: float = 0.0  # seconds before each piece
    error: Exception | None = None
    fails_after: int = 0  # pieces
    counts: bool = True  # reports usage at the end
    calls: list[Call] = Field(default_factory=list)
    given: list[str] = Field(default_factory=list)  # pieces that were taken from it
    closed: int = 0  # streams that are over, in whatever way

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def get_num_tokens(self, text: str) -> int:
        return len(text.split())

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        return sum(self.get_num_tokens(message.text) for message in messages)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        try:
            for chunk in self._chunks(messages, stop, kwargs):
                await asyncio.sleep(self.delay)
                yield chunk
        finally:
            self.closed += 1

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _whole(list(self._chunks(messages, stop, kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _whole([chunk async for chunk in self._astream(messages, stop, **kwargs)])

    def _chunks(
        self, messages: list[BaseMessage], stop: list[str] | None, kwargs: dict[str, Any]
    ) -> Iterator[ChatGenerationChunk]:
        self.calls.append(Call(messages, kwargs | {"stop": stop}))
        pieces = list(self.say(messages))
        for number, piece in enumerate(pieces):
            if self.error and number == self.fails_after:
                raise self.error
            self.given.append(piece)
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        if self.error:
            raise self.error
        before, after = self.get_num_tokens_from_messages(messages), len(pieces)
        usage = UsageMetadata(input_tokens=before, output_tokens=after, total_tokens=before + after)
        metadata = {"finish_reason": self.finish_reason}
        message = AIMessageChunk(
            content="", usage_metadata=usage if self.counts else None, response_metadata=metadata, chunk_position="last"
        )
        yield ChatGenerationChunk(message=message, generation_info=metadata)


class ListRetriever(BaseRetriever):
    """Finds the first `k` of its documents, whatever it is asked."""

    documents: list[Document]
    calls: list[dict[str, Any]] = Field(default_factory=list)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        self.calls.append({"query": query, **kwargs})
        return self.documents[: kwargs.get("k")]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        self.calls.append({"query": query, **kwargs})
        return self.documents[: kwargs.get("k")]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; raise TimeoutError after half a minute."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 -- what is waited for sets no event
            await asyncio.sleep(0.002)


def saying(*pieces: str) -> Say:
    """What a model says whatever it is asked."""
    return lambda _: pieces


def _whole(chunks: list[ChatGenerationChunk]) -> ChatResult:
    last = chunks[-1].message
    assert isinstance(last, AIMessageChunk)
    message = AIMessage(
        content="".join(chunk.text for chunk in chunks),
        usage_metadata=last.usage_metadata,
        response_metadata=last.response_metadata,
    )
    return ChatResult(generations=[ChatGeneration(message=message)])
