"""Map-reduce summaries of texts of any length. Knows nothing about where the text comes from."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda

import prompts
from chains.schema import SummarizeRequest, checked
from errors import EngineError, InvalidRequest, QueueFull

RETRIES = 3  # of a call that finds the queue full
SUMMARY_TOKENS = 200  # of one partial summary
AT_ONCE = 4  # calls of one summary; more would fill the engine's queue, in which others wait too
BREAK = re.compile(r"(?<=[.!?;])\s+|\n\s*")  # not within 15.247 or 2.4 GHz
Count = Callable[[str], int]


def build(model: BaseChatModel, *, window: int) -> Runnable[str, str]:
    """A runnable from a text to its summary.

    The text is cut at sentence ends into chunks that fit the model's window, each is summarised (map), and the summaries are
    joined level by level (collapse) until one call takes the rest (reduce). Every chunk is read; nothing is cut off. `window` is
    in tokens. Raises InvalidRequest for a text without words. It is asynchronous.
    """
    bound = model.bind(max_tokens=SUMMARY_TOKENS, temperature=0.0)
    map_step = prompts.load("summarize") | bound | RunnableLambda(_complete)
    reduce_step = prompts.load("combine") | bound | RunnableLambda(_complete)
    room = _room(model, window)

    def chunks(text: str) -> list[str]:  # counts tokens: LangChain runs a plain function beside the event loop
        if not text.strip():
            raise InvalidRequest("there is nothing to summarise: the text is empty")
        return split(_inert(text), model.get_num_tokens, room)

    async def summarize(texts: list[str]) -> list[str]:
        return await _all(map_step, texts)

    async def collapse(parts: list[str]) -> str:
        while len(parts) > 1:
            groups = await asyncio.to_thread(pack, [_inert(part) for part in parts], model.get_num_tokens, room)
            left_over = groups.pop() if len(groups[-1]) == 1 else []
            parts = [*await _all(reduce_step, ["\n\n".join(group) for group in groups]), *left_over]
        return parts[0]

    return RunnableLambda(chunks) | RunnableLambda(summarize) | RunnableLambda(collapse)


async def _all(step: Runnable[Any, str], texts: list[str]) -> list[str]:
    """Call `step` for each text, a few at once; the first failure ends the others and is raised."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(text: str) -> str:
        async with gate:
            for _ in range(RETRIES):  # a moment's full queue must not cost the summary of a whole part
                try:
                    return await step.ainvoke({"text": text})
                except QueueFull as full:
                    await asyncio.sleep(min(full.retry_after or 1, 10))
            return await step.ainvoke({"text": text})

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(text)) for text in texts]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def of_request(read: Callable[..., Awaitable[str]], summarizer: Runnable[str, str]) -> Runnable[Any, str]:
    """A runnable from a SummarizeRequest to the summary of its text, section or source.

    `read(citation=...)` and `read(source=...)` return what is indexed of it, or raise NotFound.
    """

    async def text_of(given: Any) -> str:
        request = checked(SummarizeRequest, given)
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
    ends = [match.end() for match in BREAK.finditer(text)]
    for start, end in pairwise([0, *ends, len(text)]):
        if start < end:
            yield from _halves(text[start:end], count, room)


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
    # A small model reads a short chunk better; a tenth is kept, for pieces counted alone may add up to a little less.
    room = min(2000, (window - frame - SUMMARY_TOKENS) * 9 // 10)
    if room < 2 * SUMMARY_TOKENS + 8:
        raise InvalidRequest(f"the model's window of {window} tokens is too small to summarise with")
    return room


def _inert(text: str) -> str:
    """Keep a document from ending the marks it stands between."""
    return re.sub(r"<(?=\s*/?\s*(?:document|summaries))", "&lt;", text, flags=re.IGNORECASE)


def _complete(message: AIMessage) -> str:
    """A summary that ran into its token limit loses its broken last sentence, if it has whole ones before it.

    Raises EngineError for one that the server cancelled at its end: it must not pass as whole.
    """
    text = message.text.strip()
    if message.response_metadata.get("finish_reason") == "cancelled":
        raise EngineError("the model was stopped before the summary was complete")
    if message.response_metadata.get("finish_reason") == "length" and (whole := re.match(r".*[.!?](?=\s)", text, re.DOTALL)):
        return whole[0]
    return text
