"""From the times of requests to the figures of a cell, and from cells to ratios. Knows nothing about servers or screens.

A cell is one server, one number of clients and one kind of context, in one round.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from load import Outcome
from watch import Meter

Context = Literal["own", "shared"]
MB = 1_000_000


@dataclass(frozen=True)
class Cell:
    """Times are in seconds, memory in MB, `others` in parts of the machine (see Meter).

    Requests a minute, latencies and tokens count the requests that ended well; `cpu_per_request` is over all.
    `decode` is the tokens a second that one stream sees after its first token.
    """

    server: str
    family: str
    round: int
    clients: int
    context: Context
    requests: int
    failures: int
    seconds: float
    requests_per_minute: float
    first_p50: float
    first_p95: float
    total_p50: float
    total_p95: float
    tokens_per_second: float
    decode: float
    tokens_in: float
    tokens_out: float
    cpu_per_request: float
    rss: float
    pss: float
    others: float
    errors: tuple[str, ...]


def cell(
    outcomes: Sequence[Outcome],
    seconds: float,
    meter: Meter,
    count: Callable[[str], int],
    **labels: Any,
) -> Cell:
    """The figures of one measurement; `count` gives the tokens in a text, and `labels` the fields that say what was measured."""
    well = [outcome for outcome in outcomes if not outcome.error]
    tokens = [count(outcome.text) for outcome in well]
    firsts, totals = [o.first for o in well], [o.total for o in well]
    decodes = [(n - 1) / (o.total - o.first) for n, o in zip(tokens, well, strict=True) if o.total > o.first]
    return Cell(
        requests=len(outcomes),
        failures=len(outcomes) - len(well),
        seconds=seconds,
        requests_per_minute=60 * len(well) / seconds,
        first_p50=percentile(firsts, 50),
        first_p95=percentile(firsts, 95),
        total_p50=percentile(totals, 50),
        total_p95=percentile(totals, 95),
        tokens_per_second=sum(tokens) / seconds,
        decode=percentile(decodes, 50),
        tokens_in=_mean([o.prompt_tokens for o in well if o.prompt_tokens]),
        tokens_out=_mean(tokens),
        cpu_per_request=meter.cpu / len(outcomes),
        rss=meter.rss / MB,
        pss=meter.pss / MB,
        others=meter.others,
        errors=tuple(sorted({o.error for o in outcomes if o.error}))[:3],
        **labels,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest; not a number where there are no values."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def medians(cells: Iterable[Cell]) -> list[Cell]:
    """One cell for all rounds of the same thing: medians of the figures, sums of requests and failures."""
    grouped: dict[tuple[str, int, Context], list[Cell]] = {}
    for each in cells:
        grouped.setdefault((each.server, each.clients, each.context), []).append(each)
    return [_median(group) for group in grouped.values()]


def best_alternative(cells: Iterable[Cell], ours: str, better: Callable[[Cell], float]) -> Cell | None:
    """The cell of another family that has the most of `better`, among those where not everything failed."""
    others = [each for each in cells if each.family != ours and each.failures < each.requests]
    return max(others, key=better, default=None)


@dataclass(frozen=True)
class Ratio:
    """How many times better we are than another server in the same round, the median over the rounds."""

    against: str
    clients: int
    context: Context
    requests_per_minute: float
    first_p50: float
    total_p50: float


def ratios(cells: Sequence[Cell], ours: str) -> list[Ratio]:
    """Ours against each other server; above 1 we are better. Both come from the same round, so that a slow hour hits both."""
    mine = {(each.round, each.clients, each.context): each for each in cells if each.family == ours}
    pairs: dict[tuple[str, int, Context], list[tuple[Cell, Cell]]] = {}
    for each in cells:
        beside = mine.get((each.round, each.clients, each.context))
        if each.family != ours and beside:
            pairs.setdefault((each.server, each.clients, each.context), []).append((beside, each))
    return [
        Ratio(
            *key,
            requests_per_minute=_middle([_over(us.requests_per_minute, them.requests_per_minute) for us, them in group]),
            first_p50=_middle([_over(them.first_p50, us.first_p50) for us, them in group]),
            total_p50=_middle([_over(them.total_p50, us.total_p50) for us, them in group]),
        )
        for key, group in pairs.items()
    ]


def as_data(thing: Cell | Ratio) -> dict[str, Any]:
    """A row for JSON, with None where there is no number."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(thing).items()}


def _median(group: list[Cell]) -> Cell:
    labels = {"server", "family", "clients", "context"}
    sums = {"requests", "failures"}
    values: dict[str, Any] = {"round": len(group)}
    for name in (f.name for f in fields(Cell)):
        every = [getattr(each, name) for each in group]
        if name in labels:
            values[name] = every[0]
        elif name in sums:
            values[name] = sum(every)
        elif name == "errors":
            values[name] = tuple(sorted({error for errors in every for error in errors}))[:3]
        elif name != "round":
            values[name] = _middle(every)
    return Cell(**values)


def _middle(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def _over(above: float, below: float) -> float:
    return above / below if below else math.nan
