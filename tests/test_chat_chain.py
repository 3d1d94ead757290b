"""The chat chain, from a request to an answer, on a scripted model and a list of passages."""

import asyncio
from typing import Any

import pytest
from fakes import ListRetriever, ScriptedModel, saying, until
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable

import prompts
from chains import chat
from chains.schema import Answer, Citation
from errors import EngineError, InvalidRequest, PromptTooLong

POWER = "The maximum peak conducted output power of a digital transmission system is 1 Watt."
PASSAGES = [
    Document(POWER, metadata={"citation": "47 CFR 15.247(b)(3)", "heading": "Operation", "source": "a.md", "score": 0.71234}),
    Document("A label must be affixed.", metadata={"citation": "47 CFR 2.925(a)", "source": "b.pdf", "page": 3}),
    Document("Antennas are measured.", metadata={"source": "c.txt"}),
]
PIECES = ("The", " limit", " is", " 1", " Watt", " [1]", " [8]", ".")
ASK = {"messages": [{"role": "user", "content": "How much power may a digital transmitter use?"}], "summarize": "never"}


def build(
    model: ScriptedModel, passages: list[Document] | None = None, *, window: int = 2000, summary_threshold: int = 400
) -> tuple[Runnable[Any, Any], ListRetriever]:
    retriever = ListRetriever(documents=PASSAGES if passages is None else passages)
    chain = chat.build(retriever, model, window=window, max_tokens=300, temperature=0.5, k=2, summary_threshold=summary_threshold)
    return chain, retriever


async def answer(model: ScriptedModel, given: Any = ASK, **options: Any) -> Answer:
    return Answer.model_validate(await build(model, **options)[0].ainvoke(given))


async def chunks_of(model: ScriptedModel, given: Any = ASK, **options: Any) -> list[Any]:
    return [chunk async for chunk in build(model, **options)[0].astream(given)]


def calls(model: ScriptedModel, kind: str = "<passages>") -> list[dict[str, Any]]:
    """The arguments of the calls whose prompt holds `kind`."""
    return [call.kwargs for call in model.calls if kind in call.text]


def answering(*pieces: str) -> ScriptedModel:
    """A model that writes `pieces` from passages, and otherwise a summary."""

    def say(messages: list[BaseMessage]) -> list[str]:
        return list(pieces) if "<passages>" in messages[0].text else ["In short."]

    return ScriptedModel(say=say)


async def test_order() -> None:
    """A stream gives the sources first, then the text with its sentence, then the summary, and all the rest at the end."""
    chunks = await chunks_of(answering(*PIECES), ASK | {"summarize": "always"})
    fields = [" ".join(chunk) for chunk in chunks]
    rest = ["sentences", "summary", "finish_reason citations withheld usage timings"]
    assert fields == ["sources", *["content"] * (len(chunks) - 4), *rest]
    assert len(chunks) > 6


async def test_adds_up() -> None:
    """The chunks of a stream add up to the whole answer."""
    chunks = await chunks_of(answering(*PIECES))
    whole = Answer.model_validate(sum(chunks[1:], chunks[0]))
    assert whole == (await answer(answering(*PIECES))).model_copy(update={"timings": whole.timings})
    assert whole.content == "The limit is 1 Watt [1]."


@pytest.mark.parametrize("reason", ["stop", "length"])
async def test_answer(reason: str) -> None:
    """An answer carries its sources, what was checked of its markers, why it ended, what it cost and how long it took."""
    model = answering(*PIECES)
    model.finish_reason = reason
    whole = await answer(model)
    assert [(source.id, source.citation) for source in whole.sources] == [(1, "47 CFR 15.247(b)(3)"), (2, "47 CFR 2.925(a)")]
    assert (whole.sources[0].quote, whole.sources[0].score, whole.sources[1].page) == (POWER, 0.7123, 3)
    assert whole.citations == [Citation(marker=1, verified=True), Citation(marker=8, verified=False)]
    assert whole.usage.completion_tokens == len(PIECES)
    assert whole.usage.prompt_tokens > 50
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert whole.timings.first_token_ms is not None
    assert 0 <= whole.timings.retrieval_ms <= whole.timings.first_token_ms <= whole.timings.total_ms < 5000
    assert (whole.finish_reason, whole.summary) == (reason, None)


async def test_no_evidence() -> None:
    """Nothing found gives a fixed refusal, without a call of the model."""
    model = ScriptedModel()
    whole = await answer(model, passages=[])
    assert whole.content == prompts.text_of("refusal").strip()
    assert (whole.finish_reason, whole.sources, whole.citations, whole.usage.total_tokens) == ("no_evidence", [], [], 0)
    assert model.calls == []
    chunks = await chunks_of(model, ASK | {"summarize": "always"}, passages=[])
    assert [next(iter(chunk)) for chunk in chunks] == ["sources", "content", "finish_reason"]
    assert model.calls == []


@pytest.mark.parametrize("pieces", [(), ("",), (" [9]",)])
async def test_empty_answer(pieces: tuple[str, ...]) -> None:
    """A model that writes nothing gives an empty answer, not an error."""
    whole = await answer(answering(*pieces), ASK | {"summarize": "always"})
    assert (whole.content, whole.summary, whole.finish_reason) == ("", None, "stop")


async def test_defaults() -> None:
    """What a request leaves open is as the server's settings say."""
    model = answering(*PIECES)
    chain, retriever = build(model)
    await chain.ainvoke(ASK)
    assert calls(model) == [{"max_tokens": 300, "temperature": 0.5, "top_p": None, "seed": None, "stop": ["<passage"]}]
    assert retriever.calls == [{"query": ASK["messages"][0]["content"], "k": 2, "filters": {}}]  # type: ignore[index]


async def test_request_wins() -> None:
    """What a request says reaches the model and the retriever."""
    sampling: dict[str, Any] = {"max_tokens": 7, "temperature": 0.0, "top_p": 0.3, "seed": 11, "stop": ["A", "B", "C", "END"]}
    model = answering(*PIECES)
    chain, retriever = build(model)
    finding: dict[str, Any] = {"k": 1, "filters": {"part": "15", "section": ["15.247", "15.249"]}}
    whole = await chain.ainvoke(ASK | sampling | finding)
    assert calls(model) == [sampling]
    assert retriever.calls[0].items() >= finding.items()
    assert len(whole["sources"]) == 1


async def test_configurable() -> None:
    """LangChain's config sets the defaults of one call; the request's own values win over it."""
    model = answering(*PIECES)
    chain, retriever = build(model)
    config: Any = {"configurable": {"max_tokens": 5, "temperature": 0.1, "k": 3}}
    await chain.ainvoke(ASK, config)
    await chain.ainvoke(ASK | {"max_tokens": 6}, config)
    async for _ in chain.astream(ASK, config):
        pass
    assert [(c["max_tokens"], c["temperature"]) for c in calls(model)] == [(5, 0.1), (6, 0.1), (5, 0.1)]
    assert [c["k"] for c in retriever.calls] == [3, 3, 3]
    assert {"max_tokens", "temperature", "k"} <= {spec.id for spec in chain.config_specs}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, r"messages\.0\.role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages: the last message"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages: the last message"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"k": 51}, "k: "),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, r"stop\.0"),
        ({"filters": {"as": "x"}}, r"filters\.as"),
        ({"summarize": "maybe"}, "summarize"),
        ({"max_token": 5}, "max_token: "),
    ],
)
async def test_invalid(change: dict[str, Any], field: str) -> None:
    """A request that cannot be understood is refused by the name of its field, before anything is looked for."""
    chain, retriever = build(ScriptedModel())
    with pytest.raises(InvalidRequest, match=rf"^{field}"):
        await chain.ainvoke(ASK | change)
    assert retriever.calls == []


@pytest.mark.parametrize(("given", "k"), [("hello", 1), (None, 1), ({}, 1), (ASK, 1000)])
async def test_no_request(given: Any, k: int) -> None:
    """Neither is anything that is no request at all, nor a configured value out of range, taken."""
    with pytest.raises(InvalidRequest):
        await build(ScriptedModel())[0].ainvoke(given, {"configurable": {"k": k}})


@pytest.mark.parametrize(
    ("summarize", "threshold", "summary"),
    [("auto", len(PIECES) - 1, "In short."), ("auto", len(PIECES), None), ("always", 400, "In short."), ("never", 1, None)],
)
async def test_summary(summarize: str, threshold: int, summary: str | None) -> None:
    """A long answer gets a summary, unless the request says always or never."""
    model = answering(*PIECES)
    whole = await answer(model, ASK | {"summarize": summarize}, summary_threshold=threshold)
    assert whole.summary == summary
    assert len(calls(model, "<document>")) == (0 if summary is None else 1)


async def test_conversation() -> None:
    """A question that leans on the conversation is rewritten, and both looked for and answered so."""

    def say(messages: list[BaseMessage]) -> list[str]:
        return ["It is 1 W."] if "<passages>" in messages[0].text else ["How much power at 5.8 GHz?"]

    model = ScriptedModel(say=say)
    chain, retriever = build(model)
    earlier = [{"role": "user", "content": "How much power?"}, {"role": "assistant", "content": "1 W."}]
    await chain.ainvoke({"messages": [*earlier, {"role": "user", "content": "And at 5.8 GHz?"}]})
    assert retriever.calls[0]["query"] == "How much power at 5.8 GHz?"
    texts = [message.text for message in model.calls[-1].messages]
    assert texts[1:] == ["How much power?", "1 W.", "According to the passages, How much power at 5.8 GHz?"]


async def test_sources_are_those_given() -> None:
    """A passage for which the prompt had no room is not among the sources."""
    long = [Document("w " * 350, metadata=PASSAGES[0].metadata), Document("x " * 350, metadata=PASSAGES[1].metadata)]
    whole = await answer(answering("Yes [2]."), ASK | {"max_tokens": 100}, passages=long, window=800)
    assert [source.id for source in whole.sources] == [1]
    assert whole.content == "Yes."


async def test_too_long() -> None:
    """A question that can never fit is refused before the model is called."""
    model = ScriptedModel()
    with pytest.raises(PromptTooLong):
        await answer(model, {"messages": [{"role": "user", "content": "word " * 3000}]})
    assert model.calls == []


async def test_failure_at_once() -> None:
    """A failure of the model is raised as it is, whichever way the chain is called."""
    for call in (answer, chunks_of):
        with pytest.raises(EngineError, match="away"):
            await call(ScriptedModel(say=saying(*PIECES), error=EngineError("away")))


async def test_failure_midway() -> None:
    """A failure in the middle of a stream is raised there, after what was written."""
    model = ScriptedModel(say=saying(*PIECES), error=EngineError("away"), fails_after=3)
    written = ""

    async def read() -> None:
        nonlocal written
        async for chunk in build(model)[0].astream(ASK):
            written += chunk.get("content", "")

    with pytest.raises(EngineError, match="away"):
        await read()
    assert written == "The limit is"


async def test_cancel() -> None:
    """Cancelling a stream's task ends the model's stream with it."""
    model = ScriptedModel(say=saying(*["word "] * 1000), delay=0.01)
    task = asyncio.create_task(chunks_of(model))
    await until(lambda: len(model.given) >= 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert model.closed == 1
    assert len(model.given) < 20


async def test_leave() -> None:
    """So does leaving the stream."""
    model = ScriptedModel(say=saying(*["word "] * 1000), delay=0.001)
    async for chunk in build(model)[0].astream(ASK):
        if "content" in chunk:
            break
    await until(lambda: model.closed == 1)
    assert len(model.given) < 100


async def test_repeating() -> None:
    """A model that runs in circles is stopped after the first round, and what it wrote is counted."""
    sentence = ("The", " limit", " is", " low", " for", " all. ")
    model = ScriptedModel(say=saying(*sentence * 200), delay=0.0001)
    whole = await answer(model)
    assert whole.content == "The limit is low for all. The limit is low for all."
    assert whole.finish_reason == "stop"
    assert (model.closed, len(model.given)) == (1, 13)
    assert whole.usage.completion_tokens == 13  # the word that began the third round, too
    assert whole.usage.prompt_tokens == model.get_num_tokens_from_messages(model.calls[0].messages)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


async def test_uncounted() -> None:
    """The usage of a model that does not report any is counted by its tokenizer."""
    model = ScriptedModel(say=saying("one ", "two ", "three"), counts=False)
    assert (await answer(model)).usage.completion_tokens == 3


async def test_batch() -> None:
    """Several requests at once each get their own answer."""

    def say(messages: list[BaseMessage]) -> list[str]:
        return ["You asked: ", messages[-1].text]

    model = ScriptedModel(say=say, delay=0.01)
    questions = [f"Is question {n} about the maximum power?" for n in range(8)]
    answers = await build(model)[0].abatch([{"messages": [{"role": "user", "content": q}]} for q in questions])
    assert [question in found["content"] for question, found in zip(questions, answers, strict=True)] == [True] * 8


async def test_batch_with_failure() -> None:
    """One request's mistake in a batch does not spoil the others, if the caller wants them."""
    results = await build(answering("Yes."))[0].abatch([ASK, ASK | {"k": 0}], return_exceptions=True)
    assert results[0]["content"] == "Yes."
    assert isinstance(results[1], InvalidRequest)
