"""Keeps the collection in step with files: writes what is new or changed, and removes what is gone. Knows no questions.

Being killed costs nothing but the batch under way. A document counts as indexed only if all its passages are there:
they carry its hash and their number, their ids follow from it, and an older version goes after the newer is written.
"""

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from qdrant_client import models

from retrievers import splitting
from retrievers.cache import Cache
from retrievers.connection import DENSE, SPARSE
from retrievers.documents import Passage, SourceDocument
from retrievers.embeddings import BATCH
from retrievers.known_files import KnownFiles
from retrievers.loaders import discover, load
from retrievers.loaders.pieces import LoadFailure
from retrievers.store import Copy, Store
from retrievers.vector_cache import VectorCache

_FORMAT = 4  # raise it when passages or vectors are made in another way: then all documents are written again
_WINDOW = 512  # passages sorted by length together, so that a batch holds little padding

logger = logging.getLogger(__name__)


class Note(BaseModel):
    """A file or document that was not indexed, and why."""

    source: str
    reason: str


class Progress(BaseModel):
    """How far an ingestion is; `passages` are those written."""

    model_config = ConfigDict(frozen=True)

    done_files: int = 0
    total_files: int = 0
    source: str = ""
    documents: int = 0
    passages: int = 0


class Report(BaseModel):
    """What an ingestion did.

    Each file counts once: as `failed` if anything in it failed, as `skipped` if it is of a kind that is not read, as
    `unchanged` if all its documents were indexed already, and as `read` otherwise.
    """

    files_read: int = 0
    files_unchanged: int = 0
    files_skipped: int = 0
    files_failed: int = 0
    documents_indexed: int = 0
    documents_unchanged: int = 0
    documents_replaced: int = 0
    documents_pruned: int = 0
    passages_written: int = 0
    skipped: list[Note] = []
    failures: list[Note] = []
    seconds: float = 0
    stopped: bool = False


class Indexer:
    """Ingests into one store. One ingestion at a time: see `jobs`.

    With a cache, text that was ever embedded is not embedded again, and a file that has not changed is not even parsed.
    """

    def __init__(self, store: Store, cache: Cache | None = None) -> None:
        self._store, self._cache = store, cache

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        prune: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Report:
        """Index the files and folders; with `prune`, forget the documents under them that are gone.

        Both callbacks are called often, in this thread: before each document and each batch. Raises StoreError if the
        store fails; what is wrong with a file ends up in the report.
        """
        started = time.monotonic()
        run = _Run(self._store, self._cache, on_progress or (lambda _: None), should_stop or (lambda: False))
        try:
            run.read(paths)
        finally:
            self._store.dense.release()
        if prune and not run.report.stopped:
            run.prune(paths)
        if (run.report.passages_written or run.report.documents_pruned) and not run.report.stopped:
            self._store.optimize()
        run.report.seconds = round(time.monotonic() - started, 3)
        return run.report


class _Run:
    """One ingestion under way."""

    def __init__(
        self, store: Store, cache: Cache | None, on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> None:
        self.report = Report()
        self._store, self._on_progress, self._should_stop = store, on_progress, should_stop
        self._vectors = VectorCache(store.dense, cache)
        self._files = KnownFiles(cache, f"{_FORMAT} {store.dense.limit}")
        self._progress = Progress()
        self._stored = store.documents()
        self._seen: dict[str, str] = {}  # the hash of each document met, by its uri
        self._complete: dict[Path, bool] = {}  # whether all of a file could be read
        self._unread: list[Path] = []  # the files and folders that could not be looked at
        self._window: list[Passage] = []
        self._waiting: dict[str, str] = {}  # the documents whose passages are in the window, with their hashes

    def read(self, paths: Sequence[Path]) -> None:
        files, ignored, failed = discover(paths)
        self._tell(total_files=len(files))
        self.report.files_skipped = len(ignored)
        self.report.skipped = [_note(str(path), f"{path.suffix or 'such'} files are not read") for path in ignored]
        self.report.files_failed = len(failed)
        for path, reason in failed:
            self._fail(str(path), reason)
        self._unread = [path for path, _ in failed]
        for number, (path, root) in enumerate(files):
            if self._stopping():
                return
            self._read_file(path, root)
            self._tell(done_files=number + 1)
        self._flush()

    def prune(self, paths: Sequence[Path]) -> None:
        """Forget what is gone: never what lies outside of `paths`, and never because something could not be read.

        A path that is not there itself is such a thing: it may be a disk that is not mounted.
        """
        roots = [Path(os.path.abspath(path)) for path in paths if _may_exist(path)]  # noqa: PTH100 -- as the loaders do
        gone = [uri for uri in self._stored.keys() - self._seen.keys() if self._is_gone(uri, roots)]
        for start in range(0, len(gone), _WINDOW):
            self._store.delete(gone[start : start + _WINDOW])
        self.report.documents_pruned = len(gone)

    def _read_file(self, path: Path, root: Path) -> None:
        key = self._files.key(path, root)
        if self._leave(path, self._files.documents(key)):
            return
        failures, changed = len(self.report.failures), False
        held: dict[str, str] = {}
        for item in load(path, root=root):
            if self._stopping():
                return
            if isinstance(item, LoadFailure):
                self._fail(item.source, item.reason)
            else:
                changed |= self._take(item)
                held[item.uri] = self._seen.get(item.uri, "")
        complete = self._complete[path] = len(self.report.failures) == failures
        self.report.files_failed += not complete
        self.report.files_read += complete and changed
        self.report.files_unchanged += complete and not changed
        if complete and self._files.key(path, root) == key:  # else it was written to while it was read
            self._files.remember(key, held)

    def _leave(self, path: Path, held: dict[str, str] | None) -> bool:
        """Count the file as unchanged if the store still has all the documents that it is known to hold; whether it has."""
        if held is None or not all(_is_whole(self._stored.get(uri, []), current) for uri, current in held.items()):
            return False
        self._seen |= held
        self._complete[path] = True
        self.report.files_unchanged += 1
        self.report.documents_unchanged += len(held)
        return True

    def _take(self, document: SourceDocument) -> bool:
        """Put the document's passages into the window, unless the store holds just these; whether it did."""
        current = _hash(document, self._store.dense.limit)
        if not _is_unicode(document.uri + document.text):  # neither tokenizers nor JSON can hold the rest
            self._fail(document.source, "its name or its text is not valid Unicode")
            return False
        if document.uri in self._seen:
            if self._seen[document.uri] != current:
                self._fail(document.source, "there are two different documents of this name; the first one is kept")
            return False
        self._seen[document.uri] = current
        self._tell(source=_printable(document.source))
        if _is_whole(self._stored.get(document.uri, []), current):
            self.report.documents_unchanged += 1
            return False
        passages = self._split(document, current)
        if not passages:
            return False
        self._window += passages
        self._waiting[document.uri] = current
        if len(self._window) >= _WINDOW:
            self._flush()
        return True

    def _split(self, document: SourceDocument, current: str) -> list[Passage]:
        dense = self._store.dense
        try:
            passages = splitting.split(document, limit=dense.limit, measure=dense.count_tokens, document_hash=current)
        except Exception as exc:  # one bad document never stops the others
            logger.exception("cannot split %s", document.uri)
            self._fail(document.source, f"it cannot be split ({type(exc).__name__}: {exc})")
            return []
        if not passages:
            self._fail(document.source, "it holds no text")
        return passages

    def _flush(self) -> None:
        """Write the window, and only then remove the older versions of its documents."""
        window = [(splitting.embedded_text(passage), passage) for passage in self._window]
        vectors = self._vectors.known([text for text, _ in window])
        # what is known goes first: among the rest it would leave gaps in the model's batches
        window.sort(key=lambda each: (each[0] not in vectors, len(each[0])))
        for start in range(0, len(window), BATCH):
            if self._stopping():
                return
            batch = window[start : start + BATCH]
            if new := [text for text, _ in batch if text not in vectors]:
                vectors |= self._vectors.embed(new)
            self._store.upsert(self._points(batch, vectors))
            self.report.passages_written += len(batch)
            self._tell(passages=self.report.passages_written)
        replaced = [uri for uri in self._waiting if uri in self._stored]
        if replaced:
            self._store.delete(replaced, keep=[self._waiting[uri] for uri in replaced])
        self.report.documents_replaced += len(replaced)
        self.report.documents_indexed += len(self._waiting) - len(replaced)
        self._tell(documents=self.report.documents_replaced + self.report.documents_indexed)
        self._window, self._waiting = [], {}

    def _points(self, batch: list[tuple[str, Passage]], vectors: dict[str, list[float]]) -> list[models.PointStruct]:
        sparse = self._store.sparse.embed_documents([text for text, _ in batch])
        return [
            models.PointStruct(
                id=_point_id(passage),
                vector={DENSE: vectors[text], SPARSE: models.SparseVector(indices=one.indices, values=one.values)},
                payload={"page_content": passage.page_content, "metadata": passage.metadata},
            )
            for (text, passage), one in zip(batch, sparse, strict=True)
        ]

    def _is_gone(self, uri: str, roots: list[Path]) -> bool:
        # "#" ends the file's name where a file holds many documents, but may also stand in a name
        files = [Path(uri), *(Path(uri[:at]) for at, character in enumerate(uri) if character == "#")]
        if not any(file.is_relative_to(root) for file in files for root in roots):
            return False
        if any(file.is_relative_to(path) for file in files for path in self._unread):
            return False
        if read := [file for file in files if file in self._complete]:
            return self._complete[read[0]]
        return not any(_may_exist(file) for file in files)

    def _stopping(self) -> bool:
        self.report.stopped = self.report.stopped or self._should_stop()
        return self.report.stopped

    def _fail(self, source: str, reason: str) -> None:
        self.report.failures.append(_note(source, reason))

    def _tell(self, **changes: Any) -> None:
        self._progress = self._progress.model_copy(update=changes)
        self._on_progress(self._progress)


def _hash(document: SourceDocument, limit: int) -> str:
    """Of all that decides a document's passages. The uri is among it, so that no two documents share a hash."""
    return hashlib.sha256(
        f"{_FORMAT}\n{document.uri}\n{splitting.content_hash(document)}\n{limit}".encode(errors="replace")
    ).hexdigest()


def _is_unicode(text: str) -> bool:
    return text == _printable(text)


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _note(source: str, reason: str) -> Note:
    return Note(source=_printable(source), reason=_printable(" ".join(reason.split())))


def _is_whole(copies: list[Copy], current: str) -> bool:
    return len(copies) == 1 and copies[0].hash == current and copies[0].found == copies[0].expected


def _point_id(passage: Passage) -> str:
    metadata = passage.metadata
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{metadata['document_hash']} {metadata['ordinal']}"))


def _may_exist(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # a folder that may not be entered says nothing about what is in it
        return True
