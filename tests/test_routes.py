"""Routes on fakes of our own interfaces: what only shows when a part fails."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fakes import ListRetriever, ScriptedModel
from fastapi import FastAPI
from langchain_core.documents import Document
from langchain_core.runnables import RunnablePassthrough

import callers
from chains import chat as chat_chain
from errors import EngineError, FccRagError, QueueFull, StoreError
from routes import chat, errors, langserve, status
from routes.guard import Guard

PASSAGE = Document("The limit is 1 watt.", metadata={"citation": "47 CFR 15.247(b)(3)", "source": "x.md", "score": 0.9})
ASK = {"messages": [{"role": "user", "content": "What is the limit?"}]}


def app_of(model: ScriptedModel) -> FastAPI:
    app = FastAPI()
    errors.install(app)
    app.add_middleware(Guard, max_body_bytes=lambda: 1_000_000)
    chain = chat_chain.build(
        ListRetriever(documents=[PASSAGE]),
        model,
        window=4000,
        max_tokens=100,
        temperature=0,
        k=4,
        summary_threshold=10_000,
    )
    app.include_router(chat.router(chain, model="scripted"))
    langserve.add(app, chat=chain, retrieve=RunnablePassthrough(), summarize=RunnablePassthrough())
    return app


async def post(app: FastAPI, body: dict[str, Any], path: str = "/api/chat") -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        return await http.post(path, json=body)


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.replace("\r", "").strip().split("\n\n")]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


async def test_failure_in_mid_stream_is_an_event() -> None:
    """A stream whose model fails in the middle ends with `event: error` in the one shape, after what had come."""
    model = ScriptedModel(say=lambda _: ["The ", "limit "], error=EngineError("the model failed"), fails_after=1)
    got = events((await post(app_of(model), ASK | {"stream": True})).text)
    assert got[0][0] == "sources"
    assert "".join(data["content"] for name, data in got if name == "token").startswith("The")
    assert got[-1][0] == "error"
    assert got[-1][1]["error"] == {"code": "engine_unavailable", "message": "the model failed"}


@pytest.mark.parametrize("stream", [False, True])
async def test_full_queue_is_429(stream: bool) -> None:
    """A full queue is told by status 429 with Retry-After, to those who stream as well."""
    model = ScriptedModel(error=QueueFull("64 requests are waiting already", retry_after=7), fails_after=0)
    answer = await post(app_of(model), ASK | {"stream": stream})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["code"] == "queue_full"


@pytest.mark.filterwarnings("ignore:Accessing the 'model_fields':DeprecationWarning")  # LangServe does
async def test_cancelled_answer_is_not_whole() -> None:
    """An answer that the server cut off at its end fails where text alone is sent, and says so where it has fields."""
    app = app_of(ScriptedModel(say=lambda _: ["The limit "], finish_reason="cancelled"))
    messages = [{"type": "human", "content": "What is the limit?"}]
    answer = await post(app, {"input": {"messages": messages}}, "/api/chat/invoke")
    assert answer.status_code == 503
    assert "before the answer was complete" in answer.json()["error"]["message"]
    answer = await post(app, {"input": {"question": "What is the limit?"}}, "/api/rag/invoke")
    assert answer.json()["output"]["finish_reason"] == "cancelled"


async def test_unforeseen_error_tells_no_details() -> None:
    """What nobody foresaw is a 500 in the one shape, without the exception's words."""
    model = ScriptedModel(error=KeyError("a secret detail"), fails_after=0)
    answer = await post(app_of(model), ASK)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text


def health_of(checks: dict[str, Callable[[], Awaitable[None]]]) -> FastAPI:
    async def describe() -> dict[str, Any]:
        return {}

    app = FastAPI()
    app.include_router(status.router(describe, checks))
    return app


@pytest.mark.parametrize(("part", "error"), [("model", EngineError("it ended")), ("store", StoreError("it is away"))])
async def test_health_names_the_failing_part(part: str, error: FccRagError) -> None:
    """Health is 503 with the failing part, its reason and Retry-After; the process still says that it lives."""

    async def works() -> None:
        await asyncio.sleep(0)

    async def fails() -> None:
        raise error

    checks: dict[str, Callable[[], Awaitable[None]]] = {name: fails if name == part else works for name in ("model", "store")}
    transport = httpx.ASGITransport(health_of(checks))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        answer = await http.get("/api/health")
        assert answer.status_code == 503
        assert answer.json()["part"] == part
        assert answer.json()["error"]["message"] == str(error)
        assert int(answer.headers["retry-after"]) > 0
        assert (await http.get("/api/health/live")).status_code == 200


@pytest.mark.filterwarnings("ignore:astream_log is deprecated", "ignore:Accessing the 'model_fields':DeprecationWarning")
@pytest.mark.parametrize("endpoint", ["stream", "stream_log", "stream_events"])
async def test_left_amid_sending(endpoint: str, caplog: pytest.LogCaptureFixture) -> None:
    """Who leaves while the server waits for it to read ends the work for it, without a word of LangServe's unclosed stream."""
    asked: list[callers.Caller] = []

    def say(_: Any) -> list[str]:
        asked.append(callers.current.get())
        return ["word "] * 1000

    full = asyncio.Event()
    body = json.dumps({"input": {"question": "What is the limit?"}}).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await full.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if b"word" in message.get("body", b""):
            full.set()
            await asyncio.Event().wait()

    path = f"/api/rag/{endpoint}"
    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "client": ("here", 1)}
    async with asyncio.timeout(10):
        await app_of(ScriptedModel(say=say))(scope, receive, send)
    assert [caller.over.is_set() for caller in asked] == [True]
    assert not [record for record in caplog.records if record.exc_info]
