"""OpenAI's face and its answers on the wire: how they end, fail, and are given up."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from fakes import ScriptedModel, saying, until
from fakes_openai import app_of, asked, listening, post

from errors import EngineError, QueueFull


def data_of(text: str) -> list[Any]:
    return [json.loads(block.removeprefix("data: ")) for block in text.strip().split("\n\n") if not block.endswith("[DONE]")]


async def rest_of(stream: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in stream]


@pytest.mark.parametrize(("reason", "told"), [("stop", "stop"), ("length", "length"), ("cancelled", "length")])
async def test_finish_reason_is_one_that_clients_know(reason: str, told: str) -> None:
    """An answer that was cut off, by its limit or by a shutdown, is never passed off as whole."""
    app = app_of(ScriptedModel(finish_reason=reason))
    for model in ("fcc-rag", "scripted"):
        assert (await post(app, asked(model))).json()["choices"][0]["finish_reason"] == told


async def test_stream_is_plain_lines() -> None:
    """A reader that splits on empty lines gets one JSON object each, and [DONE]."""
    answer = await post(app_of(ScriptedModel()), asked(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "\r" not in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    first, second, last = data_of(answer.text)
    assert first["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    assert second["choices"][0]["delta"] == {"content": "Yes."}
    assert last["choices"][0]["delta"] == {}
    assert "usage" not in last


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["fcc-rag", "scripted"])
@pytest.mark.parametrize(
    ("error", "kind", "code", "wait"),
    [
        (QueueFull("64 requests are waiting already", retry_after=7), openai.RateLimitError, "rate_limit_exceeded", "7"),
        (EngineError("the model is not running"), openai.InternalServerError, "engine_unavailable", "5"),
        (KeyError("a secret detail"), openai.InternalServerError, "internal", None),
    ],
)
async def test_failure_raises_the_clients_own_error(
    error: Exception, kind: type[openai.APIStatusError], code: str, wait: str | None, model: str, stream: bool
) -> None:
    """What goes wrong before an answer begins is the exception OpenAI's client has for it, with Retry-After."""
    async with listening(ScriptedModel(error=error)) as client:
        made: Any = client.chat.completions.create
        with pytest.raises(kind) as failed:
            await made(**asked(model), stream=stream)
    assert failed.value.code == code
    assert failed.value.response.headers.get("retry-after") == wait
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("model", ["fcc-rag", "scripted"])
async def test_failure_in_mid_stream_raises(model: str) -> None:
    """A stream that fails in the middle raises after what had come, and does not look finished."""
    failing = ScriptedModel(say=saying("The ", "limit "), error=EngineError("the model failed"), fails_after=1, delay=0.15)
    async with listening(failing) as client:
        made: Any = client.chat.completions.create
        stream = await made(**asked(model), stream=True)
        assert (await anext(stream)).choices[0].delta.role == "assistant"
        assert (await anext(stream)).choices[0].delta.content.startswith("The")
        with pytest.raises(openai.APIError, match="the model failed"):
            await rest_of(stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["fcc-rag", "scripted"])
async def test_caller_who_leaves_takes_the_work_along(model: str, stream: bool) -> None:
    """A client that gives up ends its generation, whole or streamed."""
    slow = ScriptedModel(say=saying(*["word "] * 1000), delay=0.02)
    async with listening(slow) as client:
        made: Any = client.with_options(timeout=0.5).chat.completions.create
        if stream:
            async with await made(**asked(model), stream=True) as chunks:
                await anext(aiter(chunks))
        else:
            with pytest.raises(openai.APITimeoutError):
                await made(**asked(model))
        await until(lambda: slow.closed == 1)
    assert 0 < len(slow.given) < 500
