"""Reads DOCX files in the order of their text: headings by style or outline level, paragraphs, tables."""

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from errors import DocumentError
from retrievers.documents import SourceDocument
from retrievers.loaders.pieces import LoadFailure, Origin, Piece, assemble
from retrievers.loaders.plain import title_number
from retrievers.loaders.publications import arranged
from retrievers.loaders.tables import Cell, Row, markdown

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"  # repeats what stands beside it
_HEADING_STYLE = re.compile(r"(?i)heading ([1-9])$")
_LARGEST = 400_000_000  # bytes unpacked
_OLD = b"\xd0\xcf\x11\xe0"

_Element = Any  # python-docx has no types for its XML
_Notes = dict[tuple[str, str], tuple[int, str]]


def load(path: Path, source: str, uri: str) -> Iterator[SourceDocument | LoadFailure]:
    """One document. Of tracked changes only the insertions are kept; automatic numbers are no text."""
    import docx

    with path.open("rb") as file:
        if file.read(4) == _OLD:
            raise DocumentError("it is encrypted or in the old .doc format; save it as .docx without a password")
    try:
        _check_size(path)
        document = docx.Document(str(path))
        levels = _levels(document)
        pieces = list(_pieces(document.element.body, levels, _notes(document)))
        title = (document.core_properties.title or "").strip()
    except DocumentError:
        raise
    except Exception as exc:  # zipfile, zlib, lxml and python-docx have no common error for damaged files
        raise DocumentError("it is damaged or no DOCX file") from exc
    if not any(piece.text.strip() for piece in pieces):
        raise DocumentError("no text is in it")
    number = title_number(" ".join(piece.text for piece in pieces[:3]))
    origin = Origin(uri, source, title=title, title_number=number)
    yield assemble(*arranged(pieces, origin, path.name), separator="\n\n")


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _LARGEST:
            raise DocumentError("it unpacks to more than 400 MB")


def _levels(document: Any) -> dict[str, int]:
    """The heading level of each style that has one, by its name or its outline level, also through its base style."""
    levels = {}
    for style in document.styles:
        ancestor, steps = style, 0
        while ancestor is not None and steps < 20:
            if level := _level(ancestor):
                levels[style.style_id] = level
                break
            ancestor, steps = getattr(ancestor, "base_style", None), steps + 1
    return levels


def _level(style: Any) -> int:
    if named := _HEADING_STYLE.match(style.name or ""):
        return int(named[1])
    if style.name == "Title":
        return 1
    outline = style.element.find(f"{_W}pPr/{_W}outlineLvl")
    value = outline.get(f"{_W}val", "9") if outline is not None else "9"
    return int(value) + 1 if value.isdecimal() and int(value) < 9 else 0


def _notes(document: Any) -> _Notes:
    """The footnotes and endnotes, numbered in their order, by the kind of their reference and their id."""
    from docx.oxml import parse_xml

    notes: _Notes = {}
    for relation in document.part.rels.values():
        kind = relation.reltype.rpartition("/")[2]
        if kind in {"footnotes", "endnotes"}:
            # those with a type are the lines that part notes from text
            real = [note for note in parse_xml(relation.target_part.blob) if note.get(f"{_W}type") is None]
            for number, note in enumerate(real, start=1):
                notes[f"{_W}{kind.removesuffix('s')}Reference", note.get(f"{_W}id", "")] = (number, _text(note, {}).strip())
    return notes


def _pieces(parent: _Element, levels: dict[str, int], notes: _Notes) -> Iterator[Piece]:
    """The pieces of an element, each note after the paragraph or table that refers to it."""
    for child in parent:
        if child.tag == f"{_W}p":
            text = _text(child, notes).strip()
            style = child.find(f"{_W}pPr/{_W}pStyle")
            level = levels.get(style.get(f"{_W}val", ""), 0) if style is not None else 0
            if text:
                yield Piece(" ".join(text.split()), "heading", level) if level else Piece(text)
        elif child.tag == f"{_W}tbl":
            if table := markdown(list(_rows(child, notes))):
                yield Piece(table, "table")
        elif child.tag in {f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml", f"{_W}smartTag", f"{_W}moveTo"}:
            yield from _pieces(child, levels, notes)
        if child.tag in {f"{_W}p", f"{_W}tbl"}:
            for node in child.iter():
                if noted := notes.get((node.tag, node.get(f"{_W}id", ""))):
                    yield Piece(f"^{noted[0]} {noted[1]}", tracked=False)


def _rows(table: _Element, notes: _Notes) -> Iterator[Row]:
    """The rows; a cell that goes on the one above is empty in Word and stays empty here."""
    for row in table.iter(f"{_W}tr"):
        if next(row.iterancestors(f"{_W}tbl")) is not table:
            continue  # a table within a cell is part of that cell's text
        header = row.find(f"{_W}trPr/{_W}tblHeader") is not None
        cells = []
        for cell in row.iter(f"{_W}tc"):
            if next(cell.iterancestors(f"{_W}tr")) is row:
                span = cell.find(f"{_W}tcPr/{_W}gridSpan")
                value = span.get(f"{_W}val", "1") if span is not None else "1"
                cells.append(Cell(_text(cell, notes), int(value) if value.isdecimal() and len(value) < 5 else 1))
        yield Row(cells, header)


def _text(element: _Element, notes: _Notes) -> str:
    runs: list[str] = []
    for node in element.iter():
        if node.tag == f"{_W}t":
            if next(node.iterancestors(f"{_W}del", f"{_W}moveFrom", _FALLBACK), None) is None:
                runs.append(_raised(node))
        elif node.tag == f"{_W}tab":
            if next(node.iterancestors(f"{_W}pPr"), None) is None:
                runs.append("\t")
        elif node.tag in {f"{_W}br", f"{_W}cr"}:
            runs.append("\n")
        elif node.tag == f"{_W}noBreakHyphen":
            runs.append("-")
        elif noted := notes.get((node.tag, node.get(f"{_W}id", ""))):
            runs.append(f"^{noted[0]}")
        elif node.tag == f"{_W}p" and runs:
            runs.append(" ")
    return "".join(runs)


def _raised(node: _Element) -> str:
    text = str(node.text or "")
    align = node.getparent().find(f"{_W}rPr/{_W}vertAlign")
    mark = {"superscript": "^", "subscript": "_"}.get(align.get(f"{_W}val"), "") if align is not None else ""
    return f"{mark}{text}" if text.strip() else text
