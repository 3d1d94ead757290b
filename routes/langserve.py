"""The LangServe face. The only file that knows LangServe, which is in maintenance and has a licence of its own."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import Depends, FastAPI, Request
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, RunnableGenerator, RunnableLambda
from langchain_core.runnables.config import get_config_list
from langchain_core.runnables.utils import AddableDict
from langserve import add_routes
from pydantic import BaseModel, Field, field_validator

from chains.schema import STRICT, Answer, Filters, RetrieveRequest, RetrieveResults, SummarizeRequest, as_data
from errors import EngineError, InvalidRequest
from routes import streams

ROLES = {"human": "user", "ai": "assistant", "system": "system"}
RANGES = {"max_tokens": (1, None), "temperature": (0, 2), "k": (1, 50)}  # LangServe checks types, not ranges
AT_ONCE = 4  # of one batch; the others wait here and not in the model's queue
MOST = 100  # inputs of one batch
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
        # what convert_to_messages and the messages' own validators raise for shapes they do not know
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
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


class Batched(RunnableBinding[Any, Any]):
    """A runnable whose batches end together: LangChain's own leaves the others running when one fails."""

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(given: Any, its_config: RunnableConfig) -> Any:
            async with gate:
                try:
                    return await self.ainvoke(given, its_config, **kwargs)
                except Exception as exc:
                    if return_exceptions:
                        return exc
                    raise

        configs = get_config_list(config, len(inputs))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(*pair)) for pair in zip(inputs, configs, strict=True)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]


def _worth_logging(record: logging.LogRecord) -> bool:
    """False for what LangServe's streams do when they are closed amid sending; `callers` sees to the work behind them."""
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, RuntimeError) and "ignored GeneratorExit" in str(error))


logging.getLogger("sse_starlette.sse").addFilter(_worth_logging)


def add(
    app: FastAPI,
    *,
    chat: Runnable[Any, Any],
    retrieve: Runnable[Any, Any],
    summarize: Runnable[Any, Any],
) -> None:
    """Add the four LangServe paths to `app`."""
    talk = _served(RunnableLambda(_conversation) | chat | RunnableGenerator(_as_text), ChatInput, str)
    rag = _served(RunnableLambda(_question) | chat | RunnableGenerator(_as_plain), RagInput, Answer)
    found = _served(retrieve, RetrieveRequest, RetrieveResults)
    summed = _served(summarize, SummarizeRequest, str)
    shared: dict[str, Any] = {
        "enabled_endpoints": ENDPOINTS,
        "per_req_config_modifier": _check_ranges,
        "dependencies": [Depends(_check_body)],
    }
    add_routes(app, talk, path="/api/chat", playground_type="chat", **shared)
    add_routes(app, rag, path="/api/rag", **shared)
    add_routes(app, found, path="/api/retrieve", **shared)
    add_routes(app, summed, path="/api/summarize", **shared)


def _served(runnable: Runnable[Any, Any], input_type: type, output_type: type) -> Batched:
    return Batched(bound=runnable, custom_input_type=input_type, custom_output_type=output_type)


def _conversation(given: Any) -> dict[str, Any]:
    messages = given["messages"] if isinstance(given, dict) else given.messages
    return {"messages": [{"role": ROLES[m.type], "content": m.text} for m in convert_to_messages(messages)]}


def _question(given: Any) -> dict[str, Any]:
    body = RagInput.model_validate(given)
    fields: dict[str, Any] = body.model_dump(exclude={"question"}, exclude_none=True)
    return {"messages": [{"role": "user", "content": body.question}]} | fields


async def _as_text(chunks: AsyncIterator[AddableDict]) -> AsyncIterator[str]:
    """The answer's text as it comes; its summary and the sources it cites after it."""
    async for chunk in streams.as_text(chunks):
        if chunk.get("finish_reason") == "cancelled":  # text alone cannot say that it is not whole
            raise EngineError("the model was stopped before the answer was complete")
        if "content" in chunk:
            yield chunk["content"]


async def _as_plain(chunks: AsyncIterator[AddableDict]) -> AsyncIterator[AddableDict]:
    """The same chunks as plain JSON, each field once but `content`, so that clients can add them up."""
    async for chunk in chunks:
        yield AddableDict(as_data(chunk))


async def _check_body(request: Request) -> None:
    """Refuse what LangServe would answer with 500: a body that is no JSON object, or a batch that is no list."""
    if request.method != "POST":
        return
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    if request.url.path.endswith("/batch") and not (isinstance(body.get("inputs"), list) and len(body["inputs"]) <= MOST):
        raise InvalidRequest(f"inputs: must be a list of at most {MOST}")


def _check_ranges(config: dict[str, Any], _: Request) -> dict[str, Any]:
    for name, value in (config.get("configurable") or {}).items():
        low, high = RANGES.get(name, (None, None))
        below = low is not None and not (value is not None and value >= low)  # not a number is not at least anything
        if below or (high is not None and not value <= high):
            raise InvalidRequest(f"{name} must be at least {low}" + ("" if high is None else f" and at most {high}"))
    return config
