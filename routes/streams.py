"""What faces that stream share: when a stream has begun, an answer as text alone. Knows nothing about how it is sent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from chains.schema import Source

EARLY = 0.5  # seconds in which a refusal to start (a full queue, say) still becomes an HTTP status in a stream
SOURCES = "\n\nSources:\n"


async def begun(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The same chunks, once the first is there and the second did not fail at once: after that no status can be sent."""
    first = await anext(chunks)
    second = asyncio.ensure_future(anext(chunks))
    try:
        done, _ = await asyncio.wait({second}, timeout=EARLY)
    except asyncio.CancelledError:
        second.cancel()
        raise
    if done:
        second.result()

    async def rest() -> AsyncIterator[Any]:
        try:
            yield first
            yield await second
            async for chunk in chunks:
                yield chunk
        finally:
            second.cancel()

    return rest()


async def as_text(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """An answer for callers who read text only: `content` in pieces, with its summary and its sources at its end.

    The last chunk is the chain's own last one and holds the `sources` too. A whole answer may also come as one chunk.
    """
    sources: list[Source] = []
    content = ""
    async for chunk in chunks:
        sources = chunk.get("sources", sources)
        if text := chunk.get("content"):
            content += text
            yield {"content": text}
        if summary := chunk.get("summary"):
            yield {"content": f"\n\nSummary: {summary}"}
        if "finish_reason" in chunk:
            refused = chunk["finish_reason"] == "no_evidence"  # sources that support nothing are not listed
            if text := "" if refused else sources_as_text(sources, content):
                yield {"content": text}
            yield {key: value for key, value in chunk.items() if key not in {"content", "summary"}} | {"sources": sources}


def sources_as_text(sources: Sequence[Source], content: str) -> str:
    """The sources an answer cites, or all of them if it cites none, as lines of Markdown."""
    cited = [s for s in sources if f"[{s.id}]" in content] or sources
    lines = [f"- [{s.id}] {s.citation}" + (f", page {s.page}" if s.page else "") + f" ({s.source})" for s in cited]
    return SOURCES + "\n".join(lines) if lines else ""
