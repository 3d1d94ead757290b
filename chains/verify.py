"""Checks the sentences of an answer against the passages it was given. Code, not a model; knows nothing about streams.

A sentence is `supported` if one passage it cites has all its figures, quotations and section numbers and at least half of its
content words, and the line of the passage that comes nearest to it neither denies what it affirms nor bounds it from the other
side. It is `unsupported` if a figure, quotation or section number is in none of the passages it cites, if it cites none,
or if it has nothing but words and under a quarter of them are there. Anything between is `partly`: what it says is spread over
several passages or rows of a table, a figure only lies within a range that the passage gives, few words are shared, or the lines
disagree.

What this proves: that what a reader can look up stands in the passage. What it does not prove: that the sentence is true to the
passage. Words in another order, a condition left out, or a figure that belongs to another case of the same passage go unnoticed.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from chains import claims, references
from chains.claims import Claims
from chains.references import Reference, References
from chains.schema import Given, Support
from quantities import Figure, Figures

ENOUGH = 0.5  # share of a sentence's words in a passage that says the same
LITTLE = 0.25  # less is another subject
LINE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"'”)]))\s+(?=[\"“(§A-Z0-9])|\n\s*")

CLAUSE_END = re.compile(r"[,;:]\s|\b(?:and|but|except|unless)\b")


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence or a table's row of a passage: characters `start` to `end` of the passage's text."""

    start: int
    end: int
    words: frozenset[str]
    figures: Figures
    clauses: tuple[tuple[frozenset[str], frozenset[str]], ...]  # the words and the stance of each
    is_row: bool  # of a table

    def tells(self, figure: Figure) -> bool:
        """Whether the line has the figure, or at least its number, for a row's units stand in the table's head."""
        return self.figures.has(figure) or self.figures.writes(figure)

    def stance(self, said: Claims) -> frozenset[str]:
        """What its clauses say, without those that speak of something else than the sentence."""
        return frozenset[str]().union(*(stance for words, stance in self.clauses if not words or words & said.words))


class Evidence:
    """One passage, ready to be asked often."""

    def __init__(self, source: Given) -> None:
        self.source = source
        # The citation and the title are read too: what the passage is about often stands there alone.
        whole = f"{source.citation}\n{source.title}\n{source.quote}"
        self.words = claims.words(whole)
        self._flat = claims.flat(whole)
        self._figures = _figures(whole)
        self._references = References(source.citation, f"{source.title}\n{source.quote}")

    def lacks(self, said: Claims) -> dict[str, bool]:
        """What the passage does not have, as it is written, with whether it at least lies within a range given there."""
        lacking = {f.text: self._figures.spans(f) for f in said.figures if not (self._figures.has(f) or self._is_section(f))}
        lacking |= {f'"{quoted}"': False for quoted in said.quotations if claims.flat(quoted) not in self._flat}
        return lacking | {r.text: False for r in said.references if not self._references.has(r)}

    def _is_section(self, figure: Figure) -> bool:
        """Whether a number is a section's that is written without a sign, as in "15.247 asks for a label"."""
        return figure.unit is None and "." in figure.text and self._references.has(Reference(figure.text, figure.text))

    def share(self, said: Claims) -> float:
        """The share of the sentence's content words that the passage has."""
        return len(said.words & self.words) / len(said.words) if said.words else 1.0

    def nearest(self, said: Claims) -> Line | None:
        """The line that has most of the sentence's words and figures, the first of them if several do; None if none has any."""

        def likeness(line: Line) -> int:
            return len(said.words & line.words) + 2 * sum(map(line.tells, said.figures))

        best = max(self.lines, key=likeness, default=None)
        return best if best and likeness(best) else None

    def is_in_one_row(self, said: Claims) -> bool:
        """Whether what the sentence has from a table's rows alone is in one of them, so that no two cases are mixed up."""
        rows = [line for line in self.lines if line.is_row]
        prose = [line for line in self.lines if not line.is_row]
        figures = [f for f in said.figures if any(row.tells(f) for row in rows) and not any(line.tells(f) for line in prose)]
        return not figures or any(all(row.tells(figure) for figure in figures) for row in rows)

    @cached_property
    def lines(self) -> list[Line]:
        return [_line(start, end, text) for start, end, text in _lines(self.source.quote)]

    def in_document(self, start: int, end: int) -> tuple[int, int] | None:
        """Where characters of the passage's text are in the document; None for a repeated table head, which stands elsewhere."""
        source = self.source
        if source.start is None or source.end is None:
            return None
        ahead = len(source.quote) - (source.end - source.start)  # of a repeated table head, before the passage's own text
        return (source.start + start - ahead, source.start + end - ahead) if 0 <= ahead <= start else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is found for one sentence: see Sentence in the schema for the fields of the same names.

    `verified` tells whether the cited passages together have all its figures, quotations and section numbers, and `attached`
    is the passage that the check itself chose, where the sentence cites none.
    """

    support: Support
    verified: bool
    attached: int | None = None
    quote: str | None = None
    quote_source: int | None = None
    span: tuple[int, int] | None = None  # of the quote in the document
    missing: list[str] = field(default_factory=list)


class Verifier:
    """Checks sentences against the passages that an answer was given."""

    def __init__(self, sources: Iterable[Given]) -> None:
        self._sources = {source.id: source for source in sources}
        self._read: dict[int, Evidence] = {}

    def check(self, said: Claims, markers: Sequence[int]) -> Verdict:
        """Check what a sentence says against the passages its markers name, which must have been given.

        Without any, it is checked against the passage that holds all its figures, quotations and section numbers and the most,
        at least more than half, of its words; that passage is then `attached`.
        """
        attached = None if markers else self._best(said)
        cited = [self._evidence(number) for number in (markers or ([attached] if attached else []))]
        lacking = [evidence.lacks(said) for evidence in cited]
        nowhere = [
            what for what in (lacking[0] if lacking else {}) if all(what in lacks and not lacks[what] for lacks in lacking)
        ]
        verified = bool(cited) and not any(all(what in lacks for lacks in lacking) for what in lacking[0])
        if not cited:
            return Verdict("unsupported", verified=False, missing=self._missing(said))
        # what lacks nothing comes first, then what has most words
        best = min(range(len(cited)), key=lambda n: (bool(lacking[n]), -cited[n].share(said)))
        line = cited[best].nearest(said)
        support = _level(said, cited[best], line, nowhere=bool(nowhere), lacking=bool(lacking[best]))
        if line is None or support == "unsupported":
            return Verdict(support, verified, attached, missing=nowhere)
        source = cited[best].source
        span = cited[best].in_document(line.start, line.end)
        return Verdict(support, verified, attached, source.quote[line.start : line.end], source.id, span, nowhere)

    def _best(self, said: Claims) -> int | None:
        if len(said.words) + said.exact < claims.FEW:
            return None
        best, most = None, ENOUGH
        for number in self._sources:
            evidence = self._evidence(number)
            share = evidence.share(said)
            if share > most and not evidence.lacks(said):
                best, most = number, share
        return best

    def _missing(self, said: Claims) -> list[str]:
        """What none of the passages has."""
        missing: list[str] | None = None
        for number in self._sources:
            lacks = self._evidence(number).lacks(said)
            missing = [what for what in (lacks if missing is None else missing) if what in lacks and not lacks[what]]
        return missing or []

    def _evidence(self, number: int) -> Evidence:
        if number not in self._read:
            self._read[number] = Evidence(self._sources[number])
        return self._read[number]


def _level(said: Claims, evidence: Evidence, line: Line | None, *, nowhere: bool, lacking: bool) -> Support:
    share = evidence.share(said)
    if nowhere or (not said.exact and not said.is_bare and share < LITTLE):
        return "unsupported"
    if lacking or share < ENOUGH or line is None or not claims.agree(said.stance, line.stance(said)):
        return "partly"
    return "supported" if evidence.is_in_one_row(said) else "partly"


def _figures(text: str) -> Figures:
    """The figures of a text without its section numbers, which are no amounts."""
    return Figures(references.split(text)[1])


def _line(start: int, end: int, text: str) -> Line:
    clauses = tuple((claims.words(clause), claims.stance(clause)) for clause in CLAUSE_END.split(text))
    words = frozenset[str]().union(*(words for words, _ in clauses))
    return Line(start, end, words, _figures(text), clauses, is_row=text.startswith("|"))


def _lines(text: str) -> Iterator[tuple[int, int, str]]:
    cuts = [match for match in LINE_END.finditer(text) if "\n" in match[0] or not claims.is_abbreviated(text, match.start())]
    for start, end in zip([0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)], strict=True):
        if line := text[start:end].strip():
            first = text.index(line, start)
            yield first, first + len(line), line
