"""Where a text too long for one passage may be cut. Knows nothing about documents."""

import re
from collections.abc import Iterator

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"'\u2019”)]*\s+(?=[\"'\u2018“(]*[A-Z0-9§])")
_ABBREVIATED = re.compile(r"\b(?:e\.g|i\.e|cf|al|Nos?|Secs?|Figs?|Vol|Pt|Inc|Co|St|Dr|Mr|Ms|approx|vs|[A-Z])\.$")
_CLAUSE_END = re.compile(r"(?<=[;:,])\s+|\n")
_SPACE = re.compile(r"\s+")


def parts(text: str, start: int, end: int, ratio: float) -> Iterator[tuple[int, int]]:
    """The span's sentences if there are several, else its clauses, else `ratio` and a few pieces cut between words."""
    for boundary in (_SENTENCE_END, _CLAUSE_END):
        cuts = [match.end() for match in boundary.finditer(text, start, end) if start < match.end() < end]
        if boundary is _SENTENCE_END:
            cuts = [cut for cut in cuts if not _ABBREVIATED.search(text[max(0, cut - 10) : cut].rstrip())]
        if cuts:
            yield from zip([start, *cuts], [*cuts, end], strict=True)
            return
    step = max(1, int((end - start) / max(2.0, ratio * 1.1)))
    while end - start > step:
        spaces = [match.end() for match in _SPACE.finditer(text, start + 1, start + step)]
        cut = spaces[-1] if spaces else start + step
        yield start, cut
        start = cut
    yield start, end


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
