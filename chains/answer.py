"""Builds the prompt that fits the window and streams the answer to it. Knows nothing about how passages were found."""

import re
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage

import prompts
from chains.schema import ChatRequest
from errors import PromptTooLong

LEAST_ANSWER = 64  # tokens an answer must at least have room for


def fit(
    request: ChatRequest, question: str, passages: Sequence[Document], model: BaseChatModel, *, window: int, max_tokens: int
) -> tuple[list[BaseMessage], list[Document]]:
    """The messages for the model, and the passages that are in them.

    The prompt may fill what `window` (tokens) leaves beside an answer of `max_tokens`, but an answer never claims more than half.
    Passages go in by rank, each whole or not at all; then earlier turns, the latest first, as far as they fit. Raises
    PromptTooLong if the question alone, or the question with its best passage, does not fit.
    """
    budget = window - min(max_tokens, window // 2)

    def build(kept: Sequence[Document], history: Sequence[BaseMessage]) -> list[BaseMessage]:
        return prompts.load("answer").format_messages(
            instructions=_instructions(request),
            passages="\n".join(mark_off(n, passage) for n, passage in enumerate(kept, start=1)),
            history=list(history),
            question=question,
        )

    count = model.get_num_tokens_from_messages
    kept: list[Document] = []
    for passage in passages:  # grown, not shrunk: what is counted stays near the budget, however much there is
        if count(build([*kept, passage], [])) > budget:
            break
        kept.append(passage)
    if not kept:
        smallest = count(build(passages[:1], []))
        if smallest > window - LEAST_ANSWER:
            raise PromptTooLong(
                f"the question and its best passage take {smallest} tokens; the model's window is {window}, of which"
                f" {LEAST_ANSWER} are kept for the answer"
            )
        kept = list(passages[:1])
    history: list[BaseMessage] = []
    for turn in reversed(_turns(request.history())):
        if count(build(kept, [*turn, *history])) > budget:
            break
        history = [*turn, *history]
    return build(kept, history), kept


def admit(request: ChatRequest, model: BaseChatModel, *, window: int) -> ChatRequest:
    """Return the request if its question can be asked at all. Raises PromptTooLong, before anything is searched for."""
    asked = prompts.load("answer").format_messages(
        instructions=_instructions(request), passages="", history=[], question=request.question
    )
    tokens = model.get_num_tokens_from_messages(asked)
    if tokens > window - LEAST_ANSWER:
        raise PromptTooLong(
            f"the question takes {tokens} tokens; the model's window is {window}, of which {LEAST_ANSWER} are kept for the answer"
        )
    return request


def mark_off(number: int, passage: Document) -> str:
    """A passage between marks that its own text cannot close or imitate."""
    citation = passage.metadata.get("citation") or passage.metadata.get("source", "")
    heading = passage.metadata.get("heading", "")
    label = escape(f"{citation} {heading}".strip(), quote=True)
    inert = re.sub(r"<(?=\s*/?\s*passage)", "&lt;", passage.page_content, flags=re.IGNORECASE)
    return f'<passage id="{number}" from="{label}">\n{inert}\n</passage>'


def _instructions(request: ChatRequest) -> str:
    wishes = request.instructions()
    return f"The user also asks:\n{wishes}\n" if wishes else ""


def _turns(history: list[BaseMessage]) -> list[list[BaseMessage]]:
    """Each question with its answer, for strict chat templates want the roles to alternate.

    A greeting before the first question is left out, and so is a question that got no answer, as after an abort.
    """
    starts = [i for i, message in enumerate(history) if message.type == "human"]
    turns = [history[start:end] for start, end in pairwise([*starts, len(history)])]
    return [[turn[0], AIMessage("\n\n".join(reply.text for reply in turn[1:]))] for turn in turns if len(turn) > 1]
