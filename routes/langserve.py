"""The LangServe face. The only file that knows LangServe, which is in maintenance and has a licence of its own."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

from fastapi import FastAPI, Request
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda
from langchain_core.runnables.utils import AddableDict
from langserve import add_routes
from pydantic import BaseModel, Field, field_validator

from chains.schema import STRICT, Answer, Filters, RetrieveRequest, RetrieveResults, Source, SummarizeRequest, as_data
from errors import InvalidRequest

ROLES = {"human": "user", "ai": "assistant", "system": "system"}
RANGES = {"max_tokens": (1, None), "temperature": (0, 2), "k": (1, 50)}  # LangServe checks types, not ranges
ENDPOINTS = (
    *("invoke", "batch", "stream", "stream_log", "stream_events", "playground"),
    *("input_schema", "output_schema", "config_schema", "config_hashes"),
)


class ChatInput(BaseModel):
    """A conversation; messages may be LangChain's or `{"role", "content"}`."""

    messages: list[HumanMessage | AIMessage | SystemMessage] = Field(
        min_length=1, description="The conversation, the question last", json_schema_extra={"widget": {"type": "chat"}}
    )

    @field_validator("messages", mode="before")
    @classmethod
    def _roles(cls, value: Any) -> Any:
        # Left to the union, {"role": "assistant"} would become a HumanMessage, and a SystemMessage would fail AIMessage's own
        # validator with an AttributeError; a dict with a type goes where it belongs.
        if not isinstance(value, list):
            raise ValueError("messages must be a list")  # noqa: TRY004 -- pydantic wants ValueError
        try:
            messages = [m if isinstance(m, BaseMessage) else convert_to_messages([m])[0] for m in value]
            return [{"type": m.type.removesuffix("MessageChunk").lower(), "content": m.content} for m in messages]
        except (ValueError, TypeError, KeyError, NotImplementedError):
            raise ValueError("a message must have a role (user, assistant or system) and a content") from None

    @field_validator("messages")
    @classmethod
    def _question_last(cls, value: list[BaseMessage]) -> list[BaseMessage]:
        if value[-1].type != "human" or not value[-1].text.strip():
            raise ValueError("the last message must be a question from the user")
        return value


class RagInput(BaseModel):
    """One question, with where to look for its answer."""

    model_config = STRICT

    question: str = Field(min_length=1, examples=["How much power may a 2.4 GHz digital transmitter use?"])
    filters: Filters | None = None
    summarize: Literal["auto", "always", "never"] = "auto"

    @field_validator("question")
    @classmethod
    def _asks(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("the question is empty")
        return value


def add(
    app: FastAPI,
    *,
    chat: Runnable[Any, Any],
    retrieve: Runnable[Any, Any],
    summarize: Runnable[Any, Any],
) -> None:
    """Add the four LangServe paths to `app`."""
    talk = (RunnableLambda(_conversation) | chat | RunnableGenerator(_as_text)).with_types(input_type=ChatInput, output_type=str)
    rag = (RunnableLambda(_question) | chat | RunnableGenerator(_as_plain)).with_types(input_type=RagInput, output_type=Answer)  # type: ignore[arg-type] # chunks that add up to one
    found = retrieve.with_types(input_type=RetrieveRequest, output_type=RetrieveResults)
    summed = summarize.with_types(input_type=SummarizeRequest, output_type=str)
    shared: dict[str, Any] = {"enabled_endpoints": ENDPOINTS, "per_req_config_modifier": _check_ranges}
    add_routes(app, talk, path="/api/chat", playground_type="chat", **shared)
    add_routes(app, rag, path="/api/rag", **shared)
    add_routes(app, found, path="/api/retrieve", **shared)
    add_routes(app, summed, path="/api/summarize", **shared)


def sources_as_text(sources: Sequence[Source], content: str) -> str:
    """The sources an answer cites, or all of them if it cites none, as lines of Markdown."""
    cited = [s for s in sources if f"[{s.id}]" in content] or sources
    lines = [f"- [{s.id}] {s.citation}" + (f", page {s.page}" if s.page else "") + f" ({s.source})" for s in cited]
    return "\n\nSources:\n" + "\n".join(lines) if lines else ""


def _conversation(given: Any) -> dict[str, Any]:
    messages = given["messages"] if isinstance(given, dict) else given.messages
    return {"messages": [{"role": ROLES[m.type], "content": m.text} for m in convert_to_messages(messages)]}


def _question(given: Any) -> dict[str, Any]:
    body = RagInput.model_validate(given)
    fields: dict[str, Any] = body.model_dump(exclude={"question"}, exclude_none=True)
    return {"messages": [{"role": "user", "content": body.question}]} | fields


async def _as_text(chunks: AsyncIterator[AddableDict]) -> AsyncIterator[str]:
    """The answer's text as it comes; its summary and the sources it cites after it."""
    sources: list[Source] = []
    content = ""
    async for chunk in chunks:
        sources = chunk.get("sources", sources)
        if text := chunk.get("content"):
            content += text
            yield text
        if summary := chunk.get("summary"):
            yield f"\n\nSummary: {summary}"
    if text := sources_as_text(sources, content):
        yield text


async def _as_plain(chunks: AsyncIterator[AddableDict]) -> AsyncIterator[AddableDict]:
    """The same chunks as plain JSON, each field once but `content`, so that clients can add them up."""
    async for chunk in chunks:
        yield AddableDict(as_data(chunk))


def _check_ranges(config: dict[str, Any], _: Request) -> dict[str, Any]:
    for name, value in (config.get("configurable") or {}).items():
        low, high = RANGES.get(name, (None, None))
        if value is not None and ((low is not None and value < low) or (high is not None and value > high)):
            raise InvalidRequest(f"{name} must be at least {low}" + ("" if high is None else f" and at most {high}"))
    return config
