"""Answers are measured by what they cite, how they are supported, when they refuse, and what they choose."""

from typing import Any

import pytest

from errors import InvalidRequest
from evaluation import answers, choices
from evaluation.questions import Question
from evaluation.systems import Reply
from retrievers.citations import parse

FOUR = ["one watt", "two watts", "ten watts at most", "It depends on the band"]


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("B", 1),
        ("**B**", 1),
        ("(C)", 2),
        ("Answer: C", 2),
        ("Answer:\nB) two watts", 1),
        ("The correct answer is (B).", 1),
        ("the right answer, by the passages, is D [1].", 3),
        ("Option B because the passage says so.", 1),
        ("A) and C) are wrong.\nFinal answer: D", 3),
        ("B) two watts", 1),
        ("By rule [2], it is: C. Ten watts.", 2),
        ("(B) two watts is right", 1),
        ("I choose C.", 2),
        ("A device may use ten watts at most [1].", 2),  # no letter, but the words
        ("It depends on the band.", 3),
        ("Answer: A station may use two watts.", 1),  # the article, not the letter
        ("A) two watts", None),  # a letter, and the words of another
        ("Answer: B) It depends on the band [2].", None),
        ("It is a Class B. device.", None),
        ("The paragraph 80.1(C) says nothing.", None),
        ("A) one watt\nB) two watts\nC) ten watts at most\nD) It depends on the band", None),
        ("one watt or two watts", None),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_the_chosen_letter_is_read(answer: str, place: int | None) -> None:
    """A choice is read from what models write; where they do not choose, none is guessed."""
    assert choices.chosen(answer, FOUR) == place


def test_letters_end_with_the_choices() -> None:
    """Of two choices C is none."""
    assert choices.chosen("C", ["yes", "no"]) is None
    assert choices.chosen("B", ["yes", "no"]) == 1


def test_choices_are_shuffled_by_seed() -> None:
    """The same seed gives the same order, whatever is asked besides; over many questions each order comes up."""
    asked = [Question(str(n), str(n), f"Question {n}?", choices=("x", "y", "z"), answer=0) for n in range(200)]
    orders = [tuple(choices.order(question, seed=3)) for question in asked]
    assert orders == [tuple(choices.order(question, seed=3)) for question in asked]
    assert orders != [tuple(choices.order(question, seed=4)) for question in asked]
    assert len(set(orders)) == 6
    assert all(sorted(order) == [0, 1, 2] for order in orders)


def test_choices_are_written_behind_letters() -> None:
    """The question comes first, then each choice behind its letter."""
    assert choices.written("How much?", ["x", "y"]).split("\n")[:3] == ["How much?", "A) x", "B) y"]


def test_a_reply_cites_what_its_markers_name() -> None:
    """Only sources whose markers stand in the text are cited, and an answer that tells no support is not measured by it."""
    sources = [{"id": n, "citation": f"47 CFR 80.{n}"} for n in (1, 2, 3)]
    given = {"sources": sources, "finish_reason": "stop"}
    reply = Reply.of("Two watts [3]. Never more [1, 3].", given)
    assert reply.cited == (parse("80.1"), parse("80.3"))
    assert reply.support is None
    assert not reply.refused
    sentences = [{"support": "supported"}, {"support": "partly"}]
    assert Reply.of("", given | {"sentences": sentences}).support == ("supported", "partly")
    assert Reply.of("Nothing.", {"sources": [], "finish_reason": "no_evidence"}).refused


class Scripted:
    """Answers the plain question by the reply it is given; with choices it takes `retrieved`, alone `alone`, as words."""

    def __init__(self, replies: dict[str, Reply], *, retrieved: str = "", alone: str = "") -> None:
        self.about: dict[str, Any] = {}
        self.replies, self.retrieved, self.alone = replies, retrieved, alone
        self.asked: list[tuple[str, int]] = []

    def ask(self, question: str, *, max_tokens: int) -> Reply:
        self.asked.append((question, max_tokens))
        return self.replies[question] if question in self.replies else reply(self._letter(question, self.retrieved))

    def ask_alone(self, question: str, *, max_tokens: int) -> str:
        self.asked.append((question, max_tokens))
        return self._letter(question, self.alone)

    def _letter(self, question: str, words: str) -> str:
        return next((line[:2] for line in question.split("\n") if line[3:] == words), words)


def reply(
    content: str = "Yes.", *, cited: tuple[str, ...] = (), support: tuple[str, ...] | None = None, refused: bool = False
) -> Reply:
    return Reply(content, refused, tuple(map(parse, cited)), support)


def test_figures_of_answers() -> None:
    """Each figure has its own questions to stand on: refusals cite nothing, and sentences are pooled."""
    texts = ["a", "b", "c", "d"]
    asked = [Question(text, text, text, (parse("80.1(a)"),), answerable=text != "d") for text in texts]
    replies = {
        "a": reply(cited=("80.1(b)", "80.7"), support=("supported",) * 3),
        "b": reply(cited=("80.2",), support=("partly", "unsupported", "unsupported")),
        "c": reply(refused=True),
        "d": reply(refused=True),
    }
    outcomes = list(answers.asked(asked, Scripted(replies), seed=0, max_tokens=9, choice_tokens=5))
    report = answers.summary(outcomes, seed=0)
    assert (report["citation_accuracy"]["value"], report["citation_accuracy"]["n"]) == (0.5, 2)
    assert report["sentences_supported"]["value"] == 0.5
    assert report["sentences_partly"]["value"] == pytest.approx(1 / 6, abs=1e-4)
    assert report["sentences_unsupported"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert (report["refusal_rate"]["value"], report["refusal_rate"]["n"]) == (0.5, 4)
    assert report["refusal_rate_answerable"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert report["refusal_rate_unanswerable"]["value"] == 1.0
    assert report["choices"] is None
    first = report["questions"][0]
    assert first == {"id": "a", "answer": "Yes.", "refused": False, "cites_the_section": True, "sentences": {"supported": 3}}
    printed = {row[0]: row[1] for row in answers.tables(report)[0].rows}
    assert printed["citation accuracy"].startswith("0.500 [")


def test_support_that_is_not_told_is_not_zero() -> None:
    """Answers that do not tell how their sentences are supported leave the rate unmeasured."""
    asked = [Question("a", "a", "a", (parse("80.1"),))]
    report = answers.summary(list(answers.asked(asked, Scripted({"a": reply()}), seed=0, max_tokens=9, choice_tokens=5)), seed=0)
    assert report["sentences_supported"] is None
    assert ["sentences supported", "not measured", "-"] in answers.tables(report)[0].rows


def test_choices_with_and_without_retrieval() -> None:
    """The right choice counts wherever the shuffle put it; an unclear one is wrong, and counted as unclear."""
    asked = [Question(f"{n}", f"{n}", f"Question {n}?", choices=("x", "y", "z"), answer=1) for n in range(12)]
    replies = {question.text: reply() for question in asked}
    scripted = Scripted(replies, retrieved="y", alone="no idea")
    report = answers.summary(list(answers.asked(asked, scripted, seed=0, max_tokens=9, choice_tokens=5)), seed=0)
    chosen = report["choices"]
    assert (chosen["with_retrieval"]["value"], chosen["unclear_with_retrieval"]) == (1.0, 0)
    assert (chosen["alone"]["value"], chosen["unclear_alone"]) == (0.0, 12)
    assert report["questions"][0]["choice"]["said"][1] == "no idea"  # so that a person can check how it was read
    assert chosen["difference"]["value"] == 1.0
    assert chosen["chance"] == pytest.approx(1 / 3, abs=1e-4)
    assert len(scripted.asked) == 36
    assert [limit for _, limit in scripted.asked[:3]] == [9, 5, 5]
    assert len({tuple(row["choice"]["shown"]) for row in report["questions"]}) > 1
    always_first = Scripted(replies, retrieved="A", alone="A")
    outcomes = list(answers.asked(asked, always_first, seed=0, max_tokens=9, choice_tokens=5))
    assert 0 < answers.summary(outcomes, seed=0)["choices"]["alone"]["value"] < 1  # a habit of saying A earns chance only


def test_a_refusal_chooses_nothing() -> None:
    """A refusal is no choice, whatever words stand in it."""
    question = Question("a", "a", "Which?", choices=("the documents", "the sea"), answer=0)
    refusing = Scripted({}, alone="the sea")
    refusing.ask = lambda *_, **__: reply("Not in the documents.", refused=True)  # type: ignore[method-assign]
    report = answers.summary(list(answers.asked([question], refusing, seed=0, max_tokens=9, choice_tokens=5)), seed=0)
    assert report["choices"]["refused_with_retrieval"] == 1
    assert report["choices"]["unclear_with_retrieval"] == 1
    assert report["choices"]["with_retrieval"]["value"] == 0.0


def test_questions_without_labels_are_refused() -> None:
    """Where nothing is labelled, nothing can be measured, and that is said before a model is loaded."""
    with pytest.raises(InvalidRequest, match="cfr or choices"):
        answers.check([Question("a", "a", "a")])
