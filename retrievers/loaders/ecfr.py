"""Reads eCFR XML, from the eCFR's versioner or govinfo's bulk data: a document for each section and appendix."""

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lxml import etree  # type: ignore[import-untyped]

from errors import DocumentError
from retrievers import citations
from retrievers.citations import DEFAULT_TITLE, Citation
from retrievers.documents import SourceDocument
from retrievers.loaders.pieces import SECTION, LoadFailure, Origin, Piece, assemble
from retrievers.loaders.tables import Cell, Row, markdown

_Element = Any  # lxml has no types of its own
_CONTAINERS = ("DIV1", "DIV2", "DIV3", "DIV4", "DIV5", "DIV6", "DIV7")
_PARTS = _CONTAINERS[4:]  # a part, a subpart, a group of sections
_TEXTS = ("DIV8", "DIV9")
_APART = {"HEAD", *_CONTAINERS, *_TEXTS}
_NOTES = {"NOTE", "EDNOTE", "AUTH", "SOURCE", "CROSSREF", "EFFDNOT"}
_SUBHEADS = {"HD1": 8, "HD2": 9, "HD3": 10, "HED1": 8}
_ISO_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d-\d\d-\d\d)(?!\d)")
_NAMED_DATE = re.compile(r"([A-Z][a-z]+)\.? (\d{1,2}), (\d{4})")
_TITLE = re.compile(r"(?:title-|(?<!\d))(\d{1,2})(?: CFR\b|(?=/part|/section|/chapter))")


class _Reader:
    """What the elements around the current one have said so far."""

    def __init__(self, path: Path, source: str, uri: str) -> None:
        self.source, self.uri = source, uri
        named = _ISO_DATE.search(path.name)
        self.date = named[1] if named else ""
        self.title = DEFAULT_TITLE
        self.part = ""
        self.seen: set[str] = set()

    def enter(self, element: _Element) -> None:
        name, number, metadata = element.get("TYPE", ""), element.get("N", ""), element.get("hierarchy_metadata", "")
        node = element.get("NODE", "").partition(":")[0]
        if name == "TITLE" and number.isdecimal() and not node:
            self.title = int(number)
        elif node.isdecimal():
            self.title = int(node)
        elif found := _TITLE.search(metadata):
            self.title = int(found[1])
        if not self.date and (dated := _ISO_DATE.search(metadata)):
            self.date = dated[1]
        if name == "PART":
            self.part = number

    def amended(self, text: str) -> None:
        """Take the date of the bulk data's header, "Nov. 14, 2024" or "2024-11-14"."""
        if self.date:
            return
        if iso := _ISO_DATE.search(text):
            self.date = iso[1]
        elif named := _NAMED_DATE.search(text):
            try:
                day = dt.datetime.strptime(f"{named[1][:3]} {named[2]} {named[3]}", "%b %d %Y")  # noqa: DTZ007 -- a date
            except ValueError:
                return
            self.date = day.date().isoformat()

    def origin(self, citation: Citation, headings: Sequence[str], title: str, place: str = "") -> Origin:
        edition = f"eCFR {self.date}" if self.date else ""
        name = f"{citation}{place}" + (f"@{edition}" if edition else "")
        count = 2
        unique = name
        while unique in self.seen:  # two temporary versions of a section stand beside each other
            unique, count = f"{name}#{count}", count + 1
        self.seen.add(unique)
        return Origin(f"{self.uri}#{unique}", self.source, title, edition, citation, tuple(headings), title_number=citation.title)


def load(path: Path, source: str, uri: str) -> Iterator[SourceDocument | LoadFailure]:
    """A document for each section and appendix, and one for what else a part says above its sections.

    Raises DocumentError where the XML breaks off, after what stood before.
    """
    reader = _Reader(path, source, uri)
    count = 0
    try:
        for event, element in etree.iterparse(
            str(path), events=("start", "end"), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False
        ):
            if event == "start":
                if element.tag in _CONTAINERS or element.tag in _TEXTS:
                    reader.enter(element)
            elif element.tag in {"AMDDATE", "DATE"}:
                reader.amended(_text(element))
            elif element.tag in _TEXTS:
                yield _section(element, reader)
                count += 1
                _empty(element)
            elif element.tag in _CONTAINERS:
                if element.tag in _PARTS and (rest := _rest(element, reader)) is not None:
                    yield rest
                _empty(element)
    except etree.XMLSyntaxError as exc:
        where = f"line {exc.lineno}: " if exc.lineno else ""
        raise DocumentError(f"{where}it is not well-formed XML") from exc
    if not count:
        raise DocumentError("it is not eCFR XML; no section stands in it")


def _section(element: _Element, reader: _Reader) -> SourceDocument:
    head = _text(element.find("HEAD"))
    number = element.get("N", "").removeprefix("§").strip()
    citation = citations.of_section(number or head, part=reader.part, title=reader.title)
    if citation.has_paragraphs and reader.part == "":
        citation = replace(citation, part=citation.section.rpartition(".")[0])
    title = re.sub(r"^§+\s*\S+\s+", "", head)
    origin = reader.origin(citation, _headings(element), title, "" if citation.section else f" {number}")
    return assemble([Piece(head or number, "heading", SECTION), *_pieces(element)], origin, structured=True)


def _rest(element: _Element, reader: _Reader) -> SourceDocument | None:
    """What stands in a part, subpart or group of sections beside its sections: authority, notes, introductions."""
    pieces = list(_pieces(element))
    if not pieces or not reader.part:
        return None
    citation = Citation(reader.title, reader.part)
    head = _text(element.find("HEAD"))
    place = "" if element.get("TYPE") == "PART" else f" {element.get('TYPE', element.tag).lower()} {element.get('N', '')}"
    origin = reader.origin(citation, _headings(element), head, place)
    return assemble([Piece(head, "heading", SECTION), *pieces], origin, structured=True)


def _headings(element: _Element) -> list[str]:
    """The heads of the part and what lies between it and the element."""
    heads: list[str] = []
    for above in element.iterancestors(*_PARTS):
        heads.insert(0, _text(above.find("HEAD")))
    return [head for head in heads if head]


def _pieces(element: _Element) -> Iterator[Piece]:
    if element.text and element.text.strip():
        yield Piece(" ".join(element.text.split()))
    for child in element:
        if isinstance(child.tag, str) and child.tag not in _APART:
            yield from _child(child)
        if child.tail and child.tail.strip():
            yield Piece(" ".join(child.tail.split()))


def _child(child: _Element) -> Iterator[Piece]:
    if child.tag == "TABLE":
        yield from _table(child)
    elif child.tag in _SUBHEADS:
        yield Piece(_text(child), "heading", _SUBHEADS[child.tag])
    elif child.tag in _NOTES:
        yield from _note(child)
    elif child.tag == "EXTRACT":
        yield from (replace(piece, tracked=False) for piece in _pieces(child))
    elif child.find(".//TABLE") is not None or child.find(".//P") is not None:
        yield from _pieces(child)
    elif text := _text(child):
        yield Piece(text)


def _note(element: _Element) -> Iterator[Piece]:
    """A note's label stands before its first paragraph: "Note to paragraph (a)(1): ..."."""
    label = _text(element.find("HED"))
    for child in element.iterchildren(tag=etree.Element):
        if child.tag == "HED":
            continue
        for piece in _pieces(child) if child.find(".//TABLE") is not None else [Piece(_text(child))]:
            if piece.text:
                yield replace(piece, text=f"{label} {piece.text}".strip()) if label else replace(piece, tracked=False)
                label = ""
    if label:
        yield Piece(label, tracked=False)


def _table(element: _Element) -> Iterator[Piece]:
    """The caption, the table, and the notes below it."""
    caption = _text(element.find("CAPTION"))
    if caption:
        yield Piece(caption, tracked=False)
    notes: list[str] = []
    rows: list[Row] = []
    for row in element.iter("TR"):
        cells = [Cell(_text(cell), _span(cell, "colspan"), _span(cell, "rowspan")) for cell in row.iterchildren("TH", "TD")]
        if next(row.iterancestors("TFOOT"), None) is not None:
            notes.extend(cell.text for cell in cells if cell.text)
        else:
            rows.append(Row(cells, header=all(cell.tag == "TH" for cell in row.iterchildren("TH", "TD"))))
    if text := markdown(rows):
        yield Piece(text, "table", caption=caption)
    yield from (Piece(note, tracked=False) for note in notes)


def _span(cell: _Element, name: str) -> int:
    value = cell.get(name, "1")
    return int(value) if value.isdecimal() and len(value) < 5 else 1


def _text(element: _Element | None) -> str:
    """The text with its white space made single, "^2" for a raised and "_2" for a lowered 2."""
    if element is None:
        return ""
    return " ".join("".join(_runs(element)).split())


def _runs(element: _Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if isinstance(child.tag, str):
            inner = "".join(_runs(child))
            raised = child.tag in {"SU", "sup", "SUP"}
            lowered = child.tag in {"sub", "SUB", "FR_SUB"} or (child.tag == "E" and child.get("T") == "52")
            yield f"^{inner.strip()}" if raised and inner.strip() else f"_{inner.strip()}" if lowered else inner
            if child.tag in {"br", "BR", "P", "FP", "HED"}:
                yield " "
        yield child.tail or ""


def _empty(element: _Element) -> None:
    """Free what has been read but keep the element, which its parent still counts among its children."""
    tail = element.tail
    element.clear()
    element.tail = tail
