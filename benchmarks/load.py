"""Sends prompts to a server from so many clients at once and takes the times. Knows nothing about which server it is."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from contexts import Prompt
from httpx_sse import EventSource, ServerSentEvent, SSEError


class Refused(Exception):
    """A server answered with an error, or its stream broke off."""


@dataclass(frozen=True)
class Heard:
    """What one event of a stream says: text, the end, the number of prompt tokens."""

    text: str = ""
    ended: bool = False
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Face:
    """How a server is spoken to: where, with what body, and what its events mean. `hear` raises Refused for an error."""

    path: str
    body: Callable[[Prompt], dict[str, Any]]
    hear: Callable[[ServerSentEvent], Heard]


@dataclass(frozen=True)
class Outcome:
    """One request; seconds since it was sent. `error` is empty if it ended as it should."""

    first: float
    total: float
    text: str
    prompt_tokens: int | None
    error: str = ""


async def measure(
    url: str, face: Face, prompts: Sequence[Prompt], *, clients: int, patience: float = 900
) -> tuple[list[Outcome], float]:
    """Each client sends its next request when its last has ended, until the prompts are used up; also the seconds it all took.

    The outcomes are in the order in which the requests ended. A request without an answer within `patience` seconds has failed.
    """
    left = iter(prompts)
    outcomes: list[Outcome] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=patience, limits=limits, trust_env=False) as http:

        async def client() -> None:
            for prompt in left:
                outcomes.append(await one(http, face, prompt, patience=patience))  # noqa: PERF401 -- shared among clients

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return outcomes, time.perf_counter() - began


async def one(http: httpx.AsyncClient, face: Face, prompt: Prompt, *, patience: float) -> Outcome:
    """Send one request and read its stream to the end; whatever goes wrong is in the outcome."""
    sent = time.perf_counter()
    first: float | None = None
    pieces: list[str] = []
    counted: int | None = None
    ended = False
    error = ""
    try:
        async with asyncio.timeout(patience), http.stream("POST", face.path, json=face.body(prompt)) as response:
            await _check(response)
            async for event in EventSource(response).aiter_sse():
                heard = face.hear(event)
                if heard.text:
                    first = first or time.perf_counter() - sent
                    pieces.append(heard.text)
                counted = heard.prompt_tokens or counted
                ended = ended or heard.ended
    except (Refused, httpx.HTTPError, SSEError, TimeoutError, ValueError) as exc:
        error = f"{type(exc).__name__}: {exc}"
    if not error and not (ended and pieces):
        error = "the stream broke off" if pieces else "the stream was empty"
    total = time.perf_counter() - sent
    return Outcome(first or total, total, "".join(pieces), counted, error)


async def _check(response: httpx.Response) -> None:
    if response.status_code != httpx.codes.OK:
        await response.aread()
        raise Refused(f"{response.status_code}: {response.text[:200]}")


def hear_openai(event: ServerSentEvent) -> Heard:
    """An event of POST /v1/chat/completions."""
    if event.data.strip() == "[DONE]":
        return Heard(ended=True)
    data = event.json()
    if "error" in data:
        raise Refused(str(data["error"])[:200])
    usage = data.get("usage") or {}
    choices = data.get("choices") or [{}]
    return Heard(
        text=(choices[0].get("delta") or {}).get("content") or "",
        ended=choices[0].get("finish_reason") is not None,
        prompt_tokens=usage.get("prompt_tokens"),
    )


def hear_langserve(event: ServerSentEvent) -> Heard:
    """An event of LangServe's /stream on a chain that gives text."""
    if event.event == "error":
        raise Refused(event.data[:200])
    if event.event == "data":
        return Heard(text=str(json.loads(event.data)))
    return Heard(ended=event.event == "end")
