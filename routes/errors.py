"""Maps every error to the one shape `{"error": {"code", "message"}}`, under /v1 to OpenAI's. The only place that does."""

import logging
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from errors import FccRagError, NotFound, PromptTooLong, QueueFull

log = logging.getLogger(__name__)

CODES = {
    400: "bad_request",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    422: "invalid_request",
}
MEANINGS = {
    403: "The caller may not do this",
    404: "There is no such thing",
    413: "The prompt or the body is too large",
    422: "The request cannot be understood; the message names the field",
    429: "Too many requests are waiting; Retry-After says when to come back",
    503: "The model or the store is away; Retry-After says when to come back",
}


class ErrorDetail(BaseModel):
    """What went wrong: a stable code for programs and a sentence for people."""

    code: str = Field(examples=["invalid_request"])
    message: str = Field(examples=["max_tokens: Input should be greater than or equal to 1"])


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


class OpenAIErrorDetail(BaseModel):
    """What went wrong, as OpenAI's clients read it; `param` is the field at fault."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None = Field(examples=["model_not_found", "context_length_exceeded", "rate_limit_exceeded"])


class OpenAIErrorBody(BaseModel):
    """The shape of every error under /v1."""

    error: OpenAIErrorDetail


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these statuses."""
    return {status: {"model": ErrorBody, "description": MEANINGS[status]} for status in statuses}


def body(code: str, message: str) -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": message}}


def of(exc: Exception) -> tuple[int, dict[str, dict[str, str]], dict[str, str]]:
    """Status, body and headers for an exception; what nobody foresaw is logged and answered without its details."""
    match exc:
        case FccRagError():
            headers = {} if exc.retry_after is None else {"Retry-After": str(exc.retry_after)}
            return exc.status, body(exc.code, str(exc)), headers
        case RequestValidationError() | ValidationError():
            return 422, body("invalid_request", _first(list(exc.errors()))), {}
        case HTTPException():
            code = CODES.get(exc.status_code, "error")
            return exc.status_code, body(code, str(exc.detail)), dict(exc.headers or {})
        case _:
            log.error("unexpected error", exc_info=exc)
            return 500, body("internal", "an unexpected error; the server's log has the details"), {}


def like_openai(exc: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The same in OpenAI's shape, and with its statuses and codes where it has its own."""
    status, content, headers = of(exc)
    code, param = content["error"]["code"], None
    match exc:
        case PromptTooLong():
            status, code, param = 400, "context_length_exceeded", "messages"
        case QueueFull():
            code = "rate_limit_exceeded"
        case NotFound():
            code, param = "model_not_found", "model"
        case RequestValidationError() | ValidationError():
            first = exc.errors()[0]
            code = first["type"] if first["type"] == "unsupported_parameter" else "invalid_value"
            param = None if first["type"] == "json_invalid" else _where(first) or None  # that one says where in the text
    status = 400 if status == 422 else status
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    error = {"message": content["error"]["message"], "type": kind, "param": param, "code": code}
    return status, {"error": error}, headers


def install(app: FastAPI) -> None:
    """Answer every exception of `app` in the shape that belongs to its path."""
    for kind in (FccRagError, RequestValidationError, ValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _handle)


def answer(scope: Scope, exc: Exception) -> JSONResponse:
    """The response to a request that failed, in the shape of its face."""
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    status, content, headers = like_openai(exc) if path.startswith("/v1/") else of(exc)
    return JSONResponse(content, status_code=status, headers=headers)


async def _handle(request: Request, exc: Exception) -> JSONResponse:
    return answer(request.scope, exc)


def _first(errors: list[Any]) -> str:
    if isinstance(errors[0], str):  # LangServe's way
        return errors[0]
    where, what = _where(errors[0]), errors[0]["msg"].removeprefix("Value error, ")
    return f"{where}: {what}" if where else what


def _where(error: Any) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "body")
