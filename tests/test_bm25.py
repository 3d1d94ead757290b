"""Sparse vectors: which words count, how much, and which of a question's meet those of a passage."""

import pytest

from retrievers.embeddings import Bm25


def test_weights() -> None:
    """A term's weight is BM25's, with k = 1.2, b = 0.75 and 256 words for a usual length, as in `qdrant/bm25`."""
    vector = Bm25().embed_documents(["radio radio antenna"])[0]
    usual = 1.2 * (1 - 0.75 + 0.75 * 3 / 256)
    expected = [count * 2.2 / (count + usual) for count in (1, 2)]
    assert sorted(vector.values) == pytest.approx(expected, rel=1e-5)


def test_question_finds_inflected_words() -> None:
    """A question's word meets its other forms in a passage, and stop words meet nothing."""
    bm25 = Bm25()
    passage = bm25.embed_documents(["The licensees of amateur stations"])[0]
    assert set(bm25.embed_query("station licensee").indices) <= set(passage.indices)
    assert bm25.embed_query("of the").indices == []


@pytest.mark.parametrize(
    ("question", "passage", "meet"),
    [
        ("on the 60-meter band", "in the 60 m band", 3),
        ("1000 mW", "one watt", 1),
        ("2.4 GHz", "from 2400 to 2483.5 MHz", 1),
        ("-41.3 dBm", "\N{MINUS SIGN}41.3 dBm", 4),
        ("60 kHz", "60 m", 1),
        ("60 km", "6 km", 1),
        ("100 volts", "100 V/m", 1),
        ("below 200 nW", "at 200 W", 1),
    ],
)
def test_figures_are_words(question: str, passage: str, meet: int) -> None:
    """A figure in a question meets the same figure in other words, and no other figure; so many words meet here."""
    bm25 = Bm25()
    assert len(set(bm25.embed_query(question).indices) & set(bm25.embed_documents([passage])[0].indices)) == meet
