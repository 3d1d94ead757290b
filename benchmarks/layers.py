"""What our layers (HTTP, engine thread) add to the bare engine, to the first token and to the tokens a second.

Knows nothing about other servers. Both run beside each other and answer the same prompts by turns, so that noise hits both alike.
"""

import asyncio
import contextlib
import json
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import load
import servers
import watch
from contexts import Book, Prompt
from model_files import Weights
from servers import Server

import settings
from llm import engines, graphs, openvino, openvino_worker

BARE = servers.HERE / "bare_openvino.py"
CASES = (("1 client, new", 1, False), ("1 client, again", 1, True), ("8 clients", 8, False))  # name, prompts, asked twice


@dataclass(frozen=True)
class Times:
    """Seconds to the first token (the median over the prompts), tokens a second of all prompts together."""

    first: float
    tokens_per_second: float


class Bare:
    """The bare engine, in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._read()  # that it is ready

    def ask(self, prompts: Sequence[list[int]], max_tokens: int) -> Times:
        """Let it answer the prompts together."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "max_tokens": max_tokens}) + "\n")
        self._process.stdin.flush()
        said = self._read()
        return Times(statistics.median(said["first"]), sum(said["tokens"]) / max(said["total"]))

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # the engine's own words go there too
                return dict(json.loads(line))
        raise watch.StartFailed("the bare engine ended")


def main(weights: Weights, book: Book, *, python: str, max_tokens: int, folder: Path, repeats: int) -> None:
    """Measure both by turns and print the differences: medians over `repeats` pairs.

    A prompt is asked twice: new, and again, when its keys and values are there and the first token comes too soon to hide 15 ms.
    """
    server = servers.ours(weights, max_tokens, folder / "qdrant")
    with servers.started(server, python, 1, folder) as (url, _), bare(python) as engine:
        asyncio.run(load.measure(url, server.face, book.own("warm-up", 1), clients=1))
        engine.ask([book.ids(prompt.text) for prompt in book.own("warm-up", 1)], max_tokens)
        for name, count, again in CASES:
            pairs = []
            for turn in range(repeats if count == 1 else max(2, repeats // 4)):
                prompts = book.own(f"{name} {turn}", count)
                for _ in range(1 + again):
                    pair = _pair(server, url, engine, prompts, book, max_tokens, ours_first=bool(turn % 2))
                pairs.append(pair)
            print(_line(name, pairs), flush=True)


@contextlib.contextmanager
def bare(python: str) -> Iterator[Bare]:
    """The bare engine on the graph and with the settings that our server gives it by default."""
    chosen = settings.load()
    graph = graphs.prepare(chosen.llm, cache=chosen.cache.fcc_rag_cache)
    scheduler = {
        "num_kv_blocks": chosen.llm.kv_cache_tokens // openvino_worker.BLOCK,
        "max_num_batched_tokens": engines.CHUNK,
        "max_num_seqs": chosen.llm.max_running,
        "dynamic_split_fuse": True,
        "enable_prefix_caching": True,
    }
    command = [python, str(BARE), "--model", str(graph.folder), "--end-tokens", *map(str, graph.end_tokens)]
    command += ["--scheduler", json.dumps(scheduler), "--properties", json.dumps(openvino.properties("float"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Bare(process)
        finally:
            process.kill()


def _pair(
    server: Server, url: str, engine: Bare, prompts: Sequence[Prompt], book: Book, max_tokens: int, *, ours_first: bool
) -> tuple[Times, Times]:
    """Ours and the bare engine's times for the same prompts."""
    ids = [book.ids(prompt.text) for prompt in prompts]
    if not ours_first:
        beside = engine.ask(ids, max_tokens)
        return _served(server, url, prompts, book), beside
    ours = _served(server, url, prompts, book)
    return ours, engine.ask(ids, max_tokens)


def _served(server: Server, url: str, prompts: Sequence[Prompt], book: Book) -> Times:
    outcomes, _ = asyncio.run(load.measure(url, server.face, prompts, clients=len(prompts)))
    if failed := [outcome.error for outcome in outcomes if outcome.error]:
        raise watch.StartFailed(f"our server did not answer: {failed[0]}")
    tokens = sum(book.count(outcome.text) for outcome in outcomes)
    return Times(statistics.median(o.first for o in outcomes), tokens / max(o.total for o in outcomes))


def _line(name: str, pairs: Sequence[tuple[Times, Times]]) -> str:
    first = statistics.median(ours.first for ours, _ in pairs)
    added = statistics.median(ours.first - bare.first for ours, bare in pairs)
    share = statistics.median(ours.tokens_per_second / bare.tokens_per_second for ours, bare in pairs)
    speed = statistics.median(ours.tokens_per_second for ours, _ in pairs)
    return (
        f"{name}: first token after {1000 * first:.0f} ms, {1000 * added:+.1f} ms over the bare engine; "
        f"{speed:.1f} tok/s, {100 * (share - 1):+.1f}% ({len(pairs)} pairs)"
    )
