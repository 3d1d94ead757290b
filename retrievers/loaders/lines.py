"""Turns the lines of plain text into pieces: finds where headings, paragraphs and tables begin and end."""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from retrievers.loaders import publications
from retrievers.loaders.designators import goes_on, leading
from retrievers.loaders.leaders import tabulated
from retrievers.loaders.pieces import PART_LINE, Piece, ends_sentence, is_credit, is_heading

_NUMBERED = re.compile(r"(?:\d{1,4}(?:\.\d{1,5}){0,3}[.)]?|[IVX]{1,5}\.|[A-Za-z]\)|[•▪●‣])\s+\S")
_LEADERS = re.compile(r".*?\.{5}")  # a table's row in print
_YEN = re.compile(r"(?<![\w.])\u00a5\s?(?=\d)|(?<=[A-Za-z])\u00a5(?=[A-Za-z])")
_STARS = re.compile(r"[\s*]+$")  # what is left out


class Line(NamedTuple):
    text: str
    page: int | None = None


def paragraphs(lines: Iterable[Line], *, glue: str | None = "\n") -> list[Piece]:
    """The pieces that lines of plain text make.

    A blank line ends a piece. Lines that begin with "|" make a table, and so do rows with leaders below their heads. A
    line that begins with a designator or a number, or looks like the heading of a part, section or appendix, begins a
    piece. Any other goes on the piece before, joined to it by `glue`; if `glue` is None it begins one, too.
    """
    groups: list[list[Line]] = []
    after_blank = True
    given = list(lines)
    tabled = [Line(text, given[index].page) for index, text in tabulated([line.text for line in given])]
    for line in tabled if glue is None else _whole_headings(tabled):
        if not line.text.strip():
            after_blank = True
        elif after_blank or not _belongs(line.text, groups[-1], each=glue is None):
            groups.append([line])
            after_blank = False
        else:
            groups[-1].append(line)
    return [_piece(group, "\n" if glue is None else glue) for group in groups]


def with_minus(line: Line) -> Line:
    """A line of the printed CFR, whose fonts name their minus sign "\u00a5", with the sign that is printed."""
    return line._replace(text=_YEN.sub("\u2212", line.text))


def _piece(group: Sequence[Line], glue: str) -> Piece:
    table = _is_row(group[0].text)
    text = ("\n" if table else glue).join(line.text for line in group)
    return Piece(text, "table" if table else "paragraph", page=group[0].page)


def _belongs(line: str, before: Sequence[Line], *, each: bool) -> bool:
    """Whether a line goes on the piece that the lines `before` make."""
    last = before[-1].text
    if _is_row(line) or _is_row(last):
        return _is_row(line) and _is_row(last)
    if goes_on(last, line):
        return True
    if not each and is_credit(before[0].text) and not last.rstrip().endswith("]"):
        return not (leading(line) or is_heading(line))
    if each or _begins(line, before) or is_heading(line, before=last):
        return False
    if is_credit(before[0].text):
        return False
    return len(before) > 1 or not (is_heading(last) or (publications.is_title(last) and line[:1].isupper()))


def _begins(line: str, before: Sequence[Line]) -> bool:
    """Whether a line shows by how it begins, or the one before by what it is, that something else begins here."""
    last = before[-1].text
    if any(pattern.match(text) for pattern in (_STARS, _LEADERS) for text in (line, last)):
        return True
    if leading(line) or is_credit(line) or publications.begins(line) or publications.is_name(last):
        return True
    return bool(_NUMBERED.match(line)) and ends_sentence(last)


def _whole_headings(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines, with the headings that are wrapped over several put on one."""
    widths = sorted(len(line.text) for line in lines if line.text and not _is_row(line.text))
    width = widths[len(widths) * 3 // 4] if widths else 0
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        if PART_LINE.match(line.text) and is_heading(line.text):
            rest = list(itertools.takewhile(lambda other: _is_name(other.text), lines[index : index + 3]))
            line = Line(" ".join(part.text.strip() for part in (line, *rest)), line.page)
            index += len(rest)
        elif is_heading(line.text) and len(line.text) > 0.6 * width and not line.text.rstrip().endswith((".", "]")):
            rest = list(itertools.takewhile(lambda other: not _opens(other.text), lines[index : index + 5]))
            ends = next((n for n, other in enumerate(rest, 1) if other.text.rstrip().endswith((".", "]"))), 0)
            line = Line(" ".join(part.text.strip() for part in (line, *rest[:ends])), line.page)
            index += ends
        yield line


def _opens(line: str) -> bool:
    return not line.strip() or bool(leading(line)) or is_heading(line)


def _is_name(line: str) -> bool:
    """Whether a line reads like the rest of a part's or subpart's name: its words are capitalised, no sentence ends."""
    words = [word for word in line.split() if len(word) > 3]
    return bool(words) and all(w[0].isupper() or w[0] == "(" for w in words) and line[-1] not in ".:;" and not _opens(line)


def _is_row(line: str) -> bool:
    return line.lstrip().startswith("|")
