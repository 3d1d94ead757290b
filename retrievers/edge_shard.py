"""One collection of Qdrant Edge in a folder of its own: what writes, reads and optimises it, and outlives a kill.

The folder holds Edge's shard and `collection.json`, which names it and is replaced as a whole: what it does not name was cut
off and is removed. Edge (0.9) keeps Python's global lock for the whole of a call, so whatever takes long is done elsewhere:
what makes a write last is the operating system's call, and indexes are built in another process, on a copy. Knows no passages.
"""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from pydantic import BaseModel
from qdrant_client import models
from qdrant_client.common.client_exceptions import QdrantException

from errors import StoreError, StoreLocked

ABOUT = "collection.json"
FEW = 1000  # points that need no index
_FLUSH_EVERY = 64  # writes; after a crash Edge does them again from its log
_BLOCK = 1 << 20  # bytes copied at a time
_UNCHANGED = 3
_OPTIMISE = f"""
import os, sys, qdrant_edge
os.name == "posix" and os.nice(10)
shard = qdrant_edge.EdgeShard.load(sys.argv[1])
changed = shard.optimize()
shard.close()
sys.exit(0 if changed else {_UNCHANGED})
"""

logger = logging.getLogger(__name__)


class EdgeFailure(QdrantException):
    """What Qdrant Edge reports, as one line."""


class About(BaseModel):
    """How the collection was made, and the folder of its shard."""

    shard: str
    made: models.CreateCollection


class Collection:
    """An open collection, which belongs to this process alone. Any thread may call any method."""

    def __init__(self, place: Path, about: About, shard: edge.EdgeShard) -> None:
        self.made = about.made
        self._place, self._about, self._shard = place, about, shard
        self._writes = 0
        self._closed = False
        self._writing, self._optimizing = threading.Lock(), threading.Lock()
        self._changed = threading.Condition()
        self._readers: Counter[edge.EdgeShard] = Counter()
        self._worker: subprocess.Popen[str] | None = None

    @classmethod
    def create(cls, place: Path, made: models.CreateCollection, config: edge.EdgeConfig) -> "Collection":
        """A new collection in the folder, in which there is nothing but perhaps one whose making was cut off."""
        shutil.rmtree(place, ignore_errors=True)
        about = About(shard=_new_name(), made=made)
        (place / about.shard).mkdir(parents=True)
        with reported():
            shard = edge.EdgeShard.create(str(place / about.shard), config)
            shard.flush()
        _write(place / ABOUT, about.model_dump_json(exclude_none=True))
        sync(place.parent)
        return cls(place, about, shard)

    @classmethod
    def load(cls, place: Path) -> "Collection":
        """The collection in the folder; what a crash left beside it is removed."""
        try:
            about = About.model_validate_json((place / ABOUT).read_bytes())
            shard = edge.EdgeShard.load(str(place / about.shard))
        except Exception as exc:  # Edge raises nothing more precise, and pydantic has its own
            if "WouldBlock" in str(exc):
                raise StoreLocked(f"{place} is in use by another process") from exc
            raise EdgeFailure(f"{place} cannot be read: {_line(exc)}; move it away and ingest again") from exc
        for other in place.glob("shard-*"):
            if other.name != about.shard:
                shutil.rmtree(other, ignore_errors=True)
        return cls(place, about, shard)

    @contextlib.contextmanager
    def reading(self) -> Iterator[edge.EdgeShard]:
        """The shard, which is not closed before this ends."""
        with self._changed:
            if self._closed:
                raise StoreError(f"{self._place} has been closed")
            shard = self._shard
            self._readers[shard] += 1
        try:
            with reported():
                yield shard
        finally:
            with self._changed:
                self._readers[shard] -= 1
                self._changed.notify_all()

    def update(self, operation: edge.UpdateOperation) -> None:
        """Do a write; when this returns it outlives a crash of the process and of the machine."""
        with self._writing, self.reading() as shard:
            shard.update(operation)
            self._writes += 1
            if self._writes % _FLUSH_EVERY:
                _sync_files(self._place / self._about.shard / "wal")
            else:
                shard.flush()

    def describe(self, metadata: dict[str, Any]) -> None:
        """Add to what is kept beside the points; what has the same name is replaced."""
        with self._optimizing:  # which replaces the same file
            made = self.made.model_copy(update={"metadata": (self.made.metadata or {}) | metadata})
            about = self._about.model_copy(update={"made": made})
            _write(self._place / ABOUT, about.model_dump_json(exclude_none=True))
            self.made, self._about = made, about

    def optimize(self) -> bool:
        """Index what has no index and merge what is in pieces; returns whether there was anything to do.

        It is done on a copy, by another process, and costs as much disk for as long. If points are written meanwhile the
        copy is thrown away, for the next time to do it.
        """
        copy = self._place / _new_name()
        with self._optimizing:
            try:
                with self._writing, self.reading() as shard:
                    if shard.info().points_count < FEW:
                        return False
                    shard.flush()
                    known = self._writes
                    _copy(self._place / self._about.shard, copy)
                return self._optimized(copy) and self._replaced(copy, known)
            finally:
                if self._about.shard != copy.name:
                    shutil.rmtree(copy, ignore_errors=True)

    def close(self) -> None:
        """Let the calls under way end, then let the folder go; an optimisation under way is given up."""
        with self._changed:
            self._closed = True
            if self._worker is not None:
                self._worker.kill()
            self._changed.wait_for(lambda: not self._readers[self._shard])
        with self._writing, reported():
            self._shard.close()

    def _optimized(self, copy: Path) -> bool:
        with self._changed:
            if self._closed:
                return False
            self._worker = subprocess.Popen(  # noqa: S603 -- this very Python
                [sys.executable, "-P", "-c", _OPTIMISE, str(copy)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        try:
            said = self._worker.communicate()[1]
        finally:
            self._worker.kill()
            self._worker.wait()
        if self._worker.returncode not in {0, _UNCHANGED} and not self._closed:
            raise EdgeFailure(f"{self._place} cannot be optimised: {said.strip().rpartition(chr(10))[2]}")
        return self._worker.returncode == 0

    def _replaced(self, copy: Path, known: int) -> bool:
        with self._writing:
            if self._writes != known:
                logger.info("%s was written to while it was optimised; the next ingestion will optimise it", self._place)
                return False
            with reported():
                new = edge.EdgeShard.load(str(copy))
            with self._changed:
                if self._closed:
                    new.close()
                    return False
                about = About(shard=copy.name, made=self.made)
                _write(self._place / ABOUT, about.model_dump_json(exclude_none=True))
                old, former = self._shard, self._place / self._about.shard
                self._shard, self._about = new, about
                self._changed.wait_for(lambda: not self._readers[old])
                del self._readers[old]
        old.close()
        shutil.rmtree(former, ignore_errors=True)
        return True


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Whatever Edge raises, which is the class Exception itself, as an EdgeFailure."""
    try:
        yield
    except (QdrantException, StoreError, OSError):
        raise
    except Exception as exc:
        raise EdgeFailure(_line(exc)) from exc


def sync(folder: Path) -> None:
    """Make the names in the folder last, where the system can."""
    if os.name == "posix":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _sync_files(folder: Path) -> None:
    """Make what the folder's files hold last, also what was written into them by mapping."""
    for file in folder.iterdir():
        with contextlib.suppress(FileNotFoundError), file.open("rb+") as opened:  # Edge renames new files, still empty
            os.fsync(opened.fileno())
    sync(folder)


def _copy(source: Path, target: Path) -> None:
    """Copy a folder of files that are mostly holes, and leave the holes."""
    for folder, _, names in os.walk(source):
        made = target / Path(folder).relative_to(source)
        made.mkdir()
        for name in names:
            with (Path(folder) / name).open("rb") as reader, (made / name).open("wb") as writer:
                writer.truncate(os.fstat(reader.fileno()).st_size)
                for start, end in _filled(reader.fileno()):
                    reader.seek(start)
                    writer.seek(start)
                    for at in range(start, end, _BLOCK):
                        writer.write(reader.read(min(_BLOCK, end - at)))


def _filled(file: int) -> Iterator[tuple[int, int]]:
    """Where a file holds data rather than a hole."""
    end, size = 0, os.fstat(file).st_size
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def _write(file: Path, text: str) -> None:
    """Write the file wholly or not at all, to last."""
    unfinished = file.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as writer:
        writer.write(text)
        writer.flush()
        os.fsync(writer.fileno())
    unfinished.replace(file)
    sync(file.parent)


def _new_name() -> str:
    return f"shard-{uuid.uuid4().hex}"


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__
