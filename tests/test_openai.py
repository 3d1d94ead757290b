"""OpenAI's face as its own client meets it: the openai package on a real server."""

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from conftest import Served

pytestmark = pytest.mark.models

QUESTION = "How often must an amateur station identify itself?"
ALONE = "tiny-llama"
LONG = 3000  # tokens; the tiny model would take many seconds


def asked(model: str = "fcc-rag", question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0} | fields


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def create(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**fields)


def test_models_are_listed(client: openai.OpenAI) -> None:
    """A client finds the two models, and each by its name."""
    assert [model.id for model in client.models.list()] == ["fcc-rag", ALONE]
    assert client.models.retrieve(ALONE).object == "model"
    with pytest.raises(openai.NotFoundError, match="fcc-rag and tiny-llama") as failed:
        client.models.retrieve("gpt-none")
    assert failed.value.code == "model_not_found"


def test_answer_ends_in_its_sources(client: openai.OpenAI, server: Served) -> None:
    """fcc-rag gives the same answer as REST, its sources listed below for people and in fields for programs."""
    answer = create(client, **asked())
    rest = server.post("/api/chat", {"messages": asked()["messages"], "max_tokens": 16, "temperature": 0}).json()
    text = answer.choices[0].message.content
    assert text.startswith(rest["message"]["content"] + "\n\nSources:\n- [1] 47 CFR 97.119")
    assert answer.sources == rest["sources"]
    assert answer.citations == rest["citations"]
    assert answer.usage.model_dump(exclude_none=True) == rest["usage"]
    assert answer.choices[0].finish_reason == rest["finish_reason"]


@pytest.mark.parametrize("model", ["fcc-rag", ALONE])
def test_stream_and_whole_answer_agree(client: openai.OpenAI, model: str) -> None:
    """A stream brings the same text, end and usage as the whole answer, in chunks as OpenAI sends them."""
    whole = create(client, **asked(model))
    *chunks, last = create(client, **asked(model), stream=True, stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [whole.choices[0].finish_reason]
    assert last.choices == []
    assert last.usage == whole.usage
    assert {(chunk.id, chunk.model, chunk.object) for chunk in (*chunks, last)} == {(last.id, model, "chat.completion.chunk")}
    assert chunks[-1].model_extra.get("sources") == whole.model_extra.get("sources")


async def test_async_client_works(server: Served) -> None:
    """The asynchronous client reads whole answers and streams."""
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        made: Any = client.chat.completions.create
        whole = await made(**asked(ALONE))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in await made(**asked(ALONE), stream=True)]
    assert "".join(pieces) == whole.choices[0].message.content


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_limit_is_kept_by_either_name(client: openai.OpenAI, name: str) -> None:
    """Both names of the limit limit the answer, and a cut answer says so."""
    answer = create(client, **asked(ALONE, max_tokens=None) | {name: 3})
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_stop_and_seed_are_honoured(client: openai.OpenAI) -> None:
    """A stop string never shows, and a seed, negative too, repeats an answer."""
    warm = asked(ALONE, temperature=1, top_p=0.9, seed=-7, max_tokens=48)
    text = create(client, **warm).choices[0].message.content
    assert create(client, **warm).choices[0].message.content == text
    assert create(client, **warm | {"seed": 8}).choices[0].message.content != text
    middle = text[len(text) // 2 :][:5]
    for stop in (middle, ["no such text", middle]):
        choice = create(client, **warm, stop=stop).choices[0]
        assert choice.message.content == text[: text.index(middle)]
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize("model", ["fcc-rag", ALONE])
@pytest.mark.parametrize("stream", [False, True])
def test_prompt_over_the_window_is_told(client: openai.OpenAI, model: str, stream: bool) -> None:
    """A prompt that never fits is a BadRequestError with OpenAI's code, also for who streams."""
    with pytest.raises(openai.BadRequestError, match="window") as failed:
        create(client, **asked(model, "97.119 " * 20_000), stream=stream)
    assert failed.value.code == "context_length_exceeded"


@pytest.mark.parametrize("model", ["fcc-rag", ALONE])
def test_stream_that_is_left_frees_the_server(client: openai.OpenAI, server: Served, model: str) -> None:
    """When a reader leaves, generation stops within a few tokens."""
    before = server.queue()["generated_tokens"]
    with create(client, **asked(model, max_tokens=LONG), stream=True) as stream:
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
    limit = time.monotonic() + 10
    while (queue := server.queue())["running"]:
        assert time.monotonic() < limit, queue
        time.sleep(0.1)
    assert queue["generated_tokens"] - before < LONG / 4


def test_face_is_documented(server: Served) -> None:
    """The documentation holds the request with an example, the answer, and the errors' shape."""
    described = server.get("/openapi.json").json()
    operation = described["paths"]["/v1/chat/completions"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["examples"]
    assert {"200", "4XX", "5XX"} == operation["responses"].keys()
    assert "max_completion_tokens" in described["components"]["schemas"]["CompletionBody"]["properties"]
