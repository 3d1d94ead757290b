"""Ingestion jobs: one after the other, each watched to its end."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fakes_retrieval import opened

from errors import NotFound, QueueFull, StoreError
from retrievers import jobs as ingestions
from retrievers.index import Indexer, Progress, Report
from retrievers.jobs import Job, Jobs
from retrievers.search import PassageRetriever


class Scripted(Indexer):
    """An indexer that does what the test says, in place of reading files."""

    def __init__(self, script: Callable[[Callable[[Progress], None], Callable[[], bool]], Report]) -> None:
        self._script = script
        self.running = 0
        self.most = 0
        self.seen: list[tuple[Path, ...]] = []

    def ingest(
        self,
        paths: Sequence[Path],
        *,
        prune: bool = False,  # noqa: ARG002 -- the script does not care
        on_progress: Callable[[Progress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Report:
        assert on_progress is not None
        assert should_stop is not None
        self.seen.append(tuple(paths))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return self._script(on_progress, should_stop)
        finally:
            self.running -= 1


def ended(jobs: Jobs, job: Job) -> Job:
    deadline = time.monotonic() + 20
    while not (now := jobs.get(job.id)).ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return now


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_job_runs_to_its_end(tmp_path: Path) -> None:
    """A job goes from queued to done, and then holds the report and the last progress; what it indexed can be found."""
    (tmp_path / "a.txt").write_text("The lighthouse answers.")
    store = opened(tmp_path / "store")
    jobs = Jobs(Indexer(store))
    started = jobs.start([tmp_path / "a.txt"])
    assert started.state == "queued"
    done = ended(jobs, started)
    assert (done.state, done.error) == ("done", None)
    assert done.report is not None
    assert done.report.documents_indexed == done.progress.done_files == 1
    assert PassageRetriever(store=store).invoke("lighthouse answers")
    jobs.stop()
    store.close()


def test_jobs_take_turns(gate: threading.Event) -> None:
    """A second job waits for the first and then runs; never two at once."""

    def script(on_progress: Callable[[Progress], None], _: Callable[[], bool]) -> Report:
        on_progress(Progress(source="a"))
        gate.wait(10)
        return Report()

    indexer = Scripted(script)
    jobs = Jobs(indexer)
    first, second = jobs.start([Path("1")]), jobs.start([Path("2")])
    while jobs.get(first.id).progress.source != "a":
        time.sleep(0.01)
    assert (jobs.get(first.id).state, jobs.get(second.id).state) == ("running", "queued")
    gate.set()
    assert ended(jobs, second).state == "done"
    assert (indexer.most, indexer.seen) == (1, [(Path("1"),), (Path("2"),)])
    assert [job.id for job in jobs.list()] == [first.id, second.id]
    jobs.stop()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreError("the store is away"), "the store is away"),
        (ZeroDivisionError("by\nzero"), "ZeroDivisionError: by zero"),
    ],
)
def test_failed_job_says_why(error: Exception, said: str) -> None:
    """Whatever ends a job early ends up in the job, in one line, and the next job runs."""
    errors = iter([error])

    def script(_: Callable[[Progress], None], __: Callable[[], bool]) -> Report:
        for one in errors:
            raise one
        return Report()

    jobs = Jobs(Scripted(script))
    failed = ended(jobs, jobs.start([]))
    assert (failed.state, failed.error) == ("failed", said)
    assert ended(jobs, jobs.start([])).state == "done"
    jobs.stop()


def test_stop_ends_all(gate: threading.Event) -> None:
    """Stopping ends the running job after its batch and those that wait without a start, and takes no more."""

    def script(on_progress: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Report:
        on_progress(Progress(source="a"))
        while not should_stop():
            gate.wait(0.01)
        return Report(stopped=True)

    jobs = Jobs(Scripted(script))
    running, waiting = jobs.start([]), jobs.start([])
    while jobs.get(running.id).progress.source != "a":
        time.sleep(0.01)
    jobs.stop()
    jobs.stop()
    assert (jobs.get(running.id).state, jobs.get(waiting.id).state) == ("stopped", "stopped")
    with pytest.raises(QueueFull):
        jobs.start([])


def test_stop_does_not_wait_for_ever(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is long in one file is left behind: its thread keeps no process alive, and the next run makes good."""

    def script(on_progress: Callable[[Progress], None], _: Callable[[], bool]) -> Report:
        on_progress(Progress(source="a"))
        gate.wait(5)
        return Report(stopped=True)

    monkeypatch.setattr(ingestions, "_PATIENCE", 0.1)
    jobs = Jobs(Scripted(script))
    job = jobs.start([])
    while jobs.get(job.id).progress.source != "a":
        time.sleep(0.01)
    started = time.monotonic()
    jobs.stop()
    assert time.monotonic() - started < 2
    assert jobs.get(job.id).state == "running"
    gate.set()
    assert ended(jobs, job).state == "stopped"


def test_too_many_wait(gate: threading.Event) -> None:
    """More jobs than anybody needs are refused, with a time to try again."""

    def script(_: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Report:
        gate.wait(10)
        return Report()

    jobs = Jobs(Scripted(script))
    for _ in range(8):
        jobs.start([])
    while jobs.list()[0].state == "queued":
        time.sleep(0.01)
    jobs.start([])  # in the place of the one that runs by now
    with pytest.raises(QueueFull) as refused:
        jobs.start([])
    assert refused.value.retry_after
    gate.set()
    jobs.stop()


def test_unknown_job() -> None:
    """Asking for a job that never was is answered, not guessed."""
    with pytest.raises(NotFound, match="no ingestion job nothing"):
        Jobs(Scripted(lambda *_: Report())).get("nothing")
