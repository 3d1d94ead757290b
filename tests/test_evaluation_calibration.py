"""The threshold is the one that tells best between questions with and without an answer."""

from collections.abc import Sequence

import pytest
from fakes_evaluation import LaidDown, passage

from errors import InvalidRequest
from evaluation import calibration
from evaluation.calibration import Scored
from evaluation.questions import Question
from evaluation.systems import by_retriever


def question(text: str, *, answerable: bool) -> Question:
    return Question(text, text, text, answerable=answerable)


def outcomes(answerable: Sequence[float | None], unanswerable: Sequence[float | None]) -> list[Scored]:
    return [Scored(question("q", answerable=True), score) for score in answerable] + [
        Scored(question("q", answerable=False), score) for score in unanswerable
    ]


def test_what_can_be_parted_is_parted_in_the_middle() -> None:
    """Where all scores of one kind lie above the other's, the threshold lies halfway between them."""
    report = calibration.summary(outcomes([0.5, 0.7], [0.1, 0.3]))
    assert report["chosen"] == {
        "threshold": 0.4,
        "unanswerable_refused": 1.0,
        "answerable_lost": 0.0,
        "balanced_accuracy": 1.0,
    }


def test_both_kinds_weigh_the_same() -> None:
    """A hundred answerable questions do not outvote two that have no answer."""
    report = calibration.summary(outcomes([0.3] * 40 + [0.6] * 60, [0.4, 0.5]))
    assert report["chosen"]["threshold"] == 0.55  # refuses both and loses 40 of 100, where 0 would refuse none
    assert report["chosen"]["balanced_accuracy"] == 0.8


def test_of_equal_thresholds_the_lower() -> None:
    """Where two thresholds are as good, the one that refuses less is taken."""
    report = calibration.summary(outcomes([0.2, 0.6], [0.1, 0.5]))
    points = {point["threshold"]: point["balanced_accuracy"] for point in report["curve"]}
    assert points == {0.0: 0.5, 0.15: 0.75, 0.35: 0.5, 0.55: 0.75}
    assert report["chosen"]["threshold"] == 0.15


def test_scores_that_tell_nothing_give_no_threshold() -> None:
    """Where scores are the wrong way round the threshold is 0, which refuses nothing."""
    assert calibration.summary(outcomes([0.1], [0.9]))["chosen"]["threshold"] == 0.0


def test_a_cited_question_is_answered_at_any_threshold() -> None:
    """What a question cites is looked up and given whatever its score: no threshold refuses it, and none is blamed for it."""
    report = calibration.summary(outcomes([None, 0.5], [None, 0.3]))
    assert report["chosen"]["unanswerable_refused"] == 0.5
    assert report["chosen"]["answerable_lost"] == 0.0


def test_the_best_score_is_taken_as_the_search_answers() -> None:
    """The best passage found counts, wherever it stands, but no neighbour; the search is asked for as many as it gives itself."""
    found = [passage("80.1", score=0.3), passage("80.2", score=0.6), passage("80.3", score=0.9, match="neighbour")]
    retriever = LaidDown(findings={"q": found, "cited": [passage("80.1", match="exact")], "none": []})
    asked = [question(text, answerable=True) for text in ("q", "cited", "none")]
    scored = list(calibration.scored(asked, by_retriever(retriever)))
    assert [outcome.score for outcome in scored] == [0.6, None, 0.0]
    assert [k for _, k, _ in retriever.asked] == [None, None, None]


def test_both_kinds_are_needed() -> None:
    """With one kind of question alone there is nothing to weigh."""
    one, other = question("q", answerable=True), question("q", answerable=False)
    with pytest.raises(InvalidRequest, match="--without"):
        calibration.check([one])
    with pytest.raises(InvalidRequest, match="that the documents answer"):
        calibration.check([other])
    calibration.check([one, other])


def test_the_trade_off_is_printed_with_the_chosen_point() -> None:
    """However many thresholds there are, a table of a few shows the trade-off, the chosen one marked."""
    spread = [n / 1000 for n in range(500)]
    report = calibration.summary(outcomes([score + 0.3037 for score in spread], spread))
    (table,) = calibration.tables(report)
    assert len(report["curve"]) > 100
    assert len(table.rows) <= calibration.SHOWN + 1
    assert sum(" chosen" in row[0] for row in table.rows) == 1
