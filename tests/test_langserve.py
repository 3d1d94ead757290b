"""LangServe as its own client meets it: RemoteRunnable on a real server."""

import asyncio
import json
import time
from typing import Any

import httpx
import pytest
from conftest import Served
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langserve import RemoteRunnable

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore:astream_log is deprecated"),  # the chat playground still needs it
]

QUESTION = "How often must an amateur station identify itself?"
LIMITS: Any = {"configurable": {"max_tokens": 12, "temperature": 0.0, "k": 2}}


def remote(served: Served, name: str) -> RemoteRunnable[Any, Any]:
    return RemoteRunnable(f"{served.url}/api/{name}", timeout=120)


def asked(question: str = QUESTION) -> dict[str, Any]:
    return {"messages": [HumanMessage(question)]}


def test_invoke_gives_text_with_sources(server: Served) -> None:
    """`invoke` answers with text that ends in the sources it rests on."""
    text = remote(server, "chat").invoke(asked(), config=LIMITS)
    assert "Sources:" in text
    assert "47 CFR 97.119" in text


def test_five_ways_agree(server: Served) -> None:
    """invoke, ainvoke, stream, astream and batch give the same text."""
    chat = remote(server, "chat")

    async def awaited() -> tuple[str, str]:
        whole = await chat.ainvoke(asked(), config=LIMITS)
        return whole, "".join([piece async for piece in chat.astream(asked(), config=LIMITS)])

    text = chat.invoke(asked(), config=LIMITS)
    pieces = list(chat.stream(asked(), config=LIMITS))
    assert len(pieces) > 2
    assert "".join(pieces) == text
    assert asyncio.run(awaited()) == (text, text)
    refused = "How long should sourdough bread bake in the oven?"
    first, second = chat.batch([asked(), asked(refused)], config=LIMITS)
    assert first == text
    assert "hold nothing that answers" in second


def test_role_messages_keep_their_roles(server: Served) -> None:
    """`{"role": "assistant"}` is taken for the assistant's turn, and a conversation in LangChain's types works as well."""
    chat = remote(server, "chat")
    roles = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is a beacon in part 97?"},
        {"role": "assistant", "content": "An amateur station that transmits for observing propagation."},
        {"role": "user", "content": QUESTION},
    ]
    _, first, second, _ = (message["content"] for message in roles)
    types = [SystemMessage("Be brief."), HumanMessage(first), AIMessage(second), HumanMessage(QUESTION)]
    assert chat.invoke({"messages": roles}, config=LIMITS) == chat.invoke({"messages": types}, config=LIMITS)
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        chat.invoke({"messages": roles[:3]}, config=LIMITS)


def test_typed_answer_carries_sources(server: Served) -> None:
    """/api/rag gives the typed answer; its streamed chunks add up to the same one."""
    rag = remote(server, "rag")
    whole = rag.invoke({"question": QUESTION, "filters": {"part": "97"}}, config=LIMITS)
    assert whole["sources"][0]["citation"].startswith("47 CFR 97.119")
    assert whole["usage"]["completion_tokens"] <= 12
    total: Any = None
    for chunk in rag.stream({"question": QUESTION, "filters": {"part": "97"}}, config=LIMITS):
        total = chunk if total is None else total + chunk
    assert total["content"] == whole["content"]
    assert total["sources"] == whole["sources"]


def test_retrieve_and_summarize(server: Served) -> None:
    """Retrieval and summaries are served the same way."""
    assert len(remote(server, "retrieve").invoke({"query": "labels", "k": 3})["results"]) == 3
    assert remote(server, "summarize").invoke({"citation": "47 CFR 15.19"}, config=LIMITS)


def test_events_and_log(server: Served) -> None:
    """stream_events and stream_log show the steps, each with a name."""
    rag = remote(server, "rag")

    async def watched() -> tuple[set[str], int]:
        names = {event["name"] async for event in rag.astream_events({"question": QUESTION}, config=LIMITS, version="v2")}
        return names, len([patch async for patch in rag.astream_log({"question": QUESTION}, config=LIMITS)])

    names, patches = asyncio.run(watched())
    assert {"condense", "retrieve", "answer"} <= names
    assert patches > 5


@pytest.mark.parametrize("endpoint", ["invoke", "batch", "stream", "stream_log", "stream_events"])
@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("rag", {"question": ""}),
        ("rag", {"question": "  "}),
        ("rag", {"question": "x", "filters": {"colour": "red"}}),
        ("chat", {"messages": []}),
        ("chat", {"messages": [{"role": "assistant", "content": "x"}]}),
        ("chat", {"messages": [{"content": "x"}]}),
        ("retrieve", {"query": ""}),
        ("summarize", {}),
    ],
)
def test_invalid_input_is_422_everywhere(server: Served, endpoint: str, path: str, given: dict[str, Any]) -> None:
    """Invalid input is answered with 422 in the one shape by every endpoint, batches and streams too."""
    request = {"inputs": [given]} if endpoint == "batch" else {"input": given}
    answer = server.post(f"/api/{path}/{endpoint}", request)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "invalid_request"


@pytest.mark.parametrize("setting", [{"max_tokens": 0}, {"temperature": 3.0}, {"k": 51}, {"k": "many"}])
@pytest.mark.parametrize("endpoint", ["invoke", "stream"])
def test_configurable_values_are_checked(server: Served, endpoint: str, setting: dict[str, Any]) -> None:
    """A configurable value out of range is refused before anything streams."""
    answer = server.post(f"/api/rag/{endpoint}", {"input": {"question": QUESTION}, "config": {"configurable": setting}})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["message"]


def test_failed_batch_leaves_nothing_running(server: Served) -> None:
    """When one question of a batch fails, the others stop; and a batch may be longer than the queue."""
    config = {"configurable": {"max_tokens": 3000, "temperature": 0.0}}
    inputs = [{"question": QUESTION}, {"question": QUESTION * 2000}, {"question": QUESTION}]
    assert server.post("/api/rag/batch", {"inputs": inputs, "config": config}).status_code == 413
    limit = time.monotonic() + 10
    while server.queue()["running"] or server.queue()["waiting"]:
        assert time.monotonic() < limit
        time.sleep(0.1)
    short = {"configurable": {"max_tokens": 1, "k": 1}}
    many = server.post("/api/rag/batch", {"inputs": [{"question": QUESTION}] * 60, "config": short})
    assert many.status_code == 200
    assert len(many.json()["output"]) == 60


@pytest.mark.parametrize("body", [b"\xff", b"[" * 100_000, b"9" * 5000, b'{"inputs": null}', b'{"inputs": {}}', b"[]", b"{}"])
@pytest.mark.parametrize("path", ["/api/rag/batch", "/api/chat/invoke", "/api/chat/stream"])
def test_rubbish_is_never_500(server: Served, path: str, body: bytes) -> None:
    """Whatever bytes are sent, the answer says that they are wrong."""
    answer = httpx.post(server.url + path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "invalid_request"


def test_odd_requests_are_never_500(server: Served) -> None:
    """Nor do odd messages, numbers that are none, or paths with a NUL."""
    odd = {"messages": [{"role": "assistant", "content": "hi", "tool_calls": "x"}, {"role": "user", "content": QUESTION}]}
    assert server.post("/api/chat/invoke", {"input": odd, "config": LIMITS}).status_code in {200, 422}
    request = json.dumps({"input": {"question": QUESTION}, "config": {"configurable": {"temperature": float("nan")}}})
    assert httpx.post(server.url + "/api/rag/stream", content=request).status_code == 422
    assert server.get("/api/rag/playground/assets/%00").status_code == 404


def test_schemas_and_playgrounds(server: Served) -> None:
    """Each path has its schemas and its playground; configurable fields stand in the config schema."""
    for path in ("chat", "rag", "retrieve", "summarize"):
        assert server.get(f"/api/{path}/input_schema").json()["properties"]
        assert server.get(f"/api/{path}/output_schema").status_code == 200
        assert server.get(f"/api/{path}/playground/").status_code == 200
    fields = server.get("/api/rag/config_schema").json()["$defs"]["Configurable"]["properties"]
    assert {"max_tokens", "temperature", "k"} <= fields.keys()
