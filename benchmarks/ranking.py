"""Fits the weights of retrievers/ranking.py to labelled questions, and cross-validates them.

python benchmarks/ranking.py --questions FILE

Searches what the settings name, as `fcc-rag eval retrieval` does, and prints the share of questions whose section is among the
first 1, 5 and 10 passages, and the mean reciprocal rank: with the weights that are there, and with weights fitted to four fifths
of the questions and tried on the last fifth. Then the weights fitted to all. The loss is a softmax over each question's
candidates, of whatever stands in a section that is cited.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the checkout wins over an installed copy

import numpy as np
import torch
from numpy.typing import NDArray

import services
import settings
from evaluation import questions, relevance
from retrievers import citations, features, ranking
from retrievers.features import Candidate
from retrievers.search import PassageRetriever

FOLDS = 5
SEED = 0
DECAY = 0.02  # of the squared weights, which are those of standardised features


@dataclass(frozen=True)
class Asked:
    """A question's candidates, their features (a row each, in the order of ranking.WEIGHTS), and which of them are right."""

    candidates: list[Candidate]
    rows: NDArray[np.float32]
    right: NDArray[np.bool_]

    def rank(self, weights: NDArray[np.float32]) -> int | None:
        """Where the first right passage stands, if each section's third waits for other sections."""
        order = np.argsort(-(self.rows @ weights), kind="stable")
        right = {self.candidates[at].passage.id for at in np.flatnonzero(self.right)}
        spread = ranking.spread([self.candidates[at].passage for at in order])
        return next((rank for rank, passage in enumerate(spread, start=1) if passage.id in right), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True, help="rows with question and cfr, as for fcc-rag eval retrieval")
    given = parser.parse_args()
    read = questions.with_citations(questions.read(given.questions).questions)
    with services.open_library(settings.load()) as library:
        asked = [_asked(question, library.searching) for question in read]
    print(f"{len(asked)} questions, {sum(bool(each.right.any()) for each in asked)} of them with a right candidate")
    now = np.array(list(ranking.WEIGHTS.values()), np.float32)
    print(f"weights as they are: {_figures([each.rank(now) for each in asked])}")
    print(f"cross-validated:     {_figures(_cross_validated(asked))}")
    for name, weight in zip(ranking.WEIGHTS, _fitted(asked), strict=True):
        print(f'    "{name}": {weight:.2f},')


def _asked(question: questions.Question, retriever: PassageRetriever) -> Asked:
    candidates = retriever.candidates(question.text)
    shared = features.of_rankings(candidates) | features.of_texts(question.text, candidates, retriever.store.sparse.terms)
    rows = np.array([shared[name] for name in ranking.WEIGHTS], np.float32).T
    places = [citations.read(candidate.passage.metadata["citation"]) for candidate in candidates]
    right = [any(place and relevance.in_section(place, cited) for cited in question.cited) for place in places]
    return Asked(candidates, rows, np.array(right, bool))


def _cross_validated(asked: Sequence[Asked]) -> list[int | None]:
    order = list(range(len(asked)))
    random.Random(SEED).shuffle(order)  # noqa: S311 -- nothing secret
    ranks: list[int | None] = []
    for fold in range(FOLDS):
        held = set(order[fold::FOLDS])
        weights = _fitted([each for at, each in enumerate(asked) if at not in held])
        ranks += [asked[at].rank(weights) for at in sorted(held)]
    return ranks


def _fitted(asked: Sequence[Asked]) -> NDArray[np.float32]:
    """Weights of the features as they are, fitted to them standardised."""
    learned = [each for each in asked if each.right.any()]
    together = np.concatenate([each.rows for each in learned])
    mean, deviation = together.mean(0), together.std(0) + 1e-9
    rows = [torch.tensor((each.rows - mean) / deviation) for each in learned]
    right = [torch.tensor(each.right) for each in learned]
    weights = torch.zeros(together.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        shares = [torch.log_softmax(row @ weights, 0)[which].logsumexp(0) for row, which in zip(rows, right, strict=True)]
        value = -torch.stack(shares).mean() + DECAY * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call] # torch does not type it
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call] # nor this
    fitted: NDArray[np.float32] = weights.detach().numpy() / deviation
    return fitted


def _figures(ranks: Sequence[int | None]) -> str:
    def hits(most: int) -> float:
        return sum(1 for rank in ranks if rank and rank <= most) / len(ranks)

    reciprocal = sum(1 / rank for rank in ranks if rank and rank <= 10) / len(ranks)
    return f"hit@1 {hits(1):.3f}, hit@5 {hits(5):.3f}, hit@10 {hits(10):.3f}, MRR@10 {reciprocal:.3f}"


if __name__ == "__main__":
    main()
