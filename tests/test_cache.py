"""The cache file: what is put stays, within bounds, whoever shares it and whatever happens to it."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrievers import cache as caches
from retrievers.cache import Cache

VALUE = 1500  # bytes, about those of a vector


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    opened = Cache(tmp_path / "cache")
    yield opened
    opened.close()


def entries(first: int, number: int) -> dict[bytes, bytes]:
    return {b"key %d" % n: (b"value %d " % n) * (VALUE // 10) for n in range(first, first + number)}


def held(cache: Cache, first: int, number: int) -> int:
    """How many of the entries are there, all of them as they were put."""
    wanted = entries(first, number)
    found = cache.get([*wanted])
    assert all(wanted[key] == value for key, value in found.items())
    return len(found)


def test_what_is_put_stays(cache: Cache, tmp_path: Path) -> None:
    """A value comes back, in this process and after it; what was never put does not."""
    cache.put(entries(0, 600))
    assert (held(cache, 0, 600), held(cache, 600, 5)) == (600, 0)
    cache.put({b"key 1": b"another"})
    cache.close()
    again = Cache(tmp_path / "cache")
    assert again.get([b"key 1", b"key 2", b"nothing"]) == {b"key 1": b"another"} | entries(2, 1)
    again.close()


def test_least_recently_used_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file stays within its bound; what was used lately survives what was not."""
    hour = 1000
    monkeypatch.setattr(caches, "_hour", lambda: hour)
    cache = Cache(tmp_path, largest=1_000_000)
    cache.put(entries(0, 400))
    hour += 1
    assert held(cache, 0, 50) == 50
    for first in range(400, 2000, 100):
        hour += 1
        assert held(cache, 0, 50) == 50
        cache.put(entries(first, 100))
    assert (held(cache, 0, 50), held(cache, 50, 350), held(cache, 1900, 100)) == (50, 0, 100)
    cache.close()
    assert (tmp_path / "cache.sqlite").stat().st_size < 1_300_000


def test_no_room_at_all(tmp_path: Path) -> None:
    """A bound that holds nothing ends in an empty cache, not in a loop or an error."""
    cache = Cache(tmp_path, largest=1)
    cache.put(entries(0, 10))
    assert held(cache, 0, 10) == 0
    cache.close()


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, b"SQLite format 3\0 and then something else" * 500])
def test_damaged_file_is_begun_anew(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no database is set aside with a warning, and the next value is kept in a new one."""
    (tmp_path / "cache.sqlite").write_bytes(damage)
    cache = Cache(tmp_path)
    assert held(cache, 0, 10) == 0
    assert "cache.sqlite is damaged" in caplog.text
    assert (tmp_path / "cache.damaged").read_bytes() == damage
    cache.put(entries(0, 10))
    assert held(cache, 0, 10) == 10
    cache.close()


def test_pages_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file with a hole in it gives no wrong value; it is found out, and works again afterwards."""
    cache = Cache(tmp_path)
    cache.put(entries(0, 600))
    cache.close()
    file = tmp_path / "cache.sqlite"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 3] + b"\xff" * (len(whole) // 3) + whole[len(whole) * 2 // 3 :])
    assert held(cache, 0, 600) < 600
    assert "is damaged" in caplog.text
    cache.put(entries(0, 600))
    assert held(cache, 0, 600) == 600
    cache.close()


def test_flipped_bit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A value that has changed on the disk is never handed out."""
    cache = Cache(tmp_path)
    cache.put(entries(0, 20))
    cache.close()
    file = tmp_path / "cache.sqlite"
    data = bytearray(file.read_bytes())
    data[data.index(b"value 7 value 7") + 100] ^= 1
    file.write_bytes(data)
    assert cache.get([b"key 7"]) == {}
    assert "a value has changed" in caplog.text
    cache.close()


def test_another_process_has_set_it_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever meets the damage second leaves the new file alone."""
    (tmp_path / "cache.sqlite").write_bytes(b"no database" * 1000)
    late = Cache(tmp_path)
    first = Cache(tmp_path)
    late._inode = (tmp_path / "cache.sqlite").stat().st_ino  # it opened the damaged file, and then stood still
    first.put(entries(0, 10))  # sets the file aside
    first.put(entries(0, 10))
    late._set_aside(sqlite3.DatabaseError("what it had met"))
    assert (held(first, 0, 10), held(late, 0, 10)) == (10, 10)
    first.close()
    late.close()


def test_folder_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where nothing can be written there is one warning, and nothing is known."""
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file" / "cache")
    cache.put(entries(0, 10))
    assert held(cache, 0, 10) == 0
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "cannot be used" in warnings[0].getMessage()


def test_locked_by_another(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that holds the file for ever costs a warning and the values of that time."""
    monkeypatch.setattr(caches, "_PATIENCE", 0.1)
    cache.put(entries(0, 5))
    other = sqlite3.connect(tmp_path / "cache" / "cache.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    cache.put(entries(5, 5))
    assert "locked" in caplog.text
    other.execute("ROLLBACK")
    other.close()
    assert (held(cache, 0, 5), held(cache, 5, 5)) == (5, 0)
    cache.put(entries(5, 5))
    assert held(cache, 5, 5) == 5


def test_threads_share_it(cache: Cache) -> None:
    """Threads write and read at the same time, and nothing is lost."""

    def work(first: int) -> None:
        for start in range(first, first + 100, 10):
            cache.put(entries(start, 10))
            cache.get([*entries(first, 100)])

    threads = [threading.Thread(target=work, args=(number * 100,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held(cache, 0, 400) == 400


WRITER = """
import sys
from pathlib import Path
from retrievers.cache import Cache
from test_cache import entries

cache = Cache(Path(sys.argv[1]))
for start in range(int(sys.argv[2]), int(sys.argv[3]), 10):
    cache.put(entries(start, 10))
    print(start + 10, flush=True)
"""


def writer(folder: Path, first: int, end: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, str(folder), str(first), str(end)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=subprocess.PIPE)


def test_processes_share_it(cache: Cache, tmp_path: Path) -> None:
    """Processes that begin the file at the same moment and write to it together lose nothing."""
    writers = [writer(tmp_path / "cache", number * 200, number * 200 + 200) for number in range(3)]
    for one in writers:
        one.communicate(timeout=60)
        assert one.returncode == 0
    assert held(cache, 0, 600) == 600


def test_killed_writer(cache: Cache, tmp_path: Path) -> None:
    """What a writer had put when it was killed is there, and the file needs no repair."""
    killed = writer(tmp_path / "cache", 0, 1_000_000)
    assert killed.stdout is not None
    put = [int(killed.stdout.readline()) for _ in range(20)][-1]
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert held(cache, 0, put) == put
    cache.put(entries(0, 1))
    assert not (tmp_path / "cache" / "cache.damaged").exists()
