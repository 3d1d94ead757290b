"""What counts as found, and what is made of it: figures by hand, intervals that hold what they should."""

from typing import Any

import numpy as np
import pytest

from evaluation import measures, relevance
from evaluation.relevance import Hit
from retrievers.citations import Citation, parse


def hits(*citations: str, match: str = "search") -> list[Hit]:
    return [Hit(parse(citation), 0.5, match) for citation in citations]


def places(*citations: str) -> list[Citation]:
    return [parse(citation) for citation in citations]


@pytest.mark.parametrize(
    ("found", "cited", "section", "paragraph"),
    [
        ("80.1(b)(2)", "80.1(b)(2)", True, True),
        ("80.1(b)", "80.1(b)(2)", True, True),  # holds it
        ("80.1", "80.1(b)(2)", True, True),
        ("80.1(b)(2)(i)", "80.1(b)(2)", True, True),  # lies within it
        ("80.1(b)(3)", "80.1(b)(2)", True, False),
        ("80.1(c)", "80.1", True, True),
        ("80.10(b)", "80.1(b)", False, False),
        ("10 CFR 80.1(b)", "80.1(b)", False, False),  # another title
        ("80.1(b)", "part 80", True, True),
        ("80.1(b)", "part 81", False, False),
        ("part 80", "80.1", False, False),
        ("47 CFR part 80 Appendix A", "47 CFR part 80 Appendix A", True, True),
        ("47 CFR part 80 Appendix A", "47 CFR part 80 Appendix B", False, False),
        ("KDB 123456", "KDB 123456", True, True),
        ("KDB 123456", "KDB 654321", False, False),
    ],
)
def test_what_is_a_hit(found: str, cited: str, section: bool, paragraph: bool) -> None:
    """By section the section counts; by paragraph it must be the cited one, hold it, or lie within it."""
    assert relevance.in_section(parse(found), parse(cited)) is section
    assert relevance.in_paragraph(parse(found), parse(cited)) is paragraph


def test_a_citation_gains_once() -> None:
    """More passages of the same cited section bring nothing more; a passage brings one citation at most."""
    cited = places("80.1", "80.2")
    gained = relevance.gains(hits("80.9", "80.1(a)", "80.1(b)", "80.2"), cited, relevance.in_section)
    assert gained == [False, True, False, True]
    both = places("80.1(a)", "80.1(b)")
    assert relevance.gains(hits("80.1", "80.1", "80.1"), both, relevance.in_paragraph) == [True, True, False]


def test_neighbours_and_passages_without_a_place_gain_nothing() -> None:
    """What comes along with a finding is no finding, but keeps its rank; neither is a passage that carries no citation."""
    found = [*hits("80.1", match="neighbour"), Hit(None, 0.9, "search"), *hits("80.1", match="exact")]
    assert relevance.gains(found, places("80.1"), relevance.in_section) == [False, False, True]


def test_a_hit_is_read_from_metadata_and_from_a_result() -> None:
    """A passage without a citation of its own is placed by its section, and one with neither by nothing."""
    base: dict[str, Any] = {"score": 0.4, "match": "search"}
    assert Hit.of(base | {"citation": "47 CFR 80.1(a)", "section": "80.1"}).place == parse("80.1(a)")
    assert Hit.of(base | {"citation": "", "section": "80.1"}).place == parse("80.1")
    assert Hit.of(base | {"citation": "A manual"}).place is None


@pytest.mark.parametrize(
    ("gains", "wanted", "expected"),
    [
        ([True], 1, [1, 1, 1, 1, 1]),
        ([False, True], 1, [0, 1, 1, 1 / 2, 0.63093]),  # 1 / log2(3)
        ([False] * 5 + [True], 1, [0, 0, 1, 1 / 6, 0.35621]),  # 1 / log2(7)
        ([False] * 10 + [True], 1, [0, 0, 0, 0, 0]),
        ([True, False, True], 2, [1, 1, 1, 1, 0.91972]),  # (1 + 1 / 2) / (1 + 1 / log2(3))
        ([], 3, [0, 0, 0, 0, 0]),
        ([True] * 10, 12, [1, 1, 1, 1, 1]),  # no more than ten can stand in the first ten
    ],
)
def test_figures_of_a_ranking(gains: list[bool], wanted: int, expected: list[float]) -> None:
    """Hits, reciprocal rank and nDCG are what they are by hand."""
    assert measures.of_ranking(gains, wanted) == pytest.approx(expected, abs=1e-5)


def test_intervals_are_those_of_the_binomial() -> None:
    """Of 400 questions with 60% right the interval is near 0.60 +- 0.048, and the same whenever it is drawn."""
    values = np.array([[1.0]] * 240 + [[0.0]] * 160)
    (figure,) = measures.means(values, seed=7)
    assert figure.value == pytest.approx(0.6)
    assert figure.low == pytest.approx(0.552, abs=0.01)
    assert figure.high == pytest.approx(0.648, abs=0.01)
    assert figure.n == 400
    assert measures.means(values, seed=7) == [figure]
    assert measures.means(values, seed=8) != [figure]


def test_a_difference_is_drawn_in_pairs() -> None:
    """Two searches that differ on no question differ by nothing, however wide their own intervals are."""
    own = np.array([1.0, 0.0] * 20)
    first, second, difference = measures.means(np.stack([own, own, own - own], axis=1), seed=0)
    assert first == second
    assert first.low < first.value < first.high
    assert (difference.low, difference.high) == (0, 0)


def test_a_share_weighs_by_its_wholes() -> None:
    """Two of two sentences and none of eight are two of ten, not one half."""
    (figure,) = measures.shares(np.array([[2.0], [0.0]]), np.array([2.0, 8.0]), seed=0)
    assert figure.value == pytest.approx(0.2)
    assert (figure.low, figure.high) == (0.0, 1.0)
    assert measures.shares(np.zeros((0, 1)), np.zeros(0), seed=0) == []


def test_latency_leaves_the_first_call_out() -> None:
    """The first call warms up; where there is no other there is no latency."""
    assert measures.latency([900.0, *map(float, range(1, 102))]) == {"p50": 51.0, "p95": 96.0, "calls": 101}
    assert measures.latency([900.0]) == {"p50": None, "p95": None, "calls": 0}
