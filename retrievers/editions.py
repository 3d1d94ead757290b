"""Which edition of a place in the rules holds on a day. Knows neither store nor questions."""

import calendar
import re
from collections.abc import Iterable, Mapping
from datetime import date

from errors import InvalidRequest

_YEAR_FIRST = re.compile(r"(?<!\d)(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?(?![\d-])")
_YEAR_LAST = re.compile(r"(?<!\d)(\d{1,2})[-/](\d{1,2})[-/](\d{4})(?!\d)")  # month, day, year, as the printed CFR has it


def date_of(edition: str) -> date | None:
    """The day that an edition's name gives ("CFR 10-1-2023", "eCFR 2025-01", "2019"), or None.

    Of a month or a year alone it is the first day.
    """
    if match := _YEAR_LAST.search(edition):
        month, day, year = (int(number) for number in match.groups())
    elif match := _YEAR_FIRST.search(edition):
        year, month, day = (int(number or 1) for number in match.groups())
    else:
        return None
    try:
        return date(year, month, day)
    except ValueError:
        return None


def last_day(as_of: str) -> date:
    """The last day of what a request names: "2024-06-30", "2024-06" or "2024". Raises InvalidRequest for anything else."""
    match = re.fullmatch(_YEAR_FIRST.pattern, as_of.strip())
    try:
        if match:
            year, month, day = (int(number) if number else None for number in match.groups())
            assert year is not None
            last = month or 12
            return date(year, last, day or calendar.monthrange(year, last)[1])
    except ValueError:
        pass
    raise InvalidRequest(f"as_of: {as_of!r} is no day such as 2024-10-01, no month and no year")


def outdated(held: Mapping[str, Iterable[str]], day: date | None = None) -> dict[str, list[str]]:
    """The places of which an edition does not hold on `day` (None: of the newest ones), by the edition's name.

    `held` gives the names of the editions of each place. Only those with a date compete; those of the same date all hold.
    """
    places: dict[str, list[str]] = {}
    for place, names in held.items():
        dated = {name: when for name in names if (when := date_of(name))}
        begun = [when for when in dated.values() if day is None or when <= day]
        for name, when in dated.items():
            if not begun or when != max(begun):
                places.setdefault(name, []).append(place)
    return {name: sorted(found) for name, found in sorted(places.items())}
