"""Measures the search: how high the cited sections and paragraphs come, what each stage is worth, and how long it takes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation import measures, relevance
from evaluation.questions import Question
from evaluation.relevance import Hit
from evaluation.report import Table, interval
from evaluation.systems import Find
from retrievers.citations import Citation

LEVELS: Mapping[str, relevance.Matches] = {"section": relevance.in_section, "paragraph": relevance.in_paragraph}


@dataclass(frozen=True, slots=True)
class Judged:
    """One question's outcome: its time, and for each level the figures of the whole search and of those without a stage."""

    question: Question
    milliseconds: float
    ranks: dict[str, int | None]  # of the first hit, for each level
    whole: dict[str, list[float]]
    without: dict[str, dict[str, list[float]]]  # by stage, then level


def judged(questions: Sequence[Question], find: Find, without: Mapping[str, Find], *, k: int) -> Iterator[Judged]:
    """Ask each question of the whole search, which is timed, and then of each search that lacks a stage."""
    for question in questions:
        started = time.perf_counter()
        found = find(question.text, k)
        milliseconds = 1000 * (time.perf_counter() - started)
        ranks = {level: _first(found, question, level) for level in LEVELS}
        others = {stage: _figures(lacking(question.text, k), question) for stage, lacking in without.items()}
        yield Judged(question, milliseconds, ranks, _figures(found, question), others)


def summary(outcomes: Sequence[Judged], *, seed: int) -> dict[str, Any]:
    """All figures as plain data; those of a stage left out carry their difference to the whole search."""
    stages = list(outcomes[0].without) if outcomes else []
    report: dict[str, Any] = {
        "levels": {level: _named([o.whole[level] for o in outcomes], seed) for level in LEVELS},
        "without": {stage: {level: _compared(outcomes, stage, level, seed) for level in LEVELS} for stage in stages},
        "latency_ms": measures.latency([outcome.milliseconds for outcome in outcomes]),
    }
    rows = [{"id": o.question.id, "ms": round(o.milliseconds, 1), "first_rank": o.ranks} for o in outcomes]
    return report | {"questions": rows}


def tables(report: Mapping[str, Any]) -> list[Table]:
    """What of the summary is printed."""
    latency = report["latency_ms"]
    found = Table(
        f"Found, of {len(report['questions'])} questions (95% intervals)",
        ["", *measures.NAMES],
        [[f"by {level}", *map(interval, figures.values())] for level, figures in report["levels"].items()],
    )
    time_taken = Table(
        f"Latency of {latency['calls']} searches, the first left out",
        ["", "p50", "p95"],
        [["ms", *("-" if latency[name] is None else f"{latency[name]:.1f}" for name in ("p50", "p95"))]],
    )
    if not report["without"]:
        return [found, time_taken]
    rows = [_worth(stage, figures) for stage, figures in report["without"].items()]
    heads = ["without", "hit@1", "hit@5", "hit@10", "MRR@10", "difference", "paragraph MRR@10", "difference"]
    return [found, Table("Each stage left out, by section and, at the right, by paragraph", heads, rows), time_taken]


def _worth(stage: str, levels: Mapping[str, Any]) -> list[str]:
    section, paragraph = levels["section"]["figures"], levels["paragraph"]["figures"]
    return [
        stage,
        *(f"{section[name]['value']:.3f}" for name in ("hit@1", "hit@5", "hit@10", "MRR@10")),
        interval(levels["section"]["differences"]["MRR@10"], sign="+"),
        f"{paragraph['MRR@10']['value']:.3f}",
        interval(levels["paragraph"]["differences"]["MRR@10"], sign="+"),
    ]


def _figures(found: Sequence[Hit], question: Question) -> dict[str, list[float]]:
    return {level: measures.of_ranking(_gains(found, question, level), len(_cited(question, level))) for level in LEVELS}


def _gains(found: Sequence[Hit], question: Question, level: str) -> list[bool]:
    return relevance.gains(found, _cited(question, level), LEVELS[level])


def _cited(question: Question, level: str) -> list[Citation]:
    return list(dict.fromkeys(cited.whole if level == "section" else cited for cited in question.cited))


def _first(found: Sequence[Hit], question: Question, level: str) -> int | None:
    gains = _gains(found, question, level)
    return gains.index(True) + 1 if any(gains) else None


def _compared(outcomes: Sequence[Judged], stage: str, level: str, seed: int) -> dict[str, Any]:
    lacking = [outcome.without[stage][level] for outcome in outcomes]
    whole = [outcome.whole[level] for outcome in outcomes]
    return {
        "figures": _named(lacking, seed),
        "differences": _named((np.array(lacking) - np.array(whole)).tolist(), seed),
    }


def _named(rows: Sequence[Sequence[float]], seed: int) -> dict[str, Any]:
    figures = measures.means(np.array(rows, np.float64), seed=seed)
    return {name: figure.as_data() for name, figure in zip(measures.NAMES, figures, strict=True)} if figures else {}
