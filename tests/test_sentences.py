"""Checked sentences and withheld ones, from the chain to each face, on fakes of our own interfaces."""

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fakes import ListRetriever, ScriptedModel, saying
from fastapi import FastAPI
from langchain_core.documents import Document
from langchain_core.runnables import Runnable, RunnablePassthrough
from rich.console import Console

import cli
import prompts
import terminal
from chains import chat as chat_chain
from chains.schema import Answer
from routes import chat, errors, langserve, openai

TEXT = "The maximum peak conducted output power of a digital transmission system is 1 Watt. Labels are dealt with elsewhere."
PASSAGE = Document(
    TEXT, metadata={"citation": "47 CFR 15.247(b)(3)", "source": "x.md", "score": 0.9, "start": 200, "end": 200 + len(TEXT)}
)
ASK = {"messages": [{"role": "user", "content": "How much power may a digital transmitter use?"}], "summarize": "never"}
GOOD = "The conducted output power is 1 Watt [1]."
WRONG = "The conducted output power is 9 Watts [1]."
PLAYGROUND = pytest.mark.filterwarnings("ignore:Accessing the 'model_fields':DeprecationWarning")  # LangServe does


def build(*pieces: str, strict: bool = False, finish_reason: str = "stop") -> Runnable[Any, Any]:
    model = ScriptedModel(say=saying(*pieces), finish_reason=finish_reason)
    return build_on(model, strict=strict)


def build_on(model: ScriptedModel, *, strict: bool) -> Runnable[Any, Any]:
    found = ListRetriever(documents=[PASSAGE])
    return chat_chain.build(
        found, model, window=4000, max_tokens=100, temperature=0, k=4, summary_threshold=10_000, strict=strict
    )


def app_of(*pieces: str, strict: bool = False) -> FastAPI:
    app = FastAPI()
    errors.install(app)
    model = ScriptedModel(say=saying(*pieces))
    chain = build_on(model, strict=strict)
    app.include_router(chat.router(chain, model="scripted"))
    app.include_router(openai.router(chain, model, name="scripted", window=4000, max_tokens=100, temperature=0))
    langserve.add(app, chat=chain, retrieve=RunnablePassthrough(), summarize=RunnablePassthrough())
    return app


async def post(app: FastAPI, body: dict[str, Any], path: str = "/api/chat") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
        return await http.post(path, json=body)


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.replace("\r", "").strip().split("\n\n")]
    return [(block["event"], json.loads(block["data"])) for block in blocks]


def note(count: int) -> str:
    return prompts.text_of("withheld").strip().format(count=count)


async def test_answer_tells_of_its_sentences() -> None:
    """An answer tells of each sentence how far it is supported, by which words, where these stand, and what is missing."""
    answer = Answer.model_validate(await build(GOOD, " ", WRONG).ainvoke(ASK))
    good, wrong = answer.sentences
    assert answer.content == f"{GOOD} {WRONG}"
    assert (answer.content[good.start : good.end], answer.content[wrong.start : wrong.end]) == (GOOD, WRONG)
    assert (good.support, good.markers, good.missing) == ("supported", [1], [])
    assert good.quote == TEXT.partition(" Labels")[0]
    assert (good.quote_source, good.quote_start, good.quote_end) == (1, 200, 200 + len(good.quote))
    assert (wrong.support, wrong.quote, wrong.missing) == ("unsupported", None, ["9 Watts"])
    assert (answer.sources[0].start, answer.sources[0].end, answer.sources[0].quote) == (200, 200 + len(TEXT), TEXT)
    assert answer.withheld == 0


async def test_stream_gives_each_sentence_where_it_ends() -> None:
    """In a stream a sentence comes when it is over, before the text that follows it."""
    app = app_of("The conducted output ", "power is 1 Watt [1]. ", "It ", "is so.")
    got = events((await post(app, ASK | {"stream": True})).text)
    names = [name for name, _ in got]
    assert (names[0], names[-1], set(names[1:-1])) == ("sources", "end", {"token", "sentence"})
    told = ""
    for name, data in got:
        if name == "sentence":
            assert data["end"] == len(told)
        told += data.get("content", "")
    whole = (await post(app, ASK)).json()
    assert [data for name, data in got if name == "sentence"] == whole["sentences"]
    assert told == whole["message"]["content"]
    assert len(whole["sentences"]) == 2


async def test_strict_withholds() -> None:
    """Strict, unsupported sentences are neither shown nor cited nor told of, and the end says how many there were."""
    answer = Answer.model_validate(await build(WRONG, " ", GOOD, " ", WRONG.replace("9", "8"), strict=True).ainvoke(ASK))
    assert answer.content == f"{GOOD}\n\n{note(2)}"
    assert [sentence.support for sentence in answer.sentences] == ["supported"]
    assert [citation.verified for citation in answer.citations] == [True]
    assert (answer.withheld, answer.finish_reason) == (2, "stop")


async def test_strict_shows_nothing_too_early() -> None:
    """Strict, no piece of a sentence is shown before the whole of it is checked."""
    pieces = [word + " " for word in f"{GOOD} {WRONG} {GOOD}".split()]
    shown = [chunk["content"] async for chunk in build(*pieces, strict=True).astream(ASK) if "content" in chunk]
    assert shown == [GOOD, f" {GOOD}", f"\n\n{note(1)}"]


async def test_strict_refuses() -> None:
    """If nothing is left, the answer is the refusal; what the model cost is still told."""
    answer = Answer.model_validate(await build(WRONG, strict=True).ainvoke(ASK))
    assert (answer.content, answer.finish_reason) == (prompts.text_of("refusal").strip(), "no_evidence")
    assert (answer.sentences, answer.citations, answer.withheld, answer.summary) == ([], [], 1, None)
    assert answer.usage.completion_tokens == 1


async def test_strict_refusal_gets_no_summary() -> None:
    """A refusal is not summed up."""
    answer = Answer.model_validate(await build(WRONG, strict=True).ainvoke(ASK | {"summarize": "always"}))
    assert answer.summary is None


async def test_strict_cancelled() -> None:
    """An answer that was cut off at the server's end is not passed off as a refusal."""
    answer = Answer.model_validate(await build(WRONG, strict=True, finish_reason="cancelled").ainvoke(ASK))
    assert (answer.content, answer.finish_reason) == (note(1), "cancelled")


async def test_strict_and_empty() -> None:
    """A model that writes nothing gives an empty answer, strict or not."""
    answer = Answer.model_validate(await build("", strict=True).ainvoke(ASK))
    assert (answer.content, answer.finish_reason, answer.withheld) == ("", "stop", 0)


@PLAYGROUND
async def test_strict_in_every_face() -> None:
    """REST, its stream, OpenAI's face and both LangServe paths withhold the same."""
    app = app_of(GOOD, " ", WRONG, strict=True)
    rest = (await post(app, ASK)).json()
    expected = f"{GOOD}\n\n{note(1)}"
    assert (rest["message"]["content"], rest["withheld"]) == (expected, 1)
    got = events((await post(app, ASK | {"stream": True})).text)
    assert "".join(data.get("content", "") for _, data in got) == expected
    assert got[-1][1]["withheld"] == 1
    openai_body = {"model": "fcc-rag", "messages": ASK["messages"]}
    said = (await post(app, openai_body, "/v1/chat/completions")).json()["choices"][0]["message"]["content"]
    assert said.startswith(f"{expected}\n\nSources:\n- [1]")
    streamed = await post(app, openai_body | {"stream": True}, "/v1/chat/completions")
    assert "9 Watts" not in streamed.text
    question = {"input": {"question": "How much power?", "summarize": "never"}}
    rag = (await post(app, question, "/api/rag/invoke")).json()["output"]
    assert (rag["content"], rag["sentences"]) == (expected, rest["sentences"])
    messages = {"input": {"messages": [{"type": "human", "content": "How much power?"}]}}
    assert (await post(app, messages, "/api/chat/invoke")).json()["output"] == said


@PLAYGROUND
async def test_strict_refusal_lists_no_sources() -> None:
    """A refusal in text alone does not end in sources that support nothing."""
    app = app_of(WRONG, strict=True)
    openai_body = {"model": "fcc-rag", "messages": ASK["messages"]}
    choice = (await post(app, openai_body, "/v1/chat/completions")).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (prompts.text_of("refusal").strip(), "stop")
    messages = {"input": {"messages": [{"type": "human", "content": "How much power?"}]}}
    assert (await post(app, messages, "/api/chat/invoke")).json()["output"] == prompts.text_of("refusal").strip()


def printed(monkeypatch: pytest.MonkeyPatch, sentences: list[dict[str, Any]], *, colour: bool) -> str:
    """What the command prints for a text of ten characters with these sentences."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=colour, color_system="standard" if colour else None, markup=False)
    monkeypatch.setattr(terminal, "out", console)
    console.print("0123456789", end="")
    terminal.print_marks(sentences, shown=10)
    terminal.print_sources({"content": "0123456789", "sentences": sentences, "sources": []})
    return file.getvalue()


def sentence(support: str, end: int) -> dict[str, Any]:
    return {"start": 0, "end": end, "support": support}


def test_terminal_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A doubtful sentence has a mark behind it, in colour on a terminal, and a legend explains the marks that are there."""
    plain = printed(monkeypatch, [sentence("unsupported", 10)], colour=False)
    assert plain == "0123456789 (!)\n(!) the sources do not support this\n"
    assert "\x1b[31m" in printed(monkeypatch, [sentence("unsupported", 10)], colour=True)
    assert printed(monkeypatch, [sentence("partly", 10)], colour=False).startswith("0123456789 (?)\n(?) ")


def test_terminal_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A supported sentence has no mark and needs no legend; what ended earlier is not marked here."""
    assert printed(monkeypatch, [sentence("supported", 10)], colour=False) == "0123456789"
    assert printed(monkeypatch, [sentence("partly", 4), sentence("supported", 10)], colour=False).startswith("0123456789\n")


class Server:
    """A running server, as far as `ask` meets it: the data of its events."""

    def chat(self, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {"sources": [PASSAGE.metadata | {"id": 1, "title": "", "page": None, "edition": ""}]}
        yield {"content": "It is 9 W [1]."}
        yield {"start": 0, "end": 14, "support": "unsupported"}
        yield {"content": " So it is."}
        yield {"start": 15, "end": 24, "support": "supported"}
        yield {"finish_reason": "stop"}


def ask(*, as_json: bool) -> None:
    cli.ask("How much?", max_tokens=5, temperature=0.0, k=None, part=None, as_json=as_json, url="")


def test_ask_marks_what_a_server_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`fcc-rag ask` puts the mark between a doubtful sentence and the next, and its JSON holds all sentences."""
    monkeypatch.setattr(cli, "_server", lambda *_: Server())
    ask(as_json=False)
    printed = capsys.readouterr().out
    assert printed.startswith("It is 9 W [1]. (!) So it is.\n")
    assert "(!) the sources do not support this" in printed
    ask(as_json=True)
    whole = json.loads(capsys.readouterr().out)
    assert [sentence["support"] for sentence in whole["sentences"]] == ["unsupported", "supported"]
    assert whole["content"] == "It is 9 W [1]. So it is."
