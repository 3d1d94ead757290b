"""Ranking: what each feature is worth, and that no order depends on chance."""

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from retrievers import features, ranking
from retrievers.documents import Passage
from retrievers.features import Candidate
from retrievers.stages import ALL


def terms(text: str) -> Sequence[int]:
    return [hash(word) for word in re.findall(r"\w+", text.lower()) if len(word) > 2]


def passage(text: str, citation: str = "", **metadata: Any) -> Passage:
    about = {"citation": citation, "document": "/d", "edition": "", "heading": ""} | metadata
    return Passage(id=f"{citation} {text}", page_content=text, metadata=about)


def candidate(
    text: str, citation: str = "", *, dense: int = 0, sparse: int = 0, cosine: float = 0.5, bm25: float = 1.0
) -> Candidate:
    return Candidate(passage(text, citation), cosine, bm25, dense, sparse)


def first(question: str, *candidates: Candidate, **stages: bool) -> str:
    return ranking.ordered(question, candidates, terms, replace(ALL, **stages))[0].passage.page_content


def test_words_of_the_question() -> None:
    """Of two that rank alike, the one that has more of the question's rarer words, or has them side by side, is first."""
    other = candidate("The kettle must be green and the lid closed.", dense=1, sparse=2)
    covers = candidate("The kettle must whistle when boiling starts.", dense=2, sparse=1)
    assert first("when must the kettle whistle?", other, covers) == covers.passage.page_content
    apart = candidate("Water goes into the kettle; boiling is next.", dense=1, sparse=2)
    together = candidate("Boiling water is next; the kettle goes there.", dense=2, sparse=1)
    assert first("boiling water", apart, together) == together.passage.page_content


def test_words_of_the_heading() -> None:
    """A table has no words but those of its heading: they count as covering the question."""
    figures = candidate("| 1.5-2.5 | 30 |", dense=2, sparse=1)
    figures.passage.metadata["heading"] = "Part 300 > § 300.4 Lengths of spouts"
    other = candidate("| 3.5-4.5 | 40 |", dense=1, sparse=2)
    assert first("what lengths of spouts are there?", other, figures) == figures.passage.page_content


def test_a_section_with_several_good_passages_wins() -> None:
    """A section known by many fair passages comes before one with a single passage of the same rank."""
    lone = candidate("Alpha beta.", "47 CFR 300.1(a)", dense=3, sparse=3)
    many = [candidate(f"Gamma delta {n}.", f"47 CFR 300.2({n})", dense=n, sparse=n) for n in (4, 5, 6)]
    assert first("anything else", lone, *many, rerank=False) == "Gamma delta 4."
    assert first("anything else", lone, *many, rerank=False, sections=False) == "Alpha beta."


def test_stages_left_out() -> None:
    """Without reranking and sections the order is that of the fused ranks alone."""
    question = "when must the kettle whistle?"
    covers = candidate("The kettle must whistle when boiling starts.", dense=3, sparse=3, cosine=0.9)
    high = candidate("Something else.", dense=1, sparse=1, cosine=0.1)
    assert first(question, high, covers) == covers.passage.page_content
    assert first(question, high, covers, rerank=False, sections=False) == high.passage.page_content


def test_candidates_of_both_rankings() -> None:
    """Each passage is a candidate once, with its place in each ranking."""
    one, two = passage("one"), passage("two")
    found = ranking.candidates([(one, 0.9)], [(two, 7.0), (one, 3.0)], {one.id or "": 0.9, two.id or "": 0.4})
    values = {each.passage.page_content: (each.dense_rank, each.sparse_rank, each.cosine, each.bm25) for each in found}
    assert values == {"one": (1, 2, 0.9, 3.0), "two": (0, 1, 0.4, 7.0)}


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_order_does_not_depend_on_chance(seed: int, count: int) -> None:
    """The same candidates in another order give the same ranking, also where all scores are equal."""
    rng = random.Random(seed)
    some = [candidate(f"text {n % 3}", f"47 CFR 300.{n}", dense=1, sparse=1) for n in range(count)]
    shuffled = rng.sample(some, count)
    assert ranking.ordered("text", some, terms, ALL) == ranking.ordered("text", shuffled, terms, ALL)


def test_fold() -> None:
    """Near-duplicates of one place are one; the same words in another place are another rule."""
    text = "Each kettle bears a label with the name of its maker, the year in which it was made, and 2 stars in letters of red."
    found = [
        passage(text, "47 CFR 300.1(a)"),
        passage(text.upper().replace(",", " -"), "47 CFR 300.1(a)", edition="another print"),
        passage(text.replace("2", "3"), "47 CFR 300.1(b)"),
        passage(text, "47 CFR 300.2(a)"),
    ]
    assert ranking.folded(found, 9, terms) == [found[0], found[2], found[3]]
    assert ranking.folded(found, 1, terms) == found[:1]


def test_spread() -> None:
    """A section's fourth passage waits until other sections had their turn; nothing is lost."""
    found = [passage(f"t{n}", "47 CFR 300.1") for n in range(4)] + [passage("other", "47 CFR 300.2")]
    assert [each.page_content for each in ranking.spread(found)] == ["t0", "t1", "t2", "other", "t3"]


def test_asked_definition() -> None:
    """Who asks what a term means gets its definition before a passage that merely uses it; who asks of its power does not."""
    uses = candidate(
        "(a) Each kettle lamp is held by a kettle lamp holder near the kettle lamp.", "47 CFR 300.2", dense=1, sparse=1
    )
    defined = candidate("(9) Kettle lamp. A light that shows when water boils.", "47 CFR 300.3(a)(9)", dense=2, sparse=2)
    defined.passage.metadata["heading"] = "Part 300 > § 300.3 Definitions."
    others = [candidate(f"The lid number {n} must be closed.", dense=n, sparse=n) for n in range(3, 9)]
    assert first("What is meant by kettle lamp?", uses, defined, *others) == defined.passage.page_content
    assert first("Who holds each kettle lamp near the kettle?", uses, defined, *others) == uses.passage.page_content


def test_title_of_the_section() -> None:
    """A question that has the title of a section in it finds the section, whatever its passages say."""
    other = candidate("Steam signals may be sent to foreign kettles by all.", "47 CFR 300.4", dense=1, sparse=2)
    titled = candidate("What is sent abroad must be short.", "47 CFR 300.5", dense=2, sparse=1)
    titled.passage.metadata["heading"] = "Part 300 > § 300.5 International steam signals."
    other.passage.metadata["heading"] = "Part 300 > § 300.4 Signals by night."
    assert first("which international steam signals may a kettle send?", other, titled) == titled.passage.page_content


def test_figures_of_the_question() -> None:
    """A figure counts where it stands in whatever unit, and where a range holds it."""
    found = [
        candidate(f"Steam whistles at {figure} only.", dense=1, sparse=1) for figure in ("2400 MHz", "5150-5250 MHz", "9 GHz")
    ]
    shared = features.of_texts("May a kettle whistle at 2.4 GHz or at 5200 MHz?", found, terms)
    assert shared["figures"] == [0.5, 0.0, 0.0]
    assert shared["ranges"] == [0.0, 0.5, 0.0]
    assert features.of_texts("May a kettle whistle?", found, terms)["figures"] == [0.0, 0.0, 0.0]


def test_words_close_together() -> None:
    """Words that stand close together are worth more than the same ones far apart."""
    apart = candidate("kettle " + "filler " * 60 + "whistle", dense=1, sparse=1)
    close = candidate("kettle whistle " + "filler " * 60, dense=1, sparse=1)
    shared = features.of_texts("kettle whistle", [apart, close], terms)
    assert shared["coverage"][0] == shared["coverage"][1] == 1.0
    assert shared["window"][0] < shared["window"][1] == 1.0
