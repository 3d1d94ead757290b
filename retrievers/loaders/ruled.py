"""Reads a printed table: which cell of its drawn lines each word stands in. Knows geometry, but no file format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from retrievers.loaders.drawn import NEAR, Frame, distinct
from retrievers.loaders.tables import Cell, Row, headings, markdown

SOFT = "\ufffe"  # what stands for a hyphen at a line's end

_FULL = 0.9  # a rule over this share of the width divides the whole table
_ASTRAY = 0.05  # where more of the words lie across a divider, the lines are a drawing's
_RAISED = 0.9  # a mark is set lower than this share of its line's height
_REPEATED = 300  # characters; a longer cell that spans rows is not repeated in each
_HANGING = re.compile(rf"(?:\b(?:and|or|of|the|for|to|in|with)|[,\u2013{SOFT}-])$")
_LEADERS = 4  # dots, as many as no sentence ends with


class Word(NamedTuple):
    text: str
    left: float
    right: float
    bottom: float
    top: float


@dataclass(slots=True)
class Table:
    """What stands in a frame. `widths` are those of the columns, by which its rest on another page is known."""

    heads: list[str]
    rows: list[list[str]]
    widths: tuple[float, ...]
    boxed: bool

    def markdown(self) -> str:
        body = [Row([Cell(text) for text in row]) for row in self.rows]
        return markdown([Row([Cell(text) for text in self.heads], header=True), *body])

    def goes_on(self, before: "Table") -> bool:
        """Whether this is the rest of a table that a page's or a column's end has cut."""
        alike = len(self.widths) == len(before.widths) and all(
            abs(one - other) <= 2 * NEAR for one, other in zip(self.widths, before.widths, strict=True)
        )
        return self.heads == before.heads or (alike and self.boxed and before.boxed)

    def append(self, rest: "Table") -> None:
        """Take the rest's rows; what looks like its heads is a row where the heads were not printed again."""
        self.rows += rest.rows if rest.heads == self.heads else [rest.heads, *rest.rows]


def read(frame: Frame, words: Sequence[Word]) -> Table | None:
    """The table whose words these are, or None where they do not keep to the columns, as in a drawing."""
    grid = _Grid(frame)
    middle = [word for word in words if any(word.left + NEAR < x < word.right - NEAR for x in grid.dividers(_middle(word)))]
    if not words or len(middle) > _ASTRAY * len(words):
        return None
    border = grid.heads_end(words)
    body = [word for word in words if _middle(word) < border]
    rows = grid.boxes(body, border) if frame.boxed else grid.lines(body)
    if border < frame.top:
        heads = grid.heads([word for word in words if _middle(word) > border])
    else:
        heads, rows = (rows[0], rows[1:]) if rows else ([], [])
    if not rows or sum(any(row[column] for row in [heads, *rows]) for column in range(grid.count)) < 2:
        return None
    return Table(heads, rows, tuple(high - low for low, high in pairwise(grid.edges)), frame.boxed)


def text_of(words: Sequence[Word]) -> str:
    """The words line by line, "^1" for a raised 1."""
    text = ""
    for line in _lines(words):
        text = _joined(text, _line_text(line))
    return text


def _joined(text: str, following: str) -> str:
    """A text and its next line, with a soft hyphen where a word goes on."""
    if text.endswith(("-", SOFT)) and following[:1].islower():
        return text[:-1] + SOFT + following
    if text.endswith("\u2013"):
        return text + following
    return f"{text} {following}".strip()


class _Grid:
    """The columns of a frame and which of them a word stands in."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.edges = frame.edges
        self.count = len(self.edges) - 1
        # the heights between which each inner edge is drawn
        self.drawn = {
            edge: [(rule.low - NEAR, rule.high + NEAR) for rule in frame.down if abs(rule.at - edge) <= NEAR]
            for edge in self.edges[1:-1]
        }

    def dividers(self, y: float) -> list[float]:
        """The inner edges that are drawn at this height."""
        return [edge for edge, heights in self.drawn.items() if any(low <= y <= high for low, high in heights)]

    def span(self, word: Word) -> tuple[int, int]:
        """The first and the last column of the cell that a word stands in."""
        x = (word.left + word.right) / 2
        drawn = [self.edges[0], *self.dividers(_middle(word)), self.edges[-1]]
        low = max((edge for edge in drawn[:-1] if edge <= x), default=drawn[0])
        high = min((edge for edge in drawn[1:] if edge > x), default=drawn[-1])
        return self.edges.index(low), self.edges.index(high) - 1

    def heads_end(self, words: Sequence[Word]) -> float:
        """The height of the first full rule with words above and below it; the frame's top if there is none."""
        width = self.frame.right - self.frame.left
        for y in sorted({rule.at for rule in self.frame.across if rule.high - rule.low >= _FULL * width}, reverse=True):
            if any(_middle(word) > y for word in words) and any(_middle(word) < y for word in words):
                return y
        return self.frame.top + NEAR

    def heads(self, words: Sequence[Word]) -> list[str]:
        """Each column's heading: the texts of all cells above it, the uppermost first."""
        cells: dict[tuple[int, int], list[Word]] = {}
        for word in words:
            cells.setdefault(self.span(word), []).append(word)
        heads: list[list[str]] = [[] for _ in range(self.count)]
        for (first, last), held in sorted(cells.items(), key=lambda cell: -max(word.top for word in cell[1])):
            for column in range(first, last + 1):
                heads[column].append(_unled(text_of(held))[0])
        return headings(heads)

    def boxes(self, words: Sequence[Word], border: float) -> list[list[str]]:
        """The rows that lines part. The text of a cell that spans several is repeated in each."""
        levels = [border, *(y for y in distinct([rule.at for rule in self.frame.across])[::-1] if y < border - NEAR)]
        cells: dict[tuple[int, int, int], list[Word]] = {}
        for word in words:
            column, _ = self.span(word)
            x = (self.edges[column] + self.edges[column + 1]) / 2
            first = last = max(0, sum(_middle(word) < level for level in levels) - 1)
            while first > 0 and not self._is_drawn(x, levels[first]):
                first -= 1
            while last < len(levels) - 2 and not self._is_drawn(x, levels[last + 1]):
                last += 1
            cells.setdefault((column, first, last), []).append(word)
        rows = [[""] * self.count for _ in levels]
        for (column, first, last), held in cells.items():
            text = _unled(text_of(held))[0]
            for number in range(first, last + 1 if len(text) <= _REPEATED else first + 1):
                rows[number][column] = text
        return [row for row in rows if any(row)]

    def lines(self, words: Sequence[Word]) -> list[list[str]]:
        """The rows where each line of print is one, but those that go on with the line above."""
        rows: list[list[str]] = []
        before: _PrintLine | None = None
        for line in _lines(words):
            cells: dict[int, list[Word]] = {}
            for word in line:
                cells.setdefault(self.span(word)[0], []).append(word)
            texts = {column: _unled(_line_text(held)) for column, held in sorted(cells.items())}
            printed = _PrintLine({c: t for c, (t, _) in texts.items()}, any(led for _, led in texts.values()), line[0].left)
            if before is not None and printed.goes_on(before, self.count):
                for column, text in printed.cells.items():
                    rows[-1][column] = _joined(rows[-1][column], text)
                    before.cells[column] = rows[-1][column]
                before.led = before.led or printed.led
            else:
                if before is not None and 0 in printed.cells and _HANGING.search(before.cells.get(0, "")):
                    rows[-1][0] = _joined(rows[-1][0], printed.cells.pop(0))  # a name that goes on beside the next row
                rows.append([printed.cells.get(column, "") for column in range(self.count)])
                before = printed
        return rows

    def _is_drawn(self, x: float, y: float) -> bool:
        return any(abs(rule.at - y) <= NEAR and rule.low <= x <= rule.high for rule in self.frame.across)


@dataclass(slots=True)
class _PrintLine:
    """A line of a table in print, or the lines so far of one row: its cells, and whether leaders lead to the next cell."""

    cells: dict[int, str]
    led: bool
    left: float

    def goes_on(self, before: "_PrintLine", columns: int) -> bool:
        """Whether this line is the rest of the row before.

        A line without a first cell is one if it fills but one cell, or if the row before has nothing but its first. A
        first cell goes on where that before ends in the middle of a phrase, or where it is indented below one that stands
        alone and that neither leaders nor a colon have ended.
        """
        if 0 not in self.cells:
            return len(self.cells) < max(2, columns - 1) or before.cells.keys() == {0}
        if self.cells.keys() == {0} and _HANGING.search(before.cells.get(0, "")):
            return True
        unfinished = before.cells.keys() == {0} and not before.led and not before.cells[0].endswith((":", "."))
        return unfinished and self.left > before.left + NEAR


def _middle(word: Word) -> float:
    return (word.bottom + word.top) / 2


def _unled(text: str) -> tuple[str, bool]:
    """The text without the dots that lead to the next cell, and whether there were any."""
    bare = text.rstrip(" .")
    dots = text.count(".", len(bare))
    return (bare, True) if dots >= _LEADERS or (dots > 1 and text[len(bare)] == " ") else (text, False)


def _lines(words: Sequence[Word]) -> list[list[Word]]:
    """The words by lines, from the top down, each from left to right. What is raised or lowered stays in its line."""
    lines: list[list[Word]] = []
    for word in sorted(words, key=lambda word: -_middle(word)):
        if lines and _middle(lines[-1][0]) - _middle(word) < 0.5 * max(w.top - w.bottom for w in (lines[-1][0], word)):
            lines[-1].append(word)
        else:
            lines.append([word])
    return [sorted(line, key=lambda word: word.left) for line in lines]


def _line_text(line: Sequence[Word]) -> str:
    height = max(word.top - word.bottom for word in line)
    base = min(word.bottom for word in line)
    shown = []
    for word in line:
        raised = word.top - word.bottom < _RAISED * height and word.bottom > base + 0.1 * height
        shown.append(f"^{word.text}" if raised else word.text)
    return " ".join(shown)
