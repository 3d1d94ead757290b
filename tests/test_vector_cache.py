"""Vectors are computed once: across ingestions, editions and collections, and whatever repeats."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_retrieval import Words, opened
from test_index import contents, write_files

from retrievers import index
from retrievers.cache import Cache
from retrievers.embeddings import BATCH
from retrievers.index import Indexer
from retrievers.vector_cache import VectorCache


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened_cache = Cache(tmp_path / "cache")
    yield opened_cache
    opened_cache.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    write_files(tmp_path / "rules", 10)
    return tmp_path / "rules"


def test_known_vector_is_the_computed_one(cache: Cache) -> None:
    """A vector comes out of the cache bit by bit as it was computed, for this text and no other."""
    vectors = VectorCache(Words(), cache)
    computed = vectors.embed(["one rule", "another rule \U0001f4e1"])
    assert vectors.known(["one rule", "another rule \U0001f4e1", "one rule "]) == computed


def test_models_do_not_share_vectors(cache: Cache) -> None:
    """Another model, or one that reads more of a text, is never given the vectors of the first."""
    longer = Words()
    longer.limit = 200
    VectorCache(Words(), cache).embed(["one rule"])
    assert VectorCache(Words(name="others"), cache).known(["one rule"]) == {}
    assert VectorCache(longer, cache).known(["one rule"]) == {}
    assert VectorCache(Words(), cache).known(["one rule"]).keys() == {"one rule"}


def test_new_collection_needs_no_model(cache: Cache, folder: Path, tmp_path: Path) -> None:
    """What one collection has embedded fills another without the model, and both hold the same."""
    first, second = opened(tmp_path / "first"), opened(tmp_path / "second", dense := Words())
    plain = opened(tmp_path / "plain")
    Indexer(first, cache).ingest([folder])
    report = Indexer(second, cache).ingest([folder])
    Indexer(plain).ingest([folder])
    assert dense.embedded == []
    assert report.passages_written == second.count() > 10
    assert contents(first) == contents(second) == contents(plain)
    for store in (first, second, plain):
        store.close()


def test_new_edition_embeds_what_is_new(cache: Cache, folder: Path, tmp_path: Path) -> None:
    """After a change only passages of another text are embedded, and what is indexed is what a clean run gives."""
    store, clean = opened(tmp_path / "store", dense := Words()), opened(tmp_path / "clean")
    Indexer(store, cache).ingest([folder])
    every = len(dense.embedded)
    dense.embedded.clear()
    text = (folder / "003.txt").read_text()
    (folder / "003.txt").write_text(text.replace("Rule 3.0", "Amended rule 3.0"))
    report = Indexer(store, cache).ingest([folder])
    Indexer(clean).ingest([folder])
    assert 0 < len(dense.embedded) < report.passages_written < every
    assert all("Amended" in text for text in dense.embedded)
    assert contents(store) == contents(clean)
    store.close()
    clean.close()


def test_repeated_text_is_embedded_once(folder: Path, tmp_path: Path) -> None:
    """A text that many documents hold is computed once, even without a cache."""
    for number in range(40):
        (folder / f"copy {number}.txt").write_text("This paragraph is reserved.\n")
    store = opened(tmp_path / "store", dense := Words())
    report = Indexer(store).ingest([folder])
    assert dense.embedded.count("This paragraph is reserved.") == 1
    assert len(dense.embedded) == report.passages_written - 39
    store.close()


def test_batches_stay_full(cache: Cache, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where most is known, what is new is still computed in full batches, not in crumbs."""
    store, other = opened(tmp_path / "store"), opened(tmp_path / "other", dense := Words())
    Indexer(store, cache).ingest([folder])
    (tmp_path / "more").mkdir()
    for number in range(60):
        (tmp_path / "more" / f"{number:02}.txt").write_text(f"Rule {number} on " + f"masts{number} " * (number % 7))
    sizes: list[int] = []
    embed = dense.embed_documents

    def recorded(texts: list[str]) -> list[list[float]]:
        sizes.append(len(texts))
        return embed(texts)

    monkeypatch.setattr(dense, "embed_documents", recorded)
    monkeypatch.setattr(index, "_WINDOW", 10_000)
    Indexer(other, cache).ingest([folder, tmp_path / "more"])
    assert sum(sizes) == 60
    assert len(sizes) <= 60 // BATCH + 2
    store.close()
    other.close()


def test_stop_keeps_the_vectors(cache: Cache, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was embedded before a stop is not embedded again, also of documents that are written anew."""
    monkeypatch.setattr(index, "BATCH", 8)
    store, clean = opened(tmp_path / "store", dense := Words()), opened(tmp_path / "clean")
    stopped = Indexer(store, cache).ingest([folder], should_stop=lambda: len(dense.embedded) > 0)
    assert (stopped.stopped, stopped.passages_written, len(dense.embedded)) == (True, 8, 8)
    report = Indexer(store, cache).ingest([folder])
    Indexer(clean).ingest([folder])
    assert contents(store) == contents(clean)
    assert len(dense.embedded) == len(set(dense.embedded)) == store.count()
    assert report.passages_written > store.count() - 8
    store.close()
    clean.close()


def test_damaged_cache_costs_no_ingestion(cache: Cache, folder: Path, tmp_path: Path) -> None:
    """An ingestion over a damaged cache indexes everything, as if there had been none."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.sqlite").write_bytes(b"no database" * 1000)
    store, clean = opened(tmp_path / "store"), opened(tmp_path / "clean")
    Indexer(store, cache).ingest([folder])
    Indexer(clean).ingest([folder])
    assert contents(store) == contents(clean)
    store.close()
    clean.close()
