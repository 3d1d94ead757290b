"""The chat model behind LLM_BACKEND=openai: what it asks for and what it gives, on a stand-in and on two real services."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, cache, free_port
from fakes import until
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from openai_service import KEY, Reply, Service, answer, endless, piece, serving

import callers
import weights
from errors import EngineError, InvalidRequest, PromptTooLong, SettingsError
from llm import remote
from settings import LLM

MESSAGES: list[BaseMessage] = [SystemMessage("Be brief."), HumanMessage("What is the limit?")]
START_LIMIT = 120  # seconds; transformers takes its time to import on a busy machine
LLAMA_CPP = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.api_keys, params.model_alias = sys.argv[1], int(sys.argv[2]), [sys.argv[3]], {"smol"}
params.n_ctx, params.n_parallel, params.n_gpu_layers = 4096, 1, 0
server = xllamacpp.Server(params)
time.sleep(3600)
"""


@pytest.fixture
def service() -> Iterator[Service]:
    with serving(answer("The ", "limit.")) as running:
        yield running


@pytest.fixture
def chat(service: Service) -> remote.RemoteChat:
    return remote.open(service.settings())


async def ways(chat: remote.RemoteChat, **given: Any) -> list[AIMessage]:
    """The answer by invoke, stream and their async twins."""
    chunks = [chunk async for chunk in chat.astream(MESSAGES, **given)]
    streamed = await asyncio.to_thread(lambda: list(chat.stream(MESSAGES, **given)))
    merged = [sum(parts[1:], start=parts[0]) for parts in (chunks, streamed)]
    return [await chat.ainvoke(MESSAGES, **given), await asyncio.to_thread(chat.invoke, MESSAGES, **given), *merged]


async def test_ways(chat: remote.RemoteChat) -> None:
    """However it is called, one gets the answer with usage and the reason why it ended, as from a local model."""
    for message in await ways(chat):
        assert message.text == "The limit."
        assert message.usage_metadata == {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
        assert message.response_metadata["finish_reason"] == "stop"
    assert chat.metrics() == {"alive": True, "state": "ready", "running": 0, "waiting": 0, "generated_tokens": 8}


async def test_chunks(chat: remote.RemoteChat) -> None:
    """A stream gives each piece as it comes, and the usage with the last."""
    *pieces, last = [chunk async for chunk in chat._astream(MESSAGES)]
    assert [piece.text for piece in pieces] == ["The ", "limit."]
    assert isinstance(last.message, AIMessageChunk)
    assert (last.text, last.message.chunk_position, bool(last.message.usage_metadata)) == ("", "last", True)


async def test_request(chat: remote.RemoteChat, service: Service) -> None:
    """What a caller sets reaches the service, and what it does not set is left to the service."""
    await chat.bind(temperature=0.5, top_p=0.9, seed=3, max_tokens=100, stop=["\n"]).ainvoke(
        [*MESSAGES, AIMessage("It is"), *MESSAGES]
    )
    await chat.ainvoke("Hello", temperature=None)
    full, bare = service.asked
    assert [turn["role"] for turn in full["messages"]] == ["system", "user", "assistant", "system", "user"]
    assert full["messages"][2] == {"role": "assistant", "content": "It is"}
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "max_tokens": 100, "stop": ["\n"]}
    assert full.items() >= (sampling | {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}}).items()
    assert bare.keys() == {"model", "messages", "stream", "stream_options", "max_tokens"}


@pytest.mark.parametrize(("reason", "given"), [("length", "length"), ("eos_token", "stop"), ("content_filter", "content_filter")])
async def test_reason(service: Service, reason: str, given: str) -> None:
    """An answer that was cut off says so, whatever the service calls it."""
    service.replies = [answer("The", reason=reason)]
    message = await remote.open(service.settings()).ainvoke(MESSAGES)
    assert message.response_metadata["finish_reason"] == given


async def test_no_usage(service: Service, chat: remote.RemoteChat) -> None:
    """Tokens are counted here where the service does not count them."""
    service.replies = [answer("The limit is one watt.", usage=False)]
    usage = (await chat.ainvoke(MESSAGES)).usage_metadata
    assert usage is not None
    assert usage["input_tokens"] == chat.get_num_tokens_from_messages(MESSAGES)
    assert usage["output_tokens"] == chat.get_num_tokens("The limit is one watt.")


async def test_ends_without_done(service: Service, chat: remote.RemoteChat) -> None:
    """A service that closes its stream after the reason, as transformers' does, has answered."""
    service.replies = [Reply(events=[piece("Yes."), piece(None, "stop")])]
    assert (await chat.ainvoke(MESSAGES)).text == "Yes."


async def test_room(service: Service) -> None:
    """An answer may be as long as the window leaves, and a prompt that leaves nothing is refused with both numbers."""
    chat = remote.open(service.settings(llm_window=300))
    prompt = chat.get_num_tokens_from_messages(MESSAGES)
    await chat.ainvoke(MESSAGES, max_tokens=4096)
    assert service.asked[-1]["max_tokens"] == 300 - prompt
    with pytest.raises(PromptTooLong, match=r"about \d+ tokens.* 300"):
        await chat.ainvoke("word " * 200)
    assert len(service.asked) == 1


async def test_refused_here(chat: remote.RemoteChat, service: Service) -> None:
    """What no service could do is refused by name before it is asked."""
    for given, names in (({"top_k": 4}, "top_k"), ({"temperature": 3.0}, "temperature"), ({"max_tokens": 0}, "max_tokens")):
        with pytest.raises(InvalidRequest, match=names):
            await chat.ainvoke(MESSAGES, **given)
    with pytest.raises(InvalidRequest, match="tool"):
        await chat.ainvoke([*MESSAGES, ToolMessage("x", tool_call_id="1")])
    assert not service.asked


@pytest.mark.parametrize(
    ("name", "cards", "window"),
    [
        ("tiny", [{"id": "tiny", "max_model_len": 512}], 512),
        ("fcc", [{"id": "tiny", "max_model_len": 512}, {"id": "fcc", "parent": "tiny", "max_model_len": None}], 512),  # vLLM
        ("tiny:fcc", [{"id": "tiny", "max_model_len": 512}], 512),  # SGLang
        ("tiny", [{"id": "tiny", "meta": {"n_ctx": 512, "n_ctx_train": 4096}}], 512),  # llama.cpp
        ("tiny", [{"id": "tiny", "meta": {"n_ctx_train": 4096}}], 4096),
    ],
)
def test_window(service: Service, name: str, cards: list[dict[str, Any]], window: int) -> None:
    """The window is the service's own, for an adapter its base model's, unless LLM_WINDOW names another."""
    service.listing = Reply(body={"data": cards})
    assert remote.open(service.settings(llm_model=name)).window == window
    assert remote.open(service.settings(llm_model=name, llm_window=300)).window == 300


async def test_model_taken_away(chat: remote.RemoteChat, service: Service) -> None:
    """Health notices that the service was restarted with another model."""
    await chat.check()
    service.listing = Reply(body={"data": [{"id": "other"}]})
    with pytest.raises(EngineError, match="no longer serves tiny"):
        await chat.check()


async def test_drain(service: Service) -> None:
    """While the server shuts down what has begun is finished, and health says so; then nothing more is asked."""
    service.replies = [Reply(events=[piece("One "), 0.2, piece("two.", "stop"), "[DONE]"])]
    chat = remote.open(service.settings())
    running = asyncio.create_task(chat.ainvoke(MESSAGES))
    await until(lambda: bool(service.asked))
    chat.drain()
    with pytest.raises(EngineError, match="shutting down"):
        await chat.check()
    assert (await running).text == "One two."
    assert chat.metrics()["state"] == "draining"
    chat.cancel_all()
    with pytest.raises(EngineError, match="shutting down"):
        await chat.ainvoke(MESSAGES)


@pytest.mark.parametrize("threaded", [False, True])
async def test_cancel_all(service: Service, threaded: bool) -> None:
    """When the server has waited long enough, an answer ends where it stands, and says that it was cancelled."""
    service.replies = [endless()]
    chat = remote.open(service.settings())
    running = asyncio.create_task(asyncio.to_thread(chat.invoke, MESSAGES) if threaded else chat.ainvoke(MESSAGES))
    await until(lambda: bool(chat.metrics()["running"]))
    await asyncio.sleep(0.2)
    chat.close()
    message = await asyncio.wait_for(running, 1.0)
    assert message.text.startswith("word ")
    assert message.response_metadata["finish_reason"] == "cancelled"
    assert await asyncio.to_thread(service.left.wait, 1.0)


async def test_call_is_over(service: Service) -> None:
    """An answer for a call that is over is left to the service no longer, though nobody closes its stream."""
    service.replies = [endless()]
    chat, caller = remote.open(service.settings()), callers.Caller("here", "1")
    callers.current.set(caller)
    pieces = chat.astream(MESSAGES)
    await anext(pieces)
    caller.over.set()
    assert await asyncio.to_thread(service.left.wait, 2.0)
    assert chat.metrics()["running"] == 0
    await pieces.aclose()  # type: ignore[attr-defined] # an async generator


def test_exact_count(service: Service, tiny_model: Path) -> None:
    """With LLM_TOKENIZER texts are counted as the model counts them."""
    from transformers import AutoTokenizer

    text = "The transmitter power, 15.247(b)(3): §"
    expected = AutoTokenizer.from_pretrained(tiny_model)(text, add_special_tokens=False)["input_ids"]
    chat = remote.open(service.settings(llm_tokenizer=str(tiny_model)))
    assert chat.get_num_tokens(text) == len(expected)


@pytest.mark.models
def test_safe_estimate(chat: remote.RemoteChat) -> None:
    """Without it, no note and no citation is counted too low, nor English prose at more than double."""
    from transformers import AutoTokenizer

    folder = weights.resolve(weights.DEFAULT_LLM, variable="LOCAL_BASE_MODEL_PATH", cache=cache())
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "samples").glob("*.md")]
    citations = "§ 15.247(b)(3) and (c)(1)(ii); 47 CFR 2.1093(d)(2), 97.119(a); 5.725-5.85 GHz, 36 dBm e.i.r.p."
    table, korean = "| 1.705-30 | 30 | 30 |\n| 30-88 | 100 | 3 |\n", "송신기의 최대 전도 출력은 얼마인가?"
    for text in [*texts, citations, table, korean]:
        counted = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert counted <= chat.get_num_tokens(text) <= (2 if text in texts else 3) * counted, text


async def test_callbacks(chat: remote.RemoteChat) -> None:
    """Tracers see each piece of text once."""

    class Tokens(BaseCallbackHandler):
        text = ""

        def on_llm_new_token(self, token: Any, **_: Any) -> None:
            self.text += token

    seen = Tokens()
    async for _ in chat.astream(MESSAGES, {"callbacks": [seen]}):
        pass
    assert seen.text == "The limit."


@contextlib.contextmanager
def real(folder: Path, port: int, *command: str, **variables: str) -> Iterator[None]:
    """Run a service in a process of its own until the block ends; end it by its process id."""
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT)
    try:
        limit = time.monotonic() + START_LIMIT
        while process.poll() is None and time.monotonic() < limit:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success:
                    break
            time.sleep(0.2)
        else:
            raise AssertionError(f"the service did not start:\n{(folder / 'service.log').read_text()[-3000:]}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """llama.cpp's own server with the default model, as settings that leave counting to the estimate."""
    pytest.importorskip("xllamacpp")
    folder, port = tmp_path_factory.mktemp("llama.cpp"), free_port()
    model = next(weights.resolve(weights.DEFAULT_LLM, variable="LOCAL_BASE_MODEL_PATH", cache=cache()).glob("*.gguf"))
    with real(folder, port, sys.executable, "-c", LLAMA_CPP, str(model), str(port), KEY):
        yield {"llm_base_url": f"http://127.0.0.1:{port}/v1", "llm_model": "smol", "llm_api_key": KEY}


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[dict[str, Any]]:
    """`transformers serve` with the tiny model in a hub cache of its own, as settings with its tokenizer."""
    pytest.importorskip("openai")
    folder, port = tmp_path_factory.mktemp("transformers"), free_port()
    model, revision = folder / "hub/models--tests--tiny", "0" * 40
    (model / "snapshots").mkdir(parents=True)
    (model / "snapshots" / revision).symlink_to(tiny_model)
    (model / "refs").mkdir()
    (model / "refs/main").write_text(revision, encoding="utf-8")
    command = (str(Path(sys.executable).with_name("transformers")), "serve", "--device", "cpu", "--port", str(port))
    with real(folder, port, *command, "--host", "127.0.0.1", HF_HUB_CACHE=str(folder / "hub"), HF_HUB_OFFLINE="1"):
        url = f"http://127.0.0.1:{port}/v1"
        yield {"llm_base_url": url, "llm_model": "tests/tiny", "llm_window": 4096, "llm_tokenizer": str(tiny_model)}


@pytest.fixture(params=[pytest.param("llama_cpp", marks=pytest.mark.models), "transformers_serve"])
def fields(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.getfixturevalue(request.param))


async def test_real(fields: dict[str, Any]) -> None:
    """A real service gives the same greedy answer however it is asked, with its usage, cut off where it was told to."""
    chat = remote.open(LLM(**fields))
    await chat.check()
    messages = await ways(chat, temperature=0.0, max_tokens=8)
    assert messages[0].text
    assert len({message.text for message in messages}) == 1
    usage = messages[0].usage_metadata
    assert usage is not None
    assert usage["output_tokens"] == 8
    assert usage["input_tokens"] <= chat.get_num_tokens_from_messages(MESSAGES) <= usage["input_tokens"] + 100
    assert messages[0].response_metadata["finish_reason"] == "length"


async def test_real_leaving(fields: dict[str, Any]) -> None:
    """A real service whose caller left serves the next one at once, not after the rest of the first answer."""
    chat = remote.open(LLM(**fields))
    async with aclosing(chat._astream([HumanMessage("Tell a long story.")], max_tokens=3000)) as pieces:  # type: ignore[type-var]
        started = time.monotonic()
        await anext(pieces)
        first = time.monotonic() - started
    started = time.monotonic()
    await chat.ainvoke(MESSAGES, temperature=0.0, max_tokens=4)
    assert time.monotonic() - started < 10 + 4 * first  # the rest of the first answer takes a minute and more


@pytest.mark.models
async def test_llama_cpp_refuses(llama_cpp: dict[str, Any]) -> None:
    """A wrong key, a wrong model and a prompt past the real window are told by the names of what to change."""
    with pytest.raises(SettingsError, match="LLM_API_KEY"):
        remote.open(LLM(**llama_cpp | {"llm_api_key": "wrong"}))
    with pytest.raises(SettingsError, match=r"LLM_MODEL: .* serves smol"):
        remote.open(LLM(**llama_cpp | {"llm_model": "huge"}))
    assert remote.open(LLM(**llama_cpp)).window == 4096
    chat = remote.open(LLM(**llama_cpp, llm_window=100_000))
    with pytest.raises(PromptTooLong, match="4096"):
        await chat.ainvoke([HumanMessage("word " * 5000)])
