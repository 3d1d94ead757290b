"""Finds a cited place among the passages of its section. Knows neither store nor search."""

from collections.abc import Sequence

from retrievers import citations
from retrievers.citations import Citation
from retrievers.documents import Passage

_LEVELS: tuple[citations.Kind, ...] = ("letter", "number", "roman", "capital", "number", "roman")


def holding(asked: Citation, passages: Sequence[Passage]) -> list[Passage]:
    """Of a section's passages those that hold the cited paragraph, else those nearest around it, else all."""
    placed = [(own, passage) for passage in passages if (own := _own(asked, passage)).title == asked.title]
    depth = len(asked.paragraphs)
    held = [passage for own, passage in placed if own.paragraphs[:depth] == asked.paragraphs]
    # a passage is cited by the paragraph it begins with, and may go on into the one that is looked for
    last: dict[str, Passage] = {}
    for own, passage in placed:
        if _order(own) < _order(asked):
            last[passage.metadata["document"]] = passage
    held += [passage for passage in last.values() if depth and f"({asked.paragraphs[-1]})" in passage.page_content]
    for outer in range(depth - 1, -1, -1):
        if held:
            break
        held = [passage for own, passage in placed if own.paragraphs == asked.paragraphs[:outer]]
    return held or [passage for _, passage in placed]


def distance(asked: Citation, passage: Passage) -> int:
    """0 for a passage that is cited just so, 1 for one within the cited paragraph, 2 for one around it or before it."""
    own = _own(asked, passage).paragraphs
    if own == asked.paragraphs:
        return 0
    return 1 if own[: len(asked.paragraphs)] == asked.paragraphs else 2


def _own(asked: Citation, passage: Passage) -> Citation:
    # a document may give its paragraphs no cites
    return citations.read(passage.metadata["citation"]) or asked.whole


def _order(citation: Citation) -> tuple[int, ...]:
    """Where the paragraph comes in its section: (a)(1)(i)(A) and so on down, as the CFR numbers its levels."""
    places = []
    for token, kind in zip(citation.paragraphs, _LEVELS, strict=False):
        readings = dict(citations.ordinals(token))
        places.append(readings.get(kind, next(iter(readings.values()), 0)))
    return tuple(places)
