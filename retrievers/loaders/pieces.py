"""Turns the pieces a format yields (headings, paragraphs, tables) into a document whose blocks know their citations.

Knows the structure of rules, but no file format. All loaders end here.
"""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from retrievers import citations
from retrievers.citations import DEFAULT_TITLE, Citation
from retrievers.documents import Block, SourceDocument
from retrievers.loaders.designators import Mark, outline

# Levels of headings that are only recognised by their words; formats with real headings use 1 to 6.
PART, SUBPART, SECTION = 1, 2, 7

_LONGEST_HEADING = 300
_CREDIT = re.compile(r"\s*\[\d+ (?:FR|Fed\. Reg\.) \d")
PART_LINE = re.compile(r"(?:PART \d|SUBCHAPTER [A-Z]|Subpart [A-Z]{1,3}\s*[\u2013—-])")
_APPENDIX_LINE = re.compile(r"(?:APPENDIX|Appendix) [A-Z0-9]{1,4} (?:to|TO) (?:part|Part|PART) \d")
_SENTENCES = re.compile(r"[.;] [A-Z(]")
_CAPTION = re.compile(r"(?:TABLE|Table)\s+(?:[A-Z]{1,2}[.-]?)?\d|(?:TABLE|Table)\s+[A-Z]\b")
_NOTE = re.compile(r"(?:\^?\d{1,2}\s+[A-Z\[]|\^\d{1,2}\s?\S|\*{1,4}\s?[A-Z]|(?:Note|NOTE)\b)")
_LONGEST_CAPTION = 250
_MOST_NOTES = 20


@dataclass(frozen=True, slots=True)
class Piece:
    """One heading, paragraph or table, in reading order. `level` counts a heading's depth, from 1.

    `tracked` is false for text whose designators are not the section's own, such as a quoted form. `caption` is what a
    table is called and `notes` its notes; they are the texts of the pieces before and behind.
    """

    text: str
    kind: Literal["heading", "paragraph", "table"] = "paragraph"
    level: int = 0
    page: int | None = None
    tracked: bool = True
    caption: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a document besides its text.

    `citation` and `headings` hold from its start on; `title_number` is the CFR title that a bare "§ 15.247" belongs to.
    """

    uri: str
    source: str
    title: str = ""
    edition: str = ""
    citation: Citation | None = None
    headings: tuple[str, ...] = ()
    title_number: int = DEFAULT_TITLE


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A file, or one document of a file that holds many, that could not be read, with the reason in one line."""

    uri: str
    source: str
    reason: str


@dataclass(slots=True)
class _Placed:
    """A piece with its place in the text and in the structure. Pieces of one section share the `scope` number."""

    piece: Piece
    start: int
    headings: tuple[str, ...]
    base: Citation | None
    scope: int


@dataclass(frozen=True, slots=True)
class _Heading:
    level: int
    text: str
    opens: Citation | None
    scope: int


def assemble(pieces: Iterable[Piece], origin: Origin, *, separator: str = "\n", structured: bool = False) -> SourceDocument:
    """The document that the pieces make, their texts joined by `separator`.

    Unless the source is `structured`, paragraphs that read like a rule's heading become headings.
    """
    kept = [replace(piece, text=piece.text.strip("\n")) for piece in pieces if piece.text.strip()]
    if not structured:
        kept = [_promoted(piece, origin.title_number) for piece in kept]
    kept = [_described(kept, index) if piece.kind == "table" else piece for index, piece in enumerate(kept)]
    placed = _place(kept, origin, len(separator))
    blocks: list[Block] = []
    for scope in _scopes(placed):
        blocks.extend(_blocks(scope))
    cited = list({citation.whole for citation in map(citations.read, {block.citation for block in blocks}) if citation})
    parts = {(citation.title, citation.part) for citation in cited}
    title = origin.title or next((_plain(piece.text) for piece in kept if piece.kind == "heading"), "")
    return SourceDocument(
        uri=origin.uri,
        source=origin.source,
        text=separator.join(piece.text for piece in kept),
        blocks=tuple(blocks),
        title=title,
        part=cited[0].part if len(parts) == 1 else "",
        section=cited[0].section if len(cited) == 1 else "",
        edition=origin.edition,
    )


def ends_sentence(line: str) -> bool:
    """Whether nothing has to follow."""
    return line.rstrip().endswith((".", "]", ":", ";", ")"))


def is_heading(line: str, *, before: str = "") -> bool:
    """Whether a line of plain text opens a part, subpart, section or appendix.

    "§ 15.209 Limits" at the start of a line may also be in the middle of a sentence; then `before` does not end.
    """
    if len(line) > _LONGEST_HEADING or "\n" in line:
        return False
    if PART_LINE.match(line) or _APPENDIX_LINE.match(line):
        return not line.rstrip().endswith((",", ";"))
    if before and not (ends_sentence(before) or before.isupper() or is_heading(before)):
        return False
    return citations.heading(line) is not None and not _SENTENCES.search(line)


def is_credit(text: str) -> bool:
    """Whether a paragraph is the source note below a section: "[54 FR 17714, Apr. 25, 1989, as amended at ...]"."""
    return _CREDIT.match(text) is not None


def _promoted(piece: Piece, title_number: int) -> Piece:
    """Make a heading of a paragraph that reads like one, and a paragraph of a heading too long to be one."""
    if piece.kind == "heading" and len(piece.text) > _LONGEST_HEADING:
        return Piece(piece.text, page=piece.page)
    if piece.kind == "paragraph" and is_heading(piece.text):
        opens = citations.heading(piece.text, title=title_number)
        level = SUBPART if piece.text.startswith("Subpart") else SECTION if opens and opens.section else PART
        return replace(piece, kind="heading", level=level)
    return piece


def _described(pieces: Sequence[Piece], index: int) -> Piece:
    """A table with its caption, if the paragraph above reads like one, and with the notes in the paragraphs below."""
    table = pieces[index]
    above = pieces[index - 1] if index else table
    named = _CAPTION.match(above.text) and len(above.text) <= _LONGEST_CAPTION and not above.text.endswith((".", ";"))
    caption = " ".join(above.text.split()) if named and above.kind == "paragraph" else ""
    below = pieces[index + 1 : index + 1 + _MOST_NOTES]
    notes = itertools.takewhile(lambda piece: piece.kind == "paragraph" and _NOTE.match(piece.text), below)
    return replace(table, caption=table.caption or caption, notes="\n".join(" ".join(note.text.split()) for note in notes))


def _place(pieces: Sequence[Piece], origin: Origin, gap: int) -> list[_Placed]:
    placed: list[_Placed] = []
    stack = [_Heading(0, text, None, 0) for text in origin.headings]
    position = 0
    for index, piece in enumerate(pieces):
        if piece.kind == "heading":
            while stack and stack[-1].level >= piece.level:
                stack.pop()
            opens = citations.heading(piece.text, title=origin.title_number)
            stack.append(_Heading(piece.level, _plain(piece.text), opens, index + 1))
        holder = next((heading for heading in reversed(stack) if heading.opens), None)
        base, scope = (holder.opens, holder.scope) if holder else (origin.citation, 0)
        placed.append(_Placed(piece, position, tuple(heading.text for heading in stack), base, scope))
        position += len(piece.text) + gap
    return placed


def _scopes(placed: Sequence[_Placed]) -> list[list[_Placed]]:
    scopes: list[list[_Placed]] = []
    for entry in placed:
        if scopes and scopes[-1][-1].scope == entry.scope:
            scopes[-1].append(entry)
        else:
            scopes.append([entry])
    return scopes


def _blocks(scope: Sequence[_Placed]) -> list[Block]:
    """The blocks of the pieces of one section, with the designators tracked from its first paragraph to its last."""
    base = scope[0].base
    tracked = [e for e in scope if _is_tracked(e)] if base is not None and base.has_paragraphs else []
    marks = dict(zip((e.start for e in tracked), outline([e.piece.text for e in tracked]), strict=True))
    blocks: list[Block] = []
    path: tuple[str, ...] = base.paragraphs if base else ()
    for entry in scope:
        cited = citations.opening(entry.piece.text) if entry.piece.kind == "paragraph" else None
        if cited is not None:
            blocks += _cut(entry, [Mark(0, cited.paragraphs)], cited)
        elif base is None or not base.has_paragraphs:
            blocks += _cut(entry, [Mark(0, ())], base)
        elif entry.piece.kind == "heading" or is_credit(entry.piece.text):
            blocks += _cut(entry, [Mark(0, base.paragraphs)], base)
        else:
            found = marks.get(entry.start, [Mark(0, path)])
            path = found[-1].path or base.paragraphs
            blocks += _cut(entry, [Mark(mark.offset, mark.path or base.paragraphs) for mark in found], base)
    return blocks


def _is_tracked(entry: _Placed) -> bool:
    piece = entry.piece
    return piece.kind == "paragraph" and piece.tracked and not is_credit(piece.text) and not citations.opening(piece.text)


def _cut(entry: _Placed, marks: Sequence[Mark], base: Citation | None) -> list[Block]:
    """The blocks of one piece: one, or more where items open inside it."""
    text = entry.piece.text
    ends = [mark.offset for mark in marks[1:]] + [len(text)]
    blocks = []
    for mark, end in zip(marks, ends, strict=True):
        shown = text[mark.offset : end]
        block = Block(
            start=entry.start + mark.offset + len(shown) - len(shown.lstrip()),
            end=entry.start + mark.offset + len(shown.rstrip()),
            kind=entry.piece.kind,
            citation=str(replace(base, paragraphs=mark.path)) if base else "",
            headings=entry.headings,
            page=entry.piece.page,
            caption=entry.piece.caption,
            notes=entry.piece.notes,
        )
        blocks.append(block)
    return blocks


def _plain(heading: str) -> str:
    """A heading on one line and without Markdown's marks, for headings paths and titles."""
    return " ".join(heading.strip("# \n").replace("**", "").replace("`", "").split())
