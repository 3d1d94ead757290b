"""Turns the pieces a format yields (headings, paragraphs, tables) into a document whose blocks know their citations.

Knows the structure of rules, but no file format. All loaders end here.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from retrievers import citations
from retrievers.citations import DEFAULT_TITLE, Citation
from retrievers.documents import Block, SourceDocument
from retrievers.loaders.designators import Mark, goes_on, leading, outline

# Levels of headings that are only recognised by their words; formats with real headings use 1 to 6.
PART, SUBPART, SECTION = 1, 2, 7

_LONGEST_HEADING = 300
_CREDIT = re.compile(r"\s*\[\d+ (?:FR|Fed\. Reg\.) \d")
_PART_LINE = re.compile(r"(?:PART \d|SUBCHAPTER [A-Z]|Subpart [A-Z]{1,3}\s*[\u2013—-])")
_APPENDIX_LINE = re.compile(r"(?:APPENDIX|Appendix) [A-Z0-9]{1,4} (?:to|TO) (?:part|Part|PART) \d")
_NUMBERED = re.compile(r"(?:\d{1,4}(?:\.\d{1,5}){0,3}[.)]?|[IVX]{1,5}\.|[A-Za-z]\)|[•▪●‣])\s+\S")
_LEADERS = re.compile(r"\.{5}")  # a table's row in print
_SENTENCES = re.compile(r"[.;] [A-Z(]")


class Line(NamedTuple):
    text: str
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One heading, paragraph or table, in reading order. `level` counts a heading's depth, from 1.

    `tracked` is false for text whose designators are not the section's own, such as a quoted form.
    """

    text: str
    kind: Literal["heading", "paragraph", "table"] = "paragraph"
    level: int = 0
    page: int | None = None
    tracked: bool = True


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


def assemble(
    pieces: Iterable[Piece], origin: Origin, *, separator: str = "\n", structured: bool = False
) -> SourceDocument:
    """The document that the pieces make, their texts joined by `separator`.

    Unless the source is `structured`, paragraphs that read like a rule's heading become headings.
    """
    kept = [replace(piece, text=piece.text.strip("\n")) for piece in pieces if piece.text.strip()]
    if not structured:
        kept = [_promoted(piece, origin.title_number) for piece in kept]
    placed = _place(kept, origin, len(separator))
    blocks: list[Block] = []
    for scope in _scopes(placed):
        blocks.extend(_blocks(scope))
    bases = {entry.base for entry in placed if entry.base is not None}
    parts = {(base.title, base.part) for base in bases}
    title = origin.title or next((_plain(piece.text) for piece in kept if piece.kind == "heading"), "")
    return SourceDocument(
        uri=origin.uri,
        source=origin.source,
        text=separator.join(piece.text for piece in kept),
        blocks=tuple(blocks),
        title=title,
        part=bases.copy().pop().part if len(parts) == 1 else "",
        section=bases.pop().section if len(bases) == 1 else "",
        edition=origin.edition,
    )


def paragraphs(lines: Iterable[Line], *, glue: str | None = "\n") -> list[Piece]:
    """The pieces that lines of plain text make.

    A blank line ends a piece. Lines that begin with "|" make a table. A line that begins with a designator or a number,
    or looks like the heading of a part, section or appendix, begins a piece. Any other goes on the piece before, joined
    to it by `glue`; if `glue` is None it begins one, too.
    """
    groups: list[list[Line]] = []
    after_blank = True
    for line in lines if glue is None else _whole_headings(list(lines)):
        if not line.text.strip():
            after_blank = True
        elif after_blank or not _belongs(line.text, groups[-1], each=glue is None):
            groups.append([line])
            after_blank = False
        else:
            groups[-1].append(line)
    return [_piece(group, "\n" if glue is None else glue) for group in groups]


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
    if each or leading(line) or is_credit(line) or _LEADERS.search(last) or _LEADERS.search(line):
        return False
    if (_NUMBERED.match(line) and _ends_sentence(last)) or is_heading(line, before=last):
        return False
    if is_credit(before[0].text) and last.rstrip().endswith("]"):
        return False
    return len(before) > 1 or not is_heading(last)


def _whole_headings(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines, with the headings that are wrapped over several put on one."""
    widths = sorted(len(line.text) for line in lines if line.text)
    width = widths[len(widths) * 3 // 4] if widths else 0
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        if _PART_LINE.match(line.text) and is_heading(line.text):
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
    return (
        bool(words) and all(w[0].isupper() or w[0] == "(" for w in words) and line[-1] not in ".:;" and not _opens(line)
    )


def _is_row(line: str) -> bool:
    return line.lstrip().startswith("|")


def _ends_sentence(line: str) -> bool:
    return line.rstrip().endswith((".", "]", ":", ";", ")"))


def is_heading(line: str, *, before: str = "") -> bool:
    """Whether a line of plain text opens a part, subpart, section or appendix.

    "§ 15.209 Limits" at the start of a line may also be in the middle of a sentence; then `before` does not end.
    """
    if len(line) > _LONGEST_HEADING or "\n" in line:
        return False
    if _PART_LINE.match(line) or _APPENDIX_LINE.match(line):
        return not line.rstrip().endswith((",", ";"))
    if before and not (_ends_sentence(before) or before.isupper() or is_heading(before)):
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
    return (
        piece.kind == "paragraph" and piece.tracked and not is_credit(piece.text) and not citations.opening(piece.text)
    )


def _cut(entry: _Placed, marks: Sequence[Mark], base: Citation | None) -> list[Block]:
    """The blocks of one piece: one, or more where items open inside it."""
    text = entry.piece.text
    ends = [mark.offset for mark in marks[1:]] + [len(text)]
    blocks = []
    for mark, end in zip(marks, ends, strict=True):
        block = Block(
            start=entry.start + mark.offset,
            end=entry.start + mark.offset + len(text[mark.offset : end].rstrip()),
            kind=entry.piece.kind,
            citation=str(replace(base, paragraphs=mark.path)) if base else "",
            headings=entry.headings,
            page=entry.piece.page,
        )
        blocks.append(block)
    return blocks


def _plain(heading: str) -> str:
    """A heading on one line and without Markdown's marks, for headings paths and titles."""
    return " ".join(heading.strip("# \n").replace("**", "").replace("`", "").split())
