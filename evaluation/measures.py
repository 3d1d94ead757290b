"""Arithmetic of an evaluation: ranks to figures, and figures to intervals. Knows nothing about questions or passages.

The measures are those of Manning, Raghavan and Schütze, Introduction to Information Retrieval (2008), chapter 8; nDCG is
that of Järvelin and Kekäläinen (2002) with binary gain. Intervals are percentile bootstraps (Efron and Tibshirani, 1993).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("hit@1", "hit@5", "hit@10", "MRR@10", "nDCG@10")
DEPTH = 10
RESAMPLES = 2000
COVERAGE = 95  # percent

_CUTS = (1, 5, 10)
_TOGETHER = 100  # resamples drawn at a time, which bounds the memory that many questions take


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95% interval, and how many questions it stands on."""

    value: float
    low: float
    high: float
    n: int

    def as_data(self) -> dict[str, Any]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def of_ranking(gains: Sequence[bool], wanted: int) -> list[float]:
    """The figures that `NAMES` names, of one ranking; `wanted` is how many gains there are to be had."""
    top = list(gains[:DEPTH])
    first = top.index(True) + 1 if any(top) else 0
    ideal = sum(_discount(rank) for rank in range(1, min(wanted, DEPTH) + 1))
    gained = sum(_discount(rank) for rank, gain in enumerate(top, start=1) if gain)
    return [*(float(0 < first <= cut) for cut in _CUTS), 1 / first if first else 0.0, gained / ideal]


def means(values: NDArray[np.float64], *, seed: int) -> list[Figure]:
    """The mean of each column, a row being a question."""
    return shares(values, np.ones(len(values)), seed=seed)


def shares(parts: NDArray[np.float64], wholes: NDArray[np.float64], *, seed: int) -> list[Figure]:
    """The sum of each column of `parts` over the sum of `wholes`; what is drawn anew are questions, the rows.

    Columns are drawn together, so that the interval of a difference is that of the pairs. Each whole is above 0.
    """
    if not len(wholes):
        return []
    n = len(wholes)
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES // _TOGETHER):
        times = random.multinomial(n, np.full(n, 1 / n), size=_TOGETHER).astype(np.float64)
        drawn.append((times @ parts) / (times @ wholes)[:, None])
    tail = (100 - COVERAGE) / 2
    low, high = np.percentile(np.concatenate(drawn), [tail, 100 - tail], axis=0)
    values = parts.sum(axis=0) / wholes.sum()
    return [Figure(float(value), float(a), float(b), n) for value, a, b in zip(values, low, high, strict=True)]


def latency(milliseconds: Sequence[float]) -> dict[str, Any]:
    """The median and the 95th percentile of all calls but the first, which warms up."""
    timed = milliseconds[1:]
    p50, p95 = np.percentile(timed, [50, 95]) if timed else (None, None)
    return {"p50": _rounded(p50), "p95": _rounded(p95), "calls": len(timed)}


def _discount(rank: int) -> float:
    return float(1 / np.log2(rank + 1))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 1)
