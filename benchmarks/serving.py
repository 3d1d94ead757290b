"""Measures our server and the alternatives, on the same weights and prompts, in turn and interleaved.

python benchmarks/serving.py [--venv xllamacpp=.venv-xllamacpp ...] [--out FILE.json] [--plot FILE.png]

Each prompt is about 900 tokens long and asks for 64. With own contexts no two prompts share more than the system line; with a
shared context all have the same passages and different questions at the end, and one unmeasured request goes ahead. Clients send
their next request when the last has ended. Starting and warming a server up is not measured. Each round runs every server, in
another order, and figures are medians over rounds; ratios compare within a round. --layers measures instead what our layers add
to the bare engine.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the checkout wins over an installed copy

import figures
import load
import model_files
import report
import servers
import watch
from contexts import Book
from figures import Cell, Context
from servers import OURS, Server

TRIAL_CLIENTS = 8  # where the best file of an alternative is chosen


class Bench:
    """One run: what is asked, and of whom."""

    def __init__(self, given: argparse.Namespace, book: Book, pythons: dict[str, str], folder: Path) -> None:
        """`folder` is for logs; `pythons` holds an interpreter for each family that is there."""
        self.cells: list[Cell] = []
        self._given = given
        self._book = book
        self._pythons = pythons
        self._folder = folder

    def round(self, number: int, chosen: Sequence[Server]) -> None:
        """Every server once; who begins changes from round to round."""
        turn = number % len(chosen)
        for server in [*chosen[turn:], *chosen[:turn]]:
            jobs: list[tuple[Context, int]] = [("own", clients) for clients in self._given.clients]
            jobs += [("shared", clients) for clients in self._given.shared_clients]
            self.cells += self.visit(server, number, jobs)

    def visit(self, server: Server, number: int, jobs: Sequence[tuple[Context, int]]) -> list[Cell]:
        """Start the server, measure the jobs, end it; a server that cannot start is a line, not an end to the run."""
        counts = sorted({clients for _, clients in jobs})
        groups = [[job for job in jobs if job[1] == clients] for clients in counts] if server.slots else [list(jobs)]
        cells: list[Cell] = []
        for group in groups:
            try:
                most = max(clients for _, clients in group)
                with servers.started(server, self._pythons[server.family], most, self._folder) as (url, process):
                    asyncio.run(load.measure(url, server.face, self._book.own("warm-up", 1), clients=1))
                    for context, clients in group:
                        cells.append(self._measure(server, url, process, round=number, context=context, clients=clients))
                        print(_line(cells[-1]), flush=True)
            except watch.StartFailed as exc:
                print(f"{server.name} cannot be measured: {exc}", flush=True)
        return cells

    def best_files(self, every: Sequence[Server]) -> list[Server]:
        """Of each family the server with the file that answers the most requests a minute at eight clients."""
        chosen: list[Server] = []
        for family in dict.fromkeys(server.family for server in every):
            forms = [server for server in every if server.family == family]
            if len(forms) > 1:
                print(f"{family}: choosing the best file")
                tried = {form.name: self.visit(form, -1, [("own", TRIAL_CLIENTS)]) for form in forms}
                forms = [form for form in forms if tried[form.name]]
                forms.sort(key=lambda form: tried[form.name][0].requests_per_minute, reverse=True)
            chosen += forms[:1]
        return chosen

    def _measure(self, server: Server, url: str, process: Any, *, round: int, context: Context, clients: int) -> Cell:  # noqa: A002
        count = max(self._given.least, clients * self._given.requests)
        seed = f"{round} {context} {clients}"  # the same prompts for every server
        if context == "own":
            prompts = self._book.own(seed, count)
        else:
            ahead, *prompts = self._book.shared(seed, count + 1)
            asyncio.run(load.measure(url, server.face, [ahead], clients=1))
        with watch.Meter(process) as meter:
            outcomes, seconds = asyncio.run(load.measure(url, server.face, prompts, clients=clients))
        labels = {"server": server.name, "family": server.family, "round": round, "clients": clients, "context": context}
        return figures.cell(outcomes, seconds, meter, self._book.count, **labels)


def main() -> None:
    """Measure, print, and write what was asked for; exit status 1 if a request of ours failed."""
    given = _arguments()
    watch.end_on_sigterm()
    weights = model_files.prepare()
    book = Book(weights.folder, tokens=given.prompt_tokens)
    with tempfile.TemporaryDirectory(prefix="fcc-rag-serving-") as temporary:
        folder = Path(temporary)
        every = servers.every(weights, tokens=given.prompt_tokens, max_tokens=given.max_tokens, store=folder / "qdrant")
        pythons, about = _installed(given, {server.family for server in every})
        every = [server for server in every if server.family in pythons and _wanted(server, given.servers)]
        if not every:
            sys.exit("nothing to measure: no server that was named is installed")
        print(f"{' · '.join(f'{key} {value}' for key, value in report.machine().items())} · load {os.getloadavg()[0]:.1f}")
        if given.layers:
            import layers

            layers.main(
                weights, book, python=pythons[OURS], max_tokens=given.max_tokens, folder=folder, repeats=2 if given.quick else 12
            )
            return
        bench = Bench(given, book, pythons, folder)
        chosen = every if given.files == "all" else bench.best_files(every)
        about["settings"] = {server.name: server.settings for server in chosen}
        for number in range(given.rounds):
            bench.round(number, chosen)
        _show(bench.cells, given, about)
    if any(each.failures for each in bench.cells if each.family == OURS):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", nargs="+", metavar="NAME", help=f"of {', '.join(servers.FAMILIES)}; all by default")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--shared-clients", type=int, nargs="*", default=[1, 8], help="where one context is shared")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=2, help="of each client, in each cell")
    parser.add_argument("--least", type=int, default=4, help="requests in a cell, however few clients there are")
    parser.add_argument("--prompt-tokens", type=int, default=900)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument(
        "--files", choices=("best", "all"), default="best", help="measure all GGUF files, or the best after a trial"
    )
    parser.add_argument("--quick", action="store_true", help="one round, 1 and 4 clients, a request each: to see that all works")
    parser.add_argument("--venv", action="append", default=[], metavar="NAME=PATH", help="environment of an alternative; repeat")
    parser.add_argument("--layers", action="store_true", help="measure what our layers add to the bare engine")
    parser.add_argument("--out", type=Path, help="write everything as JSON")
    parser.add_argument("--plot", type=Path, help="draw a PNG (needs matplotlib)")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.clients, given.shared_clients, given.requests, given.least = 1, [1, 4], [4], 1, 1
    known = set(servers.FAMILIES)
    if unknown := [name for name in given.servers or [] if name.split()[0] not in known]:
        parser.error(f"no server is called {unknown[0]}; there are {', '.join(servers.FAMILIES)}")
    given.venvs = dict(pair.split("=", 1) for pair in given.venv if "=" in pair)
    if len(given.venvs) != len(given.venv) or given.venvs.keys() - known:
        parser.error(f"--venv takes NAME=PATH, with a NAME of {', '.join(servers.FAMILIES)}")
    return given


def _installed(given: argparse.Namespace, families: set[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """An interpreter for each family that is installed, and the versions; what is missing is said, with the way to get it."""
    pythons, found = {}, {}
    for family in [name for name in servers.FAMILIES if name in families and _named(name, given.servers)]:
        python = servers.interpreter(given.venvs, family)
        if (versions := servers.versions(python, family)) is None:
            print(f"{family} is missing from {python}, so it is not measured. To make an environment for it:")
            print(f"    {servers.install_line(family)}")
            print(f"    and name it: --venv {family}=.venv-{family}")
        else:
            pythons[family], found[family] = python, versions
            print(f"{family}: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    return pythons, {"versions": found, "asked": {k: str(v) for k, v in vars(given).items()}}


def _named(family: str, wanted: Sequence[str] | None) -> bool:
    return not wanted or any(name.split()[0] == family for name in wanted)


def _wanted(server: Server, wanted: Sequence[str] | None) -> bool:
    return not wanted or server.family in wanted or server.name in wanted


def _show(cells: Sequence[Cell], given: argparse.Namespace, about: dict[str, Any]) -> None:
    print("\n" + report.table(cells))
    if any(each.family == OURS for each in cells):
        print("\n" + report.ratio_table(cells, OURS) + "\n")
        print("\n".join(report.verdicts(cells, OURS)))
    for name, settings in about["settings"].items():
        print(f"{name}: {settings}")
    print("\n".join(f"warning: {line}" for line in report.warnings(cells)))
    if given.out:
        report.write_json(given.out, cells, OURS, about)
        print(f"wrote {given.out}")
    if given.plot:
        machine = report.machine()
        title = f"{given.prompt_tokens} tokens in, {given.max_tokens} out; {machine['cpu']}, {machine['threads']} threads"
        drawn = report.plot(given.plot, cells, title)
        print(f"wrote {given.plot}" if drawn else "no plot: matplotlib is not installed (pip install matplotlib)")


def _line(cell: Cell) -> str:
    stage = "trial" if cell.round < 0 else f"round {cell.round + 1}"
    return (
        f"{stage}, {cell.server}, {cell.context}, {cell.clients} clients: {cell.requests_per_minute:.1f} requests/min, "
        f"first token {cell.first_p50:.2f} s, {cell.tokens_per_second:.1f} tok/s, {cell.failures} failed, "
        f"{cell.seconds:.1f} s, others {cell.others:.0%}"
    )


if __name__ == "__main__":
    main()
