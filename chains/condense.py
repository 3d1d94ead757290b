"""Turns the last question of a conversation into one that stands alone. Knows nothing about retrieval."""

import re

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import Runnable, RunnableBranch, RunnableLambda

import prompts
from chains.schema import ChatRequest
from errors import PromptTooLong

LEANING = re.compile(
    r"\b(?:it|its|they|them|their|that|those|this|these|he|she|one|ones|there|same|such|former|latter|above|previous|again|else|more"
    r"|instead|too|also)\b|^(?:and|or|but|so|then|why|what about|how about|what if|which)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"\w+")
FRAME = re.compile(  # words that a question is made with; what it asks is in the others
    r"what|when|where|which|about|does|would|could|should|have|with|from|they|their|them|that|this|those|these|there|then|tell|mean"
)
SHORT = 5  # words; a question this short seldom stands alone
TURNS = 4  # earlier messages the rewriting model sees; what is leaned on is seldom further back
MAX_TOKENS = 96


def leans(question: str) -> bool:
    """Whether a question's words point outside it. Errs towards yes: rewriting costs a short call, guessing wrong an answer."""
    return len(WORD.findall(question)) < SHORT or LEANING.search(question) is not None


def build(model: BaseChatModel) -> Runnable[ChatRequest, str]:
    """A runnable from a request to the question that retrieval is asked; without history, or if nothing leans, as it was."""
    rewrite = (
        RunnableLambda(_inputs)
        | prompts.load("condense")
        | model.bind(max_tokens=MAX_TOKENS, temperature=0.0, stop=["\n"])
        | StrOutputParser()
    )

    async def rewritten(request: ChatRequest) -> str:
        try:
            return choose(request, await rewrite.ainvoke(request))
        except PromptTooLong:  # what was said before takes more room here than in the answer's prompt
            return choose(request, "")

    return RunnableBranch(
        (lambda request: bool(request.history()) and leans(request.question), RunnableLambda(rewritten)),
        RunnableLambda(lambda request: request.question),
    )


def choose(request: ChatRequest, rewritten: str) -> str:
    """The rewritten question if it is one; else the last two questions together, which finds at least what both speak of.

    A small model may answer the question, or lose what it asks: a rewriting that drops a figure or every word of the question is
    no rewriting.
    """
    question, text = request.question, rewritten.strip().strip("\"'")
    asked = {w.lower() for w in WORD.findall(question) if (len(w) > 3 or w.isdigit()) and not FRAME.fullmatch(w.lower())}
    kept = {w.lower() for w in WORD.findall(text)}
    figures = {w for w in asked if w.isdigit()}
    if text.endswith("?") and figures <= kept and (not asked or asked & kept):
        return text
    earlier = [m.content.strip() for m in request.messages[:-1] if m.role == "user"]
    return "\n".join([*earlier[-1:], question])


def _inputs(request: ChatRequest) -> dict[str, str]:
    return {"history": "\n".join(_line(m) for m in request.history()[-TURNS:]), "question": request.question}


def _line(message: BaseMessage) -> str:
    who = "User" if message.type == "human" else "Assistant"
    text = " ".join(message.text.split())
    return f"{who}: {text[:600]}{'...' if len(text) > 600 else ''}"
