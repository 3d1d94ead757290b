"""Reads the sections JSONL format: one section of the CFR a line. Streams, and loses no good line to a bad one."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from errors import DocumentError
from retrievers import citations
from retrievers.citations import DEFAULT_TITLE
from retrievers.documents import SourceDocument
from retrievers.loaders.lines import Line, paragraphs, with_minus
from retrievers.loaders.pieces import SECTION, LoadFailure, Origin, Piece, assemble

_REQUIRED = ("part", "section", "text")
_OPTIONAL = ("heading", "subpart", "edition")
_HALF = re.compile("[\ud800-\udfff]")  # JSON can write what no encoding can
_ENOUGH = 50  # a file of nothing but bad lines is reported once more and left


def load(path: Path, source: str, uri: str) -> Iterator[SourceDocument | LoadFailure]:
    """A document for each line, or a failure that names the line. `title`, if given, is the CFR title (47)."""
    seen: dict[str, int] = {}
    good = bad = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                document = _document(_row(line), source, uri)
                _check_new(document, seen)
            except DocumentError as exc:
                bad += 1
                yield LoadFailure(f"{uri}#line {number}", source, f"line {number}: {exc}")
            else:
                good += 1
                seen[document.uri] = number
                yield document
            if bad >= _ENOUGH and not good:
                raise DocumentError(f"its first {bad} lines hold no section; the rest was left")
    if not good and not bad:
        raise DocumentError("it is empty")


def _check_new(document: SourceDocument, seen: dict[str, int]) -> None:
    if document.uri in seen:
        what = document.uri.rpartition("#")[2]
        raise DocumentError(f"{what} stands in line {seen[document.uri]} already")


def _row(line: bytes) -> dict[str, str | int]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DocumentError("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise DocumentError("it is not JSON") from None
    if not isinstance(row, dict):
        raise DocumentError("it is not a JSON object")
    for field in (*_REQUIRED, *_OPTIONAL):
        _check_string(row, field)
    title = row.setdefault("title", DEFAULT_TITLE)
    if isinstance(title, bool) or not re.fullmatch("[1-9]|[1-4][0-9]|50", str(title)):
        raise DocumentError('the field "title" is not the number of a CFR title')
    if not (row["text"].strip() or row["heading"].strip()):
        raise DocumentError("it holds no text")
    return row


def _check_string(row: dict[str, Any], field: str) -> None:
    if field in _REQUIRED and field not in row:
        raise DocumentError(f'the field "{field}" is missing')
    if not isinstance(row.setdefault(field, ""), str):
        raise DocumentError(f'the field "{field}" is not a string')
    if _HALF.search(row[field]):
        raise DocumentError(f'the field "{field}" holds half of a surrogate pair')


def _document(row: dict[str, str | int], source: str, uri: str) -> SourceDocument:
    part, section, heading, subpart, edition = (
        str(row[field]).strip() for field in ("part", "section", "heading", "subpart", "edition")
    )
    citation = citations.of_section(section, part=part, title=int(row["title"]))
    name = f"§ {section} {heading}" if citation.has_paragraphs else heading or section
    whole = str(citation) if citation.section else f"{citation} {section}"
    origin = Origin(
        uri=f"{uri}#{whole}@{edition}" if edition else f"{uri}#{whole}",
        source=source,
        title=heading or section,
        edition=edition,
        citation=citation,
        headings=tuple(text for text in (f"Part {part}", subpart) if text),
        title_number=citation.title,
    )
    lines = [Line(line.rstrip("\r")) for line in str(row["text"]).split("\n")]
    if edition.startswith("CFR "):
        lines = [with_minus(line) for line in lines]
    return assemble([Piece(name.strip(), "heading", SECTION), *paragraphs(lines, glue=None)], origin, structured=True)
