"""What a server's processes use: CPU time, memory, threads. Starts them and ends them; knows nothing about what they serve."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

GRACE = 15.0  # seconds in which a server may end by itself
EVERY = 0.2  # seconds between two looks at the memory


class StartFailed(Exception):
    """A server ended, or did not answer in time; the message ends with the last lines that it wrote."""


@contextlib.contextmanager
def running(
    command: Sequence[str], *, ready: str, log: Path, env: Mapping[str, str], cwd: Path, within: float = 300
) -> Iterator[psutil.Process]:
    """A process that answers 200 at the URL `ready`; it and what it started are ended, by process id, on the way out.

    Raises StartFailed if it does not answer within so many seconds.
    """
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **env}, cwd=cwd)
    try:
        _wait_until_ready(started, ready, log, within)
        yield psutil.Process(started.pid)
    finally:
        _end(started)


def end_on_sigterm() -> None:
    """Let SIGTERM end this process as Ctrl-C does, so that what it started is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def tree(root: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return []


def rss(root: psutil.Process) -> int:
    """Resident bytes of the tree. Pages that two processes share count twice; `pss` counts them once, and is slow."""
    total = 0
    for process in tree(root):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def pss(root: psutil.Process) -> int:
    """Proportional resident bytes of the tree; 0 where the system does not tell."""
    total = 0
    for process in tree(root):
        with contextlib.suppress(psutil.Error, AttributeError):
            total += process.memory_full_info().pss
    return total


def cpu_seconds(root: psutil.Process) -> float:
    """User and system time the tree has used."""
    total = 0.0
    for process in tree(root):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


class Meter:
    """Measures a process tree while a `with` block runs.

    `cpu` is in seconds, `rss` the peak and `pss` the end in bytes. `others` is the share of the machine's CPU that neither the
    tree nor this process used: above a few percent the machine was not quiet and the figures are not to be trusted.
    """

    def __init__(self, root: psutil.Process) -> None:
        self.cpu = self.others = 0.0
        self.rss = self.pss = 0
        self._root = root
        self._own = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="meter", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        self._before = (_machine(), cpu_seconds(self._root), cpu_seconds_of(self._own))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        machine, root, own = self._before
        self.cpu = cpu_seconds(self._root) - root
        room = (time.perf_counter() - self._began) * (psutil.cpu_count() or 1)
        foreign = _machine() - machine - self.cpu - (cpu_seconds_of(self._own) - own)
        self.others = max(0.0, foreign / room) if room else 0.0
        self.pss = pss(self._root)

    def _look(self) -> None:
        while True:
            self.rss = max(self.rss, rss(self._root))
            if self._done.wait(EVERY):
                return


def cpu_seconds_of(process: psutil.Process) -> float:
    """User and system time of one process."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _machine() -> float:
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    counted_twice = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    return float(sum(times) - idle - counted_twice)


def _wait_until_ready(started: "subprocess.Popen[bytes]", ready: str, log: Path, within: float) -> None:
    end = time.monotonic() + within
    while time.monotonic() < end:
        if started.poll() is not None:
            raise StartFailed(f"it ended with status {started.returncode}\n{_tail(log)}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(ready, timeout=5, trust_env=False).status_code == httpx.codes.OK:
                return
        time.sleep(0.25)
    raise StartFailed(f"no answer from {ready} within {within:.0f} s\n{_tail(log)}")


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _end(started: "subprocess.Popen[bytes]") -> None:
    below: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGTERM)
    try:
        started.wait(GRACE)
    except subprocess.TimeoutExpired:
        started.kill()
        started.wait()
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
