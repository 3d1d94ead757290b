"""Measures ingestion against plain sentence-transformers, which only embeds, and against what the machine's arithmetic allows.

python benchmarks/ingest.py [--rounds 3] [--copies 8 | --folder FOLDER] [--out FILE.json]

The text is the sample notes, repeated with other figures and their paragraphs in another order, or the documents of a folder. In
each round, in turn: plain sentence-transformers in float32 encodes all passages' texts in their own order with its default batch
size; ours ingests the files into an empty collection with an empty cache (parsing, splitting, embedding, BM25 and writing), again
with nothing changed, into a new collection with the cache it has by now, and again after about 3% of the documents have
changed. All are given in passages of the whole text a second; figures are medians over rounds, ratios compare within a round.

The limit is a product of two large float32 matrices in NumPy on all cores. What is set against it are the operations that the
model's layers need for the texts' own tokens: padding counts as time lost.
"""

import argparse
import json
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the checkout wins over an installed copy

import numpy as np
import psutil
import report

import settings
import weights
from retrievers import embeddings, splitting, store
from retrievers.cache import Cache
from retrievers.embeddings import Dense
from retrievers.index import Indexer
from retrievers.loaders import LoadFailure, discover, load

SAMPLES = Path(__file__).parent.parent / "samples"
CHANGED = 33  # every how manyth document an edition changes
SIDE = 2048  # of the matrices
FASTER, FASTER_AGAIN = 1.3, 50  # the bars: times the passages a second of plain sentence-transformers
TURNS = {
    "plain": "plain sentence-transformers, float32",
    "first": "ours, into an empty collection",
    "again": "ours, again with nothing changed",
    "collection": "ours, into a new collection",
    "edition": "ours, after 3% of the documents changed",
}


@dataclass(frozen=True)
class Round:
    """Seconds of each turn, of parsing with splitting and of embedding in the first ingestion, and the limit in FLOP/s.

    `others` is the share of the machine that other processes used meanwhile.
    """

    turns: dict[str, float]
    parsing: float
    embedding: float
    limit: float
    others: float


class Watched(Dense):
    """A dense model that tells how long it has computed documents."""

    def __init__(self, dense: Dense) -> None:
        self._dense, self.seconds = dense, 0.0
        self.name, self.digest, self.size, self.limit = dense.name, dense.digest, dense.size, dense.limit

    def embed_query(self, text: str) -> list[float]:
        return self._dense.embed_query(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        started = time.perf_counter()
        vectors = self._dense.embed_documents(texts)
        self.seconds += time.perf_counter() - started
        return vectors

    def count_tokens(self, text: str) -> int:
        return self._dense.count_tokens(text)

    def release(self) -> None:
        self._dense.release()


class Bench:
    """One run over one text."""

    def __init__(self, model: Path, dense: Dense, corpus: Path, temporary: Path) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        self.dense, self.corpus, self.temporary = Watched(dense), corpus, temporary
        self.texts, _ = _passages(corpus, dense)
        self.plain = SentenceTransformer(str(model), device="cpu").float()
        self.embedding = 0.0  # seconds, in the last first ingestion
        self.operations = _operations(model, [min(dense.count_tokens(text), dense.limit) for text in self.texts])
        for embed in (self.plain.encode, dense.embed_documents):  # what is compiled or allocated at first is not measured
            embed(self.texts[:32])

    def round(self, number: int) -> Round:
        turns: dict[str, float] = {}
        psutil.cpu_percent()  # which tells of the time since the last call
        began, own = time.perf_counter(), time.process_time()
        parts = [self._plain, self._ours]
        for part in parts if number % 2 == 0 else reversed(parts):
            turns |= part()
        parsing, limit = _passages(self.corpus, self.dense)[1], _limit()
        ours = (time.process_time() - own) / (time.perf_counter() - began) / (psutil.cpu_count() or 1)
        return Round(turns, parsing, self.embedding, limit, max(0.0, psutil.cpu_percent() / 100 - ours))

    def _plain(self) -> dict[str, float]:
        return {"plain": _seconds(lambda: self.plain.encode(self.texts, show_progress_bar=False))}

    def _ours(self) -> dict[str, float]:
        """All turns of ours, in new folders; only the ingestions are timed."""
        with tempfile.TemporaryDirectory(dir=self.temporary) as name:
            folder = Path(name)
            files = folder / "files"
            shutil.copytree(self.corpus, files)
            with (
                closing(Cache(folder / "cache")) as cache,
                closing(self._store(folder / "one")) as one,
                closing(self._store(folder / "two")) as two,
            ):
                first, second = Indexer(one, cache), Indexer(two, cache)
                self.dense.seconds = 0.0
                turns = {"first": _seconds(lambda: first.ingest([files]))}
                self.embedding = self.dense.seconds
                turns["again"] = _seconds(lambda: first.ingest([files]))
                turns["collection"] = _seconds(lambda: second.ingest([files]))
                _amend(files)
                turns["edition"] = _seconds(lambda: first.ingest([files]))
        return turns

    def _store(self, folder: Path) -> store.Store:
        return store.open(settings.load(qdrant_host="").retrieval, folder, self.dense)


def main() -> None:
    """Measure, print, and write what was asked for; exit status 1 if a bar is missed."""
    given = _arguments()
    cache = settings.load().cache.fcc_rag_cache
    model = weights.resolve(weights.DEFAULT_EMBEDDING, variable="EMBEDDING_MODEL", cache=cache)
    dense = embeddings.open(model, engine="auto", cache=cache)
    print(f"{' · '.join(f'{key} {value}' for key, value in report.machine().items())} · load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="fcc-rag-ingest-") as name:
        temporary = Path(name)
        corpus = temporary / "corpus"
        if given.folder:
            shutil.copytree(given.folder, corpus)
        else:
            _write_corpus(corpus, given.copies)
        bench = Bench(model, dense, corpus, temporary)
        if not bench.texts:
            sys.exit(f"{given.folder} holds no documents")
        print(f"{len(bench.texts)} passages, {bench.operations / len(bench.texts) / 1e9:.2f} GFLOP each", flush=True)
        rounds = []
        for number in range(given.rounds):
            rounds.append(bench.round(number))
            print(f"round {number + 1}: " + ", ".join(f"{turn} {s:.2f} s" for turn, s in rounds[-1].turns.items()), flush=True)
            if rounds[-1].others > report.NOT_QUIET:
                print(f"round {number + 1}: other processes used {rounds[-1].others:.0%} of the machine; do not trust it")
    passed = _show(rounds, len(bench.texts), bench.operations)
    if given.out:
        about = {"machine": report.machine(), "passages": len(bench.texts), "operations": bench.operations}
        given.out.write_text(json.dumps(about | {"rounds": [asdict(each) for each in rounds]}, indent=1), encoding="utf-8")
    if not passed:
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=8, help="of the sample notes, each with other figures")
    parser.add_argument("--folder", type=Path, help="documents to ingest instead")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    given = parser.parse_args()
    if given.folder and not given.folder.is_dir():
        parser.error(f"{given.folder} is not a folder")
    return given


def _write_corpus(folder: Path, copies: int) -> None:
    """The notes again and again: no two copies share a paragraph with a figure in it, nor the order of their paragraphs."""
    folder.mkdir()
    rng = random.Random(0)  # noqa: S311 -- nothing secret
    for copy in range(copies):
        for note in sorted(SAMPLES.glob("*.md")):
            _, about, body = note.read_text(encoding="utf-8").split("---", 2)
            heading, *paragraphs = body.strip().split("\n\n")
            rng.shuffle(paragraphs)
            other = re.sub(r"(?<![\w.(])\d{2,4}(?![\w.)])", lambda _: str(rng.randrange(10, 9999)), "\n\n".join(paragraphs))
            text = f"---{about}---\n\n{heading}, version {copy}\n\n{other}\n"
            (folder / f"{copy:03} {note.name}").write_text(text, encoding="utf-8")


def _amend(folder: Path) -> None:
    """Change some words in every `CHANGED`th document of the formats that can be written as text."""
    files, _, _ = discover([folder])
    texts = [path for path, _ in files if path.suffix in {".md", ".txt"}]
    for path in texts[::CHANGED]:
        path.write_text(path.read_text(encoding="utf-8") + "\n\nThis note was amended.\n", encoding="utf-8")
    for path in (path for path, _ in files if path.suffix == ".jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        for row in rows[::CHANGED]:
            row["text"] += "\n\nThis section was amended."
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def _passages(folder: Path, dense: Dense) -> tuple[list[str], float]:
    """What is embedded of each passage, in the documents' order, and the seconds that parsing and splitting take."""
    started = time.perf_counter()
    texts = []
    for path, root in discover([folder]).files:
        for document in load(path, root=root):
            if not isinstance(document, LoadFailure):
                passages = splitting.split(document, limit=dense.limit, measure=dense.count_tokens, document_hash="")
                texts += [splitting.embedded_text(passage) for passage in passages]
    return texts, time.perf_counter() - started


def _operations(model: Path, lengths: list[int]) -> float:
    """Floating-point operations of the layers' matrix products for texts of so many tokens: of a BERT, as its config says."""
    about = json.loads((model / "config.json").read_text(encoding="utf-8"))
    layers, hidden, inner = about["num_hidden_layers"], about["hidden_size"], about["intermediate_size"]
    return float(sum(layers * length * (8 * hidden**2 + 4 * hidden * inner + 4 * hidden * length) for length in lengths))


def _limit() -> float:
    """Floating-point operations a second in the fastest of some large products."""
    one, two = (np.random.default_rng(seed).random((SIDE, SIDE), np.float32) for seed in (1, 2))
    return 2 * SIDE**3 / min(_seconds(lambda: one @ two) for _ in range(10))


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _show(rounds: list[Round], passages: int, operations: float) -> bool:
    """Print the figures; whether both bars are passed."""
    print("\n| | passages/s | times plain | lowest to highest |\n|---|---|---|---|")
    times = {}
    for turn, said in TURNS.items():
        speed = statistics.median(passages / each.turns[turn] for each in rounds)
        ratios = [each.turns["plain"] / each.turns[turn] for each in rounds]
        times[turn] = statistics.median(ratios)
        print(f"| {said} | {speed:.1f} | {times[turn]:.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    parsing, embedding, whole, alone, plain = (
        statistics.median(values)
        for values in zip(
            *(
                (
                    each.parsing / each.turns["first"],
                    each.embedding / each.turns["first"],
                    operations / each.turns["first"] / each.limit,
                    operations / each.embedding / each.limit,
                    operations / each.turns["plain"] / each.limit,
                )
                for each in rounds
            ),
            strict=True,
        )
    )
    limit = statistics.median(each.limit for each in rounds)
    print(f"\nof the first ingestion {embedding:.1%} is embedding, and {parsing:.1%} parsing and splitting")
    print(
        f"the arithmetic limit is {limit / 1e9:.0f} GFLOP/s: embedding reaches {alone:.0%} of it, "
        f"the first ingestion as a whole {whole:.0%}, plain sentence-transformers {plain:.0%}"
    )
    bars = {"first": FASTER, "again": FASTER_AGAIN}
    for turn, bar in bars.items():
        print(f"{TURNS[turn]}: {times[turn]:.2f} times plain, {'passes' if times[turn] >= bar else 'MISSES'} the bar of {bar}")
    return all(times[turn] >= bar for turn, bar in bars.items())


if __name__ == "__main__":
    main()
