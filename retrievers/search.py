"""From a question to the passages that answer it, or to none. Knows no files and no model that writes.

What a question cites is looked up; the rest is found by dense and BM25 search and put into one order (see `ranking`). If nothing
found is near enough to the question to be evidence, nothing is returned.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, PrivateAttr
from qdrant_client import models

from errors import InvalidRequest
from retrievers import citations, editions, neighbours, ranking
from retrievers.citations import Citation
from retrievers.documents import Passage
from retrievers.features import Candidate
from retrievers.held import Held
from retrievers.places import distance, holding
from retrievers.stages import ALL, Stages
from retrievers.store import Store, among, equals

Filters = Mapping[str, str | Sequence[str] | None]

DEFAULT_MIN_SCORE = 0.38  # with MiniLM, questions the rules answer reach 0.43 and nearly all others stay below
_FILTERS = ("part", "section", "source", "edition")
_MOST = 50  # passages a request may ask for
_OVER = 100  # candidates of each kind of search: ranking needs more of both than are wanted
_CITED = 3  # passages of one cited place
_SUBPART = re.compile(r"\bsubpart\s+([A-Z]{1,2})\b", re.IGNORECASE)


class PassageRetriever(BaseRetriever):
    """The best `k` passages for a question, the same ones in the same order for the same index.

    `retriever.invoke(question, k=8, neighbours=3, filters={"part": "15", "section": ["15.247", "15.249"], "source": "...",
    "edition": "...", "as_of": "2024-10-01"})`. To its stored metadata (`PassageMetadata`) each passage gains `score`, its cosine
    with the question, and `match`: "exact" if the question cites it, "search" if it was found, and "neighbour" for at most
    `neighbours` more after the `k`, which those lean on; these have a `relation` too (see `neighbours`). Empty if nothing was
    cited and no cosine reaches `min_score`, of which 0 lets everything through. Of each place only the newest edition is
    searched, or the one of the day `as_of`, unless the filter `edition` names others.

    Raises InvalidRequest for an empty question, an unknown filter or an impossible `k`, and StoreError.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    store: Store
    k: int = 6
    min_score: float = DEFAULT_MIN_SCORE
    neighbours: int = 0
    stages: Stages = ALL
    _held: Held = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self._held = Held(self.store)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 -- LangChain passes it
        k: int | None = None,
        neighbours: int | None = None,
        filters: Filters | None = None,
    ) -> list[Passage]:
        return self._find(query, k, neighbours, filters)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,  # noqa: ARG002 -- LangChain passes it
        k: int | None = None,
        neighbours: int | None = None,
        filters: Filters | None = None,
    ) -> list[Passage]:
        return await self.store.run(self._find, query, k, neighbours, filters)

    def _find(self, query: str, wanted: int | None, more: int | None, filters: Filters | None) -> list[Passage]:
        k = self.k if wanted is None else wanted
        if not query.strip():
            raise InvalidRequest("the question is empty")
        if not 1 <= k <= _MOST:
            raise InvalidRequest(f"k must be from 1 to {_MOST}; it is {k}")
        if more is not None and not 0 <= more <= _MOST:
            raise InvalidRequest(f"neighbours must be from 0 to {_MOST}; it is {more}")
        where = self._where(filters or {})
        asked = citations.find(query) if self.stages.exact else []
        cited = self._cited(query, asked, k, where)
        found = [passage for passage in self._search(query, asked, where) if passage.id not in cited]
        best = max((passage.metadata["score"] for passage in found[:k]), default=0.0)
        if not cited and best < self.min_score > 0:
            return []
        chosen = [*cited.values(), *(ranking.spread(found) if self.stages.sections else found)]
        chosen = ranking.folded(chosen, k, self.store.sparse.terms) if self.stages.fold else chosen[:k]
        return chosen + self._near(query, chosen, self.neighbours if more is None else more, where)

    def _where(self, filters: Filters) -> models.Filter:
        day, chosen = filters.get("as_of"), filters.get("edition")
        if not (day is None or isinstance(day, str)):
            raise InvalidRequest("as_of must be one day, month or year")
        if day and chosen:
            raise InvalidRequest("edition and as_of each choose the edition; give one of them")
        must = _conditions({name: value for name, value in filters.items() if name != "as_of"})
        outdated = [] if chosen or not self.stages.fold else self._held.outdated(editions.last_day(day) if day else None)
        return models.Filter(must=must, must_not=outdated)

    def _search(self, query: str, asked: Sequence[Citation], where: models.Filter) -> list[Passage]:
        """Candidates in their final order; if the question names whole parts, from these as long as they hold anything."""
        parts = sorted({citation.part for citation in asked if citation.part and not citation.section})
        if parts:
            subparts = {match[1].upper() for match in _SUBPART.finditer(query)}
            inside = self._ranked(query, _and(where, among("part", parts)))
            if chosen := [passage for passage in inside if not subparts or _subpart(passage) in subparts] or inside:
                return chosen
        return self._ranked(query, where)

    def candidates(self, query: str, where: models.Filter | None = None) -> list[Candidate]:
        """What both kinds of search find for a question, in no order that counts yet; near-duplicates and all editions too."""
        dense, sparse = self.store.ranked(query, _OVER, where)
        dense, sparse = dense if self.stages.dense else [], sparse if self.stages.sparse else []
        cosines = {str(passage.id): cosine for passage, cosine in dense}
        lacking = [str(passage.id) for passage, _ in sparse if str(passage.id) not in cosines]
        cosines |= self.store.cosines(query, lacking) if lacking else {}
        return ranking.candidates(dense, sparse, cosines)

    def _ranked(self, query: str, where: models.Filter) -> list[Passage]:
        ordered = ranking.ordered(query, self.candidates(query, where), self.store.sparse.terms, self.stages)
        return [_marked(candidate.passage, candidate.cosine, "search") for candidate in ordered]

    def _near(self, query: str, passages: Sequence[Passage], limit: int, where: models.Filter) -> list[Passage]:
        """What the passages lean on, if that is wanted."""
        if limit == 0 or not self.stages.neighbours:
            return []

        def cited(citation: Citation) -> list[Passage]:
            return list(self._cited(query, [citation], _CITED, where).values())

        def document(uri: str) -> list[Passage]:
            return self.store.passages(models.Filter(must=[equals("document", uri)]))

        found = neighbours.find(query, passages, limit, cited=cited, document=document, glossary=self._held.glossary)
        cosines = self.store.cosines(query, [str(passage.id) for passage in found]) if found else {}
        for passage in found:
            passage.metadata["score"] = round(cosines.get(str(passage.id), 0.0), 6)
        return found

    def _cited(self, query: str, asked: Sequence[Citation], k: int, where: models.Filter) -> dict[str | None, Passage]:
        """What the question cites, by id, in the order of its citations: the place itself first, then by cosine."""
        places = [(citation, place) for citation in asked if (place := _place(citation))][:k]
        share = min(_CITED, k // len(places)) if places else 0
        found: dict[str | None, Passage] = {}
        for citation, place in places:
            held = holding(citation, self.store.passages(_and(where, place)))
            cosines = self.store.cosines(query, [str(passage.id) for passage in held]) if held else {}
            for passage in sorted(held, key=partial(_nearest, citation, cosines))[:share]:
                found.setdefault(passage.id, _marked(passage, cosines.get(str(passage.id), 0.0), "exact"))
        return found


def _nearest(citation: Citation, cosines: Mapping[str, float], passage: Passage) -> tuple[int, float, str]:
    identity = str(passage.id)
    return (distance(citation, passage), -cosines.get(identity, 0.0), identity)


def _conditions(filters: Filters) -> list[models.Condition]:
    if unknown := filters.keys() - set(_FILTERS):
        raise InvalidRequest(f"there is no filter {min(unknown)!r}; there are {', '.join(_FILTERS)}, as_of")
    conditions: list[models.Condition] = []
    for name, value in filters.items():
        if value is None:
            continue
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, Sequence) or not values or not all(isinstance(one, str) for one in values):
            raise InvalidRequest(f"the filter {name!r} must be a text or a list of texts")
        conditions.append(among(name, values))
    return conditions


def _and(where: models.Filter, condition: models.Condition) -> models.Filter:
    return models.Filter(must=[*(where.must or []), condition], must_not=where.must_not)


def _place(citation: Citation) -> models.FieldCondition | None:
    """Where a citation is looked up; a whole part is too much to look up."""
    if citation.has_paragraphs:
        return among("section", [citation.section])
    return among("citation", [str(citation)]) if citation.section or citation.kdb else None


def _subpart(passage: Passage) -> str:
    """The letter of the subpart that the passage's headings name, or ""."""
    match = _SUBPART.search(passage.metadata["heading"])
    return match[1].upper() if match else ""


def _marked(passage: Passage, score: float, match: str) -> Passage:
    passage.metadata |= {"score": round(score, 6), "match": match}
    return passage
