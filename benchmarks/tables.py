"""Asks for the rows of indexed tables by the frequencies they are for, and counts how often the search brings the row.

python benchmarks/tables.py --part 15 [--sections 15.209 15.109 ...] [--k 6]

Searches what the settings name. A row is asked for if it begins with a range of frequencies, its unit in the row or in the
column's head: once by that range and once by the frequency in its middle, each time with the title of the section. For the first,
the row itself must come; for the second, any row of the section whose range holds the frequency.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the checkout wins over an installed copy

from qdrant_client import models

import quantities
import services
import settings
from quantities import Figures
from retrievers import features
from retrievers.documents import Passage
from retrievers.store import equals

RANGE = re.compile(r"\s*([\d,.]*\d)\s*(?:[-\N{EN DASH}\N{EM DASH}]|to)\s*([\d,.]*\d)\.?\s*(kHz|MHz|GHz)?\s*$")
UNIT = re.compile(r"\b(kHz|MHz|GHz)\b")
DASHES = re.compile(r"^\|[\s:|-]+\|$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """A row of a table, and the two questions for it; `middle` is the frequency that the second one asks for."""

    section: str
    text: str
    by_range: str
    by_middle: str
    middle: str

    def comes(self, found: Sequence[Passage], *, exactly: bool) -> tuple[int, bool]:
        """The place of the first passage that answers, 0 if none does, and whether it has column heads."""
        (middle,) = quantities.find(self.middle)
        for place, passage in enumerate(found, start=1):
            text = passage.page_content
            held = features.place(passage) == self.section and (Figures(text).spans(middle) or self.text in text)
            if self.text in text if exactly else held:
                return place, bool(DASHES.search(text))
        return 0, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", required=True, help="of the CFR, whose tables are asked for")
    parser.add_argument("--sections", nargs="*", help="only these; by default all")
    parser.add_argument("--k", type=int, default=6, help="passages to search for")
    given = parser.parse_args()
    with services.open_library(settings.load()) as library:
        passages = library.store.passages(models.Filter(must=[equals("part", given.part)]))
        rows = list(_rows([each for each in passages if not given.sections or each.metadata["section"] in given.sections]))
        if not rows:
            sys.exit(f"no table of part {given.part} that is indexed has rows for ranges of frequencies")
        for name, exactly in (("by its range", True), ("by a frequency within it", False)):
            asked = [(row, row.by_range if exactly else row.by_middle) for row in rows]
            found = [row.comes(library.searching.invoke(question, k=given.k), exactly=exactly) for row, question in asked]
            first, any_place, heads = (
                sum(values)
                for values in zip(*((place == 1, place > 0, place > 0 and headed) for place, headed in found), strict=True)
            )
            print(f"{len(rows)} rows, each {name}: first {first}, within {given.k} {any_place}, with column heads {heads}")


def _rows(passages: Sequence[Passage]) -> Iterator[Row]:
    seen: set[tuple[str, str]] = set()
    for passage in passages:
        section, title = features.place(passage), features.title(passage).rstrip(".").lower()
        unit = ""
        lines = passage.page_content.split("\n")
        for line, following in zip(lines, [*lines[1:], ""], strict=True):
            first = line.strip("|").split("|")[0] if line.startswith("|") else ""
            if DASHES.match(following):
                unit = named[1] if (named := UNIT.search(first)) else ""
            match = RANGE.match(first)
            if match and (name := match[3] or unit) and (section, first) not in seen:
                seen.add((section, first))
                low, high = (float(number.replace(",", "")) for number in match.groups()[:2])
                middle = f"{(low + high) / 2:.6g} {name}"
                by_range = f"What is the limit at {match[1]}-{match[2]} {name} for {title}?"
                yield Row(section, line.strip(), by_range, f"What limit applies at {middle} for {title}?", middle)


if __name__ == "__main__":
    main()
