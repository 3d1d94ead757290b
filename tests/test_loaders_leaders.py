"""Tables of plain text, where dots lead from cell to cell, become Markdown rows, and nothing of them is lost."""

import json
import re
from pathlib import Path

import loading
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrievers.documents import SourceDocument
from retrievers.loaders.leaders import tabulated


def _rows(*lines: str) -> list[str]:
    return [text for _, text in tabulated(lines)]


def test_rows_with_leaders_become_a_table_below_their_heads() -> None:
    """The heads are parted from the sentence above and from each other, and each row's values stand below them."""
    assert _rows(
        "(a) A device keeps to the following: Frequency (MHz) Field strength (microvolts/ meter) Measure- ment distance (meters)",
        "9-30 ............ 100 ** 30",
        "Above 30 ........ 1000/F(kHz) 3",
        "(b) Be silent.",
    ) == [
        "(a) A device keeps to the following:",
        "| Frequency (MHz) | Field strength (microvolts/meter) | Measurement distance (meters) |",
        "| --- | --- | --- |",
        "| 9-30 | 100 ** | 30 |",
        "| Above 30 | 1000/F(kHz) | 3 |",
        "(b) Be silent.",
    ]


# What stands in print, and the rows it makes below the text's own line
_CASES = {
    "Text: Frequency in MHz EIRP in dBm\n900-1500 ...... -70.1": "| Frequency in MHz | EIRP in dBm |\n| 900-1500 | -70.1 |",
    "Text: MHz MHz GHz\n1-2 ..... 3-4 5-6\nMHz MHz GHz\n2-3 ..... 4 6": (
        "| MHz | MHz | GHz |\n| 1-2 | 3-4 | 5-6 |\n| 2-3 | 4 | 6 |"
    ),
    "Sites: Site Latitude Longitude\nOld Town ....... 39°8 N 12°2 W\nNew Station 41°4 N 70°3 W\nEnd ....... 1°8 N 2°2 W": (
        "| Site | Latitude | Longitude |\n| Old Town | 39°8 N | 12°2 W |\n| New Station | 41°4 N | 70°3 W |\n"
        "| End | 1°8 N | 2°2 W |"
    ),
    "Text: Kind of device Rule on it\nRadio ........ Label or\nnotice.\nOther ........ None.": (
        "| Kind of device | Rule on it |\n| Radio | Label or notice. |\n| Other | None. |"
    ),
    "Text: Frequency (MHz) Limit (dBµV) Peak Mean\n1-2 ...... 64 to 54* ...... 46\n2-3 ...... 56 ...... 46": (
        "| Frequency (MHz) | Limit (dBµV) / Peak | Limit (dBµV) / Mean |\n| 1-2 | 64 to 54* | 46 |\n| 2-3 | 56 | 46 |"
    ),
    "Text: Height of it (m) Distance in km 10 dBm (10 mW) 30 dBm (1000 mW)\nUp to 3 ..... 1.3 1.7": (
        "| Height of it (m) Distance in km | 10 dBm (10 mW) | 30 dBm (1000 mW) |\n| Up to 3 | 1.3 | 1.7 |"
    ),
    "Text: Band (MHz) Level (mV) Harmonics (mV) 40-41\n2,200 ...... 220\n60-120 .... 1,100 ...... 125": (
        "| Band (MHz) | Level (mV) | Harmonics (mV) |\n| 40-41 | 2,200 | 220 |\n| 60-120 | 1,100 | 125 |"
    ),
    "Text: Kind Contour of Group Name One and Name Two\nLow ........ 7 0.2\nHigh ....... 35 31": (
        "| Kind Contour of Group Name One and Name Two |  |  |\n| Low | 7 | 0.2 |\n| High | 35 | 31 |"
    ),
    "(ii) Near St. Anne North latitude (deg) West longitude (deg)\n35 25 56 ........ 107 44 56\n36 1 2 ........ 108 1 2": (
        "| Near St. Anne North latitude (deg) | West longitude (deg) |\n| 35 25 56 | 107 44 56 |\n| 36 1 2 | 108 1 2 |"
    ),
}


@pytest.mark.parametrize("printed", _CASES)
def test_heads_are_parted_as_their_words_show(printed: str) -> None:
    """Heads begin with capitals, are units or values; where that does not tell, they stay together."""
    rows = _rows(*printed.split("\n"))[1:]
    assert "\n".join(row for row in rows if not row.startswith("| ---")) == _CASES[printed]


def test_a_table_of_plain_text_knows_its_caption(tmp_path: Path) -> None:
    """The caption is set off from the heads, and a part that a page's end cut off is put back."""
    text = (
        "(a) As in the table.\nTABLE 2\u2014QUIET SITES Locale Latitude (deg)\nOld Town ........ 39\n"
        "TABLE 2\u2014QUIET SITES\u2014Continued Locale Latitude (deg)\nNew Town ........ 41\n(b) Be silent."
    )
    row = f'{{"part": "7", "section": "7.10", "heading": "Sites.", "text": {json.dumps(text)}}}'
    (read,) = loading.loaded(loading.write(tmp_path, "rules.jsonl", row))
    assert isinstance(read, SourceDocument)
    table = ["| Locale | Latitude (deg) |", "| --- | --- |", "| Old Town | 39 |", "| New Town | 41 |"]
    assert [(b.caption, read.text[b.start : b.end].split("\n")) for b in read.blocks if b.kind == "table"] == [
        ("TABLE 2\u2014QUIET SITES", table)
    ]
    assert loading.cites(read) == ["7.10", "7.10(a)", "7.10(a)", "7.10(a)", "7.10(b)"]


def test_leaders_without_heads_stay_as_they_are() -> None:
    """A table of contents in print, with page numbers behind its leaders, is left alone."""
    lines = ["Contents.", "1 Scope ............ 3", "2 Terms ............ 5"]
    assert _rows(*lines) == lines


_WORDS = st.lists(
    st.sampled_from(
        ["MHz", "Level", "(meters)", "30-88", "2,200", "Above", "or", "(a)", "Text:", "TABLE", "1", "Continued", "N"]
    ),
    max_size=8,
)
_LINES = st.lists(
    st.tuples(_WORDS, st.booleans(), _WORDS).map(lambda p: " ".join([*p[0], *(["......"] if p[1] else []), *p[2]])), max_size=9
)


@given(_LINES)
def test_no_figure_of_a_table_is_lost(lines: list[str]) -> None:
    """Whatever the rows look like, each word is still there; only heads that are printed again go."""
    words = {word for line in lines for word in re.sub(r"\.{2,}", " ", line).split()}
    kept = " ".join(_rows(*lines))
    assert {word for word in words if word.rstrip(".") not in kept} == set()
