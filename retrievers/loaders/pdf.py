"""Reads PDF files that have a text layer, with PDFium. Leaves out what repeats at the edges of the pages."""

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from errors import DocumentError
from retrievers.documents import SourceDocument
from retrievers.loaders.lines import Line, paragraphs, with_minus
from retrievers.loaders.pages import content
from retrievers.loaders.pieces import LoadFailure, Origin, assemble
from retrievers.loaders.plain import title_number
from retrievers.loaders.publications import arranged
from retrievers.loaders.ruled import SOFT, Table

_Page = list[str | Table]

_EDGE = 3  # lines at the top and at the foot of a page among which running heads are looked for
_OPENING = 10  # lines of the first page in which a publication says its number
_BROKEN = re.compile(rf"([\w-]*\w){SOFT}\s*(\w+)")
_PRINTED = re.compile(r"\((\d{1,2})[-\u2013](\d{1,2})[-\u2013](\d{2,4}) Edition\)")
_PARTED = re.compile(r"(?<=\w\u2013) (?=\w)|(?<=[a-z]/) (?=[a-z])")  # by a line's end: "microvolts/ meter", and ranges
_CONTINUED = re.compile(r"(?i)\bcontinued[.)\]]*$")
_SHORT = 0.7  # a line below this share of the usual width ends its paragraph if it ends a sentence

_pdfium = threading.Lock()  # PDFium may run in one thread at a time


def load(path: Path, source: str, uri: str) -> Iterator[SourceDocument | LoadFailure]:
    """One document whose blocks know their pages.

    Raises DocumentError if the file is damaged, cut off or encrypted, or has no text layer.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1024))
        # ISO 32000-1, 7.5.5: without its end mark the file is cut off, and PDFium would lose pages in silence
        if b"%%EOF" not in file.read():
            raise DocumentError("it is cut off: its end mark is missing")
    pages, metadata = _read(path)
    if not any(pages):
        raise DocumentError("no text is in it; run OCR first")
    running = _running(pages)
    heads = "\n".join(line for page in pages for line in _edges(page) if _shape(line) in running)
    opening = [line for line in pages[0] if isinstance(line, str)]
    first = "\n".join([heads[:2000], *opening])
    printed = _PRINTED.search(heads)
    title = metadata.get("Title", "").strip()
    origin = Origin(
        uri,
        source,
        title=title if " " in title else "",  # what has no space is the name of a file
        edition=f"CFR {printed[1]}-{printed[2]}-20{printed[3][-2:]}" if printed else "",
        title_number=title_number(first),
    )
    lines = _lines(pages, running)
    pieces = paragraphs([with_minus(line) for line in lines] if printed else lines, glue=" ")
    pieces = [replace(piece, text=_PARTED.sub("", piece.text)) for piece in pieces]
    yield assemble(*arranged(pieces, origin, path.name, opening[:_OPENING]))


def _read(path: Path) -> tuple[list[_Page], dict[str, str]]:
    """The lines and tables of every page, and the metadata."""
    import pypdfium2  # type: ignore[import-untyped]

    with _pdfium:
        try:
            document = pypdfium2.PdfDocument(path)
        except pypdfium2.PdfiumError as exc:
            if "password" in str(exc).lower():
                raise DocumentError("it is encrypted; save it without a password") from exc
            raise DocumentError("it is damaged or no PDF file") from exc
        try:
            pages = [_page(document, index) for index in range(len(document))]
            metadata = document.get_metadata_dict()
        finally:
            document.close()
    if not pages:
        raise DocumentError("it has no pages")
    return pages, metadata


def _page(document: Any, index: int) -> _Page:
    import pypdfium2

    try:
        page = document[index]
        read = content(page)
        page.close()
    except pypdfium2.PdfiumError as exc:
        raise DocumentError(f"its page {index + 1} is damaged") from exc
    return read


def _edges(page: _Page) -> list[str]:
    return [line for place, line in enumerate(page) if isinstance(line, str) and line and _at_edge(place, len(page))]


def _shape(line: str) -> str:
    """A running head without what changes from page to page."""
    return re.sub(r"\d+", "#", line)


def _running(pages: Sequence[_Page]) -> set[str]:
    """The shapes of lines at the edges of nearly a third of the pages or more: left and right heads alternate.

    Words that stand in the middle of pages, too, are text that repeats itself; figures there are no page numbers.
    """
    counts = Counter(shape for page in pages for shape in {_shape(line) for line in _edges(page)})
    inside = Counter(_shape(line) for page in pages for line in page[_EDGE:-_EDGE] if isinstance(line, str))
    often = max(3, 0.3 * len(pages))
    return {shape for shape, count in counts.items() if count >= often and (shape == "#" or inside[shape] < 0.1 * count)}


def _lines(pages: Sequence[_Page], running: set[str]) -> list[Line]:
    """The lines of the text proper, hyphens mended, with a blank line after what looks like a paragraph's end."""
    kept: list[Line] = []
    for shown, page in _joined(_kept(pages, running)):
        lines = shown.markdown().split("\n") if isinstance(shown, Table) else [shown]
        kept.extend(Line(line, page) for line in lines)
    words = Counter(re.findall(r"\w+(?:-\w+)*", " ".join(line.text for line in kept)))
    widths = sorted(len(line.text) for line in kept if line.text and not line.text.startswith("|"))
    usual = widths[len(widths) * 3 // 4] if widths else 0
    mended: list[Line] = []
    for line in _unbroken(kept):
        text = _BROKEN.sub(lambda match: _mended(match, words), line.text).replace(SOFT, "-")
        mended.append(Line(text, line.page))
        if len(text) < _SHORT * usual and text.endswith((".", "]", ":")):
            mended.append(Line("", line.page))
    return mended


def _kept(pages: Sequence[_Page], running: set[str]) -> Iterator[tuple[str | Table, int]]:
    """What stands on the pages, with their numbers, without the running heads."""
    for number, page in enumerate(pages, start=1):
        for place, held in enumerate(page):
            if not (isinstance(held, str) and _at_edge(place, len(page)) and _shape(held) in running):
                yield held, number


def _joined(held: Iterable[tuple[str | Table, int]]) -> list[tuple[str | Table, int]]:
    """The same, but the rest of a table that a page or column has cut is put back where it was cut off.

    Nothing stands between the two but blank lines and a caption that says "Continued".
    """
    joined: list[tuple[str | Table, int]] = []
    between: list[tuple[str | Table, int]] | None = None  # since the last table
    for shown, page in held:
        if isinstance(shown, Table):
            before = joined[-1][0] if joined and between is not None else None
            if isinstance(before, Table) and shown.goes_on(before):
                before.append(shown)
            else:
                joined += [*(between or []), (shown, page)]
            between = []
        elif between is not None and (not shown or _CONTINUED.search(shown)):
            between.append((shown, page))
        else:
            joined += [*(between or []), (shown, page)]
            between = None
    return [*joined, *(between or [])]


def _at_edge(position: int, count: int) -> bool:
    return position < _EDGE or position >= count - _EDGE


def _unbroken(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines, the first word of a line moved up where the line before ends in a broken word."""
    carried: Line | None = None
    for line in lines:
        text = line.text
        if not text or text.startswith("|"):
            if carried is not None:
                yield carried
                carried = None
            yield line
            continue
        if carried is not None:
            word, _, text = text.partition(" ")
            yield Line(carried.text + word, carried.page)
            carried = None
        if text.endswith((SOFT, "\u00ad")):
            carried = Line(text[:-1] + SOFT, line.page)
        elif text:
            yield Line(text, line.page)
    if carried is not None:
        yield carried


def _mended(match: re.Match[str], words: Counter[str]) -> str:
    """The word without its hyphen, unless the text elsewhere writes it with one or a name or number is broken."""
    left, right = match[1], match[2]
    whole, hyphened = left + right, f"{left}-{right}"
    if "-" in left or words[hyphened] > words[whole] or right[0].isupper() or right[0].isdigit() or left[-1].isdigit():
        return hyphened
    return whole
