"""Reads PDF files that have a text layer, with PDFium. Leaves out what repeats at the edges of the pages."""

import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from errors import DocumentError
from retrievers.citations import Citation
from retrievers.documents import SourceDocument
from retrievers.loaders.lines import Line, paragraphs
from retrievers.loaders.pieces import LoadFailure, Origin, assemble
from retrievers.loaders.plain import title_number

_EDGE = 3  # lines at the top and at the foot of a page among which running heads are looked for
_SOFT = "\ufffe"  # what PDFium gives for a hyphen at a line's end
_BROKEN = re.compile(rf"(\w+){_SOFT}\s*(\w+)")
_PRINTED = re.compile(r"\((\d{1,2})[-\u2013](\d{1,2})[-\u2013](\d{2,4}) Edition\)")
_KDB = re.compile(r"(?<!\d)(\d{6})[ _-]D\d\d\b|\bKDB[ _-]?(\d{6})\b", re.IGNORECASE)
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
    if not any(line for page in pages for line in page):
        raise DocumentError("no text is in it; run OCR first")
    running = _running(pages)
    heads = "\n".join(line for page in pages for line in _edges(page) if _shape(line) in running)
    named = _KDB.search(path.name) or _KDB.search("\n".join(pages[0][:10]))
    first = "\n".join([heads[:2000], *pages[0]])
    printed = _PRINTED.search(heads)
    title = metadata.get("Title", "").strip()
    origin = Origin(
        uri,
        source,
        title=title if " " in title else "",  # what has no space is the name of a file
        edition=f"CFR {printed[1]}-{printed[2]}-20{printed[3][-2:]}" if printed else "",
        citation=Citation(kdb=named[1] or named[2]) if named else None,
        title_number=title_number(first),
    )
    yield assemble(paragraphs(_lines(pages, running), glue=" "), origin)


def _read(path: Path) -> tuple[list[list[str]], dict[str, str]]:
    """The lines of every page, and the metadata."""
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


def _page(document: Any, index: int) -> list[str]:
    import pypdfium2

    try:
        page = document[index]
        layer = page.get_textpage()
        text = layer.get_text_range()
        layer.close()
        page.close()
    except pypdfium2.PdfiumError as exc:
        raise DocumentError(f"its page {index + 1} is damaged") from exc
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").split("\n")
    return [stripped for line in lines if (stripped := " ".join(line.split()))]


def _edges(page: Sequence[str]) -> Sequence[str]:
    return page if len(page) <= 2 * _EDGE else [*page[:_EDGE], *page[-_EDGE:]]


def _shape(line: str) -> str:
    """A running head without what changes from page to page."""
    return re.sub(r"\d+", "#", line)


def _running(pages: Sequence[Sequence[str]]) -> set[str]:
    """The shapes of lines at the edges of nearly a third of the pages or more: left and right heads alternate."""
    counts = Counter(shape for page in pages for shape in {_shape(line) for line in _edges(page)})
    return {shape for shape, count in counts.items() if count >= max(3, 0.3 * len(pages))}


def _lines(pages: Sequence[Sequence[str]], running: set[str]) -> list[Line]:
    """The lines of the text proper, hyphens mended, with a blank line after what looks like a paragraph's end."""
    kept = [
        Line(line, number)
        for number, page in enumerate(pages, start=1)
        for position, line in enumerate(page)
        if not (_at_edge(position, len(page)) and _shape(line) in running)
    ]
    words = Counter(re.findall(r"\w+(?:-\w+)*", " ".join(line.text for line in kept)))
    widths = sorted(len(line.text) for line in kept)
    usual = widths[len(widths) * 3 // 4] if widths else 0
    lines = []
    for line in _unbroken(kept):
        text = _BROKEN.sub(lambda match: _mended(match, words), line.text).replace(_SOFT, "-")
        lines.append(Line(text, line.page))
        if len(text) < _SHORT * usual and text.endswith((".", "]", ":")):
            lines.append(Line("", line.page))
    return lines


def _at_edge(position: int, count: int) -> bool:
    return position < _EDGE or position >= count - _EDGE


def _unbroken(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines, the first word of a line moved up where the line before ends in a broken word."""
    carried: Line | None = None
    for line in lines:
        text = line.text
        if carried is not None:
            word, _, text = text.partition(" ")
            yield Line(carried.text + word, carried.page)
            carried = None
        if text.endswith((_SOFT, "\u00ad")):
            carried = Line(text[:-1] + _SOFT, line.page)
        elif text:
            yield Line(text, line.page)
    if carried is not None:
        yield carried


def _mended(match: re.Match[str], words: Counter[str]) -> str:
    """The word without its hyphen, unless the text elsewhere writes it with one or a name or number is broken."""
    left, right = match[1], match[2]
    whole, hyphened = left + right, f"{left}-{right}"
    if words[hyphened] > words[whole] or right[0].isupper() or right[0].isdigit() or left[-1].isdigit():
        return hyphened
    return whole
