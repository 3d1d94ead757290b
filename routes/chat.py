"""POST /api/chat: the plain REST call, whole or as server-sent events. Knows nothing about how the chain answers."""

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse
from langchain_core.runnables import Runnable
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse, ServerSentEvent

from chains.schema import Answer, ChatRequest, Message, as_data
from routes import errors
from routes.streams import begun

EVENTS = {"sources": "sources", "content": "token", "summary": "summary"}  # by a chunk's field; see _events for the others

EXAMPLE = {
    "messages": [{"role": "user", "content": "How much power may a 2.4 GHz digital transmitter use?"}],
    "max_tokens": 256,
    "temperature": 0,
    "stream": False,
}


class ChatBody(ChatRequest):
    """A ChatRequest, and whether to stream the answer."""

    stream: bool = Field(
        False, description="Answer as server-sent events: sources, token and sentence..., summary, end, or error."
    )


class ChatAnswer(BaseModel):
    """A whole answer; see Answer for its parts."""

    id: str
    model: str
    created: int = Field(description="Unix time in seconds")
    message: Message
    sources: Annotated[list[Any], Field(description="The passages the answer was given; `id` is the number of their markers")]
    sentences: Annotated[list[Any], Field(description="What was found for each sentence: supported, partly or unsupported")]
    withheld: Annotated[int, Field(description="Unsupported sentences that STRICT_CITATIONS left out")]
    summary: str | None
    finish_reason: str
    citations: list[Any]
    usage: dict[str, int]
    timings: dict[str, int | None]


def router(chain: Runnable[Any, Any], *, model: str) -> APIRouter:
    """The route on a chat chain; `model` is the name that answers carry."""
    api = APIRouter(tags=["chat"])

    @api.post("/api/chat", response_model=ChatAnswer, responses=errors.documented(413, 422, 429, 503))
    async def chat(request: Annotated[ChatBody, Body(openapi_examples={"a question": {"value": EXAMPLE}})]) -> Any:
        """Answer the last message from the documents, each statement with the number of the passage it rests on."""
        given = request.model_dump(exclude={"stream"}, exclude_none=True)
        head = {"id": f"chat-{uuid.uuid4().hex}", "model": model, "created": int(time.time())}
        if request.stream:
            return EventSourceResponse(_events(head, await begun(chain.astream(given))), ping=15)
        return JSONResponse(head | _whole(Answer.model_validate(await chain.ainvoke(given))))

    return api


def _whole(answer: Answer) -> dict[str, Any]:
    fields = answer.model_dump(mode="json", exclude={"content"})
    return {"message": {"role": "assistant", "content": answer.content}} | fields


async def _events(head: dict[str, Any], chunks: AsyncIterator[Any]) -> AsyncIterator[ServerSentEvent]:
    """The chunks as events: a sentence is an event of its own, and the last chunk is the end."""
    try:
        async for chunk in chunks:
            for sentence in chunk.get("sentences", []):
                yield _event("sentence", as_data(sentence))
            if "sentences" in chunk:
                continue
            name = next((event for field, event in EVENTS.items() if field in chunk), "end")
            yield _event(name, as_data(chunk) if name != "end" else head | as_data(chunk))
    except Exception as exc:  # noqa: BLE001 -- the status is sent; all that can still be told is an event
        status, content, headers = errors.of(exc)
        yield _event("error", content | {"status": status} | ({"retry_after": headers["Retry-After"]} if headers else {}))


def _event(name: str, data: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(event=name, data=json.dumps(data, ensure_ascii=False))
