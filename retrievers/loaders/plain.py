"""Reads text and Markdown files, in whatever encoding they are. Knows nothing about rules."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from errors import DocumentError
from retrievers import citations
from retrievers.documents import SourceDocument
from retrievers.loaders.lines import Line, paragraphs
from retrievers.loaders.pieces import LoadFailure, Origin, Piece, assemble, is_heading
from retrievers.loaders.publications import arranged

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WRAPPED = 120  # a line longer than this was not broken by an editor, so what follows is not its rest
_OPENING = 10  # lines in which a publication says its number
_BINARY = "it is binary data, not text"
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")

_TITLE_NUMBER = re.compile(r"\b(?:Title|TITLE)\s+(\d{1,2})\b|\b(\d{1,2})\s+C\.?F\.?R\b")
_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})")
_ATX = re.compile(r"\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_UNDERLINE = re.compile(r"\s{0,3}(=+|-{2,})\s*$")
_DELIMITER = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")
_NOTE = re.compile(r"\s{0,3}\[\^([^\]\s]+)\]:\s*(.*)$")
_NOTED = re.compile(r"\[\^([^\]\s]+)\](?!:)")
_FIELD = re.compile(r"([A-Za-z_]+)\s*:\s*(.*?)\s*$")


@dataclass(slots=True)
class _Markdown:
    """The pieces read so far, and the lines of the paragraph being read."""

    pieces: list[Piece] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    def flush(self) -> None:
        self.pieces += paragraphs(self.lines)
        self.lines = []

    def heading(self, text: str, level: int) -> None:
        self.flush()
        self.pieces.append(Piece(text, "heading", level))


def load_text(path: Path, source: str, uri: str) -> Iterator[SourceDocument | LoadFailure]:
    """One document. Blank lines part its paragraphs."""
    text = decode(path.read_bytes())
    lines = []
    for line in text.split("\n"):
        lines.append(Line(line.rstrip()))
        if len(line) > _WRAPPED:
            lines.append(Line(""))
    first = next((n for n, line in enumerate(lines) if is_heading(line.text)), 0)
    number = title_number("\n".join(line.text for line in lines[: first + 1]))
    opening = [line.text for line in lines[:_OPENING]]
    yield assemble(*arranged(paragraphs(lines), Origin(uri, source, title_number=number), path.name, opening))


def load_markdown(path: Path, source: str, uri: str) -> Iterator[SourceDocument | LoadFailure]:
    """One document. Front matter of `key: value` lines may give `title`, `citation`, `part` and `edition`."""
    fields, lines = _front_matter(decode(path.read_bytes()).split("\n"))
    origin = Origin(uri, source, title=fields.get("title", ""), edition=fields.get("edition", ""))
    if named := fields.get("citation") or fields.get("part"):
        try:
            given = citations.parse(named if fields.get("citation") or not named.isdecimal() else f"part {named}")
        except ValueError:
            raise DocumentError(f"its front matter gives {named!r}, which is no citation") from None
        origin = replace(origin, citation=given, title_number=given.title)
    document = assemble(*arranged(_noted(_blocks(lines)), origin, path.name), separator="\n\n")
    if not document.blocks:
        raise DocumentError("it is empty")
    yield document


def decode(data: bytes) -> str:
    """The text of a file, its lines parted by line feeds alone.

    UTF-8, or UTF-16 and UTF-32 where a mark or the zero bytes show it, else what charset-normalizer finds most likely.
    Raises DocumentError if the file is empty or no text.
    """
    text = _decoded(data).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n").replace("\ufeff", "")
    if not text.strip():
        raise DocumentError("it is empty")
    # text has tabs and escapes at most; a NUL or a thousandth of other control characters has been something else
    if "\x00" in text or len(_CONTROL.findall(text)) * 1000 > len(text):
        raise DocumentError(_BINARY)
    return text


def title_number(text: str) -> int:
    """The CFR title a text names first, "Title 10" or "10 CFR", else 47."""
    match = _TITLE_NUMBER.search(text)
    return int(match[1] or match[2]) if match else citations.DEFAULT_TITLE


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    try:
        return data.decode(encoding or _unmarked_utf16(data) or "utf-8")
    except UnicodeDecodeError:
        if encoding or b"\x00" in data:
            raise DocumentError(_BINARY if not encoding else f"it is marked as {encoding.upper()} but is not") from None
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        raise DocumentError(_BINARY)
    return str(best)


def _unmarked_utf16(data: bytes) -> str:
    """UTF-16 without a mark: in Western text nearly every second byte is zero."""
    sample = data[:4096]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) / 2
    if odd > 0.7 * half and even < 0.05 * half:
        return "utf-16-le"
    return "utf-16-be" if even > 0.7 * half and odd < 0.05 * half else ""


def _front_matter(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    if not lines or lines[0].strip() != "---":
        return {}, lines
    try:
        end = next(n for n, line in enumerate(lines[1:], 1) if line.strip() in {"---", "..."})
    except StopIteration:
        return {}, lines
    fields = {}
    for line in lines[1:end]:
        if match := _FIELD.match(line):
            fields[match[1].lower()] = match[2].strip("\"'")
    return fields, lines[end + 1 :]


def _noted(pieces: list[Piece]) -> list[Piece]:
    """The pieces, each footnote ("[^1]: ...") behind the first that refers to it."""
    notes = {match[1]: piece for piece in pieces if piece.kind == "paragraph" and (match := _NOTE.match(piece.text))}
    own = {id(piece) for piece in notes.values()}
    placed: list[Piece] = []
    for piece in pieces:
        if id(piece) not in own:
            placed.append(piece)
            named = dict.fromkeys(_NOTED.findall(piece.text))
            placed += [replace(notes.pop(name), tracked=False) for name in named if name in notes]
    return [*placed, *notes.values()]


def _blocks(lines: list[str]) -> list[Piece]:
    """The pieces of Markdown lines: ATX and underlined headings, pipe tables, fenced code, paragraphs."""
    read = _Markdown()
    index = 0
    while index < len(lines):
        line = lines[index]
        following = lines[index + 1] if index + 1 < len(lines) else ""
        index += 1
        if fence := _FENCE.match(line):
            end = next((n for n in range(index, len(lines)) if lines[n].strip().startswith(fence[1])), len(lines) - 1)
            read.flush()
            read.pieces.append(Piece("\n".join(lines[index - 1 : end + 1]), tracked=False))
            index = end + 1
        elif atx := _ATX.match(line):
            read.heading(atx[2], len(atx[1]))
        elif line.strip() and not read.lines and not _DELIMITER.match(line) and _UNDERLINE.match(following):
            read.heading(line.strip(), 1 if "=" in following else 2)
            index += 1
        elif "|" in line and _DELIMITER.match(following) and "-" in following and "|" in following:
            end = next((n for n in range(index, len(lines)) if "|" not in lines[n]), len(lines))
            read.flush()
            read.pieces.append(Piece("\n".join(row.strip() for row in lines[index - 1 : end]), "table"))
            index = end
        else:
            if not line.strip() or _NOTE.match(line):
                read.flush()
            read.lines.append(Line(line.rstrip()))
    read.flush()
    return read.pieces
