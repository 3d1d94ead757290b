"""Measures answers: whether they cite the labelled section, are supported or refused, and choose right. Knows no model."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from errors import InvalidRequest
from evaluation import choices, measures
from evaluation.questions import Question
from evaluation.relevance import in_section
from evaluation.report import Table, interval
from evaluation.systems import Answering, Reply

SUPPORT = ("supported", "partly", "unsupported")


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen of a question's choices, by their places in the file; None where that is unclear.

    `refused` tells that nothing was found to choose from; then `retrieved` is None. `said` are the two answers they were
    read from.
    """

    order: list[int]
    retrieved: int | None
    refused: bool
    alone: int | None
    said: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question's answer, and what was chosen if the question offers choices."""

    question: Question
    reply: Reply
    chosen: Chosen | None

    @property
    def cites(self) -> bool | None:
        """Whether the sources it cites hold a labelled section; None if it is a refusal or there is no label."""
        if self.reply.refused or not self.question.cited:
            return None
        return any(in_section(place, cited) for place in self.reply.cited for cited in self.question.cited)


def check(questions: Sequence[Question]) -> None:
    """Raise InvalidRequest if no question carries a label."""
    if not any(question.cited or question.choices for question in questions):
        raise InvalidRequest("no question has cfr or choices: there is nothing to measure its answer by")


def asked(
    questions: Sequence[Question], answering: Answering, *, seed: int, max_tokens: int, choice_tokens: int
) -> Iterator[Outcome]:
    """Ask each question without its choices; then, if it has some, with them: once with retrieval, once of the model alone."""
    for question in questions:
        reply = answering.ask(question.text, max_tokens=max_tokens)
        chosen = _choose(question, answering, seed=seed, max_tokens=choice_tokens) if question.choices else None
        yield Outcome(question, reply, chosen)


def summary(outcomes: Sequence[Outcome], *, seed: int) -> dict[str, Any]:
    """All figures as plain data, None where nothing measures them."""
    answered = [outcome for outcome in outcomes if not outcome.reply.refused]
    cites = [outcome.cites for outcome in outcomes if outcome.cites is not None]
    report: dict[str, Any] = {"citation_accuracy": _share(cites, seed)}
    report |= {f"sentences_{level}": _sentences(answered, level, seed) for level in SUPPORT}
    report["refusal_rate"] = _share([outcome.reply.refused for outcome in outcomes], seed)
    for name, kind in (("refusal_rate_answerable", True), ("refusal_rate_unanswerable", False)):
        refused = [outcome.reply.refused for outcome in outcomes if outcome.question.answerable is kind]
        report[name] = _share(refused, seed)
    report["choices"] = _choices(outcomes, seed)
    return report | {"questions": [_row(outcome) for outcome in outcomes]}


def tables(report: Mapping[str, Any]) -> list[Table]:
    """What of the summary is printed."""
    names = {
        "citation accuracy": "citation_accuracy",
        "sentences supported": "sentences_supported",
        "sentences partly": "sentences_partly",
        "sentences unsupported": "sentences_unsupported",
        "refusal rate": "refusal_rate",
        "refused, answerable": "refusal_rate_answerable",
        "refused, unanswerable": "refusal_rate_unanswerable",
    }
    labelled_only = {"refusal_rate_answerable", "refusal_rate_unanswerable"}
    rows = [_line(name, report[key]) for name, key in names.items() if report[key] or key not in labelled_only]
    printed = [Table(f"Answers to {len(report['questions'])} questions (95% intervals)", ["", "share", "answers"], rows)]
    if chosen := report["choices"]:
        rows = [
            [*_line("with retrieval", chosen["with_retrieval"]), str(chosen["unclear_with_retrieval"])],
            [*_line("model alone", chosen["alone"]), str(chosen["unclear_alone"])],
            [*_line("difference", chosen["difference"], sign="+"), ""],
            ["by chance", f"{chosen['chance']:.3f}", "", ""],
        ]
        printed.append(Table("Choice accuracy, shuffled choices", ["", "share", "questions", "unclear"], rows))
    return printed


def _choose(question: Question, answering: Answering, *, seed: int, max_tokens: int) -> Chosen:
    order = choices.order(question, seed=seed)
    shown = [question.choices[place] for place in order]
    text = choices.written(question.text, shown)

    def place(answer: str) -> int | None:
        at = choices.chosen(answer, shown)
        return None if at is None else order[at]

    reply = answering.ask(text, max_tokens=max_tokens)
    alone = answering.ask_alone(text, max_tokens=max_tokens)
    return Chosen(order, None if reply.refused else place(reply.content), reply.refused, place(alone), (reply.content, alone))


def _share(outcomes: Sequence[bool], seed: int) -> dict[str, Any] | None:
    figures = measures.means(np.array(outcomes, np.float64)[:, None], seed=seed)
    return figures[0].as_data() if figures else None


def _sentences(answered: Sequence[Outcome], level: str, seed: int) -> dict[str, Any] | None:
    """The share of all sentences; those of one answer are drawn together. None where the answers do not tell."""
    told = [outcome.reply.support for outcome in answered if outcome.reply.support]
    parts = np.array([[support.count(level)] for support in told], np.float64)
    figures = measures.shares(parts, np.array([len(support) for support in told], np.float64), seed=seed)
    return figures[0].as_data() if figures else None


def _choices(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any] | None:
    pairs = [(outcome.question, outcome.chosen) for outcome in outcomes if outcome.chosen]
    if not pairs:
        return None
    right = [[float(c.retrieved == q.answer), float(c.alone == q.answer)] for q, c in pairs]
    values = np.array([[retrieved, alone, retrieved - alone] for retrieved, alone in right])
    names = ("with_retrieval", "alone", "difference")
    figures = measures.means(values, seed=seed)
    return {name: figure.as_data() for name, figure in zip(names, figures, strict=True)} | {
        "unclear_with_retrieval": sum(c.retrieved is None for _, c in pairs),
        "refused_with_retrieval": sum(c.refused for _, c in pairs),
        "unclear_alone": sum(c.alone is None for _, c in pairs),
        "chance": round(sum(1 / len(q.choices) for q, _ in pairs) / len(pairs), 4),
    }


def _line(name: str, figure: Mapping[str, Any] | None, *, sign: str = "") -> list[str]:
    return [name, interval(figure, sign=sign), str(figure["n"]) if figure else "-"]


def _row(outcome: Outcome) -> dict[str, Any]:
    reply, chosen = outcome.reply, outcome.chosen
    row: dict[str, Any] = {
        "id": outcome.question.id,
        "answer": reply.content,
        "refused": reply.refused,
        "cites_the_section": outcome.cites,
        "sentences": None if reply.support is None else dict(Counter(reply.support)),
    }
    if chosen:
        row["choice"] = {
            "right": outcome.question.answer,
            "with_retrieval": chosen.retrieved,
            "alone": chosen.alone,
            "shown": chosen.order,
            "said": chosen.said,
        }
    return row
