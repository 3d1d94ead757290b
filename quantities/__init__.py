"""Reads the figures of a text with their units, and tells whether another text has them. Knows nothing about answers.

Figures are the same where a reader would call them the same: 2.4 GHz and 2400 MHz, 30 dBm and one watt, ten minutes and 10 min.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from quantities import units
from quantities.units import Unit

EXACT = 1e-9  # relative; what floating point may lose
ROUNDED = 0.002  # relative; 2.48 GHz stands for 2483.5 MHz, 2.5 GHz does not
ROUGHLY = 0.02  # relative, between rough units; 36 dBm stands for 4 W, and 10 feet for 3 m
DIGITS = 30  # a longer number is no figure
NEAR = 12  # characters between two figures of one list, at most

ONES = {
    word: float(number)
    for number, word in enumerate(
        re.findall(
            r"\w+",
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen"
            " nineteen",
        ),
        start=1,
    )
}
TENS = {
    word: 10.0 * number
    for number, word in enumerate(re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety"), 2)
}
TIMES = {"hundred": 100.0, "thousand": 1000.0}
_ONES, _TENS, _TIMES = ("|".join(words) for words in (ONES, TENS, TIMES))
NUMBER = re.compile(
    rf"""(?=[-\d.]|\b[A-Za-z]) (?P<sign>(?<![\w)%.\-])-)?
    (?: (?<![\w.,]) (?P<digits> \d+ (?:[.,]\d+)* | \.\d+ )
      | (?i:\b (?=[otfsen]) (?P<word> (?: (?:{_TENS}) (?:[\s-](?:{_ONES}))? | {_ONES} ) (?:[\s-](?:{_TIMES}))? ) \b) )""",
    re.VERBOSE,
)
UNIT = re.compile(rf"\)?(?P<gap>[\s-]{{0,2}})(?P<unit>{units.PATTERN})")
LINK = re.compile(r"\s*(?:,?\s*(?:to|and|or|through)\s|[-,/&])\s*")  # between the figures of a list or a range
RANGE = re.compile(r"\s*(?:to\s|through\s|-)\s*")
# The unit in a table's head, for the numbers below it. A single letter is left out: (m) is a paragraph more often than a unit.
HEAD = re.compile(rf"(?:[(\[|]\s?|\bin\s)(?=\S[\w/(])(?P<unit>{units.PATTERN})")
BETWEEN = re.compile(r"\bbetween\s*$", re.IGNORECASE)
ALIKE = str.maketrans(  # one character for one, so that places stay
    "\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"
    "\N{SUPERSCRIPT TWO}\N{NO-BREAK SPACE}",
    "uu-----2 ",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number as it stands in a text, with its unit if it has one.

    `step` is what its last digit counts, apart from trailing zeros. `own` is false for a unit that stands at the end of a list
    only, `ranges` true where the number ends a range that the one before begins, `spelled` for a number in words.
    """

    text: str
    number: float
    step: float
    unit: Unit | None = None
    own: bool = True
    ranges: bool = False
    spelled: bool = False

    @property
    def value(self) -> float:
        """In the base unit of its kind."""
        return self.unit.in_base(self.number) if self.unit else self.number


def find(text: str) -> list[Figure]:
    """The figures of a text, in their order; in 902-928 MHz and in 2.4 and 5.8 GHz both have the unit."""
    written, text = text, text.translate(ALIKE)
    found: list[Figure] = []
    waiting: list[tuple[re.Match[str], Figure]] = []  # for a unit at the end of their list
    end, before = 0, ""
    for match in NUMBER.finditer(text):
        gap = text[end : match.start()]
        near = bool(end) and len(gap) <= NEAR
        if waiting and not (near and LINK.fullmatch(gap)):
            found += [figure for _, figure in waiting]
            waiting = []
        ranges = near and bool(RANGE.fullmatch(gap) or (gap.strip() == "and" and BETWEEN.search(before)))
        before = text[max(0, match.start() - 12) : match.start()]
        end = match.end()
        figures = list(_numbers(match, ranges=ranges))
        unit = UNIT.match(text, end)
        if unit and unit["unit"] == "s" and not unit["gap"]:  # the 1990s
            unit = None
        waiting += [(match, figure) for figure in figures]
        if unit and figures:
            end = unit.end()
            found += _with_unit(waiting, unit, written)
            waiting = []
    return found + [figure for _, figure in waiting]


def _numbers(match: re.Match[str], *, ranges: bool) -> Iterator[Figure]:
    if word := match["word"]:
        first, *others = re.split(r"[\s-]+", word.lower())
        number = ONES.get(first) or TENS[first]
        for other in others:
            number = number * TIMES[other] if other in TIMES else number + ONES[other]
        yield Figure(match[0], number, 1.0, ranges=ranges, spelled=True)
        return
    digits = match["digits"]
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", digits):
        digits = digits.replace(",", "")
    for one in digits.split(","):
        if one.count(".") < 2 and len(one) <= DIGITS:  # 4.3.2 is a place in a document
            sign = match["sign"] or ""
            yield Figure(match[0] if one == digits else one, float(sign + one), _step(one), ranges=ranges)


def _with_unit(waiting: list[tuple[re.Match[str], Figure]], found: re.Match[str], text: str) -> Iterator[Figure]:
    """The figures with the unit that is found behind the last of them; `text` is as it was written."""
    unit = units.named(found["unit"])
    name = text[found.start("unit") : found.end()]
    last, _ = waiting[-1]
    for match, figure in waiting:
        own = match is last
        written = " ".join(text[match.start() : found.end()].split()) if own else f"{figure.text} {name}"
        try:
            unit.in_base(figure.number)
        except OverflowError:
            yield figure
            continue
        yield replace(figure, text=written, unit=unit, own=own)


def _step(digits: str) -> float:
    whole, _, fraction = digits.partition(".")
    if fraction := fraction.rstrip("0"):
        return float(10.0 ** -len(fraction))
    return float(10.0 ** (len(whole) - len(whole.rstrip("0")))) if whole.strip("0") else 1.0


class Figures:
    """What figures a text has, ready to be asked often."""

    def __init__(self, text: str) -> None:
        found = find(text)
        self._written = sorted({figure.number for figure in found})
        self._units: dict[str, list[tuple[float, Figure]]] = {}
        self._ranges: list[tuple[str, float, float]] = []
        unique = {(figure.number, figure.unit): figure for figure in found if figure.unit}
        bare = [figure for figure in found if figure.unit is None and not figure.spelled]
        heads = _heads(text) if bare else ()  # in a table the unit stands in the column's head
        for unit in heads:
            for figure in bare:
                if abs(figure.number) <= units.MOST_DECIBELS or not unit.decibels:
                    unique.setdefault((figure.number, unit), replace(figure, unit=unit))
        for figure in unique.values():
            assert figure.unit is not None
            self._units.setdefault(figure.unit.kind, []).append((figure.value, figure))
        for figures in self._units.values():
            figures.sort(key=lambda entry: entry[0])
        for low, high in pairwise(found):
            if high.ranges and low.unit and high.unit and low.unit.kind == high.unit.kind:
                self._ranges.append((low.unit.kind, low.value, high.value))
            elif high.ranges and not (low.unit or high.unit or low.spelled):
                self._ranges += [(u.kind, u.in_base(low.number), u.in_base(high.number)) for u in heads if not u.decibels]

    def has(self, figure: Figure) -> bool:
        """Whether the text has this figure: in its own unit exactly, in another one rounded to the digits it is given with."""
        if figure.unit is None or (not figure.own and self.writes(figure)):
            return self.writes(figure)
        candidates = self._units.get(figure.unit.kind, [])
        width = abs(figure.value) * 2 * ROUGHLY
        first = bisect_left(candidates, figure.value - width, key=lambda entry: entry[0])
        last = bisect_right(candidates, figure.value + width, key=lambda entry: entry[0])
        return any(same(figure, candidate) for _, candidate in candidates[first:last])

    def writes(self, figure: Figure) -> bool:
        """Whether the figure's number stands there, whatever it counts."""
        width = abs(figure.number) * EXACT
        place = bisect_left(self._written, figure.number - width)
        return place < len(self._written) and self._written[place] <= figure.number + width

    def spans(self, figure: Figure) -> bool:
        """Whether the figure lies in a range that the text gives; 5.8 GHz does in 5725-5850 MHz."""
        return figure.unit is not None and any(
            kind == figure.unit.kind and low <= figure.value <= high for kind, low, high in self._ranges
        )


def same(figure: Figure, other: Figure) -> bool:
    """Whether two figures of one kind are the same; `figure` may be `other` converted and rounded, not the other way round."""
    assert figure.unit is not None
    assert other.unit is not None
    if math.isclose(figure.value, other.value, rel_tol=EXACT, abs_tol=0.0):
        return True
    rough = figure.unit.rough != other.unit.rough or figure.unit.decibels != other.unit.decibels
    if figure.unit == other.unit or not math.isclose(figure.value, other.value, rel_tol=ROUGHLY if rough else ROUNDED):
        return False
    return abs(figure.unit.from_base(other.value) - figure.number) <= figure.step / 2 * (1 + EXACT)


def _heads(text: str) -> set[Unit]:
    """Units that stand without a number, in brackets or after "in"."""
    return {units.named(match["unit"]) for match in HEAD.finditer(text.translate(ALIKE))}
