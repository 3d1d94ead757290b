"""Indexing: what is read, skipped, replaced and pruned, and that nothing is lost however it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_retrieval import Words, opened, texts

from errors import StoreError
from retrievers import index, splitting
from retrievers.embeddings import BATCH
from retrievers.index import Indexer, Progress
from retrievers.search import PassageRetriever
from retrievers.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened_store = opened(tmp_path / "store")
    yield opened_store
    opened_store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    write_files(tmp_path / "rules", 4)
    return tmp_path / "rules"


def write_files(folder: Path, number: int, version: int = 1) -> None:
    """Text files of some paragraphs, and a file of sections; a second version differs in every other document."""
    for one in range(number):
        said = version if one % 2 else 1
        paragraphs = [f"Rule {one}.{part} version {said} " + f"word{part} " * (5 * part + 3) for part in range(9)]
        (folder / f"{one:03}.txt").write_text("\n\n".join(paragraphs))
    sections(folder / "all.jsonl", {f"15.{one}": f"Section {one} in version {version}." for one in range(1, 4)})


def sections(file: Path, texts_of: dict[str, str]) -> None:
    lines = [
        json.dumps({"part": "15", "section": section, "heading": "A heading", "subpart": "", "text": text, "edition": "2024"})
        for section, text in texts_of.items()
    ]
    file.write_text("\n".join(lines))


def contents(store: Store) -> dict[str, Any]:
    """All points with their payloads and vectors."""
    points, following = store.client.scroll(store.collection, limit=100_000, with_vectors=True)
    assert following is None
    return {str(point.id): (point.payload, point.vector) for point in points}


def test_everything_is_indexed(store: Store, folder: Path) -> None:
    """Every readable file ends up searchable, and the report counts what was done."""
    report = Indexer(store).ingest([folder])
    assert (report.files_read, report.files_failed, report.documents_indexed) == (5, 0, 7)
    assert report.passages_written == store.count() > 7
    assert (report.failures, report.stopped) == ([], False)
    found = PassageRetriever(store=store, min_score=0).invoke("rule 2.8", k=1)
    assert found[0].metadata["document"] == str(folder / "002.txt")


def test_unchanged_is_skipped(store: Store, folder: Path) -> None:
    """Ingesting again costs no embedding and writes nothing; a touched file is not a changed one."""
    Indexer(store).ingest([folder])
    before = contents(store)
    assert isinstance(store.dense, Words)
    store.dense.embedded.clear()
    (folder / "001.txt").touch()
    report = Indexer(store).ingest([folder])
    assert (report.files_unchanged, report.files_read, report.documents_unchanged) == (5, 0, 7)
    assert (report.passages_written, store.dense.embedded) == (0, [])
    assert contents(store) == before


def test_changed_is_replaced(store: Store, folder: Path) -> None:
    """A changed document's old passages go, the others stay."""
    Indexer(store).ingest([folder])
    (folder / "001.txt").write_text("Entirely new text.")
    report = Indexer(store).ingest([folder])
    assert (report.documents_replaced, report.documents_indexed, report.documents_unchanged) == (1, 0, 6)
    held = [payload for payload, _ in contents(store).values() if payload["metadata"]["source"].endswith("001.txt")]
    assert [payload["page_content"] for payload in held] == ["Entirely new text."]
    assert {copy.hash for copies in store.documents().values() for copy in copies if len(copies) > 1} == set()


def test_swapped_texts(store: Store, folder: Path) -> None:
    """Two documents that exchange their texts are both replaced."""
    Indexer(store).ingest([folder])
    first, second = (folder / "000.txt").read_text(), (folder / "001.txt").read_text()
    (folder / "000.txt").write_text(second)
    (folder / "001.txt").write_text(first)
    assert Indexer(store).ingest([folder]).documents_replaced == 2
    assert all(len(copies) == 1 for copies in store.documents().values())
    assert Indexer(store).ingest([folder]).documents_unchanged == 7


def test_bad_files_are_reported(store: Store, folder: Path) -> None:
    """A bad file costs only itself: it is named with the reason, and so is what is of a kind that is not read."""
    (folder / "bad.pdf").write_bytes(b"%PDF-1.7 nothing of the kind")
    (folder / "empty.txt").write_text("")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    report = Indexer(store).ingest([folder, folder / "missing.txt"])
    assert (report.files_read, report.files_failed, report.files_skipped) == (5, 3, 1)
    failed = {note.source.rpartition("/")[2]: note.reason for note in report.failures}
    assert failed.keys() == {"bad.pdf", "empty.txt", "missing.txt"}
    assert all(reason and "\n" not in reason for reason in failed.values())
    assert [note.source for note in report.skipped] == [str(folder / "photo.png")]


def test_name_that_is_no_text(store: Store, folder: Path) -> None:
    """A file whose name is not valid in any encoding is reported in a way that JSON can hold, and stops nothing."""
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.txt")).write_text("A rule in a file with a broken name.")
    report = Indexer(store).ingest([folder])
    assert [note.source for note in report.failures] == ["rules/bad?.txt"]
    assert "bad?.txt" in report.model_dump_json()
    assert report.documents_indexed == 7


def test_document_that_upsets_the_splitter(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document that cannot be split, or holds no text, fails with a reason, and the others are indexed."""
    split = splitting.split

    def picky(document: Any, **arguments: Any) -> Any:
        if document.uri.endswith("001.txt"):
            raise ZeroDivisionError("by zero")
        return [] if document.uri.endswith("002.txt") else split(document, **arguments)

    monkeypatch.setattr(splitting, "split", picky)
    report = Indexer(store).ingest([folder])
    assert [(note.source.rpartition("/")[2], note.reason) for note in report.failures] == [
        ("001.txt", "it cannot be split (ZeroDivisionError: by zero)"),
        ("002.txt", "it holds no text"),
    ]
    assert (report.documents_indexed, report.files_failed) == (5, 2)


def test_prune(store: Store, folder: Path, tmp_path: Path) -> None:
    """With `prune`, documents whose file is gone, or that their file no longer holds, are forgotten; nothing else."""
    other = tmp_path / "rules2"  # its name begins like the folder's
    other.mkdir()
    (other / "a.txt").write_text("Another folder.")
    Indexer(store).ingest([folder, other])
    (other / "a.txt").unlink()
    (folder / "000.txt").unlink()
    sections(folder / "all.jsonl", {"15.1": "Section 1 in version 1."})
    assert Indexer(store).ingest([folder]).documents_pruned == 0
    report = Indexer(store).ingest([folder], prune=True)
    assert report.documents_pruned == 3
    names = {uri.rpartition("/")[2] for uri in store.documents()}
    assert {"001.txt", "002.txt", "003.txt", "a.txt"} < names
    assert len(names) == 5


def test_prune_spares_what_could_not_be_read(store: Store, folder: Path, tmp_path: Path) -> None:
    """A file that has become unreadable, or a folder that is not there, loses nothing."""
    sharp = folder / "c# notes #1.txt"
    sharp.write_text("A name with a hash sign.")
    Indexer(store).ingest([folder])
    before = store.documents()
    (folder / "all.jsonl").write_text("{broken")
    (folder / "000.txt").write_bytes(b"")
    assert Indexer(store).ingest([folder], prune=True).documents_pruned == 0
    folder.rename(tmp_path / "elsewhere")
    report = Indexer(store).ingest([folder], prune=True)
    assert (report.documents_pruned, report.files_failed) == (0, 1)
    assert store.documents() == before


def test_same_document_twice(store: Store, folder: Path) -> None:
    """Of two documents of one name the first is kept and the second reported, and so the index settles."""
    both = [json.loads((folder / "all.jsonl").read_text().splitlines()[0]) for _ in range(2)]
    both[1]["text"] = "Something else."
    (folder / "all.jsonl").write_text("\n".join(json.dumps(one) for one in both))
    first = Indexer(store).ingest([folder])
    before = contents(store)
    second = Indexer(store).ingest([folder])
    assert contents(store) == before
    assert first.failures == second.failures


def test_stop_loses_nothing(store: Store, folder: Path, tmp_path: Path) -> None:
    """A stopped ingestion says so, leaves what was there searchable, and the next one completes it."""
    Indexer(store).ingest([folder])
    write_files(folder, 4, version=2)
    calls = iter(range(100))
    report = Indexer(store).ingest([folder], prune=True, should_stop=lambda: next(calls) >= 8)
    assert (report.stopped, report.documents_replaced, report.documents_pruned) == (True, 0, 0)
    assert any("version 1" in text for text in texts(PassageRetriever(store=store, min_score=0).invoke("rule 1.8", k=9)))
    Indexer(store).ingest([folder])
    clean = opened(tmp_path / "clean")
    Indexer(clean).ingest([folder])
    assert contents(store) == contents(clean)
    clean.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from fakes_retrieval import opened
from retrievers import index
from retrievers.index import Indexer
from retrievers.store import Store

left = int(sys.argv[3])
write = Store.upsert

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def counted(*arguments):
    global left
    if left == 0:
        kill()
    left -= 1
    write(*arguments)

index.BATCH = 8
Store.upsert, Store.delete = counted, kill
Indexer(opened(Path(sys.argv[1]))).ingest([Path(sys.argv[2])])
"""


@pytest.mark.parametrize("writes", [0, 3, 100])
def test_killed_and_run_again(tmp_path: Path, writes: int) -> None:
    """Killed before or amid the writing, or before older versions are cleared away, the next run ends as one clean run would."""
    folder = tmp_path / "rules"
    folder.mkdir()
    write_files(folder, 20)
    store = opened(tmp_path / "store")
    Indexer(store).ingest([folder])
    store.close()
    write_files(folder, 20, version=2)
    clean = opened(tmp_path / "clean")
    Indexer(clean).ingest([folder])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(folder), str(writes)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    store = opened(tmp_path / "store")
    assert store.documents() != clean.documents()
    report = Indexer(store).ingest([folder])
    assert report.documents_replaced > 0
    assert Indexer(store).ingest([folder]).passages_written == 0
    store.close()
    clean.close()
    stored = []
    for name in ("store", "clean"):  # from the disk, for in memory the vectors are rounded otherwise
        store = opened(tmp_path / name)
        stored.append(contents(store))
        store.close()
    assert stored[0] == stored[1]


def test_batches_hold_passages_of_one_length(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small documents share batches, which are filled, and sorted so that little of them is padding."""
    write_files(folder, 20)
    batches: list[list[str]] = []
    assert isinstance(store.dense, Words)
    embed = store.dense.embed_documents

    def recorded(batch: list[str]) -> list[list[float]]:
        batches.append(batch)
        return embed(batch)

    monkeypatch.setattr(store.dense, "embed_documents", recorded)
    monkeypatch.setattr(index, "_WINDOW", 64)
    Indexer(store).ingest([folder])
    assert max(map(len, batches)) == BATCH
    assert len(batches) < sum(map(len, batches)) / BATCH + 4


def test_progress_moves_forward(store: Store, folder: Path) -> None:
    """Progress comes for each document and batch, never goes back, and ends at the whole."""
    steps: list[Progress] = []
    report = Indexer(store).ingest([folder], on_progress=steps.append)
    assert len(steps) >= 7 + 5
    assert [step.passages for step in steps] == sorted(step.passages for step in steps)
    assert [step.done_files for step in steps] == sorted(step.done_files for step in steps)
    assert (steps[-1].done_files, steps[-1].total_files, steps[-1].documents) == (5, 5, 7)
    assert steps[-1].passages == report.passages_written
    assert {step.source for step in steps} >= {"rules/000.txt"}


def test_store_failure_is_no_bad_file(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store fails, the ingestion ends with its error instead of blaming every file."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(store.client, "upsert", fail)
    with pytest.raises(StoreError, match="No space left on device"):
        Indexer(store).ingest([folder])


def test_folder_that_may_not_be_read(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be listed is a failure of its own: other files are indexed, and nothing in it is forgotten."""
    (folder / "closed").mkdir()
    (folder / "closed" / "a.txt").write_text("A rule behind a door.")
    Indexer(store).ingest([folder])
    (folder / "000.txt").unlink()
    (folder / "new.txt").write_text("A new rule.")
    (folder / "closed" / "a.txt").unlink()  # or so it looks, from outside
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    report = Indexer(store).ingest([folder, folder / "nul\0.txt"], prune=True)
    assert (report.files_failed, report.documents_indexed, report.documents_pruned) == (2, 1, 1)
    assert {note.source for note in report.failures} == {str(folder / "closed"), str(folder / "nul\0.txt")}
    assert str(folder / "closed" / "a.txt") in store.documents()


def test_stop_between_the_documents_of_a_file(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop is heeded before each document of a file, however many it holds."""
    sections(folder / "all.jsonl", {f"15.{one}": f"Section {one}." for one in range(1, 200)})
    sources: list[str] = []
    split = splitting.split

    def recorded(document: Any, **arguments: Any) -> Any:
        sources.append(document.uri)
        return split(document, **arguments)

    monkeypatch.setattr(splitting, "split", recorded)
    report = Indexer(store).ingest([folder / "all.jsonl"], should_stop=lambda: len(sources) >= 3)
    assert (report.stopped, report.files_read, len(sources)) == (True, 0, 3)


def test_store_is_optimized_once_after_writing(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is put in order when an ingestion that changed it ends: not when nothing was changed, nor amid a stop."""
    held: list[int] = []
    monkeypatch.setattr(store, "optimize", lambda: held.append(store.count()))
    monkeypatch.setattr(index, "BATCH", 8)
    Indexer(store).ingest([folder], should_stop=lambda: store.count() > 0)
    assert held == []
    Indexer(store).ingest([folder])
    assert held == [store.count()]
    Indexer(store).ingest([folder])
    assert len(held) == 1
    (folder / "001.txt").unlink()
    Indexer(store).ingest([folder], prune=True)
    assert len(held) == 2
