"""HTTP with an OpenAI-compatible service: what it lists, and a streamed answer. Knows no LangChain and no tokenizer.

Each request has a connection of its own, so that leaving an answer closes its connection and the service stops at once. Only
what has not begun is tried again: a connection that fails, and an answer of 429 or 503. Proxies that the environment names are
not used and redirects not followed; `SSL_CERT_FILE` may name a private authority. Whatever fails leaves as one of our errors.
"""

import asyncio
import json
import math
import random
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

import httpx
from httpx_sse import EventSource

from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong, QueueFull, SettingsError

CONNECT_S = 5.0  # seconds that connecting may take
LISTING_S = 10.0  # seconds that the service may take to list its models
RETRIES = 3  # after the first try
BACKOFF_S = 0.5  # before the first retry, doubled for each further one; chance takes up to half of it
PATIENCE_S = 10.0  # the longest Retry-After that is waited for; beyond it the caller is told
REASONS = {"eos_token": "stop", "stop_sequence": "stop"}  # TGI's words for it
TOO_LONG = re.compile(r"context[ _-]?(length|size|window)|max_new_tokens|(prompt|input).*(too long|longer than)", re.IGNORECASE)

Cards = dict[str, dict[str, Any]]  # what is said of each model, by its name


class Event(NamedTuple):
    """What one event of an answer brings; empty where it brings nothing."""

    text: str
    reason: str
    usage: dict[str, int]


class Endpoint:
    """The address `url`, which most services let end in /v1; `alive` tells whether it answered when it was last asked."""

    def __init__(self, url: str, key: str, silence: float) -> None:
        """`silence` is the longest time between two bytes, in seconds. Raises SettingsError if `url` or `key` cannot work."""
        if not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", url):
            raise SettingsError("LLM_BASE_URL: not an address such as http://127.0.0.1:8000/v1 (a key belongs in LLM_API_KEY)")
        if not (key.isascii() and key.isprintable()):
            raise SettingsError("LLM_API_KEY: holds characters that no HTTP header can carry")
        self.url, self.alive = url.rstrip("/"), True
        self._options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": httpx.Timeout(silence, connect=CONNECT_S),
            "verify": httpx.create_ssl_context() if url.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "trust_env": False,
        }

    def models(self) -> Cards:
        """What the service lists. Raises SettingsError, or EngineError if it may be better later."""
        try:
            with httpx.Client(**self._options) as client:
                response = client.get(f"{self.url}/models", timeout=httpx.Timeout(LISTING_S, connect=CONNECT_S))
        except httpx.RequestError as exc:
            raise self._broken(exc) from exc
        status = response.status_code
        self.alive = status < 500
        if status in {401, 403}:
            raise SettingsError(f"LLM_API_KEY: {self.url} refuses it")
        if status == 429 or not self.alive:
            raise EngineError(
                f"LLM_BASE_URL: {self.url} answers {status} ({_reason(response)}); check that the service has started"
            )
        try:
            return {str(card["id"]): card for card in response.json()["data"]}
        except (ValueError, KeyError, TypeError):
            hint = "check that it is the address of an OpenAI-compatible service, with its /v1"
            raise SettingsError(f"LLM_BASE_URL: {self.url}/models answers {status} and lists no models; {hint}") from None

    async def answer(self, body: dict[str, Any]) -> AsyncGenerator[Event, None]:
        """The events of the answer to a chat completion request, until it ends or breaks."""
        try:
            async with (
                httpx.AsyncClient(**self._options) as client,
                aclosing(await self._accepted(client, body)) as response,
                aclosing(EventSource(response).aiter_sse()) as events,
            ):
                async for event in events:
                    if event.data == "[DONE]":
                        break
                    yield _parsed(event.data)
        except httpx.RequestError as exc:
            raise self._broken(exc) from exc

    async def _accepted(self, client: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
        """The answer to a request that was let in, its text still to come."""
        for tries in range(RETRIES + 1):
            wanted, last = 0.0, tries == RETRIES
            try:
                response = await client.send(client.build_request("POST", f"{self.url}/chat/completions", json=body), stream=True)
                if response.is_success:
                    self.alive = True
                    return response
                await response.aread()
                wanted = _seconds(response.headers.get("retry-after", ""))
                if last or response.status_code not in {429, 503} or wanted > PATIENCE_S:
                    raise _refused(response.status_code, _reason(response), wanted)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if last:
                    raise
            await asyncio.sleep(max(wanted, BACKOFF_S * 2**tries * random.uniform(0.5, 1)))  # noqa: S311 -- no secret
        raise AssertionError("the last try returns or raises")

    def _broken(self, exc: httpx.RequestError) -> EngineError:
        self.alive = False
        if isinstance(exc, httpx.ConnectError | httpx.ConnectTimeout):
            why = f"no connection to {self.url} ({str(exc) or 'it does not answer'})"
            return EngineError(f"LLM_BASE_URL: {why}; check that the service runs and listens there")
        if isinstance(exc, httpx.TimeoutException):
            silence = exc.request.extensions["timeout"]["read"]
            return EngineError(f"the model service sent nothing for {silence:g} seconds (LLM_TIMEOUT_S)")
        return EngineError(f"the model service broke off ({str(exc) or type(exc).__name__})")


def _parsed(data: str) -> Event:
    try:
        event = json.loads(data)
        if error := event.get("error"):
            status = error.get("code") if isinstance(error, dict) else None
            raise _refused(status if isinstance(status, int) else 500, _message(event), 0)
        choice: dict[str, Any] = next(iter(event.get("choices") or ()), {})
        reason = choice.get("finish_reason") or ""
        text = (choice.get("delta") or {}).get("content") or ""
        return Event(text, REASONS.get(reason, reason), event.get("usage") or {})
    except (ValueError, TypeError, AttributeError):
        raise EngineError("the model service sent what is no event of a chat completion") from None


def _refused(status: int, why: str, wanted: float) -> FccRagError:
    """The error for a status that lets nobody in; `wanted` is its Retry-After, in seconds."""
    later = math.ceil(wanted) or EngineError.retry_after or 1
    if status in {401, 403}:
        return EngineError("the model service refuses LLM_API_KEY")
    if status == 429:
        return QueueFull(f"the model service is busy: {why}", later)
    if status == 408 or not 400 <= status < 500:
        error = EngineError(f"the model service answers {status}: {why}")
        error.retry_after = later
        return error
    if TOO_LONG.search(why):
        return PromptTooLong(f"the model service finds the prompt too long: {why}")
    return InvalidRequest(f"the model service refuses the request: {why}")


def _reason(response: httpx.Response) -> str:
    try:
        return _message(response.json())
    except ValueError:
        return " ".join(response.text.split())[:200] or response.reason_phrase


def _message(body: Any) -> str:
    """The text of an error: OpenAI's {"error": {"message"}}, TGI's {"error"}, SGLang's {"message"} or FastAPI's {"detail"}."""
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return " ".join(str(body).split())[:300]


def _seconds(header: str) -> float:
    """A Retry-After in seconds; 0 if there is none, or one that is a date."""
    return float(header) if re.fullmatch(r"\d{1,9}(\.\d+)?", header) else 0.0
