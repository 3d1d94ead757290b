"""A LangChain chat model on the pipeline: messages in, message out, with usage. Knows nothing about retrieval."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, GenerationChunk
from langchain_core.tools import BaseTool

from llm.messages import last, turns
from llm.pipeline import StreamingPipeline


class ChatPipeline(BaseChatModel):
    """Applies the model's own chat template once and calls the pipeline; every method has a true async twin."""

    llm: StreamingPipeline

    @property
    def _llm_type(self) -> str:
        return "fcc-rag-chat-pipeline"

    @property
    def window(self) -> int:
        """Longest prompt plus answer, in tokens."""
        return self.llm.engine.window

    async def check(self) -> None:
        """Raise EngineError if new requests are not taken now."""
        self.llm.engine.check()

    def check_queue(self) -> None:
        """Raise QueueFull or EngineError if a request would be refused now; else the call that asks keeps a place in line."""
        self.llm.engine.check_queue()

    def metrics(self) -> dict[str, Any]:
        return self.llm.engine.metrics()

    def drain(self) -> None:
        """Take no new requests; those that run or wait are finished."""
        self.llm.engine.drain()

    def cancel_all(self) -> None:
        """End what runs and what waits; each caller is told."""
        self.llm.engine.cancel_all()

    def get_num_tokens(self, text: str) -> int:
        return self.llm.get_num_tokens(text)

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
    ) -> int:
        """Tokens of the whole rendered prompt, template included."""
        return self.llm.get_num_tokens(self._render(messages))

    def _render(self, messages: list[BaseMessage]) -> str:
        return self.llm.engine.render(turns(messages))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for piece in self.llm._stream(self._render(messages), stop, **kwargs):  # noqa: SLF001 -- the same interface, a layer down
            chunk = _chat_chunk(piece)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        pieces = self.llm._astream(self._render(messages), stop, **kwargs)  # noqa: SLF001 -- the same interface, a layer down
        try:
            async for piece in pieces:
                chunk = _chat_chunk(piece)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        finally:
            await pieces.aclose()  # type: ignore[attr-defined] # an async generator; closed now, not when collected

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(list(self._stream(messages, stop, **kwargs)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result([chunk async for chunk in self._astream(messages, stop, **kwargs)])


def _chat_chunk(piece: GenerationChunk) -> ChatGenerationChunk:
    if (info := piece.generation_info) is None:
        return ChatGenerationChunk(message=AIMessageChunk(content=piece.text))
    usage = info["usage"]
    return last(info["finish_reason"], usage["prompt_tokens"], usage["completion_tokens"], piece.text)


def _result(chunks: list[ChatGenerationChunk]) -> ChatResult:
    last = chunks[-1].message
    assert isinstance(last, AIMessageChunk)
    message = AIMessage(
        content="".join(chunk.text for chunk in chunks),
        usage_metadata=last.usage_metadata,
        response_metadata=last.response_metadata,
    )
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=chunks[-1].generation_info)])
