"""Unchanged files are not parsed again, and nothing but an unchanged file is taken for one."""

import ast
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_retrieval import opened
from qdrant_client import models
from test_index import contents, sections, write_files

from retrievers import index, known_files, loaders
from retrievers.cache import Cache
from retrievers.index import Indexer
from retrievers.store import Store, equals

LOADERS = Path(known_files.__file__).parent / "loaders"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened_store = opened(tmp_path / "store")
    yield opened_store
    opened_store.close()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened_cache = Cache(tmp_path / "cache")
    yield opened_cache
    opened_cache.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    write_files(tmp_path / "rules", 4)
    return tmp_path / "rules"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are parsed from now on."""
    names: list[str] = []
    load = loaders.load

    def recorded(path: Path, *, root: Path) -> Any:
        names.append(path.name)
        return load(path, root=root)

    monkeypatch.setattr(index, "load", recorded)
    return names


def test_unchanged_is_not_parsed(store: Store, cache: Cache, folder: Path, parsed: list[str]) -> None:
    """A second ingestion opens no parser, and reports what the parsers would have led to."""
    Indexer(store, cache).ingest([folder])
    before = contents(store)
    parsed.clear()
    report = Indexer(store, cache).ingest([folder], prune=True)
    assert parsed == []
    assert (report.files_unchanged, report.files_read, report.files_failed) == (5, 0, 0)
    assert (report.documents_unchanged, report.documents_pruned, report.passages_written) == (7, 0, 0)
    assert contents(store) == before


def test_dates_prove_nothing(store: Store, cache: Cache, folder: Path, parsed: list[str]) -> None:
    """A file of the same size and dates but with another text is read; one with new dates alone is not."""
    file = folder / "001.txt"
    Indexer(store, cache).ingest([folder])
    parsed.clear()
    status = file.stat()
    file.write_text(file.read_text().replace("Rule 1.0", "Rule 1.X"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    (folder / "002.txt").touch()
    report = Indexer(store, cache).ingest([folder])
    assert parsed == ["001.txt"]
    assert (report.documents_replaced, report.files_unchanged) == (1, 4)


def test_another_collection(store: Store, cache: Cache, folder: Path, tmp_path: Path) -> None:
    """A file that is known but not, or no longer wholly, in this collection is indexed."""
    Indexer(store, cache).ingest([folder])
    other = opened(tmp_path / "other")
    assert Indexer(other, cache).ingest([folder]).documents_indexed == 7
    other.close()
    store.delete([str(folder / "001.txt")])
    report = Indexer(store, cache).ingest([folder])
    assert (report.documents_indexed, report.documents_unchanged) == (1, 6)


def test_half_written_document(store: Store, cache: Cache, folder: Path) -> None:
    """A document of which passages are missing is completed, although its file has not changed."""
    Indexer(store, cache).ingest([folder])
    before = contents(store)
    document = str(folder / "001.txt")
    some = models.Filter(
        must=[equals("document", document), models.FieldCondition(key="metadata.ordinal", match=models.MatchAny(any=[1, 2]))]
    )
    store.client.delete(store.collection, models.FilterSelector(filter=some))
    assert store.count() == len(before) - 2
    report = Indexer(store, cache).ingest([folder])
    assert (report.files_read, report.files_unchanged) == (1, 4)
    assert contents(store) == before


def test_failures_are_told_each_time(store: Store, cache: Cache, folder: Path) -> None:
    """What is wrong with a file is reported by every ingestion, not by the first alone."""
    (folder / "bad.pdf").write_bytes(b"%PDF-1.7 nothing of the kind")
    with (folder / "all.jsonl").open("a") as file:
        file.write("\n{broken")
    first, second = Indexer(store, cache).ingest([folder]), Indexer(store, cache).ingest([folder])
    assert len(first.failures) == 2
    assert first.failures == second.failures


def test_pruning_spares_what_is_known(store: Store, cache: Cache, folder: Path) -> None:
    """What a file no longer holds is forgotten with `prune`; what an unread, unchanged one holds is not."""
    Indexer(store, cache).ingest([folder])
    sections(folder / "all.jsonl", {"15.1": "Section 1 in version 1."})
    (folder / "000.txt").unlink()
    assert Indexer(store, cache).ingest([folder], prune=True).documents_pruned == 3
    assert Indexer(store, cache).ingest([folder], prune=True).documents_pruned == 0
    assert len(store.documents()) == 4


def test_other_root_other_source(store: Store, cache: Cache, folder: Path) -> None:
    """A file that is named alone goes by another source than in its folder, so it is read again."""
    Indexer(store, cache).ingest([folder])
    Indexer(store, cache).ingest([folder / "001.txt"])
    assert {source.source for source in store.sources()} >= {"001.txt", "rules/000.txt"}


def test_written_to_while_read(store: Store, cache: Cache, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changes under the parser is not remembered as what it was before."""
    file = folder / "001.txt"
    old = file.read_text()
    load = loaders.load

    def changing(path: Path, *, root: Path) -> Any:
        if path == file:
            file.write_text("Entirely new text.")
        return load(path, root=root)

    monkeypatch.setattr(index, "load", changing)
    Indexer(store, cache).ingest([folder])
    monkeypatch.setattr(index, "load", load)
    file.write_text(old)
    assert Indexer(store, cache).ingest([folder]).documents_replaced == 1


def test_new_code_reads_again(
    store: Store, cache: Cache, folder: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a loader is changed, all files are parsed once more, for they may come out otherwise."""
    Indexer(store, cache).ingest([folder])
    parsed.clear()
    monkeypatch.setattr(known_files, "_READER", b"another")
    Indexer(store, cache).ingest([folder])
    assert len(parsed) == 5


def test_a_pipe_is_not_read(store: Store, cache: Cache, tmp_path: Path) -> None:
    """What never ends when read, or must be read once, is left to the loader, which refuses it."""
    os.mkfifo(tmp_path / "pipe.txt")
    assert Indexer(store, cache).ingest([tmp_path / "pipe.txt"]).files_failed == 1


def test_every_library_that_reads_counts() -> None:
    """Each third-party library that a loader imports is among those whose version makes a file new."""
    provided = importlib.metadata.packages_distributions()
    own = {"retrievers", "errors"} | sys.stdlib_module_names
    for path in LOADERS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in {name.partition(".")[0] for name in names} - own:
                assert set(provided[name]) & set(known_files.LIBRARIES), f"{path.name} reads with {name}"
