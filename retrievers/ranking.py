"""Puts what dense and BM25 search found into one order, by what question and passage share. Knows neither store nor model.

The weights were fitted to questions of amateur-radio examinations over 2,850 sections (a softmax over each question's candidates,
five-fold cross-validated); no feature knows what a text is about. See docs/retrieval.md.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from retrievers import citations
from retrievers.documents import Passage
from retrievers.splitting import HEADING_SEPARATOR
from retrievers.stages import Stages

Terms = Callable[[str], Sequence[int]]  # the words of a text that count, in their order, as numbers

_FUSED, _COSINE, _BM25, _COVERAGE, _PAIRS, _LENGTH, _SECTION = 1.9, 7.4, 3.8, 3.5, 4.6, -3.6, 0.24
_LONG = 200  # terms that count as one of length
_BEST_OF_SECTION = 4  # passages of a section that speak for it
_OF_ONE_PLACE = 2  # passages of a section, after which others have their turn
_SAME = 0.9  # share of word pairs from which on two passages of one place are one
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A passage that was found, its cosine with the question, its BM25 score and its places in the two rankings (0: in none)."""

    passage: Passage
    cosine: float
    bm25: float
    dense_rank: int
    sparse_rank: int

    @property
    def fused(self) -> float:
        """The sum of the reciprocal ranks (Cormack et al., 2009), with 2 as the constant, as Qdrant fuses them."""
        return sum(1 / (2 + rank) for rank in (self.dense_rank, self.sparse_rank) if rank)


def ordered(question: str, candidates: Sequence[Candidate], terms: Terms, stages: Stages) -> list[Candidate]:
    """The candidates, best first; equal ones by cosine and id, so that the same index gives the same order."""
    scores = [_FUSED * candidate.fused for candidate in candidates]
    if stages.sections:
        scores = _added(scores, _sections(candidates), _SECTION)
    if stages.rerank:
        texts = [terms(candidate.passage.page_content) for candidate in candidates]
        headed = [[*terms(_heading(candidate.passage)), *text] for candidate, text in zip(candidates, texts, strict=True)]
        asked = terms(question)
        if stages.dense:
            scores = _added(scores, [candidate.cosine for candidate in candidates], _COSINE)
        highest = max((candidate.bm25 for candidate in candidates), default=0.0) or 1.0
        scores = _added(scores, [candidate.bm25 / highest for candidate in candidates], _BM25)
        scores = _added(scores, _coverage(asked, headed), _COVERAGE)
        scores = _added(scores, _pairs(asked, texts), _PAIRS)
        scores = _added(scores, [len(text) / _LONG for text in headed], _LENGTH)
    order = sorted(zip(scores, candidates, strict=True), key=lambda each: (-each[0], -each[1].cosine, each[1].passage.id or ""))
    return [candidate for _, candidate in order]


def candidates(
    dense: Sequence[tuple[Passage, float]], sparse: Sequence[tuple[Passage, float]], cosines: Mapping[str, float]
) -> list[Candidate]:
    """One candidate for each passage in either ranking, best first; `cosines` are by the passages' ids."""
    dense_rank = {passage.id: rank for rank, (passage, _) in enumerate(dense, start=1)}
    sparse_rank = {passage.id: rank for rank, (passage, _) in enumerate(sparse, start=1)}
    bm25 = {passage.id: score for passage, score in sparse}
    found = {passage.id: passage for passage, _ in (*sparse, *dense)}
    return [
        Candidate(
            passage,
            cosines.get(str(identity), 0.0),
            bm25.get(identity, 0.0),
            dense_rank.get(identity, 0),
            sparse_rank.get(identity, 0),
        )
        for identity, passage in found.items()
    ]


def spread(passages: Sequence[Passage]) -> list[Passage]:
    """The same passages, with no more than two of one place before the first two of every other."""
    seen: Counter[str] = Counter()
    first: list[Passage] = []
    later: list[Passage] = []
    for passage in passages:
        place = _place(passage)
        seen[place] += 1
        (first if seen[place] <= _OF_ONE_PLACE else later).append(passage)
    return first + later


def folded(passages: Sequence[Passage], wanted: int, terms: Terms) -> list[Passage]:
    """The first `wanted` passages, without those that say the same as an earlier one of the same place.

    Nearly the same words, and just the same figures: one watt and two watts are two rules.
    """
    kept: dict[str, list[tuple[set[tuple[int, int]], set[str]]]] = {}
    found: list[Passage] = []
    for passage in passages:
        if len(found) == wanted:
            break
        pairs, figures = set(pairwise(terms(passage.page_content))), set(_FIGURE.findall(passage.page_content))
        earlier = kept.setdefault(_place(passage), [])
        if pairs and any(figures == same and len(pairs & other) >= _SAME * len(pairs | other) for other, same in earlier):
            continue
        earlier.append((pairs, figures))
        found.append(passage)
    return found


def _added(scores: Sequence[float], feature: Sequence[float], weight: float) -> list[float]:
    return [score + weight * value for score, value in zip(scores, feature, strict=True)]


def _coverage(asked: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """How much of the question each text covers; a term counts the more, the fewer of the texts have it."""
    words, sets = set(asked), [set(text) for text in texts]
    having = Counter(term for text in sets for term in words & text)
    rarity = {term: math.log1p((len(sets) - having[term] + 0.5) / (having[term] + 0.5)) for term in words}
    total = sum(rarity.values()) or 1.0
    return [sum(rarity[term] for term in words & text) / total for text in sets]


def _pairs(asked: Sequence[int], texts: Sequence[Sequence[int]]) -> list[float]:
    """The share of the question's neighbouring terms that are neighbours in each text."""
    pairs = set(pairwise(asked))
    return [len(pairs & set(pairwise(text))) / max(len(pairs), 1) for text in texts]


def _sections(candidates: Sequence[Candidate]) -> list[float]:
    """For each candidate how well its section's best ones rank together, as standard deviations from the mean."""
    of_section = defaultdict(list)
    for candidate in candidates:
        of_section[_place(candidate.passage)].append(_smoothed(candidate))
    strength = {place: sum(sorted(ranks, reverse=True)[:_BEST_OF_SECTION]) for place, ranks in of_section.items()}
    values = [strength[_place(candidate.passage)] for candidate in candidates]
    mean = sum(values) / max(len(values), 1)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values), 1))
    return [(value - mean) / deviation if deviation else 0.0 for value in values]


def _smoothed(candidate: Candidate) -> float:
    """Reciprocal ranks with the constant 60: a section is known by many fair passages rather than by one."""
    return sum(1 / (60 + rank) for rank in (candidate.dense_rank, candidate.sparse_rank) if rank)


def _heading(passage: Passage) -> str:
    """The nearest heading above the passage, which may name what a table's figures are for."""
    return str(passage.metadata["heading"]).rpartition(HEADING_SEPARATOR)[2]


def _place(passage: Passage) -> str:
    """The section, appendix or publication a passage stands in, or its document where it cites none."""
    citation = citations.read(passage.metadata["citation"])
    return str(citation.whole) if citation else passage.metadata["document"]
