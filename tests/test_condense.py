"""A last question that leans on what was said before, and one that does not."""

import pytest
from fakes import ScriptedModel, saying

from chains import condense
from chains.schema import ChatRequest
from errors import EngineError, PromptTooLong

EARLIER = [("user", "What power may a device use at 2.4 GHz?"), ("assistant", "It may use 1 W [1].\n\nSee 15.247.")]
BOTH = "What power may a device use at 2.4 GHz?\n"


def request(question: str, *earlier: tuple[str, str]) -> ChatRequest:
    messages = [*earlier, ("user", question)]
    return ChatRequest.model_validate({"messages": [{"role": role, "content": content} for role, content in messages]})


async def condensed(model: ScriptedModel, question: str, *earlier: tuple[str, str]) -> str:
    return await condense.build(model).ainvoke(request(question, *earlier))


@pytest.mark.parametrize("question", ["What about it?", "And then?", "What is the limit for digital transmitters at 2.4 GHz?"])
@pytest.mark.parametrize("earlier", [[], [("system", "Be brief.")]])
async def test_no_history(question: str, earlier: list[tuple[str, str]]) -> None:
    """A first question is looked for as it was asked, without a call of the model."""
    model = ScriptedModel()
    assert await condensed(model, f" {question}\n", *earlier) == question
    assert model.calls == []


@pytest.mark.parametrize(
    "question",
    [
        "What antenna gain may a point-to-point transmitter use at 5.8 GHz?",
        "Who may hold an amateur radio license in the United States?",
    ],
)
async def test_stands_alone(question: str) -> None:
    """A question that stands alone is not rewritten, whatever was said before."""
    model = ScriptedModel()
    assert await condensed(model, question, *EARLIER) == question
    assert model.calls == []


@pytest.mark.parametrize(
    "question", ["And at 5.8 GHz?", "Does it need a label, like other devices do?", "Why?", "What about handhelds?"]
)
async def test_leans(question: str) -> None:
    """A question that leans on what was said is rewritten by the model, briefly and without chance."""
    rewritten = "What power may a device, or handhelds, use at 5.8 GHz, and does it need a label?"
    model = ScriptedModel(say=saying(*rewritten))
    assert await condensed(model, question, *EARLIER) == rewritten
    (call,) = model.calls
    assert call.kwargs == {"max_tokens": condense.MAX_TOKENS, "temperature": 0.0, "stop": ["\n"]}
    assert "User: What power may a device use at 2.4 GHz?" in call.text
    assert "Assistant: It may use 1 W [1]. See 15.247." in call.text
    assert f"Last question: {question}" in call.text


@pytest.mark.parametrize(
    ("question", "reply"),
    [
        ("And at 5.8 GHz?", "What power may a device use at 2.4 GHz?"),  # another figure
        ("And at 5.8 GHz?", "The limit at 5.8 GHz is 1 W."),  # an answer
        ("And at 5.8 GHz?", ""),
        ("And at 5.8 GHz?", "What power may a device use at 5.8 GHz, which is"),  # cut off
        ("What about handheld radios?", "What is the weather like?"),  # only the frame of the question
        ("Is it labelled?", "What power may a device use?"),
    ],
)
async def test_question_lost(question: str, reply: str) -> None:
    """A rewriting that loses what was asked is not trusted: both questions are looked for together."""
    assert await condensed(ScriptedModel(say=saying(reply)), question, *EARLIER) == BOTH + question


@pytest.mark.parametrize("reply", ['"Why may a device use 1 W?"', "  Why may a device use 1 W?  "])
async def test_quoted(reply: str) -> None:
    """Quotation marks and spaces around a rewriting are no part of it."""
    assert await condensed(ScriptedModel(say=saying(reply)), "Why?", *EARLIER) == "Why may a device use 1 W?"


async def test_recent_only() -> None:
    """The model sees the last few messages, shortened, however long the conversation is."""
    model = ScriptedModel(say=saying("Why is it so?"))
    await condensed(model, "Why?", *[("user", "first"), ("assistant", "second")], *[("user", "x " * 5000), *EARLIER[1:]] * 3)
    assert "first" not in model.calls[0].text
    assert len(model.calls[0].text) < 2500


async def test_braces() -> None:
    """Braces in a conversation reach the model as they are."""
    model = ScriptedModel(say=saying("What is {0}?"))
    assert await condensed(model, "What is {0}?", ("user", "{question} {history}"), ("assistant", "{}")) == "What is {0}?"
    assert "User: {question} {history}\nAssistant: {}" in model.calls[0].text


async def test_too_long_to_rewrite() -> None:
    """A question too long to be rewritten is still looked for, together with the one before."""
    model = ScriptedModel(error=PromptTooLong("too long"))
    assert await condensed(model, "And at 5.8 GHz?", *EARLIER) == BOTH + "And at 5.8 GHz?"


async def test_failure() -> None:
    """Any other failure of the model is told as it is."""
    with pytest.raises(EngineError, match="away"):
        await condensed(ScriptedModel(error=EngineError("away")), "Why?", *EARLIER)
