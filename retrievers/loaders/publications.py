"""Knows publications of numbered questions, such as the FCC's KDB: their number, their headings, where entries begin.

Knows no file format, and nothing about the paragraphs of rules.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from retrievers.citations import Citation
from retrievers.loaders.pieces import Origin, Piece

_ATTACHMENT, _NUMBERED, _QUESTION = 1, 2, 6  # levels; a numbered heading's grows with its depth
_OPENING = 8  # pieces among which the number stands
_LONGEST_HEADING, _LONGEST_LINE, _LONGEST_TITLE = 300, 120, 70

# "996369 D04 Module Integration Guide v02" is how the FCC names the files
_FILE_NUMBER = re.compile(r"(?<!\d)(\d{6})[ _-]+D\d\d(?!\d)|\bKDB[ _-]*(\d{6})(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<!\d)(\d{6})[ _]D\d\d(?!\d)|\bKDB\s*(?:publication\s*)?(?:number\s*|no\.?\s*|\#\s*)?:?\s*(\d{6})(?!\d)"
    r"|\bpublication\s*(?:number|no\.?)\s*:?\s*(\d{6})(?!\d)",
    re.IGNORECASE,
)
_NAMED = re.compile(r"(?:[A-Z]{2,4}\s+)*publication\s+(?:number|no\.?)\s*:?\s*\d{6}$", re.IGNORECASE)
_ASKS = re.compile(
    r"(?P<label>(?:Question|QUESTION)(?:\s+\d{1,3}[a-z]?(?:\.\d{1,2})?)?\s*[:.\u2013—-]|Q\s?\d{1,3}[a-z]?\s*[:.)](?=\s))\s*(?=\S)"
)
_ANSWERS = re.compile(r"(?:Answer|ANSWER)(?:\s+\d{1,3}[a-z]?(?:\.\d{1,2})?)?\s*[:.\u2013—-]|A\s?\d{1,3}[a-z]?\s*[:)]\s")
_ATTACHED = re.compile(
    r"(?:Attachment|ATTACHMENT|Annex|ANNEX|Appendix|APPENDIX)\s+(?:[A-Z]|\d{1,2})(?:\s*[:.\u2013—-].*|\s+[A-Z].*)?$"
)
_TITLED = re.compile(r"(\d{1,2}(?:\.\d{1,2}){0,3})[.)]?\s+[A-Z][^.;:?!]{2,}$")


def arranged(pieces: Sequence[Piece], origin: Origin, name: str, opening: Sequence[str] = ()) -> tuple[list[Piece], Origin]:
    """The pieces and the origin of a file of this name; if it is a publication, with its number and its headings.

    The number is looked for in the name and in `opening`, the first lines; by default the first pieces. Without one,
    two questions or more show that it is a publication.
    """
    lines = opening or [piece.text for piece in pieces[:_OPENING]]
    origin = origin if origin.citation else replace(origin, citation=_number(name, lines))
    is_known = origin.citation is not None and bool(origin.citation.kdb)
    if is_known or sum(bool(_ASKS.match(piece.text)) for piece in pieces) > 1:
        return list(_outlined(pieces)), origin
    return list(pieces), origin


def is_name(line: str) -> bool:
    """Whether a line does nothing but name a publication."""
    return _NAMED.match(line) is not None


def begins(line: str) -> bool:
    """Whether a line begins a question, an answer or an attachment."""
    return bool(_ASKS.match(line) or _ANSWERS.match(line) or (is_title(line) and _ATTACHED.match(line)))


def is_title(line: str) -> bool:
    """Whether a line by itself is an attachment's or a numbered heading: "2.1 Host products"."""
    return len(line) <= _LONGEST_TITLE and bool(_ATTACHED.match(line) or _TITLED.match(line))


def _number(name: str, lines: Sequence[str]) -> Citation | None:
    """What the name or one of the lines says; a sentence may mention a publication without being one."""
    found = _FILE_NUMBER.search(name)
    for line in lines:
        if found is None and len(line) <= _LONGEST_LINE and not line.endswith("."):
            found = _NUMBER.search(line)
    return Citation(kdb=next(filter(None, found.groups()))) if found else None


def _outlined(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Questions, attachments and, where the format has no headings, numbered titles become headings.

    Of a question too long for a heading only its number does.
    """
    plain = not any(piece.kind == "heading" for piece in pieces)
    for piece in pieces:
        text = piece.text.strip()
        if piece.kind != "paragraph":
            yield piece
        elif asked := _ASKS.match(text):
            if len(text) <= _LONGEST_HEADING:
                yield replace(piece, text=" ".join(text.split()), kind="heading", level=_QUESTION)
            else:
                yield replace(piece, text=asked["label"], kind="heading", level=_QUESTION)
                yield replace(piece, text=text[asked.end() :])
        elif is_title(text) and _ATTACHED.match(text):
            yield replace(piece, kind="heading", level=_ATTACHMENT)
        elif plain and is_title(text) and (titled := _TITLED.match(text)):
            yield replace(piece, kind="heading", level=_NUMBERED + titled[1].count("."))
        else:
            yield piece
