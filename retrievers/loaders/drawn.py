"""Finds the tables of a printed page by their drawn lines. Knows neither words nor file formats.

Coordinates are in points; x grows to the right and y upwards.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NEAR = 1.6  # lines that are drawn to meet may miss each other by this much
_DRAWING = 20_000  # pairs of lines; more are a drawing


class Rule(NamedTuple):
    """A drawn line: across the page at the height `at`, from x `low` to `high`; or down it at the x `at`, from y `low`."""

    across: bool
    at: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Frame:
    """The lines of one table and the place they take."""

    left: float
    right: float
    bottom: float
    top: float
    across: tuple[Rule, ...]
    down: tuple[Rule, ...]

    def holds(self, x: float, y: float) -> bool:
        return self.left - NEAR <= x <= self.right + NEAR and self.bottom - NEAR <= y <= self.top + NEAR

    @property
    def edges(self) -> list[float]:
        """The sides of the columns, from left to right."""
        inner = [rule.at for rule in self.down if self.left + 2 * NEAR < rule.at < self.right - 2 * NEAR]
        return [self.left, *distinct(inner), self.right]

    @property
    def boxed(self) -> bool:
        """Whether lines close the table at its sides, as word processors draw them; then lines part the rows, too."""
        sides = [rule.at for rule in self.down]
        return abs(min(sides) - self.left) <= NEAR and abs(max(sides) - self.right) <= NEAR


def frames(rules: Iterable[Rule]) -> list[Frame]:
    """The tables that the lines of a page draw: lines that meet, with one at least between two columns."""
    rules = list(rules)
    across = _merged([rule for rule in rules if rule.across])
    down = _merged([rule for rule in rules if not rule.across])
    if len(across) * len(down) > _DRAWING:
        return []
    found = []
    for group in _connected(across, down):
        flat, upright = tuple(r for r in group if r.across), tuple(r for r in group if not r.across)
        if len(flat) < 2 or not upright:
            continue
        frame = Frame(
            left=min(rule.low for rule in flat),
            right=max(rule.high for rule in flat),
            bottom=min(*(rule.low for rule in upright), *(rule.at for rule in flat)),
            top=max(*(rule.high for rule in upright), *(rule.at for rule in flat)),
            across=flat,
            down=upright,
        )
        if len(frame.edges) > 2:
            found.append(frame)
    return found


def distinct(places: Iterable[float]) -> list[float]:
    """The places in order, those that lie together once."""
    kept: list[float] = []
    for place in sorted(places):
        if not kept or place - kept[-1] > NEAR:
            kept.append(place)
    return kept


def _merged(rules: Sequence[Rule]) -> list[Rule]:
    """The rules, those of one line that touch made one: printers draw a line in pieces, and a thin box for a line."""
    rows: list[list[Rule]] = []
    for rule in sorted(rules, key=lambda rule: rule.at):
        if rows and rule.at - rows[-1][0].at <= NEAR:
            rows[-1].append(rule)
        else:
            rows.append([rule])
    merged: list[Rule] = []
    for row in rows:
        whole: Rule | None = None
        for rule in sorted(row, key=lambda rule: rule.low):
            if whole is not None and rule.low <= whole.high + NEAR:
                whole = whole._replace(high=max(whole.high, rule.high))
                merged[-1] = whole
            else:
                whole = rule._replace(at=row[0].at)
                merged.append(whole)
    return merged


def _connected(across: Sequence[Rule], down: Sequence[Rule]) -> list[list[Rule]]:
    """The lines in groups of those that meet."""
    rules = [*across, *down]
    leader = list(range(len(rules)))

    def find(one: int) -> int:
        while leader[one] != one:
            leader[one] = one = leader[leader[one]]
        return one

    for one, flat in enumerate(across):
        for other, upright in enumerate(down, len(across)):
            meets_x = flat.low - NEAR <= upright.at <= flat.high + NEAR
            if meets_x and upright.low - NEAR <= flat.at <= upright.high + NEAR:
                leader[find(one)] = find(other)
    groups: dict[int, list[Rule]] = {}
    for number, rule in enumerate(rules):
        groups.setdefault(find(number), []).append(rule)
    return list(groups.values())
