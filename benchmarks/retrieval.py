"""How fast the embedded store searches and writes, by Qdrant Edge and by qdrant-client's local mode; and how Edge grows.

`python benchmarks/retrieval.py` compares the two at 10,000 passages. `--points 200000` measures Edge alone, with the recall of
its index against exact search. What embeds questions is left out, and passages are made up: see synthetic_passages.py.
"""

import argparse
import contextlib
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray
from qdrant_client import models
from synthetic_passages import Given, Passages, Question, identity

from retrievers import store as stores
from retrievers.connection import DENSE, SPARSE
from retrievers.store import Store, equals
from settings import Retrieval

BATCH = 32  # passages that an ingestion writes at a time
ROUNDS, QUESTIONS = 3, 10
BEST = 10

Engine = Literal["edge", "local"]
Search = Callable[[Store, str], Any]


def asked_of_qdrant(store: Store, text: str) -> object:
    """A hybrid search without what LangChain and the store make of it."""
    words = store.sparse.embed_query(text)
    terms = models.SparseVector(indices=words.indices, values=words.values)
    return store.client.query_points(
        store.collection,
        prefetch=[
            models.Prefetch(query=store.dense.embed_query(text), using=DENSE, limit=30),
            models.Prefetch(query=terms, using=SPARSE, limit=30),
        ],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        limit=30,
    )


SEARCHES: dict[str, Search] = {
    "hybrid, best 30": lambda store, text: store.search(text, 30),
    "Qdrant's share of that": asked_of_qdrant,
    "hybrid, one part, best 30": lambda store, text: store.search(text, 30, models.Filter(must=[equals("part", "15")])),
    "dense, best 30": lambda store, text: store.nearest(text, 30),
    "both rankings, best 30": lambda store, text: store.ranked(text, 30),
}


def opened(engine: Engine, folder: Path, questions: list[Question]) -> Store:
    return stores.open(Retrieval(qdrant_host="", qdrant_embedded=engine, collection_name="made-up"), folder, Given(questions))


def written(store: Store, passages: Passages) -> float:
    """Seconds that writing takes, in an ingestion's batches, each stored before the next."""
    total = 0.0
    for points, _ in passages.chunks():
        started = time.perf_counter()
        for start in range(0, len(points), BATCH):
            store.upsert(points[start : start + BATCH])
        total += time.perf_counter() - started
    return total


def latencies(store: Store, search: Search, questions: list[Question]) -> Iterator[float]:
    """Milliseconds of each search."""
    for question in questions:
        started = time.perf_counter()
        search(store, question.text)
        yield 1000 * (time.perf_counter() - started)


def told(values: list[float]) -> str:
    """The median and the 95th percentile."""
    return f"{statistics.median(values):9.2f}{np.percentile(values, 95):9.2f}"


class Worker:
    """One engine in a process of its own, so that neither works beside what the other keeps in memory."""

    store: Store
    questions: list[Question]

    @classmethod
    def start(cls, engine: Engine, folder: Path, number: int) -> None:
        """Fill a store in this process, and tell how fast that is."""
        passages = Passages(number)
        cls.questions = passages.questions(ROUNDS * QUESTIONS)
        cls.store = opened(engine, folder, cls.questions)
        seconds = written(cls.store, passages)
        print(f"writing, {BATCH} at a time, {engine}: {number / seconds:.0f} passages a second", flush=True)
        started = time.perf_counter()
        cls.store.optimize()
        print(f"optimising, {engine}: {time.perf_counter() - started:.1f} s", flush=True)

    @classmethod
    def round(cls, name: str, start: int) -> list[float]:
        return list(latencies(cls.store, SEARCHES[name], cls.questions[start : start + QUESTIONS]))


def compare(number: int, folder: Path) -> None:
    """Edge against local mode, the same questions in turns."""
    engines: tuple[Engine, ...] = ("edge", "local")
    print(f"{number} passages; milliseconds, {ROUNDS} rounds of {QUESTIONS} questions, in turns", flush=True)
    with contextlib.ExitStack() as stack:
        context = multiprocessing.get_context("spawn")
        workers = {engine: stack.enter_context(context.Pool(1)) for engine in engines}
        for engine, worker in workers.items():
            worker.apply(Worker.start, (engine, folder / engine, number))
        print(f"{'':28}{'edge p50':>9}{'p95':>9}{'local p50':>10}{'p95':>9}{'ratio of medians':>18}")
        for name in SEARCHES:
            taken: dict[Engine, list[float]] = {engine: [] for engine in engines}
            for start in range(0, ROUNDS * QUESTIONS, QUESTIONS):
                for engine, worker in workers.items():
                    taken[engine] += worker.apply(Worker.round, (name, start))
            ratio = statistics.median(taken["local"]) / statistics.median(taken["edge"])
            print(f"{name:28}{told(taken['edge'])}{told(taken['local']):>19}{ratio:18.0f}", flush=True)


def grow(number: int, folder: Path) -> None:
    """Edge alone, with many passages: how long it takes to build, what it finds, how fast and with how much memory."""
    passages = Passages(number)
    questions = passages.questions(200)
    asked = np.stack([question.vector for question in questions])
    store = opened("edge", folder, questions)
    nearest, seconds = Nearest(asked), 0.0
    for points, vectors in passages.chunks():
        nearest.add(vectors)
        started = time.perf_counter()
        for start in range(0, len(points), BATCH):
            store.upsert(points[start : start + BATCH])
        seconds += time.perf_counter() - started
    print(f"{number} passages; writing, {BATCH} at a time: {seconds:.0f} s, {number / seconds:.0f} a second")
    started = time.perf_counter()
    store.optimize()
    print(f"optimising: {time.perf_counter() - started:.0f} s")
    store.close()
    size = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    print(f"on disk: {size / 1e6:.0f} MB")
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # so that memory is that of searching alone
        pool.apply(searched, (folder, questions, nearest.ids()))


def searched(folder: Path, questions: list[Question], nearest: list[set[str]]) -> None:
    """Open the store anew and search it."""
    before = resident()
    started = time.perf_counter()
    store = opened("edge", folder, questions)
    print(f"opening again: {time.perf_counter() - started:.1f} s")
    found = [{str(hit.id) for hit, _ in store.ranked(question.text, BEST)[0]} for question in questions]
    recall = statistics.mean(len(one & best) / BEST for one, best in zip(found, nearest, strict=True))
    print(f"recall@{BEST} of dense search against exact search: {recall:.4f}")
    print(f"{'milliseconds':28}{'p50':>9}{'p95':>9}")
    for name, search in SEARCHES.items():
        print(f"{name:28}{told(list(latencies(store, search, questions)))}")
    own, mapped = (now - then for now, then in zip(resident(), before, strict=True))
    print(f"memory: {own:.0f} MB of its own and {mapped:.0f} MB of mapped files, which the system can take back", flush=True)
    store.close()


class Nearest:
    """The passages nearest to each question, found by comparing with all."""

    def __init__(self, asked: NDArray[np.float32]) -> None:
        self._asked, self._seen = asked, 0
        self._ids = np.empty((len(asked), 0), np.int64)
        self._cosines = np.empty((len(asked), 0), np.float32)

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Look also among these, which follow on those before."""
        ids = np.arange(self._seen, self._seen + len(vectors))
        self._seen += len(vectors)
        cosines = np.hstack([self._cosines, self._asked @ vectors.T])
        known = np.hstack([self._ids, np.tile(ids, (len(self._asked), 1))])
        best = np.argsort(-cosines, axis=1)[:, :BEST]
        self._ids, self._cosines = np.take_along_axis(known, best, 1), np.take_along_axis(cosines, best, 1)

    def ids(self) -> list[set[str]]:
        return [{identity(number) for number in row} for row in self._ids.tolist()]


def resident() -> tuple[float, float]:
    """Megabytes of this process that are its own, and that are mapped files."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e6, memory.shared / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, help="measure Edge alone with so many passages")
    number: int | None = parser.parse_args().points
    with tempfile.TemporaryDirectory() as folder:
        if number is None:
            compare(10_000, Path(folder))
        else:
            grow(number, Path(folder))


if __name__ == "__main__":
    main()
