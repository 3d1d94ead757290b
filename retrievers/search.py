"""From a question to the passages that answer it, or to none. Knows no files and no model that writes.

What a question cites is looked up; the rest is found by dense and BM25 search, fused by reciprocal rank (Cormack et
al., 2009). If nothing found is near enough to the question to be evidence, nothing is returned.
"""

from collections.abc import Mapping, Sequence

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict
from qdrant_client import models

from errors import InvalidRequest
from retrievers import citations
from retrievers.citations import Citation
from retrievers.documents import Passage
from retrievers.store import Store, among

Filters = Mapping[str, str | Sequence[str] | None]

_FILTERS = ("part", "section", "source")
_MOST = 50  # passages a request may ask for
_FEWEST_CANDIDATES = 30  # of each kind of search: fusing needs more of both than are wanted
_CITED = 3  # passages of one cited place
_LEVELS: tuple[citations.Kind, ...] = ("letter", "number", "roman", "capital", "number", "roman")


class PassageRetriever(BaseRetriever):
    """The best `k` passages for a question, the same ones in the same order for the same index.

    `retriever.invoke(question, k=8, filters={"part": "15", "section": ["15.247", "15.249"], "source": "..."})`. To its
    stored metadata (`PassageMetadata`) each passage gains `score`, its cosine with the question, and `match`: "exact"
    if the question cites it and "search" otherwise. Empty if nothing was cited and no cosine reaches `min_score`, of which
    0 lets everything through.

    Raises InvalidRequest for an empty question, an unknown filter or an impossible `k`, and StoreError.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: Store
    k: int = 6
    min_score: float = 0.38  # with MiniLM, questions the rules answer reach 0.43 and nearly all others stay below

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 -- LangChain passes it
        k: int | None = None,
        filters: Filters | None = None,
    ) -> list[Passage]:
        return self._find(query, k, filters)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 -- LangChain passes it
        k: int | None = None,
        filters: Filters | None = None,
    ) -> list[Passage]:
        return await self.store.run(self._find, query, k, filters)

    def _find(self, query: str, wanted: int | None, filters: Filters | None) -> list[Passage]:
        k = self.k if wanted is None else wanted
        if not query.strip():
            raise InvalidRequest("the question is empty")
        if not 1 <= k <= _MOST:
            raise InvalidRequest(f"k must be from 1 to {_MOST}; it is {k}")
        conditions = _conditions(filters or {})
        cited = self._cited(query, k, conditions)
        found = [passage for passage in self._search(query, k, conditions) if passage.id not in cited]
        best = max((passage.metadata["score"] for passage in found), default=0.0)
        if not cited and best < self.min_score > 0:
            return []
        return [*cited.values(), *found][:k]

    def _search(self, query: str, k: int, conditions: list[models.Condition]) -> list[Passage]:
        where = models.Filter(must=conditions) if conditions else None
        candidates = self.store.search(query, max(4 * k, _FEWEST_CANDIDATES), where)
        cosines = self.store.cosines(query, [str(passage.id) for passage, _ in candidates])
        scored = [(rank, cosines.get(str(passage.id), 0.0), passage) for passage, rank in candidates]
        scored.sort(key=lambda entry: (-entry[0], -entry[1], entry[2].id))
        return [_marked(passage, cosine, "search") for _, cosine, passage in scored[:k]]

    def _cited(self, query: str, k: int, conditions: list[models.Condition]) -> dict[str | None, Passage]:
        """What the question cites, by id, in the order of its citations; nearest to the question first within each."""
        asked = [(citation, place) for citation in citations.find(query) if (place := _place(citation))][:k]
        share = min(_CITED, k // len(asked)) if asked else 0
        found: dict[str | None, Passage] = {}
        for citation, place in asked:
            held = _holding(citation, self.store.passages(models.Filter(must=[*conditions, place])))
            cosines = self.store.cosines(query, [str(passage.id) for passage in held]) if held else {}
            held.sort(key=lambda passage: (-cosines.get(str(passage.id), 0.0), passage.id))
            for passage in held[:share]:
                found.setdefault(passage.id, _marked(passage, cosines.get(str(passage.id), 0.0), "exact"))
        return found


def _conditions(filters: Filters) -> list[models.Condition]:
    if unknown := filters.keys() - set(_FILTERS):
        raise InvalidRequest(f"there is no filter {min(unknown)!r}; there are {', '.join(_FILTERS)}")
    conditions: list[models.Condition] = []
    for name, value in filters.items():
        if value is None:
            continue
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, Sequence) or not values or not all(isinstance(one, str) for one in values):
            raise InvalidRequest(f"the filter {name!r} must be a text or a list of texts")
        conditions.append(among(name, values))
    return conditions


def _place(citation: Citation) -> models.FieldCondition | None:
    """Where a citation is looked up; a whole part is too much to look up."""
    if citation.has_paragraphs:
        return among("section", [citation.section])
    return among("citation", [str(citation)]) if citation.section or citation.kdb else None


def _holding(asked: Citation, passages: Sequence[Passage]) -> list[Passage]:
    """Of a section's passages those that hold the cited paragraph, else those nearest around it, else all."""
    placed = [(own, passage) for passage in passages if (own := _own(asked, passage)).title == asked.title]
    depth = len(asked.paragraphs)
    held = [passage for own, passage in placed if own.paragraphs[:depth] == asked.paragraphs]
    # a passage is cited by the paragraph it begins with, and may go on into the one that is looked for
    last: dict[str, Passage] = {}
    for own, passage in placed:
        if _order(own) < _order(asked):
            last[passage.metadata["document"]] = passage
    held += [passage for passage in last.values() if depth and f"({asked.paragraphs[-1]})" in passage.page_content]
    for outer in range(depth - 1, -1, -1):
        if held:
            break
        held = [passage for own, passage in placed if own.paragraphs == asked.paragraphs[:outer]]
    return held or [passage for _, passage in placed]


def _own(asked: Citation, passage: Passage) -> Citation:
    try:
        return citations.parse(passage.metadata["citation"])
    except ValueError:  # of a document that gives its paragraphs no cites
        return asked.whole


def _order(citation: Citation) -> tuple[int, ...]:
    """Where the paragraph comes in its section: (a)(1)(i)(A) and so on down, as the CFR numbers its levels."""
    places = []
    for token, kind in zip(citation.paragraphs, _LEVELS, strict=False):
        readings = dict(citations.ordinals(token))
        places.append(readings.get(kind, next(iter(readings.values()), 0)))
    return tuple(places)


def _marked(passage: Passage, score: float, match: str) -> Passage:
    passage.metadata |= {"score": round(score, 6), "match": match}
    return passage
