"""Drops streams at random moments, and looks at what stays behind: no slot, no thread, and hardly any memory.

python benchmarks/soak.py [--streams 1000] [--at-once 8] [--url http://127.0.0.1:8000]

Without --url it starts a server of its own. Streams go at random to POST /api/chat and both models of /v1/chat/completions, and
are cut off after a random time, some before the first token, some amid the answer. What a server keeps for good, such as pools of
threads and the memory for keys and values, is filled by a warm-up that is not counted. Exit status 1 if anything stays behind or
the server no longer answers.
"""

import argparse
import asyncio
import collections
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the checkout wins over an installed copy

import httpx
import model_files
import psutil
import servers
import watch
from contexts import Book, Prompt

GROWTH = 50_000_000  # bytes that may stay behind
LONGEST = 10.0  # seconds after which a stream is cut off at the latest
BURST = 32  # streams at once that let every pool of threads grow to its full size
SETTLE = 60.0  # seconds in which slots must come free
IDLE = 15.0  # seconds after which idle threads of pools have ended


@dataclass(frozen=True)
class Left:
    """What a server and the processes below it hold at rest; `rss` is in bytes."""

    running: int
    waiting: int
    processes: int
    threads: int
    files: int
    rss: int


class Soak:
    """Streams against one server."""

    def __init__(self, url: str, book: Book, model: str, seed: int) -> None:
        self.ends: collections.Counter[str] = collections.Counter()
        self._url = url
        self._book = book
        self._model = model
        self._rng = random.Random(seed)  # noqa: S311 -- nothing secret

    async def fill(self) -> None:
        """Have whole answers given, as many at once as run at once, until what is kept for good has been taken.

        That is the memory for keys and values, and the copies of the weights that products of one row and of several read.
        """
        async with httpx.AsyncClient(base_url=self._url, timeout=300, trust_env=False) as http:
            queue = (await self._status(http))["queue"]
            left = 1.5 * queue["kv_cache"]["capacity_tokens"]  # the last block of each is used again

            async def ask(prompt: Prompt) -> None:
                body = {"model": self._model, "messages": prompt.messages, "max_tokens": 16}
                (await http.post("/v1/chat/completions", json=body)).raise_for_status()

            while left > 0:
                prompts = self._book.own(str(self._rng.random()), queue["max_running"])
                await asyncio.gather(*(ask(prompt) for prompt in prompts))
                left -= sum(prompt.tokens for prompt in prompts)
            await ask(prompts[0])  # and one alone

    async def drop(self, count: int, at_once: int, *, every: int = 100) -> None:
        """So many streams, so many at a time, each cut off at a random moment; a line after `every` of them."""
        numbers = iter(range(count))
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=self._url, timeout=SETTLE, limits=limits, trust_env=False) as http:

            async def client() -> None:
                for number in numbers:
                    self.ends[await self._one(http)] += 1
                    if number and number % every == 0:
                        rss = (await self._status(http))["process"]["rss_bytes"]
                        print(f"{number} streams, {rss / 1e6:.0f} MB", flush=True)

            await asyncio.gather(*(client() for _ in range(at_once)))

    async def rest(self) -> Left:
        """What the server holds once it has nothing to do; waits at most SETTLE seconds for that, then for its threads to end."""
        async with httpx.AsyncClient(base_url=self._url, timeout=60, trust_env=False) as http:
            end = time.monotonic() + SETTLE
            while True:
                status = await self._status(http)
                queue = status["queue"]
                if not queue["running"] + queue["waiting"] or time.monotonic() > end:
                    break
                await asyncio.sleep(0.5)
            await asyncio.sleep(IDLE)
            status = await self._status(http)
            queue, root = status["queue"], psutil.Process(status["process"]["pid"])
            every = watch.tree(root)
            threads, files = sum(each.num_threads() for each in every), sum(each.num_fds() for each in every)
            return Left(queue["running"], queue["waiting"], len(every), threads, files, watch.rss(root))

    async def answers(self) -> bool:
        """Whether the server still gives a whole answer."""
        path, body = self._request()
        async with httpx.AsyncClient(base_url=self._url, timeout=120, trust_env=False) as http:
            answer = await http.post(path, json=body | {"stream": False, "max_tokens": 8})
        return answer.status_code == httpx.codes.OK

    async def _one(self, http: httpx.AsyncClient) -> str:
        path, body = self._request()
        pieces = 0
        try:
            async with asyncio.timeout(LONGEST * self._rng.random() ** 2), http.stream("POST", path, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    return f"refused with {response.status_code}"
                async for _ in response.aiter_bytes():
                    pieces += 1
        except TimeoutError:
            return "dropped in the answer" if pieces > 1 else "dropped before the answer"
        except httpx.HTTPError as exc:
            return f"broken: {type(exc).__name__}"
        return "ended by itself"

    def _request(self) -> tuple[str, dict[str, Any]]:
        prompt = self._book.own(str(self._rng.random()), 1)[0]
        question = {"messages": [prompt.messages[-1]], "max_tokens": 200, "stream": True}
        return self._rng.choice(
            [
                ("/api/chat", question),
                ("/v1/chat/completions", question | {"model": servers.OURS}),
                ("/v1/chat/completions", question | {"model": self._model}),
            ]
        )

    async def _status(self, http: httpx.AsyncClient) -> dict[str, Any]:
        return dict((await http.get("/api/status")).raise_for_status().json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server on this machine; by default one is started")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--warm-up", type=int, default=50, help="streams before the first look")
    parser.add_argument("--prompt-tokens", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    weights = model_files.prepare()
    book = Book(weights.folder, tokens=given.prompt_tokens)
    watch.end_on_sigterm()
    try:
        with _server(given.url, weights) as url:
            soak = Soak(url, book, weights.name, given.seed)
            sys.exit(asyncio.run(_run(soak, given)))
    except watch.StartFailed as exc:
        sys.exit(f"the server did not start: {exc}")


async def _run(soak: Soak, given: argparse.Namespace) -> int:
    await soak.fill()
    await soak.drop(given.warm_up, BURST)
    before = await soak.rest()
    soak.ends.clear()
    began = time.monotonic()
    await soak.drop(given.streams, given.at_once)
    took = time.monotonic() - began
    after, answers = await soak.rest(), await soak.answers()
    print(f"{given.streams} streams in {took:.0f} s: {', '.join(f'{count} {end}' for end, count in soak.ends.most_common())}")
    print(f"before: {before}\nafter:  {after}")
    wrong = {
        "a request is still running or waiting": after.running + after.waiting > 0,
        f"{after.processes - before.processes} processes stay behind": after.processes > before.processes,
        f"{after.threads - before.threads} threads stay behind": after.threads > before.threads,
        f"{after.files - before.files} open files stay behind": after.files > before.files,
        f"{(after.rss - before.rss) / 1e6:.0f} MB stay behind": after.rss - before.rss >= GROWTH,
        "the server answers no more": not answers,
        "streams were refused or broken": any(end.startswith(("refused", "broken")) for end in soak.ends),
    }
    for line in (what for what, so in wrong.items() if so):
        print(f"FAILED: {line}")
    return int(any(wrong.values()))


@contextlib.contextmanager
def _server(url: str | None, weights: model_files.Weights) -> Iterator[str]:
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="fcc-rag-soak-") as folder:
        ours = servers.ours(weights, 64, Path(folder) / "qdrant")
        with servers.started(ours, sys.executable, 1, Path(folder)) as (own, _):
            yield own


if __name__ == "__main__":
    main()
