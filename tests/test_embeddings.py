"""Embedding: what the two kinds of vectors promise. The dense model is the real default one."""

import math
import threading
from pathlib import Path
from typing import Any

import pytest

import settings
import weights
from errors import WeightsError
from retrievers import embeddings
from retrievers.embeddings import Bm25, Transformer


@pytest.fixture(scope="module")
def dense() -> Transformer:
    folder = weights.resolve(weights.DEFAULT_EMBEDDING, variable="EMBEDDING_MODEL", cache=settings.load().cache.fcc_rag_cache)
    return embeddings.load(folder, name="MiniLM", device="cpu")


def test_bm25_weights() -> None:
    """A term's weight is BM25's, with k = 1.2, b = 0.75 and 256 words for a usual length, as in `qdrant/bm25`."""
    vector = Bm25().embed_documents(["radio radio antenna"])[0]
    usual = 1.2 * (1 - 0.75 + 0.75 * 3 / 256)
    expected = [count * 2.2 / (count + usual) for count in (1, 2)]
    assert sorted(vector.values) == pytest.approx(expected, rel=1e-5)


def test_bm25_question_finds_inflected_words() -> None:
    """A question's word meets its other forms in a passage, and stop words meet nothing."""
    bm25 = Bm25()
    passage = bm25.embed_documents(["The licensees of amateur stations"])[0]
    assert set(bm25.embed_query("station licensee").indices) <= set(passage.indices)
    assert bm25.embed_query("of the").indices == []


@pytest.mark.models
def test_model_describes_itself(dense: Transformer) -> None:
    """The model knows its name, its size, how much it reads, and a digest of its weights."""
    assert (dense.name, dense.size, dense.limit, len(dense.digest)) == ("MiniLM", 384, 256, 16)


@pytest.mark.models
def test_vectors_are_unit_vectors_that_mean_something(dense: Transformer) -> None:
    """A question is nearer to the passage that answers it than to another, and all vectors have length one."""
    question = dense.embed_query("How much power may a transmitter use?")
    near, far = dense.embed_documents(["The maximum output power is 1 watt.", "Repeaters identify in Morse code."])
    assert math.fsum(value * value for value in near) == pytest.approx(1, abs=1e-5)
    assert _cosine(question, near) > _cosine(question, far) + 0.2


@pytest.mark.models
def test_tokens_are_counted_as_the_model_counts(dense: Transformer) -> None:
    """The count includes the two special tokens, and is not cut off at what the model reads."""
    assert dense.count_tokens("radio") == 3
    assert dense.count_tokens("radio " * 500) == 502


@pytest.mark.models
def test_question_is_embedded_once(dense: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a search asks for its question's vector, the model runs once."""
    runs: list[list[str]] = []
    embed = dense._queries._embed

    def counted(texts: list[str], arguments: dict[str, Any]) -> list[list[float]]:
        runs.append(texts)
        return embed(texts, arguments)

    monkeypatch.setattr(type(dense._queries), "_embed", lambda _, texts, arguments: counted(texts, arguments))
    first = dense.embed_query("a question nobody has asked before")
    first.clear()  # what a caller does to its copy is its own affair
    assert len(dense.embed_query("a question nobody has asked before")) == 384
    assert runs == [["a question nobody has asked before"]]


@pytest.mark.models
def test_threads_may_share_it(dense: Transformer) -> None:
    """Questions, documents and counting at the same time give what they give one after the other."""
    texts = [f"passage number {number} about radio " * (number % 5 + 1) for number in range(24)]
    expected = dense.embed_query("which band?")
    wrong: list[object] = []

    def ask(number: int) -> None:
        dense.embed_query(f"question {number}")
        if dense.embed_query("which band?") != pytest.approx(expected, abs=1e-5):
            wrong.append(number)

    def count() -> None:
        wrong.extend(text for text in texts * 20 if dense.count_tokens(text) < 6)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    threads += [threading.Thread(target=count), threading.Thread(target=dense.embed_documents, args=(texts,))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_not_a_model(tmp_path: Path) -> None:
    """A folder that holds no model is refused in one line that names the setting."""
    with pytest.raises(WeightsError, match=r"^EMBEDDING_MODEL: .* is no sentence-transformers model"):
        embeddings.load(tmp_path)
    (tmp_path / "modules.json").write_text("[broken")
    with pytest.raises(WeightsError, match=r"^EMBEDDING_MODEL: cannot load") as caught:
        embeddings.load(tmp_path)
    assert "\n" not in str(caught.value)


def _cosine(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
