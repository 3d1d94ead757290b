"""Reads one page of a PDF file with PDFium: its lines of text, with its tables in their places. Knows no rules."""

import ctypes
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from retrievers.loaders.drawn import Frame, Rule, frames
from retrievers.loaders.ruled import SOFT, Table, Word, read, text_of

_HYPHENS = {"\x02", "\u00ad"}  # what PDFium's characters and the files' own have for it
_DRAWING = 50_000  # pieces of lines
_ABOVE = 45.0  # points above a table in which its caption stands
_SMALL = 0.9  # notes are set smaller than this share of the page's usual height
_CAPTION = re.compile(r"(?:TABLE|Table)\s+[\dA-Z]")
_LONGEST_CAPTION = 5  # lines
_NOTE = re.compile(r"(?:\^?\d{1,2}(?=\s?[A-Z\[])|\*+\s?[A-Z]|(?:NOTE|Note|SOURCE|Source)\b|\([a-z0-9]{1,2}\)\s?[A-Z])")


class _Char(NamedTuple):
    text: str
    left: float
    right: float
    bottom: float
    top: float


@dataclass(slots=True)
class _Printed:
    """A line of text with its place, or a table with its frame."""

    content: str | Table
    left: float
    right: float
    bottom: float
    top: float
    height: float = 0.0
    chars: Sequence[_Char] = ()


def content(page: Any) -> list[str | Table]:
    """The lines of text and the tables of a pypdfium2 page, in the order of the file.

    A table's caption is one line before it, its notes are the lines after it, an empty line before each.
    """
    layer = page.get_textpage()
    try:
        found = frames(_rules(page))
        if not found:
            return list(_stripped(layer.get_text_range().replace("\r\n", "\n").replace("\r", "\n").split("\n")))
        printed = _printed(list(_chars(layer)), found)
    finally:
        layer.close()
    return list(_ordered(printed))


def _stripped(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if text := " ".join(line.replace("\x00", "").split()):
            yield text


def _rules(page: Any) -> Iterator[Rule]:
    """The straight lines of the page's own drawing, also those of boxes; none of one too rich to be of tables."""
    import pypdfium2.raw as pdfium  # type: ignore[import-untyped]

    paths = list(page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_PATH], max_depth=1))
    if sum(pdfium.FPDFPath_CountSegments(drawn) for drawn in paths) > _DRAWING:
        return
    for drawn in paths:
        matrix = drawn.get_matrix()
        start = last = None
        x, y = ctypes.c_float(), ctypes.c_float()
        for number in range(pdfium.FPDFPath_CountSegments(drawn)):
            segment = pdfium.FPDFPath_GetPathSegment(drawn, number)
            kind = pdfium.FPDFPathSegment_GetType(segment)
            pdfium.FPDFPathSegment_GetPoint(segment, x, y)
            here = matrix.on_point(x.value, y.value)
            if kind == pdfium.FPDF_SEGMENT_MOVETO:
                start = here
            elif kind == pdfium.FPDF_SEGMENT_LINETO and last is not None:
                yield from _straight(last, here)
            last = here
            if start is not None and pdfium.FPDFPathSegment_GetClose(segment):
                yield from _straight(last, start)
                last = start


def _straight(one: tuple[float, float], other: tuple[float, float]) -> Iterator[Rule]:
    (x, y), (to_x, to_y) = one, other
    wide, tall = abs(to_x - x), abs(to_y - y)
    if tall < 0.5 and wide > 3:  # shorter ones are the ends of thin boxes, and bits of drawings
        yield Rule(across=True, at=y, low=min(x, to_x), high=max(x, to_x))
    elif wide < 0.5 and tall > 3:
        yield Rule(across=False, at=x, low=min(y, to_y), high=max(y, to_y))


def _chars(layer: Any) -> Iterator[_Char]:
    import pypdfium2.raw as pdfium

    box = pdfium.FS_RECTF()
    for index in range(layer.count_chars()):
        code = pdfium.FPDFText_GetUnicode(layer, index)
        pdfium.FPDFText_GetLooseCharBox(layer, index, box)
        text = chr(code) if code else " "
        yield _Char(SOFT if text in _HYPHENS else text, box.left, box.right, box.bottom, box.top)


def _printed(chars: Sequence[_Char], found: Sequence[Frame]) -> list[_Printed]:
    """The page's lines, and a table for each frame whose words keep to its columns, where its first character stands."""
    held: dict[int, list[_Char]] = {}
    number = -1
    for char in chars:
        if not char.text.isspace():
            number = _holder(char, found)
        if number >= 0:
            held.setdefault(number, []).append(char)
    tables = {number: table for number, inside in held.items() if (table := read(found[number], _words(inside)))}
    printed: list[_Printed] = []
    placed: set[int] = set()
    line: list[_Char] = []
    for char in [*chars, _Char("\n", 0, 0, 0, 0)]:
        number = _holder(char, found)
        if char.text == "\n" or number in tables:
            if any(not one.text.isspace() for one in line):
                printed.append(_line(line))
            line = []
        else:
            line.append(char)
        if number in tables and number not in placed:
            frame = found[number]
            printed.append(_Printed(tables[number], frame.left, frame.right, frame.bottom, frame.top))
            placed.add(number)
    return printed


def _holder(char: _Char, found: Sequence[Frame]) -> int:
    """Which frame a visible character stands in, or -1."""
    if char.text.isspace() or char.right <= char.left:
        return -1
    x, y = (char.left + char.right) / 2, (char.bottom + char.top) / 2
    return next((number for number, frame in enumerate(found) if frame.holds(x, y)), -1)


def _words(chars: Sequence[_Char]) -> list[Word]:
    """The characters by words: parted by spaces, gaps, and a change of line or size."""
    words: list[list[_Char]] = [[]]
    for char in chars:
        if char.text.isspace():
            words.append([])
            continue
        if words[-1] and char.right > char.left:
            last = words[-1][-1]
            height = last.top - last.bottom
            beside = -0.5 * height < char.left - last.right < 0.3 * height
            if not beside or not 0.9 * height < char.top - char.bottom < 1.1 * height:
                words.append([])
        words[-1].append(char)
    return [
        Word("".join(c.text for c in word), min(c.left for c in word), word[-1].right, word[0].bottom, word[0].top)
        for word in words
        if word
    ]


def _line(chars: Sequence[_Char]) -> _Printed:
    seen = [char for char in chars if not char.text.isspace()]
    left, right = min(char.left for char in seen), max(char.right for char in seen)
    bottom, top = min(char.bottom for char in seen), max(char.top for char in seen)
    text = " ".join("".join(char.text for char in chars).split())
    return _Printed(text, left, right, bottom, top, max(char.top - char.bottom for char in seen), chars)


def _ordered(printed: Sequence[_Printed]) -> Iterator[str | Table]:
    """The contents, each caption on one line and each note on its own."""
    sizes = Counter[float]()
    for entry in printed:
        sizes[round(entry.height, 1)] += len(entry.chars)
    usual = sizes.most_common(1)[0][0] if sizes else 0.0
    captions = {id(entry): _caption(printed, number) for number, entry in enumerate(printed) if isinstance(entry.content, Table)}
    parts = {id(line) for caption in captions.values() for line in caption}
    above: _Printed | None = None  # the table whose notes may stand here
    for entry in printed:
        if isinstance(entry.content, Table):
            yield ""
            if caption := captions[id(entry)]:
                yield " ".join(str(line.content) for line in caption)
            yield entry.content
            above = entry
            yield ""
        elif id(entry) not in parts:
            if above is not None and _is_note(entry, above, usual):
                text = text_of(_words(entry.chars))
                if _NOTE.match(text):
                    yield ""
                yield text
                continue
            if above is not None:
                yield ""
                above = None
            yield str(entry.content)


def _caption(printed: Sequence[_Printed], number: int) -> list[_Printed]:
    """The lines right above a table from one that begins with "TABLE" on."""
    table = printed[number]
    lines: list[_Printed] = []
    for line in reversed(printed[max(0, number - _LONGEST_CAPTION) : number]):
        beside = table.left - 3 <= line.left and line.right <= table.right + 3
        if isinstance(line.content, Table) or not beside or not table.top - 3 <= line.bottom <= table.top + _ABOVE:
            break
        lines.insert(0, line)
        if _CAPTION.match(str(line.content)):
            return lines
    return []


def _is_note(line: _Printed, table: _Printed, usual: float) -> bool:
    beside = table.left - 3 <= line.left and line.right <= table.right + 3
    return beside and line.top <= table.bottom + 3 and line.height < _SMALL * usual and not str(line.content).startswith("[")
