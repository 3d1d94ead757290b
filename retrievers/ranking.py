"""Puts what dense and BM25 search found into one order, by what question and passage share. Knows neither store nor model.

The weights were fitted to questions of amateur-radio examinations over 2,850 sections (a softmax over each question's candidates,
five-fold cross-validated): benchmarks/ranking.py. Those of figures and ranges, which such questions seldom name, are what serves
questions for the rows of tables: benchmarks/tables.py. See docs/retrieval.md.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from retrievers import features
from retrievers.documents import Passage
from retrievers.features import Candidate, Terms, place
from retrievers.stages import Stages

WEIGHTS = {
    "fused": 2.06,
    "section": 0.2,
    "cosine": 6.13,
    "bm25": 2.25,
    "coverage": 0.53,
    "window": 3.97,
    "pairs": 4.91,
    "length": -2.86,
    "heading": 2.43,
    "title": 0.5,
    "definition": 16.0,
    "figures": 3.0,
    "ranges": 4.0,
}
_OF_ONE_PLACE = 3  # passages of a section, after which others have their turn
_SAME = 0.9  # share of word pairs from which on two passages of one place are one
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


def ordered(question: str, candidates: Sequence[Candidate], terms: Terms, stages: Stages) -> list[Candidate]:
    """The candidates, best first; equal ones by cosine and id, so that the same index gives the same order."""
    shared = features.of_rankings(candidates)
    if not stages.sections:
        del shared["section"]
    if stages.rerank:
        shared |= features.of_texts(question, candidates, terms)
        if not stages.dense:
            del shared["cosine"]
    weights, rows = [WEIGHTS[name] for name in shared], zip(*shared.values(), strict=True)
    scores = [sum(weight * value for weight, value in zip(weights, row, strict=True)) for row in rows]
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
    """The same passages, with no more than three of one place before the first three of every other."""
    seen: Counter[str] = Counter()
    first: list[Passage] = []
    later: list[Passage] = []
    for passage in passages:
        where = place(passage)
        seen[where] += 1
        (first if seen[where] <= _OF_ONE_PLACE else later).append(passage)
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
        earlier = kept.setdefault(place(passage), [])
        if pairs and any(figures == same and len(pairs & other) >= _SAME * len(pairs | other) for other, same in earlier):
            continue
        earlier.append((pairs, figures))
        found.append(passage)
    return found
