"""The terms that a text defines, where its heading says that it defines some. Knows neither splitting nor search."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from retrievers import citations
from retrievers.documents import Passage

_DEFINING = re.compile(r"\b(?:definitions?|defined terms|terms|glossary|meaning)\b", re.IGNORECASE)
# "(9) Beacon. An amateur station ..." or "Carrier means ..."; the term is what stands before the full stop or the verb
_ENTRY = re.compile(
    r"^[ \t]*(?:\([A-Za-z0-9]{1,5}\)[ \t]*)*[*_\"“]*(?P<term>[A-Z][\w()/&,' -]{1,70}?)[*_\"”]*"
    r"(?:[.:—\u2013][*_\"”]*[ \t]+(?=[A-Z\"“(])|[ \t]+(?:means?|is defined as|refers to|shall mean)\b)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A defined term and where it is defined: characters `start` to `end` of the passage's text."""

    term: str
    passage: Passage
    start: int
    end: int


def entries(passages: Sequence[Passage]) -> list[Entry]:
    """The terms that passages under a heading such as "Definitions" define."""
    found: list[Entry] = []
    for passage in passages:
        if not defines(passage.metadata["heading"]):
            continue
        matches = list(_ENTRY.finditer(passage.page_content))
        for match, following in zip_longest(matches, matches[1:]):
            end = following.start() if following else len(passage.page_content)
            if not citations.find(match["term"]):
                found.append(Entry(match["term"], passage, match.start(), end))
    return found


def defines(heading: str) -> bool:
    """Whether what stands under the heading defines terms."""
    return bool(_DEFINING.search(heading))


def begins(text: str, start: int) -> bool:
    """Whether a definition begins at the start of this line, if lines under its heading are definitions."""
    return bool(_ENTRY.match(text, start))
