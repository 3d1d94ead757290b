"""Runs ingestions in a thread of their own, one after the other, and says how far each is. Knows nothing about HTTP."""

import logging
import queue
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from errors import FccRagError, NotFound, QueueFull
from retrievers.index import Indexer, Progress, Report

_WAITING = 8  # jobs that may wait; who asks for more has a loop in a script
_PATIENCE = 10  # seconds that a stop waits for a job which is long in one file
_REMEMBERED = 100  # ended jobs that can still be asked for

logger = logging.getLogger(__name__)


class Job(BaseModel):
    """A picture of a job at one moment. `report` stands once it is done or stopped, `error` once it has failed."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: Literal["queued", "running", "done", "failed", "stopped"] = "queued"
    progress: Progress = Progress()
    report: Report | None = None
    error: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in {"done", "failed", "stopped"}


class _Order(NamedTuple):
    id: str
    paths: tuple[Path, ...]
    prune: bool


class Jobs:
    """The ingestion jobs of one process. Any thread may call any method."""

    def __init__(self, indexer: Indexer) -> None:
        self._indexer = indexer
        self._jobs: dict[str, Job] = {}
        self._orders: queue.Queue[_Order | None] = queue.Queue()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, paths: Sequence[Path], *, prune: bool = False) -> Job:
        """Queue an ingestion; it runs when those before it have ended. Raises QueueFull if too many wait."""
        with self._lock:
            if self._stopping.is_set():
                raise QueueFull("the server is stopping", retry_after=30)
            if sum(job.state == "queued" for job in self._jobs.values()) >= _WAITING:
                raise QueueFull(f"{_WAITING} ingestions are waiting already", retry_after=60)
            job = Job(id=uuid.uuid4().hex)
            self._jobs[job.id] = job
            self._forget()
            self._orders.put(_Order(job.id, tuple(paths), prune))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="ingestion", daemon=True)
                self._thread.start()
        return job

    def get(self, identity: str) -> Job:
        """How the job stands now. Raises NotFound."""
        with self._lock:
            if job := self._jobs.get(identity):
                return job
        raise NotFound(f"there is no ingestion job {identity}")

    def list(self) -> list[Job]:
        """All jobs that are remembered, oldest first."""
        with self._lock:
            return [*self._jobs.values()]

    def stop(self) -> None:
        """End the running job after its current batch or document, drop those that wait, and return when that is done.

        A job that takes too long over it is left behind: its thread ends with the process, and costs but that batch.
        """
        with self._lock:
            self._stopping.set()
            thread = self._thread
        self._orders.put(None)
        if thread is not None:
            thread.join(_PATIENCE)
            if thread.is_alive():
                logger.warning("the ingestion under way did not stop within %s s; run it again to complete it", _PATIENCE)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            if self._stopping.is_set():
                self._update(order.id, state="stopped")
            else:
                self._run(order)

    def _run(self, order: _Order) -> None:
        self._update(order.id, state="running")
        try:
            report = self._indexer.ingest(
                order.paths,
                prune=order.prune,
                on_progress=lambda progress: self._update(order.id, progress=progress),
                should_stop=self._stopping.is_set,
            )
        except FccRagError as exc:
            self._update(order.id, state="failed", error=str(exc))
        except Exception as exc:  # the thread must outlive it, and whoever watches the job must learn of it
            logger.exception("ingestion job %s failed", order.id)
            said = " ".join(str(exc).split())
            self._update(order.id, state="failed", error=f"{type(exc).__name__}: {said}")
        else:
            self._update(order.id, state="stopped" if report.stopped else "done", report=report)

    def _update(self, identity: str, **changes: Any) -> None:
        with self._lock:
            self._jobs[identity] = self._jobs[identity].model_copy(update=changes)

    def _forget(self) -> None:
        ended = [identity for identity, job in self._jobs.items() if job.ended]
        for identity in ended[: max(0, len(ended) - _REMEMBERED)]:
            del self._jobs[identity]
