"""OpenAI's face: POST /v1/chat/completions and GET /v1/models. Knows nothing about how an answer is made.

Two models: `fcc-rag` answers from the documents, and the loaded model's own name answers from what it is told alone.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import Runnable
from sse_starlette import EventSourceResponse

from chains.schema import Usage, as_data
from errors import NotFound, PromptTooLong
from routes import errors
from routes.openai_schema import NEUTRAL, ONLY_RAG, Completion, CompletionBody, Model, Models
from routes.streams import as_text, begun

RAG = "fcc-rag"
# A shutdown cuts an answer off as a limit does; "stop" would pass it off as whole.
FINISH_REASONS = {"length": "length", "cancelled": "length"}

FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": errors.OpenAIErrorBody, "description": "The request is at fault (`param` names the field), or early (429)"},
    "5XX": {"model": errors.OpenAIErrorBody, "description": "The model or the store is away; Retry-After says when to come back"},
}
EXAMPLE = {
    "model": RAG,
    "messages": [{"role": "user", "content": "How much power may a 2.4 GHz digital transmitter use?"}],
    "max_tokens": 256,
    "temperature": 0,
}


def router(
    chain: Runnable[Any, Any], model: BaseChatModel, *, name: str, window: int, max_tokens: int, temperature: float
) -> APIRouter:
    """The routes on a chat chain and on its model alone, called `name`, whose callers may leave open the last two.

    `window` is the model's, in tokens.
    """
    api = APIRouter(tags=["openai"], responses=FAILURES)
    models = {each: Model(id=each, created=int(time.time())) for each in (RAG, name)}
    defaults = {"max_tokens": max_tokens, "temperature": temperature}

    def known(wanted: str) -> Model:
        if wanted not in models:
            raise NotFound(f"the model {wanted!r} does not exist; there are {' and '.join(models)}")
        return models[wanted]

    @api.get("/v1/models")
    async def all_models() -> Models:
        """The models that can be asked."""
        return Models(data=list(models.values()))

    @api.get("/v1/models/{model_id:path}")
    async def one_model(model_id: str) -> Model:
        """Whether there is such a model."""
        return known(model_id)

    @api.post("/v1/chat/completions", response_model=Completion, responses={200: {"content": {"text/event-stream": {}}}})
    async def complete(request: Annotated[CompletionBody, Body(openapi_examples={"a question": {"value": EXAMPLE}})]) -> Any:
        """Answer as OpenAI's API does, whole or streamed."""
        _check(request)
        if known(request.model).id == RAG:
            chunks = chain.astream(request.for_chain())
        else:
            chunks = _alone(model, request, defaults | request.sampling(), window)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": request.model}
        if not request.stream:
            return JSONResponse(await _whole(head, as_text(chunks)))
        counted = bool(request.stream_options and request.stream_options.include_usage)
        return EventSourceResponse(_events(head, as_text(await begun(chunks)), counted=counted), ping=15, sep="\n")

    return api


def _check(request: CompletionBody) -> None:
    """Raise RequestValidationError for a parameter that cannot be honoured."""
    for name, value in (request.model_extra or {}).items():
        if value is not None and value not in NEUTRAL.get(name, (value,)):
            raise _refused(name, "this server cannot do that; leave the parameter out")
    if request.max_tokens and request.max_completion_tokens:
        raise _refused("max_tokens", "give it or max_completion_tokens, not both")
    for name in ONLY_RAG:
        if request.model != RAG and getattr(request, name) is not None:
            raise _refused(name, f"only the model {RAG} takes it")


def _refused(name: str, why: str) -> RequestValidationError:
    return RequestValidationError([{"type": "unsupported_parameter", "loc": ("body", name), "msg": why}])


async def _alone(
    model: BaseChatModel, request: CompletionBody, sampling: dict[str, Any], window: int
) -> AsyncIterator[dict[str, Any]]:
    """What the model says without the chain, in the chain's own chunks. Raises PromptTooLong before it waits in line."""
    messages = [turn.as_message().to_langchain() for turn in request.messages]
    tokens = await asyncio.to_thread(model.get_num_tokens_from_messages, messages)
    if tokens >= window:
        raise PromptTooLong(f"the prompt has {tokens} tokens and the model's window is {window}")
    yield {"content": ""}  # the stream is open, however long the line is
    end: dict[str, Any] = {"finish_reason": "stop", "usage": Usage()}
    stream = model.astream(messages, **sampling)
    async with contextlib.aclosing(cast("AsyncGenerator[AIMessageChunk]", stream)):
        async for message in stream:
            if message.text:
                yield {"content": message.text}
            end["finish_reason"] = message.response_metadata.get("finish_reason") or end["finish_reason"]
            if counted := message.usage_metadata:
                before, after = counted["input_tokens"], counted["output_tokens"]
                end["usage"] = Usage(prompt_tokens=before, completion_tokens=after, total_tokens=before + after)
    yield end


async def _whole(head: dict[str, Any], chunks: AsyncIterator[Any]) -> dict[str, Any]:
    *pieces, end = [chunk async for chunk in chunks]
    message = {"role": "assistant", "content": "".join(piece["content"] for piece in pieces), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(end)}
    return head | {"object": "chat.completion", "choices": [choice], "usage": as_data(end["usage"])} | _evidence(end)


async def _events(head: dict[str, Any], chunks: AsyncIterator[Any], *, counted: bool) -> AsyncIterator[dict[str, str]]:
    head = head | {"object": "chat.completion.chunk"} | ({"usage": None} if counted else {})

    def event(delta: dict[str, str], end: dict[str, Any] | None = None) -> dict[str, str]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": _reason(end) if end else None}
        return _event(head | {"choices": [choice]} | (_evidence(end) if end else {}))

    yield event({"role": "assistant", "content": ""})
    try:
        async for chunk in chunks:
            if "content" in chunk:
                yield event({"content": chunk["content"]})
                continue
            yield event({}, chunk)
            if counted:
                yield _event(head | {"choices": [], "usage": as_data(chunk["usage"])})
        yield {"data": "[DONE]"}
    except Exception as exc:  # noqa: BLE001 -- the status is sent; all that can still be told is an event
        yield _event(errors.like_openai(exc)[1])


def _event(data: dict[str, Any]) -> dict[str, str]:
    return {"data": json.dumps(data, ensure_ascii=False)}


def _reason(end: dict[str, Any]) -> str:
    return FINISH_REASONS.get(end["finish_reason"], "stop")  # a refusal for want of evidence is a whole answer too


def _evidence(end: dict[str, Any]) -> dict[str, Any]:
    return {name: as_data(end[name]) for name in ("sources", "citations")} if "citations" in end else {}
