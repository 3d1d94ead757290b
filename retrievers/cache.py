"""Keeps values under hashes in one SQLite file of bounded size, shared by processes. Knows nothing about what they are.

A value may be gone at any time: what was used least recently goes first. A damaged file is set aside and begun anew, and
one that cannot be used costs a warning and the time it would have saved.
"""

import contextlib
import logging
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

LARGEST = 1 << 30  # bytes of the file; some 600,000 vectors of 384 dimensions

_PATIENCE = 10.0  # seconds to wait for another process that writes
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PAGE = 8192  # bytes; five vectors of 384 dimensions, where the default holds two and leaves a fifth empty
_TABLE = """
CREATE TABLE IF NOT EXISTS entries (key BLOB PRIMARY KEY, used INTEGER NOT NULL, checksum INTEGER NOT NULL, value BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON entries (used);
"""
_FORGET = """
DELETE FROM entries WHERE rowid IN
(SELECT rowid FROM entries ORDER BY used, rowid LIMIT (SELECT count(*) / 10 + 1 FROM entries))
"""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Cache:
    """One file in a folder, made when it is first used. Any thread, and any number of processes, may use it.

    What `put` has written outlives the process, however that ends.
    """

    def __init__(self, folder: Path, *, largest: int = LARGEST) -> None:
        """`largest` is in bytes, for the file."""
        self._file, self._largest = folder / "cache.sqlite", largest
        self._connection: sqlite3.Connection | None = None
        self._inode = 0  # of the file that was opened, which another process may have set aside since
        self._lock = threading.Lock()
        self._told = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are there."""
        return self._attempt(partial(_read, keys=keys), {})

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep the values, and if there is no room forget others."""
        self._attempt(partial(_write, values=values, largest=self._largest), None)

    def close(self) -> None:
        """Give up the file. The next use opens it again."""
        with self._lock:
            self._close()

    def _attempt(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        with self._lock:
            try:
                return work(self._opened())
            except (sqlite3.Error, OSError) as exc:
                self._close()
                if getattr(exc, "sqlite_errorcode", 0) in _DAMAGED or isinstance(exc, _WrongChecksum):
                    self._set_aside(exc)
                elif not self._told:
                    self._told = True
                    logger.warning("%s cannot be used (%s); what it holds is computed again", self._file, exc)
                return otherwise

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                opened = sqlite3.connect(self._file, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
                self._connection, self._inode = opened, self._file.stat().st_ino
                opened.execute(f"PRAGMA page_size = {_PAGE}")
                opened.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
                opened.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last values, but not the file
                opened.executescript(_TABLE)
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _set_aside(self, why: Exception) -> None:
        aside = self._file.with_suffix(".damaged")
        try:
            with self._alone():
                if self._file.stat().st_ino == self._inode:  # else another process has done it
                    self._file.replace(aside)
                    for suffix in ("-wal", "-shm"):  # what SQLite keeps beside the file would be taken for the next one's
                        Path(f"{self._file}{suffix}").unlink(missing_ok=True)
        except OSError as exc:
            logger.warning("%s is damaged (%s) and cannot be set aside (%s)", self._file, why, exc)
        else:
            logger.warning("%s is damaged (%s); it is set aside as %s and begun anew", self._file, why, aside.name)

    def _alone(self) -> FileLock:
        """For what must not be done by two processes at once: beginning the file, and setting it aside."""
        return FileLock(self._file.with_suffix(".lock"), timeout=_PATIENCE)


class _WrongChecksum(sqlite3.DatabaseError):
    """A value is not what was written: damage that SQLite itself does not notice."""


def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    stale: list[bytes] = []
    now = _hour()
    for key in keys:
        for used, checksum, value in connection.execute("SELECT used, checksum, value FROM entries WHERE key = ?", (key,)):
            if checksum != _checksum(key, value):
                raise _WrongChecksum("a value has changed since it was written")
            found[key] = value
            if used != now:
                stale.append(key)
    if stale:
        with _transaction(connection):
            connection.executemany("UPDATE entries SET used = ? WHERE key = ?", [(now, key) for key in stale])
    return found


def _write(connection: sqlite3.Connection, values: Mapping[bytes, bytes], largest: int) -> None:
    now = _hour()
    rows = [(key, now, _checksum(key, value), value) for key, value in values.items()]
    with _transaction(connection):
        connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
        while _size(connection) > largest and connection.execute(_FORGET).rowcount:
            pass


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """What is done within is done wholly or, if it raises and the connection is closed, not at all."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _size(connection: sqlite3.Connection) -> int:
    """Bytes in use; SQLite fills the room that deleted entries leave before the file grows."""
    (pages,), (free,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count"))
    return int(pages - free) * _PAGE


def _checksum(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))


def _hour() -> int:
    """When something was used, told coarsely, so that reading seldom means writing."""
    return int(time.time()) // 3600
