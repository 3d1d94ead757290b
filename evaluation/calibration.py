"""Finds the score below which nothing found is evidence, from questions with and without an answer. Keeps nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from errors import InvalidRequest
from evaluation.questions import Question
from evaluation.report import Table
from evaluation.systems import Find

SHOWN = 12  # thresholds of the trade-off that are printed, besides the chosen one


@dataclass(frozen=True, slots=True)
class Scored:
    """A question's best score; None if it cites what is indexed, for such a question is answered whatever the threshold is."""

    question: Question
    score: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """What a threshold does: shares of the unanswerable that it refuses and of the answerable that it loses."""

    threshold: float
    refused: float
    lost: float

    @property
    def balanced(self) -> float:
        """The balanced accuracy."""
        return (self.refused + 1 - self.lost) / 2

    def as_data(self) -> dict[str, float]:
        return {
            "threshold": self.threshold,
            "unanswerable_refused": round(self.refused, 4),
            "answerable_lost": round(self.lost, 4),
            "balanced_accuracy": round(self.balanced, 4),
        }


def check(questions: Sequence[Question]) -> None:
    """Raise InvalidRequest unless there are questions with an answer and questions without."""
    if not any(question.answerable for question in questions):
        raise InvalidRequest("a threshold needs questions that the documents answer; --questions holds none")
    if all(question.answerable for question in questions):
        raise InvalidRequest(
            'a threshold needs questions without an answer too: name a file with --without, or mark rows "answerable": false'
        )


def scored(questions: Sequence[Question], find: Find) -> Iterator[Scored]:
    """Each question's best score, of as many passages as the search gives by itself."""
    for question in questions:
        found = find(question.text, None)
        cited = any(hit.match == "exact" for hit in found)
        best = max((hit.score for hit in found if hit.match == "search"), default=0.0)
        yield Scored(question, None if cited else best)


def curve(answerable: Sequence[float | None], unanswerable: Sequence[float | None]) -> list[Point]:
    """Every threshold that matters, in order: 0, which refuses nothing, and halfway between neighbouring scores."""
    kept, wrong = _sorted(answerable), _sorted(unanswerable)
    scores = np.unique(np.concatenate([kept, wrong]))
    between = np.round((scores[1:] + scores[:-1]) / 2, 4)
    thresholds = np.unique(np.concatenate([[0.0], between[(between > 0) & (between <= 1)]]))
    refused = np.searchsorted(wrong, thresholds, side="left") * (thresholds > 0) / len(unanswerable)
    lost = np.searchsorted(kept, thresholds, side="left") * (thresholds > 0) / len(answerable)
    return [Point(float(t), float(r), float(s)) for t, r, s in zip(thresholds, refused, lost, strict=True)]


def best(points: Sequence[Point]) -> Point:
    """The point of best balanced accuracy; of equal ones the lowest."""
    return max(points, key=lambda point: (round(point.balanced, 12), -point.threshold))


def summary(outcomes: Sequence[Scored]) -> dict[str, Any]:
    """The trade-off and the chosen point as plain data; `chosen` is None while one kind of question is missing."""
    answerable = [outcome.score for outcome in outcomes if outcome.question.answerable]
    unanswerable = [outcome.score for outcome in outcomes if not outcome.question.answerable]
    points = curve(answerable, unanswerable) if answerable and unanswerable else []
    return {
        "answerable": len(answerable),
        "unanswerable": len(unanswerable),
        "chosen": best(points).as_data() if points else None,
        "curve": [point.as_data() for point in points],
        "questions": [{"id": o.question.id, "answerable": o.question.answerable, "score": o.score} for o in outcomes],
    }


def tables(report: Mapping[str, Any]) -> list[Table]:
    """What of the summary is printed: thresholds evenly picked from the curve, and the chosen one."""
    points, chosen = report["curve"], report["chosen"]
    places = {round(place) for place in np.linspace(0, len(points) - 1, SHOWN)} if points else set()
    picked = [point for place, point in enumerate(points) if place in places or point == chosen]
    title = f"What a threshold does to {report['unanswerable']} unanswerable and {report['answerable']} answerable questions"
    rows = [
        [
            f"{point['threshold']:.4f}" + (" chosen" if point == chosen else ""),
            *(f"{point[name]:.3f}" for name in ("unanswerable_refused", "answerable_lost", "balanced_accuracy")),
        ]
        for point in picked
    ]
    return [Table(title, ["threshold", "unanswerable refused", "answerable lost", "balanced accuracy"], rows)]


def _sorted(scores: Sequence[float | None]) -> NDArray[np.float64]:
    return np.sort(np.array([score for score in scores if score is not None], np.float64))
