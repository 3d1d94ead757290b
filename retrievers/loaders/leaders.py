"""Finds tables in plain text by the dots that lead from cell to cell, and writes them as Markdown.

"30-88 ........ 100" is a row. The heads of such a table have come to stand at the end of the text above it and their
borders are lost: they are parted only where their words show how. Knows no file format.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from retrievers.loaders.tables import Cell, Row, markdown

_LEADERS = re.compile(r"\s*\.{5,}\s*")
_SPLIT = re.compile(r"\s*(?:\.{5,}|(?<=\s)\.{2,}(?=\s))\s*")  # in a table shorter ones are leaders, too
_LONGEST_ROW, _LONGEST_HEADS = 240, 500  # characters, without the leaders
_ENDS = 20  # of the texts at the ends of rows, those that are frequent
_GAP = 2  # lines without leaders that may stand between two rows
_SENTENCE_END = re.compile(r"(?:[:;]|(?<=[A-Za-z)\d]{3})\.)(?=\s+[\"“(]*[A-Z0-9])")  # not after "Ft." or "No."
_CAPTION = re.compile(
    r"TABLE\s+\d\S*\s+TO\s+(?:PARAGRAPH|§)\s*\S+"
    r"|TABLE\s+\d\S*[^a-z]{0,200}?(?:—Continued)?(?:\s+\[[^\]]{1,200}\])?(?=\s+[A-Z][a-z])"
)
_DESIGNATED = re.compile(r"\s*(?:\([A-Za-z0-9]{1,5}\)\s*)+")
_VALUE = re.compile(r"\s(\d[\d.,\u2013-]*?)\.?$")
_VALUED = re.compile(r"\d[\d.,]*\s?[A-Za-zµ]+\s?\([^)]*\)\s*")  # a head such as "5 dBm (3 mW)"
_UNIT = re.compile(r"(?:[kMGT]?Hz|dB\S*|[kmµ]?[WV]|[kmc]?m)$")
_BINDS = {"to", "or", "and", "through", "\u2013", "±", "x", "\u00d7"}


class _Heads(NamedTuple):
    """What stands above a table: its caption, its heads as one text, and the rest.

    `value` is the figure that the heads end with, which may be the first row's first cell. `named` is whether the heads
    begin with the words of a paragraph ("(ii) Place North latitude"), that nothing parts from them.
    """

    rest: str
    caption: str
    text: str
    value: str
    named: bool


def tabulated(lines: Sequence[str]) -> list[tuple[int, str]]:
    """The lines with the number of the line each comes from; rows with leaders become Markdown below their heads.

    Where no heads stand above, the lines stay as they are.
    """
    done: list[tuple[int, str]] = []
    before = ""  # the heads of the table that ends `done`
    index = 0
    while index < len(lines):
        end = _end(lines, index)
        heads = _heads(done[-1][1]) if end > index and done else None
        if heads is None:
            end = max(end, index + 1)
            done += [(number, lines[number]) for number in range(index, end)]
            index = end
            continue
        rows = _Rows([line for line in lines[index:end] if not heads.text.endswith(line.strip())], heads)
        number, _ = done.pop()
        table = rows.markdown()
        goes_on = heads.caption.endswith("Continued") or not (heads.caption or heads.rest)
        if goes_on and heads.text == before and done and done[-1][1].startswith("|"):
            table = table[2:]
        else:
            done += [(number, text) for text in (heads.rest, heads.caption) if text] or [(number, "")]
        done += [(index, line) for line in table]
        before, index = heads.text, end
    return done


def _is_row(line: str) -> bool:
    found = _LEADERS.search(line)
    return found is not None and len(_LEADERS.sub(" ", line)) <= _LONGEST_ROW and not line.startswith("|")


def _end(lines: Sequence[str], start: int) -> int:
    """The end of the run of rows that begins here; `start` if none does. What goes on in lower case belongs to its row."""
    end = start
    for index in range(start, len(lines)):
        line = lines[index]
        if _is_row(line) or (line[:1].islower() and start < index == end and len(line) < _LONGEST_ROW // 2):
            end = index + 1
            continue
        is_other = not line.strip() or len(line) > _LONGEST_ROW or _DESIGNATED.match(line) or _CAPTION.match(line)
        if end == start or index - end >= _GAP or is_other:
            break
    return end


def _heads(above: str) -> _Heads | None:
    """The heads at the end of the line above a table, or None."""
    if not above.strip() or above.startswith("|"):
        return None
    caption = _CAPTION.match(above)
    start = caption.end() if caption else max((m.end() for m in _SENTENCE_END.finditer(above)), default=0)
    text = above[start:].strip()
    rest = "" if caption else above[:start].rstrip()
    designated = None if rest else _DESIGNATED.match(text)
    if designated:
        rest, text = text, text[designated.end() :]
    elif marked := _CAPTION.match(text):
        caption, text = marked, text[marked.end() :].strip()
    value = _VALUE.search(text)
    text = _whole(text[: value.start()] if value else text)
    if len(text.split()) < 2 or len(text) > _LONGEST_HEADS or text.endswith((".", ":", ";")):
        return None
    return _Heads(rest, caption[0] if caption else "", text, value[1] if value else "", designated is not None)


def _whole(text: str) -> str:
    """The text with the words that line ends have broken made whole: "trans- mitter", "microvolts/ meter"."""
    return re.sub(r"(?<=[a-z])-\s(?=[a-z])", "", re.sub(r"(?<=[a-z]/)\s(?=[a-z])", "", text))


class _Rows:
    """The rows of one table and what each of its columns is called."""

    def __init__(self, lines: Sequence[str], heads: _Heads) -> None:
        self.lines = _joined(lines)
        led = [_SPLIT.split(line) for line in self.lines if _SPLIT.search(line)]
        self.pieces = max(len(pieces) for pieces in led)
        counts = {len(_values(pieces[-1])) for pieces in led}
        # what rows end with: a name and one of these without leaders between are a row, too
        self.ends = [end for end, _ in Counter(pieces[-1] for pieces in led).most_common(_ENDS) if end]
        self.values = counts.pop() if len(counts) == 1 else 1
        taken = len(_SPLIT.split(self.lines[0])) < self.pieces
        self.first = heads.value if taken else ""
        text = heads.text if taken or not heads.value else f"{heads.text} {heads.value}"
        self.names, self.chunk = self._named(text) if heads.named else self._columns(text, self.values if not counts else 0)

    def markdown(self) -> list[str]:
        rows = [self._cells(line, self.first if number == 0 else "") for number, line in enumerate(self.lines)]
        table = [Row([Cell(name) for name in self.names], header=True), *(Row([Cell(cell) for cell in row]) for row in rows)]
        return markdown(table).split("\n")

    def _named(self, heads: str) -> tuple[list[str], int]:
        """Heads that end in brackets each, the first below a name; else all of them above the first column."""
        parted = [head.strip() for head in re.findall(r"[^)]*\)", heads)] if heads.endswith(")") else []
        left = len(parted) - self.pieces + 1
        if left > 0 and self.values % left == 0:
            return parted, self.values // left
        return [heads, *[""] * (self.pieces - 1)], self.values

    def _columns(self, heads: str, values: int) -> tuple[list[str], int]:
        """The heads, and how many values behind the last leaders make one cell.

        Heads whose number does not fit the rows stay together above the first column.
        """
        valued = _valued(heads, values)
        if valued is not None:
            return valued, 1
        for capitals in (False, True):
            parted = _parted(heads, capitals=capitals)
            left = len(parted) - self.pieces + 1
            if left == 1 or (left > 1 and values and values % left == 0):
                return parted, max(1, values // left)
            if not capitals and left > 1 and (spanned := _spanned(parted, self.pieces - 1 + max(1, values))):
                return spanned, 1
        width = self.pieces - 1 + max(1, values)
        return [heads, *[""] * (width - 1)], 1

    def _cells(self, line: str, first: str) -> list[str]:
        width, known = len(self.names), self.pieces - 1
        pieces = _SPLIT.split(line)
        values = _values(pieces[-1])
        if len(pieces) == 1:
            return self._unled(line)
        if width > self.pieces and len(values) == self.chunk * (width - known):
            tail = [" ".join(values[at : at + self.chunk]) for at in range(0, len(values), self.chunk)]
        else:
            tail = [pieces[-1]]
        cells = [*pieces[:-1], *tail]
        if len(cells) < width and first:
            return [first, *cells]
        if len(cells) == width - 1:
            number = _VALUE.search(cells[0])  # "Above 470 12,500 ....": no room was left for leaders
            return [cells[0][: number.start()], number[1], *cells[1:]] if number else ["", *cells]
        return cells

    def _unled(self, line: str) -> list[str]:
        """The cells of a row that has no leaders: the values at its end, as many as the others have, or a name alone."""
        width = len(self.names)
        words = line.split()
        start = next((n for n, word in enumerate(words) if word[0].isdigit()), len(words))
        values = words[start:] and _values(" ".join(words[start:]))
        if start > 0 and self.pieces == 2 and values and len(values) == self.chunk * (width - 1):
            cells = [" ".join(values[at : at + self.chunk]) for at in range(0, len(values), self.chunk)]
            return [" ".join(words[:start]), *cells]
        known = next((end for end in sorted(self.ends, key=len, reverse=True) if line.endswith(f" {end}")), "")
        return [line.removesuffix(known).rstrip(), known] if known and width == 2 else [line]


def _joined(lines: Sequence[str]) -> list[str]:
    """The rows, with the lines that go on in lower case put behind the row they belong to."""
    rows: list[str] = []
    for line in lines:
        if rows and line[:1].islower() and not _LEADERS.search(line):
            rows[-1] = rows[-1].removesuffix("-") + line if rows[-1].endswith("-") else f"{rows[-1]} {line}"
        else:
            rows.append(line)
    return rows


def _values(text: str) -> list[str]:
    """The values that stand beside each other: each begins with a figure, and what binds two makes them one."""
    values: list[str] = []
    open_bracket = binds = False
    for word in text.split():
        begins = any(c.isdigit() for c in word) and not open_bracket and not binds and not (word[0] == "(" and word[-1] != ")")
        if begins or not values:
            values.append(word)
        else:
            values[-1] += f" {word}"
        open_bracket = (open_bracket or "(" in word) and ")" not in word
        binds = word in _BINDS
    return values


def _valued(heads: str, count: int) -> list[str] | None:
    """Heads of which the last `count` are values themselves: "... in kilometers 16 dBm (40 mW) 20 dBm (100 mW)"."""
    found = list(_VALUED.finditer(heads))[-count:] if count else []
    beside = len(found) == count and all(one.end() == other.start() for one, other in pairwise(found))
    if not found or not beside or found[-1].end() != len(heads) or found[0].start() == 0:
        return None
    return [heads[: found[0].start()].strip(), *(match[0].strip() for match in found)]


def _spanned(parted: Sequence[str], width: int) -> list[str] | None:
    """Heads of which the second stands above all that follow, as one with a unit does above some without."""
    first, above, *below = parted
    if len(parted) != width + 1 or not above.endswith(")") or any("(" in head for head in below):
        return None
    return [first, *(f"{above} / {head}" for head in below)]


def _parted(heads: str, *, capitals: bool) -> list[str]:
    """The heads, each beginning with a capital; words of capitals begin one only if asked for. Units never do, but alone."""
    words = heads.split()
    if all(_UNIT.match(word) for word in words):
        return words
    parted: list[list[str]] = []
    depth = 0
    for word in words:
        opens = word[0].isupper() and depth == 0 and not _UNIT.match(word) and (capitals or not word.isupper())
        if opens or not parted:
            parted.append([word])
        else:
            parted[-1].append(word)
        depth += word.count("(") - word.count(")")
    return [" ".join(part) for part in parted]
