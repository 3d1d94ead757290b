"""OpenAI's face and what it is asked: what is sent on, what is ignored, and what is refused by its name."""

import asyncio
from typing import Any

import httpx
import pytest
from fakes import ScriptedModel, saying
from fakes_openai import app_of, asked, post
from hypothesis import given, settings
from hypothesis import strategies as st

from routes.openai_schema import NEUTRAL, CompletionBody


async def test_model_alone_gets_what_was_sent() -> None:
    """Without fcc-rag the messages reach the model as they are, with the sampling that was asked for."""
    model = ScriptedModel(say=saying("Yes.", " Indeed."))
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": "Two.\n\nSources:\n- mine", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "Sure?", "name": "Ada"},
    ]
    sampling = {"max_completion_tokens": 9, "top_p": 0.5, "seed": 3, "stop": "x"}
    answer = (await post(app_of(model), {"model": "scripted", "messages": messages} | sampling)).json()
    assert answer["choices"][0]["message"]["content"] == "Yes. Indeed."
    assert "sources" not in answer
    (call,) = model.calls
    assert [(m.type, m.text) for m in call.messages] == [
        ("system", "Be brief."),
        ("human", "One\ntwo?"),
        ("ai", "Two.\n\nSources:\n- mine"),
        ("human", "Sure?"),
    ]
    assert call.kwargs == {"max_tokens": 9, "temperature": 0.5, "top_p": 0.5, "seed": 3, "stop": ["x"]}


async def test_earlier_sources_are_not_sent_again() -> None:
    """The list that ended fcc-rag's last answer does not take up the next prompt."""
    model = ScriptedModel()
    first = (await post(app_of(model), asked("fcc-rag"))).json()["choices"][0]["message"]["content"]
    assert "\n\nSources:\n- [1] 47 CFR 15.247(b)(3) (x.md)" in first
    talk = [*asked()["messages"], {"role": "assistant", "content": first}, {"role": "user", "content": "And indoors?"}]
    assert (await post(app_of(model), asked("fcc-rag", messages=talk))).status_code == 200
    assert all("Sources:" not in call.text for call in model.calls)


async def test_summary_and_filters_pass_through() -> None:
    """The chain's own wishes work on this face; the summary stands below the answer."""
    model = ScriptedModel()
    answer = await post(app_of(model), asked("fcc-rag", summarize="always", k=1, filters={"part": "15"}))
    assert "\n\nSummary: Yes." in answer.json()["choices"][0]["message"]["content"]
    refused = await post(app_of(model), asked(filters={"part": "15"}))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "filters"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "look_up"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "look_up"}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": -1}, "presence_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"ignore_eos": True}, "ignore_eos"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    """A parameter that would change the answer is never ignored in silence."""
    answer = await post(app_of(ScriptedModel()), asked(**fields))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith(f"{param}: ")
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, "unsupported_parameter")


@pytest.mark.parametrize("model", ["fcc-rag", "scripted"])
async def test_what_asks_for_nothing_is_accepted(model: str) -> None:
    """Clients that spell out OpenAI's defaults, or send what only concerns OpenAI, are answered."""
    nothing = {
        "n": 1,
        "tools": [],
        "tool_choice": "none",
        "logprobs": False,
        "response_format": {"type": "text"},
        "logit_bias": {},
    }
    nothing |= {"frequency_penalty": 0.0, "presence_penalty": 0, "parallel_tool_calls": True, "service_tier": "auto", "top_p": 1}
    nothing |= {"user": "ada", "metadata": {"a": "b"}, "store": False, "stop": None, "seed": None, "stream_options": None}
    nothing |= {"max_tokens": None, "max_completion_tokens": None, "temperature": None, "stream": None, "modalities": ["text"]}
    answer = await post(app_of(ScriptedModel()), asked(model, **nothing))
    assert answer.status_code == 200, answer.text


def said(role: str, content: Any = "x", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} | fields]}


RUBBISH: list[tuple[Any, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"\xff\xfe", None),
    (b"[" * 100_000, None),
    (b'{"model": "scripted", "seed": 1' + b"0" * 5000 + b"}", None),
    ("text", None),
    ([], None),
    (None, None),
    ({}, "model"),
    ({"model": "scripted"}, "messages"),
    (asked(model="gpt-none"), "model"),
    (asked() | {"model": None}, "model"),
    (asked() | {"model": ["scripted"]}, "model"),
    (asked(model="x" * 10_000), "model"),
    (asked(messages=[]), "messages"),
    (asked(messages={}), "messages"),
    (asked(messages=["hello"]), "messages.0"),
    (asked(messages=[None]), "messages.0"),
    (asked(messages=[{"role": "user"}]), "messages.0.content"),
    (asked(messages=[{"content": "x"}]), "messages.0.role"),
    (asked(messages=asked()["messages"] * 300), "messages"),
    (asked(**said("tool", tool_call_id="1")), "messages.0.role"),
    (asked(**said("function", name="f")), "messages.0.role"),
    (asked(**said("wizard")), "messages.0.role"),
    (asked(**said("assistant", None, tool_calls=[{"id": "1"}])), "messages.0.content"),
    (asked(**said("assistant", tool_calls=[{"id": "1"}])), "messages.0.tool_calls"),
    (asked(**said("user", 7)), "messages.0.content"),
    (asked(**said("user", {"type": "text", "text": "x"})), "messages.0.content"),
    (asked(**said("user", [{"type": "image_url", "image_url": {"url": "x"}}])), "messages.0.content"),
    (asked(**said("user", [{"type": "text", "text": None}])), "messages.0.content"),
    (asked(**said("user", [{"type": "text"}])), "messages.0.content"),
    (asked(**said("user", [None, "x"])), "messages.0.content"),
    (asked(**said("user", "\ud800")), "messages.0.content"),
    (asked(**said("user", [{"type": "text", "text": "\ud800"}])), "messages.0.content"),
    (asked("fcc-rag", **said("user", "  ")), "messages"),
    (asked("fcc-rag", **said("assistant")), "messages"),
    (asked(max_tokens=0), "max_tokens"),
    (asked(max_tokens=-1), "max_tokens"),
    (asked(max_tokens=1.5), "max_tokens"),
    (asked(max_completion_tokens="many"), "max_completion_tokens"),
    (asked(temperature=2.1), "temperature"),
    (asked(temperature=float("nan")), "temperature"),
    (asked(temperature=[]), "temperature"),
    (asked(top_p=0), "top_p"),
    (asked(top_p=float("inf")), "top_p"),
    (asked(seed=2**64), "seed"),
    (asked(seed="x"), "seed"),
    (asked(stop=["a", "b", "c", "d", "e"]), "stop"),
    (asked(stop=""), "stop.0"),
    (asked(stop=[1]), "stop.0"),
    (asked(stop={}), "stop"),
    (asked(stream="perhaps"), "stream"),
    (asked(stream_options=True), "stream_options"),
    (asked("fcc-rag", k=0), "k"),
    (asked("fcc-rag", filters={"colour": "red"}), "filters.colour"),
    (asked("fcc-rag", summarize="perhaps"), "summarize"),
]


@pytest.mark.parametrize(("body", "param"), RUBBISH)
async def test_rubbish_is_told_what_is_wrong(body: Any, param: str | None) -> None:
    """A request that makes no sense gets 400 (404 for a model) with the field's name and one line."""
    answer = await post(app_of(ScriptedModel()), body)
    assert answer.status_code == (404 if "does not exist" in answer.text else 400), answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert "\n" not in error["message"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (*CompletionBody.model_fields, *NEUTRAL, "user")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=4), st.sampled_from(["fcc-rag", "scripted"]))
def test_no_field_makes_the_server_fail(fields: dict[str, Any], model: str) -> None:
    """Whatever stands in whatever field, the server answers or says what is wrong, and never fails."""
    answer = asyncio.run(post(app_of(ScriptedModel()), asked(model) | fields))
    assert answer.status_code in {200, 400, 404}, answer.text


async def test_paths_of_the_face_keep_its_shape() -> None:
    """A wrong path or method under /v1 is told in OpenAI's shape; elsewhere the one shape stays."""
    transport = httpx.ASGITransport(app_of(ScriptedModel()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        lost, wrong, other = (
            await http.post("/v1/nothing"),
            await http.get("/v1/chat/completions"),
            await http.get("/api/nothing"),
        )
    assert (lost.status_code, wrong.status_code) == (404, 405)
    assert lost.json()["error"] == {"message": "Not Found", "type": "invalid_request_error", "param": None, "code": "not_found"}
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    assert other.json() == {"error": {"code": "not_found", "message": "Not Found"}}
