"""Splits documents into passages along their own structure. Knows nothing about formats, embedding models or stores.

A passage is a stretch of its document's text, from the start of a block, or of a sentence in it, to another's end. It
never crosses a section or a heading. What is embedded is its text below a line that says where it stands.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from retrievers import citations, definitions
from retrievers.cuts import parts, trimmed
from retrievers.documents import Block, Passage, PassageMetadata, SourceDocument

Measure = Callable[[str], int]

HEADING_SEPARATOR = " > "

_CONTEXT_SHARE = 3  # the context line may fill a third of a passage
_HEADER_SHARE = 0.7  # a table's repeated header most of what is left: without it figures say nothing
_NOTES_SHARE = 4  # its notes a quarter
_DELIMITER = re.compile(r"^\|(?:[ :]*-+[ :]*\|)+[ \t]*\n", re.MULTILINE)
_CREDIT = re.compile(r"^\[\d+ (?:FR|Fed\. Reg\.) \d[^\n]*\][ \t]*(?:\n|\Z)", re.MULTILINE)


@dataclass(slots=True)
class _Unit:
    """A stretch of a block that is not divided further, and its cost with the white space behind it.

    `header` is what the row of a table needs above it if it begins a passage: notes, caption and header rows.
    """

    start: int
    end: int
    block: Block
    cost: int
    opens: bool  # whether the block begins here
    header: str = ""
    header_cost: int = 0
    whole: int = 0  # for the first row of a table, the cost of all of it


def split(document: SourceDocument, *, limit: int, measure: Measure, document_hash: str) -> list[Passage]:
    """The passages of a document, in order; `measure(embedded_text(passage)) <= limit` for each.

    Their spans are disjoint and hold every visible character of all blocks but headings; a heading is a passage only
    where nothing follows that has it in its heading path. `page_content` is the text of the span. Where that begins in
    a table, it stands below the table's caption, and where it goes on with one, below caption and header rows; a table
    in several passages has its notes above each. `measure` is called a few times for each sentence, on little more than
    its text.

    Raises ValueError if `limit` leaves no room for text beside the citation.
    """
    return _Splitter(document, limit, measure, document_hash).passages()


def embedded_text(passage: Passage) -> str:
    """What stands for the passage in a dense or sparse index: its citation and headings, then its text.

    Source notes ("[54 FR 17714, ...]") are left out, unless there is nothing else: they answer no question and draw
    short passages towards each other. So is the line of dashes below a table's heads.
    """
    text = passage.page_content
    told = _DELIMITER.sub("", _CREDIT.sub("", text)).rstrip()
    context = _context(passage.metadata["citation"], passage.metadata["heading"])
    return f"{context}\n{told or text}" if context else told or text


def content_hash(document: SourceDocument) -> str:
    """The SHA-256 of all that passages are made from, so that an equal hash needs no new ingestion."""
    blocks = [(b.start, b.end, b.kind, b.citation, b.headings, b.page, b.caption, b.notes) for b in document.blocks]
    about = (document.source, document.title, document.part, document.section, document.edition)
    return hashlib.sha256(json.dumps([document.text, about, blocks]).encode()).hexdigest()


def _context(citation: str, heading: str) -> str:
    return " | ".join(part for part in (citation, heading) if part)


class _Splitter:
    def __init__(self, document: SourceDocument, limit: int, measure: Measure, document_hash: str) -> None:
        self.document, self.limit, self.measure, self.hash = document, limit, measure, document_hash
        self.text = document.text
        self.frame = measure("")  # what a tokenizer adds to every text
        self.spaces: dict[str, int] = {}
        self.contexts: dict[tuple[str, tuple[str, ...]], tuple[str, int]] = {}

    def passages(self) -> list[Passage]:
        spans = [span for group in self._groups() for span in self._packed(self._units(group))]
        made = [passage for span in spans for passage in self._fitted(span)]
        for ordinal, passage in enumerate(made):
            passage.metadata["ordinal"] = ordinal
            passage.metadata["document_passages"] = len(made)
        return made

    def _groups(self) -> Iterator[list[Block]]:
        """Runs of blocks that one passage may hold together: of one section, under one heading path."""
        blocks = self.document.blocks
        group: list[Block] = []
        for index, block in enumerate(blocks):
            heading = block.kind == "heading"
            if group and (heading or _place(group[-1]) != _place(block)):
                yield group
                group = []
            if not heading:
                group.append(block)
            elif not _carried(block, blocks[index + 1] if index + 1 < len(blocks) else None):
                yield [block]
        if group:
            yield group

    def _units(self, group: Sequence[Block]) -> list[_Unit]:
        units: list[_Unit] = []
        for block in group:
            room = self._room(block)
            if block.kind == "table":
                units.extend(self._rows(block, room))
            else:
                units.extend(self._pieces(block, block.start, block.end, room))
        return units

    def _rows(self, block: Block, room: int) -> Iterator[_Unit]:
        """A table's rows, the first together with the header; a row too long for its room is cut like a sentence."""
        text = self.text[block.start : block.end]
        header = _header(text)
        # a table that must be cut has its notes in each part; one that need not has them below it
        whole = self._cost(text)
        notes = block.notes if whole > room and self._cost(block.notes) <= room // _NOTES_SHARE else ""
        opening, opening_cost = self._above([notes, block.caption], room)
        repeated, repeated_cost = self._above([notes, block.caption, header], room)
        cuts = [block.start + match.start() for match in re.finditer("\n", text) if match.start() > len(header)]
        if header and self._cost(text[: (cuts[0] if cuts else block.end) - block.start]) > room - opening_cost:
            cuts.insert(0, block.start + len(header))
        for start, end in zip([block.start, *cuts], [*cuts, block.end], strict=True):
            above, cost = (repeated, repeated_cost) if start > block.start else (opening, opening_cost)
            for unit in self._pieces(block, start, end, room - cost):
                unit.header, unit.header_cost = above, cost
                unit.whole = whole + opening_cost if unit.opens else 0
                yield unit

    def _above(self, lines: Sequence[str], room: int) -> tuple[str, int]:
        """What is repeated above the rows of a passage, with its cost: all the lines, else the last ones, else nothing."""
        lines = [line for line in lines if line]
        for first in range(len(lines)):
            text = "\n".join(lines[first:])
            if (cost := self._cost(_DELIMITER.sub("", text + "\n"))) <= room * _HEADER_SHARE:
                return text, cost
        return "", 0

    def _pieces(self, block: Block, start: int, end: int, room: int) -> Iterator[_Unit]:
        """The span as it is if it fits, else its sentences, clauses, words or characters, whichever fit first."""
        start, end = trimmed(self.text, start, end)
        if start == end:
            return
        cost = self._cost(self.text[start:end])
        if cost > room and end - start > 1:
            for low, high in parts(self.text, start, end, cost / room):
                yield from self._pieces(block, low, high, room)
            return
        if cost <= room // 2 and _CREDIT.fullmatch(self.text, start, end):
            cost = 0  # it is not embedded; a very long one would still burden the passage
        space = re.match(r"\s+", self.text[end : end + 9])
        yield _Unit(start, end, block, cost + self._space(space[0] if space else ""), opens=start == block.start)

    def _packed(self, units: Sequence[_Unit]) -> Iterator[list[_Unit]]:
        """Join neighbours as long as there is room, rather breaking before a paragraph of the first level.

        A definition is joined to nothing before it, so that it is found by its own words and cited by its own paragraph.
        """
        current: list[_Unit] = []
        filled = room = 0
        for unit in units:
            full = filled + unit.cost > room
            apart = unit.opens and _is_first_level(unit.block.citation) and filled > room // 2
            # a table that fits into a passage of its own is not begun in what is left of another
            cut = room - filled < unit.whole <= room and filled > room // 2
            if current and (full or apart or cut or self._defines(unit)):
                lead = [current.pop()] if unit.whole and len(current) > 1 and self._leads(current[-1], unit) else []
                yield current
                current = lead
                room = self._room(current[0].block) if current else 0
                filled = sum(lead_in.cost + lead_in.header_cost for lead_in in current)
            if not current:
                room, filled = self._room(unit.block), unit.header_cost
            current.append(unit)
            filled += unit.cost
        if current:
            yield current

    def _defines(self, unit: _Unit) -> bool:
        return unit.opens and any(map(definitions.defines, unit.block.headings)) and definitions.begins(self.text, unit.start)

    def _leads(self, before: _Unit, table: _Unit) -> bool:
        """Whether a unit is the line that introduces a table and there is room for it above the table."""
        room = self._room(before.block) - before.header_cost
        return self.text[before.end - 1] == ":" and before.cost <= room // 3 and before.cost + table.cost <= room

    def _fitted(self, units: list[_Unit]) -> Iterator[Passage]:
        """The passage of the units, or more where the whole costs more than the sum of its parts did."""
        passage = self._passage(units)
        unit = units[0]
        if self.measure(embedded_text(passage)) <= self.limit or (len(units) == 1 and unit.end - unit.start == 1):
            yield passage
        elif len(units) > 1:
            yield from self._fitted(units[: len(units) // 2])
            yield from self._fitted(units[len(units) // 2 :])
        elif unit.header:
            yield from self._fitted([replace(unit, header="")])
        else:
            for part in parts(self.text, unit.start, unit.end, 2.0):
                low, high = trimmed(self.text, *part)
                if low < high:
                    yield from self._fitted([replace(unit, start=low, end=high)])

    def _passage(self, units: Sequence[_Unit]) -> Passage:
        first, document = units[0], self.document
        span = self.text[first.start : units[-1].end]
        citation = citations.read(first.block.citation)
        metadata = PassageMetadata(
            citation=first.block.citation,
            heading=self._context(first.block)[0],
            title=document.title,
            part=citation.part if citation else document.part,
            section=citation.section if citation else document.section,
            source=document.source,
            page=first.block.page,
            edition=document.edition,
            start=first.start,
            end=units[-1].end,
            document=document.uri,
            document_hash=self.hash,
            document_passages=0,
            ordinal=0,
        )
        content = f"{first.header}\n{span}" if first.header else span
        return Passage(page_content=content, metadata=metadata.model_dump())

    def _room(self, block: Block) -> int:
        return self.limit - self._context(block)[1]

    def _context(self, block: Block) -> tuple[str, int]:
        """The block's headings as one line, shortened to its share, and what the line costs with the citation."""
        key = (block.citation, block.headings)
        if key not in self.contexts:
            line, cost = "", 0
            path = block.headings or tuple(filter(None, [self.document.title]))
            for line in _shortened(path):
                cost = self.measure(_context(block.citation, line) + "\n") if line or block.citation else self.frame
                if cost <= self.limit // _CONTEXT_SHARE:
                    break
            if self.limit - cost < 1:
                raise ValueError(f"a limit of {self.limit} leaves no room beside the citation {block.citation!r}")
            self.contexts[key] = (line, cost)
        return self.contexts[key]

    def _cost(self, text: str) -> int:
        return max(0, self.measure(text) - self.frame)

    def _space(self, space: str) -> int:
        if space not in self.spaces:
            self.spaces[space] = self._cost(space)
        return self.spaces[space]


def _shortened(headings: Sequence[str]) -> Iterator[str]:
    """The heading path, then without its outer headings, then its last one cut shorter and shorter, then nothing."""
    for first in range(len(headings)):
        yield HEADING_SEPARATOR.join(headings[first:])
    words = headings[-1].split() if headings else []
    for count in (len(words) * 3 // 4, len(words) // 2, len(words) // 4):
        if count:
            yield " ".join(words[:count]) + " …"
    yield ""


def _header(table: str) -> str:
    """The rows down to Markdown's delimiter row, or the first row; "" if nothing follows them."""
    lines = table.split("\n")
    count = next((n for n, line in enumerate(lines[:4], 1) if re.fullmatch(r"[\s|:-]*-[\s|:-]*", line)), 1)
    return "\n".join(lines[:count]) if len(lines) > count else ""


def _carried(heading: Block, following: Block | None) -> bool:
    """Whether what follows a heading carries it in its own heading path."""
    own = heading.headings
    return (
        following is not None
        and following.headings[: len(own)] == own
        and (following.kind != "heading" or len(following.headings) > len(own))
    )


def _place(block: Block) -> tuple[str, tuple[str, ...]]:
    citation = citations.read(block.citation)
    return (str(citation.whole) if citation else block.citation, block.headings)


def _is_first_level(citation: str) -> bool:
    parsed = citations.read(citation)
    return parsed is not None and len(parsed.paragraphs) == 1
