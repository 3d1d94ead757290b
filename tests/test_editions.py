"""Editions: what day their names give, and which of them hold on a day."""

from datetime import date

import pytest

from errors import InvalidRequest
from retrievers import editions


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("CFR 10-1-2023", date(2023, 10, 1)),
        ("eCFR 2025-01", date(2025, 1, 1)),
        ("eCFR 2024-11-14", date(2024, 11, 14)),
        ("2019", date(2019, 1, 1)),
        ("revised 4/5/2021", date(2021, 4, 5)),
        ("D01 v05r02", None),
        ("eCFR 2024-13-14", None),
        ("", None),
    ],
)
def test_date_of(name: str, day: date | None) -> None:
    """The printed and the electronic edition name their day in ways of their own; what names none has none."""
    assert editions.date_of(name) == day


@pytest.mark.parametrize(
    ("as_of", "day"),
    [("2024-02", date(2024, 2, 29)), ("2024", date(2024, 12, 31)), (" 2023-06-30 ", date(2023, 6, 30))],
)
def test_last_day(as_of: str, day: date) -> None:
    """A month or a year is meant to its end."""
    assert editions.last_day(as_of) == day


@pytest.mark.parametrize("as_of", ["", "yesterday", "2024-02-30", "2024-13", "10-1-2023", "20240101", "0000"])
def test_last_day_refuses(as_of: str) -> None:
    """What is no day is refused with an example of one."""
    with pytest.raises(InvalidRequest, match="2024-10-01"):
        editions.last_day(as_of)


HELD = {
    "47 CFR 15.247": ["CFR 10-1-2011", "eCFR 2025-01", "notes"],
    "47 CFR 15.249": ["CFR 10-1-2011"],
    "47 CFR 15.15": ["eCFR 2025-01", "CFR 1-1-2025"],
}


def test_newest_holds() -> None:
    """Of each place the newest edition holds; a name without a day, and one of the same day, is never outdated."""
    assert editions.outdated(HELD) == {"CFR 10-1-2011": ["47 CFR 15.247"]}


def test_as_of() -> None:
    """On a day, the newest edition up to then holds; a place that had none yet is left out altogether."""
    assert editions.outdated(HELD, date(2020, 1, 1)) == {
        "CFR 1-1-2025": ["47 CFR 15.15"],
        "eCFR 2025-01": ["47 CFR 15.15", "47 CFR 15.247"],
    }
