"""Whether what was found is what was cited. Knows nothing about how it was found, and counts nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from retrievers import citations
from retrievers.citations import Citation

Matches = Callable[[Citation, Citation], bool]  # found, cited


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage as far as it matters here: the paragraph it is cited by, its score, and how it was found.

    `place` is None if the passage carries no citation.
    """

    place: Citation | None
    score: float
    match: str

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """From a passage's metadata, or from a result of /api/retrieve."""
        place = citations.read(found["citation"]) or citations.read(found.get("section", ""))
        return cls(place, float(found["score"]), found["match"])


def in_section(found: Citation, cited: Citation) -> bool:
    """Whether both stand in the same section, appendix or publication; or, if a whole part is cited, in that part."""
    if not cited.section and not cited.kdb:
        return (found.title, found.part) == (cited.title, cited.part)
    return found.whole == cited.whole


def in_paragraph(found: Citation, cited: Citation) -> bool:
    """Whether one is the other's paragraph, holds it, or lies within it."""
    return in_section(found, cited) and all(one == other for one, other in zip(found.paragraphs, cited.paragraphs, strict=False))


def gains(found: Sequence[Hit], cited: Sequence[Citation], matches: Matches) -> list[bool]:
    """For each passage, best first, whether it brings a citation that none before it has brought.

    A passage brings one citation at most, the first that is still open. Neighbours, which come along with what was found,
    bring none.
    """
    still_open = list(dict.fromkeys(cited))
    brought = []
    for hit in found:
        place = hit.place if hit.match != "neighbour" else None
        new = next((citation for citation in still_open if place and matches(place, citation)), None)
        if new:
            still_open.remove(new)
        brought.append(new is not None)
    return brought
