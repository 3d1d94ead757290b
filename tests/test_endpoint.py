"""What reaches a user when the service behind LLM_BASE_URL is away, busy, slow, broken or picky."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from conftest import free_port
from fakes import until
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from openai_service import KEY, LISTING, Reply, Service, answer, endless, piece, serving

from errors import EngineError, FccRagError, InvalidRequest, PromptTooLong, QueueFull, SettingsError
from llm import endpoint, remote

MESSAGES: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage("What is the limit?")]
TOO_LONG = {
    "vLLM": Reply(400, {"error": {"message": "This model's maximum context length is 512 tokens. However, you requested 900"}}),
    "SGLang": Reply(400, {"message": "The input (900 tokens) is longer than the model's context length (512 tokens)."}),
    "llama.cpp": Reply(400, {"error": {"message": "request (900 tokens) exceeds the available context size (512 tokens)"}}),
    "TGI": Reply(422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. Given: 900"}),
    "in the stream": Reply(events=[{"error": {"message": "maximum context length is 512 tokens", "code": 400}}]),
}


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.01)


async def asked(service: Service, **fields: Any) -> str:
    return (await remote.open(service.settings(**fields)).ainvoke(MESSAGES)).text


@pytest.mark.parametrize("status", [429, 503])
async def test_tried_again(status: int) -> None:
    """A service that is busy for a moment is asked again, as long as it has not begun to answer."""
    with serving(Reply(status), Reply(status), Reply(status), answer("Yes.")) as service:
        assert await asked(service) == "Yes."
        assert len(service.asked) == 4


async def test_retry_after() -> None:
    """A service that names a time to come back at is given that time."""
    with serving(Reply(503, headers={"Retry-After": "0.3"}), answer("Yes.")) as service:
        started = time.monotonic()
        assert await asked(service) == "Yes."
        assert 0.3 <= time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("status", "error", "after", "tries"),
    [(429, QueueFull, "2", 1), (503, EngineError, "2", 1), (429, QueueFull, "", 4), (503, EngineError, "", 4)],
)
async def test_busy(status: int, error: type[FccRagError], after: str, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that stays busy is reported as busy, with the time to come back at, and not besieged."""
    monkeypatch.setattr(endpoint, "PATIENCE_S", 1.0)
    with serving(Reply(status, headers={"Retry-After": after} if after else {})) as service:
        with pytest.raises(error) as caught:
            await asked(service)
        assert caught.value.retry_after == (2 if after else 5)
        assert len(service.asked) == tries


async def test_comes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that restarts while a question arrives answers it."""
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.5)
    with serving(answer("Yes.")) as service:
        chat = remote.open(service.settings())
    waiting = asyncio.create_task(chat.ainvoke(MESSAGES))
    await asyncio.sleep(0.1)
    with serving(answer("Yes."), port=service.port):
        assert (await waiting).text == "Yes."


async def test_away() -> None:
    """A service that is gone is named with its address and its variable, and health says so too."""
    with serving(answer("Yes.")) as service:
        chat = remote.open(service.settings())
        await chat.check()
    for call in (chat.ainvoke(MESSAGES), chat.check()):
        with pytest.raises(EngineError, match=f"LLM_BASE_URL.*127.0.0.1:{service.port}"):
            await call
    assert not chat.metrics()["alive"]


@pytest.mark.parametrize("status", [400, 404, 408, 500, 502])
async def test_not_tried_again(status: int) -> None:
    """What would fail again, or may have run already, is asked once."""
    with serving(Reply(status, {"error": {"message": "no such\nthing"}})) as service:
        with pytest.raises(InvalidRequest if status in {400, 404} else EngineError, match=r"no such thing$"):
            await asked(service)
        assert len(service.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(events=[piece("One "), 0.05], whole=False),
        Reply(events=[piece("One ")]),
        Reply(events=[piece("One "), {"error": {"message": "out of memory", "code": 500}}]),
        Reply(events=[piece("One "), {"error": "overloaded", "error_type": "generation"}]),
        Reply(events=[piece("One "), "not JSON"]),
        Reply(events=[piece("One "), [1]]),
        Reply(events=[piece("One "), piece(None, "abort"), "[DONE]"]),
        Reply(events=[piece("One "), 2.0, piece(None, "stop")]),
    ],
    ids=["cut", "no end", "error", "TGI's error", "no JSON", "no event", "aborted", "silent"],
)
async def test_breaks(reply: Reply) -> None:
    """An answer that breaks after its first words ends in an error and is never begun anew."""
    with serving(reply) as service:
        chat = remote.open(service.settings(llm_timeout_s=0.5))
        pieces = chat.astream(MESSAGES)
        assert (await anext(pieces)).text == "One "
        with pytest.raises(EngineError):
            await anext(pieces)
        assert len(service.asked) == 1


async def test_silent() -> None:
    """A service that does not begin to answer is given up after LLM_TIMEOUT_S, and not asked again."""
    with serving(Reply(events=[2.0, piece("late", "stop")])) as service:
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"0.5 seconds \(LLM_TIMEOUT_S\)"):
            await asked(service, llm_timeout_s=0.5)
        assert time.monotonic() - started < 1.5
        assert len(service.asked) == 1


@pytest.mark.parametrize("name", TOO_LONG)
async def test_too_long(name: str) -> None:
    """However a service words it, a prompt that does not fit is refused as one, with the service's numbers."""
    with serving(TOO_LONG[name]) as service, pytest.raises(PromptTooLong, match="512"):
        await asked(service)


@pytest.mark.parametrize("status", [401, 403])
async def test_key(status: int) -> None:
    """A refused key is named by its variable and never shown."""
    with serving(Reply(status, f"bad key {KEY}")) as service:
        with pytest.raises(EngineError, match="LLM_API_KEY") as caught:
            await asked(service)
        assert KEY not in str(caught.value)
        assert service.keys == [f"Bearer {KEY}"] * 2
        chat = remote.open(service.settings())
        assert KEY not in repr(chat)
        service.listing = Reply(status)
        with pytest.raises(SettingsError, match="LLM_API_KEY"):
            remote.open(service.settings())
        with pytest.raises(EngineError, match="LLM_API_KEY"):
            await chat.check()


@pytest.mark.parametrize(
    ("fields", "listing", "error", "says"),
    [
        ({"llm_model": "other"}, Reply(body=LISTING), SettingsError, "LLM_MODEL: .* does not serve 'other'; it serves tiny"),
        ({"llm_model": ""}, Reply(body=LISTING), SettingsError, "LLM_MODEL: name the model.*; it serves tiny"),
        ({}, Reply(body={"data": []}), SettingsError, "LLM_WINDOW"),
        ({}, Reply(body={"data": [{"id": "tiny"}]}), SettingsError, "LLM_WINDOW"),
        ({}, Reply(404, "not here"), SettingsError, "LLM_BASE_URL: .*/v1/models answers 404 .*/v1"),
        ({}, Reply(307, headers={"location": "/"}), SettingsError, "LLM_BASE_URL: .* answers 307"),
        ({}, Reply(body="<html>"), SettingsError, "LLM_BASE_URL: .*OpenAI-compatible"),
        ({}, Reply(body=["tiny"]), SettingsError, "LLM_BASE_URL"),
        ({}, Reply(503, {"error": {"message": "Loading model"}}), EngineError, "LLM_BASE_URL: .* answers 503 .Loading model"),
        ({"llm_base_url": ""}, Reply(), SettingsError, "LLM_BASE_URL: not an address"),
        ({"llm_base_url": "http://me:secret@localhost/v1"}, Reply(), SettingsError, "^((?!secret).)*LLM_API_KEY((?!secret).)*$"),
        ({"llm_api_key": "open\nsesame"}, Reply(), SettingsError, "^((?!sesame).)*LLM_API_KEY((?!sesame).)*$"),
        ({"llm_tokenizer": "nowhere"}, Reply(body=LISTING), SettingsError, "LLM_TOKENIZER: nowhere"),
    ],
)
def test_start(fields: dict[str, Any], listing: Reply, error: type[FccRagError], says: str) -> None:
    """A start that cannot work stops with one line that names the variable to change, and never a key."""
    with serving(answer("Yes.")) as service:
        service.listing = listing
        with pytest.raises(error, match=says) as caught:
            remote.open(service.settings(**fields))
        assert "\n" not in str(caught.value)


def test_nobody_there() -> None:
    """A start before the service's says where it looked and what to check."""
    with serving() as service:
        pass
    with pytest.raises(
        EngineError, match=r"LLM_BASE_URL: no connection to http://127.0.0.1:\d+/v1 .*check that the service runs"
    ):
        remote.open(service.settings(llm_base_url=f"http://127.0.0.1:{free_port()}/v1"))


async def _close_stream(chat: remote.RemoteChat) -> None:
    async with aclosing(chat._astream(MESSAGES)) as pieces:  # type: ignore[type-var] # an async generator
        await anext(pieces)


async def _leave_loop(chat: remote.RemoteChat) -> None:
    async for _ in chat.astream(MESSAGES):
        break


async def _cancel_task(chat: remote.RemoteChat) -> None:
    task = asyncio.create_task(chat.ainvoke(MESSAGES))
    await until(lambda: bool(chat.metrics()["running"]))
    await asyncio.sleep(0.1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _leave_loop_in_thread(chat: remote.RemoteChat) -> None:
    def first() -> None:
        pieces = chat.stream(MESSAGES)
        next(pieces)
        pieces.close()  # type: ignore[attr-defined] # a generator

    await asyncio.to_thread(first)


@pytest.mark.parametrize("leave", [_close_stream, _leave_loop, _cancel_task, _leave_loop_in_thread])
async def test_leaving(leave: Callable[[remote.RemoteChat], Any]) -> None:
    """A caller who leaves ends the request to the service within a second, however the stream was read."""
    with serving(endless()) as service:
        chat = remote.open(service.settings())
        await leave(chat)
        assert await asyncio.to_thread(service.left.wait, 1.0)
        await until(lambda: not chat.metrics()["running"])
        assert int(chat.metrics()["generated_tokens"]) > 0


async def test_leaving_while_waiting() -> None:
    """A caller who leaves before a busy service lets the request in is not asked for again."""
    with serving(Reply(503, headers={"Retry-After": "1"}), answer("Yes.")) as service:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asked(service), 0.3)
        await asyncio.sleep(1.0)
        assert len(service.asked) == 1


async def test_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the environment names is not used: the address in LLM_BASE_URL is the one that is spoken to."""
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    with serving(answer("Yes.")) as service:
        assert await asked(service) == "Yes."


def test_many_threads() -> None:
    """Callers in threads of their own, each with its own event loop or none, share one model."""
    with serving(answer("Yes.")) as service:
        chat, got = remote.open(service.settings()), list[str]()

        def call(number: int) -> None:
            message = asyncio.run(chat.ainvoke(MESSAGES)) if number % 2 else chat.invoke(MESSAGES)
            got.append(message.text)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert got == ["Yes."] * 8
        assert (chat.metrics()["running"], chat.metrics()["generated_tokens"]) == (0, 8)
