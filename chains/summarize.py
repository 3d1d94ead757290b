"""Map-reduce summaries of texts of any length. Knows nothing about where the text comes from."""

import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda

import prompts
from chains.schema import SummarizeRequest
from errors import InvalidRequest

SUMMARY_TOKENS = 200  # of one partial summary
PIECE = re.compile(r"[^\n.!?;]*(?:[\n.!?;]+\s*|$)|\s+")
Count = Callable[[str], int]


def build(model: BaseChatModel, *, window: int) -> Runnable[str, str]:
    """A runnable from a text to its summary.

    The text is cut at sentence ends into chunks that fit the model's window, each is summarised (map), and the summaries are
    joined level by level (collapse) until one call takes the rest (reduce). Every chunk is read; nothing is cut off. `window` is
    in tokens. Raises InvalidRequest for a text without words.
    """
    bound = model.bind(max_tokens=SUMMARY_TOKENS, temperature=0.0)
    map_step = prompts.load("summarize") | bound | RunnableLambda(_complete)
    reduce_step = prompts.load("combine") | bound | RunnableLambda(_complete)
    room = _room(model, window)

    async def collapse(parts: list[str]) -> str:
        while len(parts) > 1:
            groups = pack(parts, model.get_num_tokens, room)
            parts = [
                group[0] if len(group) == 1 else await reduce_step.ainvoke({"text": "\n\n".join(map(_inert, group))})
                for group in groups
            ]
        return parts[0]

    def chunks(text: str) -> list[dict[str, str]]:
        if not text.strip():
            raise InvalidRequest("there is nothing to summarise: the text is empty")
        return [{"text": _inert(chunk)} for chunk in split(text, model.get_num_tokens, room)]

    return RunnableLambda(chunks) | map_step.map() | RunnableLambda(collapse)


def of_request(read: Callable[..., Awaitable[str]], summarizer: Runnable[str, str]) -> Runnable[Any, str]:
    """A runnable from a SummarizeRequest to the summary of its text, section or source.

    `read(citation=...)` and `read(source=...)` return what is indexed of it, or raise NotFound.
    """

    async def text_of(given: Any) -> str:
        request = SummarizeRequest.model_validate(given)
        if request.text is not None:
            return request.text
        return await (read(citation=request.citation) if request.citation else read(source=request.source))

    return RunnableLambda(text_of, name="read") | summarizer


def split(text: str, count: Count, room: int) -> list[str]:
    """Cut `text` into chunks of at most `room` tokens by `count`; the chunks together are the text, character for character."""
    chunks: list[str] = []
    chunk, size = "", 0
    for piece in _pieces(text, count, room):
        cost = count(piece)
        if chunk and size + cost > room:
            chunks.append(chunk)
            chunk, size = "", 0
        chunk += piece
        size += cost
    return [*chunks, chunk] if chunk else chunks


def pack(parts: list[str], count: Count, room: int) -> list[list[str]]:
    """Group neighbours so that each group fits `room` tokens; at least two to a group, so that every level is shorter."""
    groups: list[list[str]] = [[]]
    size = 0
    for part in parts:
        cost = count(part) + 4  # the blank line between two
        if len(groups[-1]) >= 2 and size + cost > room:
            groups.append([])
            size = 0
        groups[-1].append(part)
        size += cost
    return groups


def _pieces(text: str, count: Count, room: int) -> Iterator[str]:
    for piece in filter(None, PIECE.findall(text)):
        yield from _halves(piece, count, room)


def _halves(piece: str, count: Count, room: int) -> Iterator[str]:
    if count(piece) <= room or len(piece) < 2:
        yield piece
        return
    middle = len(piece) // 2
    cut = piece.rfind(" ", 1, middle) + 1 or middle
    yield from _halves(piece[:cut], count, room)
    yield from _halves(piece[cut:], count, room)


def _room(model: BaseChatModel, window: int) -> int:
    frames = [prompts.load(name).format_messages(text="") for name in ("summarize", "combine")]
    frame = max(model.get_num_tokens_from_messages(messages) for messages in frames)
    # Half of what the window leaves: a small model reads a short chunk better, and pieces counted alone add up to a little less.
    room = min(2000, (window - frame - SUMMARY_TOKENS) * 9 // 10)
    if room < 2 * SUMMARY_TOKENS + 8:
        raise InvalidRequest(f"the model's window of {window} tokens is too small to summarise with")
    return room


def _inert(text: str) -> str:
    """Keep a document from ending the marks it stands between."""
    return re.sub(r"<(/?(?:document|summaries))", r"&lt;\1", text, flags=re.IGNORECASE)


def _complete(message: AIMessage) -> str:
    """A summary that ran into its token limit loses its broken last sentence, if it has whole ones before it."""
    text = message.text.strip()
    if message.response_metadata.get("finish_reason") == "length" and (whole := re.match(r".*[.!?](?=\s)", text, re.DOTALL)):
        return whole[0]
    return text
