"""Finds each paragraph's designators, (a)(1)(i)(A), from the paragraphs of one section. Knows nothing about files.

The CFR nests letters, numbers, romans, capitals, italic numbers and italic romans (1 CFR 21.11), but prints only the
innermost designator and leaves the others to the reader: "(i)" is the first item under "(1)" or what follows "(h)".
So the whole section is read at once: each designator may go on from one above it or open a deeper level, each such
step has a cost, and the cheapest reading of all paragraphs together wins (a beam search).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from retrievers.citations import Kind, ordinals


class Mark(NamedTuple):
    """From character `offset` of a paragraph on, its text stands under `path`."""

    offset: int
    path: tuple[str, ...]


class _Level(NamedTuple):
    kind: Kind
    place: int
    token: str
    loose: bool  # the list hangs below a paragraph without a designator, such as a definition


_Stack = tuple[_Level, ...]


class _Trail(NamedTuple):
    """One mark of a reading, linked to the marks before it."""

    before: "_Trail | None"
    paragraph: int
    offset: int
    stack: _Stack


class _Reading(NamedTuple):
    cost: float
    stack: _Stack
    trail: _Trail | None


# What opens under what. The row starts again below capitals, where the CFR prints numbers and romans in italics.
_CHILD: dict[Kind, Kind] = {"letter": "number", "number": "roman", "roman": "capital", "capital": "number"}
_TOP: dict[Kind, float] = {"letter": 0.0, "number": 0.2, "capital": 0.4, "roman": 0.5}
_WIDTH = 12  # readings kept; sections need two or three
_MARGIN = 4.0  # what is dearer than the cheapest by this much is given up
_STRANGE = 3.2  # for taking it as no designator at all, such as "(800)" from a telephone number
_DEEPEST = 7

_DESIGNATOR = r"\([*_]{0,2}([A-Za-z0-9]{1,7})[*_]{0,2}\)"
_LEADING = re.compile(rf"\s*(?:[-*+•]\s+)?[*_]{{0,2}}(?:{_DESIGNATOR}[*_]{{0,2}}\s*)+")
_TOKEN = re.compile(_DESIGNATOR)
# "(d) Restrictions. (1) Operation ...": an item that opens inside a paragraph; only known once "(2)" has been seen
_INSIDE = re.compile(r"(?<=[.:;—\u2013])[*_]{0,2}\s*(?=\(([1iAa])\)\s*\S)")
# "(d) and (e) of this section": a reference that a line break has put first
_REFERENCE = re.compile(r",|(?:and|or|of|through|to|shall|must|is|are|above|below)\b(?!.{0,20}\[Reserved\])")
_HANGING = re.compile(r"(?:\b(?:paragraphs?|sections?|in|with|under|of|by|to|see|through)|§|(?<![;,:.])\s(?:and|or))$")
# a note to paragraph (a)(3), a table 2 to § 15.37
_ABOUT = re.compile(
    r"\s*(?:note|table|figure)(?:\s+\w{1,3})?\s+to\s+(?:paragraphs?\s*(?=\()|§\s*[\d.]*\d)((?:\(\w+\))*)", re.IGNORECASE
)
# what may end a list: a definition or a sentence, but no row of figures, note or caption
_ENTRY = re.compile(r"[\s*_\"“]*(?!(?i:editorial|note|table|figure|where)\b)[A-Z](?!.*\.{5})", re.DOTALL)
# "(b)-(d) [Reserved]": one paragraph for several, and the row goes on from the last of them
_RESERVED = re.compile(
    rf"\s*[*_]{{0,2}}{_DESIGNATOR}\s*(?:[-\u2013\u2014]|through|to|and)\s*{_DESIGNATOR}[*_]{{0,2}}[\s.]*\[Reserved\]",
    re.IGNORECASE,
)
_TELEPHONE = re.compile(r"\s*\(\d{3}\)\s*\d{3}[-\u2013 ]\d{4}")


def outline(paragraphs: Sequence[str]) -> list[list[Mark]]:
    """For each paragraph of one section its marks: the first at offset 0, more where items open inside it.

    A paragraph without a designator stands under the path of the one before it, or, after a list that itself hangs
    below such a paragraph (definitions with items), beside that one. Unknown shapes never raise.
    """
    readings = [_Reading(0.0, (), None)]
    bare = 0  # paragraphs without a designator up to here; one may be an introduction, two are entries of their own
    for index, text in enumerate(paragraphs):
        tokens = leading(text)
        for position, token in enumerate(tokens):
            readings = _step(readings, token, index, 0, loose=bare > 1 and position == 0)
        if reserved := _RESERVED.match(text):
            readings = [_reached(reading, reserved[2]) for reading in readings]
        if not tokens and _ENTRY.match(text):
            readings = _rest(readings, index, first=bare == 0)
        bare = 0 if tokens else bare + 1
        for number, inside in enumerate(list(_INSIDE.finditer(text))[:4]):
            taken = readings
            for position, token in enumerate(leading(text[inside.end() :]) or [inside[1]]):
                taken = _step(taken, token, index, inside.end(), loose=bare > 1 and number == position == 0)
            readings = _best([*readings, *(r._replace(cost=r.cost + 0.3) for r in taken)])
    return _resolve(readings[0].trail, paragraphs)


def leading(text: str) -> list[str]:
    """The designators a paragraph begins with, "a" and "1" for "(a)(1) Base stations"; none for a reference."""
    match = _LEADING.match(text)
    if match is None or _REFERENCE.match(text, match.end()) or _TELEPHONE.match(text):
        return []
    tokens: list[str] = []
    for token in _TOKEN.findall(match[0]):
        if not ordinals(token):
            break
        tokens.append(token)
    return tokens


def goes_on(line: str, following: str) -> bool:
    """Whether `following` only seems to begin a paragraph: "... as provided in paragraphs" / "(d) and (e) of this"."""
    match = _LEADING.match(following)
    if match is None:
        return False
    return _HANGING.search(line.rstrip()) is not None or (
        _REFERENCE.match(following, match.end()) is not None and not line.rstrip().endswith((".", ";", ":"))
    )


def _step(readings: list[_Reading], token: str, index: int, offset: int, *, loose: bool) -> list[_Reading]:
    """Every reading, gone on by one designator."""
    following = []
    for cost, stack, trail in readings:
        following.append(_Reading(cost + _STRANGE, stack, trail))
        # the designators of "(a)(1)" make one mark, at the last of them
        same = trail is not None and (trail.paragraph, trail.offset) == (index, offset)
        before = trail.before if same and trail else trail
        for extra, kept, level in _moves(tuple((level.kind, level.place) for level in stack), token):
            hangs = stack[kept].loose if kept < len(stack) else loose
            reached = (*stack[:kept], _Level(*level, hangs))
            following.append(_Reading(cost + extra, reached, _Trail(before, index, offset, reached)))
    return _best(following)


def _reached(reading: _Reading, token: str) -> _Reading:
    """The reading, its innermost level counted on to another designator of its row, by which it is not called."""
    if not reading.stack:
        return reading
    level = reading.stack[-1]
    place = dict(ordinals(token)).get(level.kind, level.place)
    return reading._replace(stack=(*reading.stack[:-1], level._replace(place=max(place, level.place))))


def _rest(readings: list[_Reading], index: int, *, first: bool) -> list[_Reading]:
    """Every reading, gone on by a paragraph without a designator: it stays where it is or ends lists."""
    following = []
    for cost, stack, trail in readings:
        ends = 0.0
        for kept in reversed(range(len(stack))):
            if stack[kept].loose:
                following.append(_Reading(cost + ends, stack[:kept], _Trail(trail, index, 0, stack[:kept])))
                ends += 0.02
            else:
                following.append(_Reading(cost + 0.6, stack[:kept], _Trail(trail, index, 0, stack[:kept])))
        # a little dearer with each level, so that of several paragraphs that could end a list the first does
        following.append(_Reading(cost + (0.05 if ends and first else 0.001 * len(stack)), stack, trail))
    return _best(following)


def _best(readings: list[_Reading]) -> list[_Reading]:
    """The cheapest reading for each stack, cheapest first, no more than are worth keeping."""
    cheapest: dict[_Stack, _Reading] = {}
    readings = sorted(readings, key=lambda r: r.cost)
    for reading in readings:
        cheapest.setdefault(reading.stack, reading)
    limit = readings[0].cost + _MARGIN if readings else 0.0
    return [reading for reading in list(cheapest.values())[:_WIDTH] if reading.cost < limit]


@lru_cache(maxsize=65536)
def _moves(shape: tuple[tuple[Kind, int], ...], token: str) -> tuple[tuple[float, int, tuple[Kind, int, str]], ...]:
    """Every step from levels of this shape: its cost, how many levels stay, and the level that is added."""
    moves = []
    for kind, place in ordinals(token):
        level = (kind, place, token)
        for depth, (other, at) in enumerate(shape):
            if other == kind:
                gap = place - at
                cost = 3.0 if gap < 1 else 0.0 if gap == 1 else 1.0 + 0.1 * min(gap, 30)
                moves.append((cost + 0.01 * (len(shape) - 1 - depth), depth, level))
        if len(shape) < _DEEPEST:
            expected = 0.1 if shape and _CHILD[shape[-1][0]] == kind else 1.5
            opens = expected if shape else _TOP[kind]
            moves.append((opens + (0.0 if place == 1 else 2.0 + 0.1 * min(place, 10)), len(shape), level))
    return tuple(moves)


def _resolve(trail: _Trail | None, paragraphs: Sequence[str]) -> list[list[Mark]]:
    marks: list[list[Mark]] = [[] for _ in paragraphs]
    while trail is not None:
        marks[trail.paragraph].insert(0, Mark(trail.offset, tuple(level.token for level in trail.stack)))
        trail = trail.before
    path: tuple[str, ...] = ()
    for text, found in zip(paragraphs, marks, strict=True):
        if not found or found[0].offset > 0:
            found.insert(0, Mark(0, path))
        path = found[-1].path
        if about := _ABOUT.match(text):  # "Note to paragraph (a)(3): ..."
            found[0] = Mark(0, tuple(_TOKEN.findall(about[1])))
    return marks
