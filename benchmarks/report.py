"""How a run is shown: tables as Markdown, JSON, a plot. Knows nothing about how it was measured."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
from figures import Cell, Context, Ratio, as_data, best_alternative, medians, ratios

COLUMNS = (
    ("server", lambda c: c.server),
    ("context", lambda c: c.context),
    ("clients", lambda c: str(c.clients)),
    ("req/min", lambda c: _number(c.requests_per_minute)),
    ("first p50 s", lambda c: _number(c.first_p50, 2)),
    ("p95", lambda c: _number(c.first_p95, 2)),
    ("total p50 s", lambda c: _number(c.total_p50)),
    ("p95", lambda c: _number(c.total_p95)),
    ("tok/s", lambda c: _number(c.tokens_per_second)),
    ("tok/s a stream", lambda c: _number(c.decode)),
    ("tokens out", lambda c: _number(c.tokens_out)),
    ("CPU s/req", lambda c: _number(c.cpu_per_request)),
    ("peak RSS MB", lambda c: _number(c.rss, 0)),
    ("PSS MB", lambda c: _number(c.pss, 0)),
    ("failed", lambda c: f"{c.failures} of {c.requests}"),
)
NOT_QUIET = 0.05  # parts of the machine that others used


def machine() -> dict[str, Any]:
    """What was measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fcc-rag": importlib.metadata.version("fcc-rag"),
    }


def table(cells: Iterable[Cell]) -> str:
    """The medians of all rounds, a line for each server, kind of context and number of clients."""
    rows = sorted(medians(cells), key=lambda c: (c.context, c.clients, c.family, c.server))
    return _markdown([name for name, _ in COLUMNS], [[show(row) for _, show in COLUMNS] for row in rows])


def ratio_table(cells: Sequence[Cell], ours: str) -> str:
    """Ours against each: requests a minute, first token and total latency, above 1 where we are better."""
    rows = sorted(ratios(cells, ours), key=lambda r: (r.context, r.clients, r.against))
    head = ["fcc-rag against", "context", "clients", "req/min", "first token", "total"]
    return _markdown(head, [[r.against, r.context, str(r.clients), *_shown(r)] for r in rows])


def verdicts(cells: Sequence[Cell], ours: str) -> list[str]:
    """A line for each comparison that matters: against the best alternative of each cell, and shared against own contexts."""
    rows = medians(cells)
    mine = {(row.context, row.clients): row for row in rows if row.family == ours}
    by = {(r.against, r.context, r.clients): r for r in ratios(cells, ours)}
    lines = []
    for context, clients in sorted(mine):
        there = [row for row in rows if (row.context, row.clients) == (context, clients)]
        fastest = best_alternative(there, ours, lambda c: c.requests_per_minute)
        soonest = best_alternative(there, ours, lambda c: -c.first_p50)
        if fastest is None or soonest is None:
            continue
        throughput = by[fastest.server, context, clients].requests_per_minute
        first = by[soonest.server, context, clients].first_p50
        lines.append(
            f"{context} contexts, {clients} clients: {throughput:.2f} times the requests a minute of the best alternative "
            f"({fastest.server}), first token {first:.2f} times as soon as the soonest ({soonest.server})"
        )
    lines += _sooner(mine)
    return lines


def warnings(cells: Iterable[Cell]) -> list[str]:
    """Why figures may not be trusted: other work on the machine, answers of another length, errors."""
    lines = []
    for c in cells:
        where = f"round {c.round + 1}, {c.server}, {c.context}, {c.clients} clients"
        if c.others > NOT_QUIET:
            lines.append(f"{where}: other processes used {c.others:.0%} of the machine")
        lines += [f"{where}: {error}" for error in c.errors]
    return lines


def write_json(path: Path, cells: Sequence[Cell], ours: str, about: dict[str, Any]) -> None:
    data = about | {
        "machine": machine(),
        "medians": [as_data(row) for row in medians(cells)],
        "ratios": [as_data(row) for row in ratios(cells, ours)],
        "cells": [as_data(row) for row in cells],
    }
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")


def plot(path: Path, cells: Sequence[Cell], title: str) -> bool:
    """Draw requests a minute and first-token latency by number of clients into a PNG; False if matplotlib is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = medians(cells)
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    _panel(axes[0], rows, "own", "requests_per_minute", "requests a minute, own contexts")
    _panel(axes[1], rows, "own", "first_p50", "first token, s (median), own contexts")
    _panel(axes[2], rows, "shared", "first_p50", "first token, s (median), shared context")
    for axis in axes[1:]:
        axis.set_yscale("log")
    axes[0].legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=130)
    return True


def _panel(axis: Any, rows: Sequence[Cell], context: Context, what: str, title: str) -> None:
    for server in dict.fromkeys(row.server for row in rows):
        points = sorted((r.clients, getattr(r, what)) for r in rows if r.server == server and r.context == context)
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=server)
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel("clients")
    axis.set_xscale("log", base=2)
    ticks = sorted({row.clients for row in rows if row.context == context})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.grid(alpha=0.3)


def _sooner(mine: dict[tuple[Context, int], Cell]) -> list[str]:
    return [
        f"shared context, {clients} clients: first token {mine['own', clients].first_p50 / shared.first_p50:.1f} times sooner "
        f"than with own contexts ({shared.first_p50:.2f} s, not {mine['own', clients].first_p50:.2f} s)"
        for (context, clients), shared in sorted(mine.items())
        if context == "shared" and ("own", clients) in mine and shared.first_p50 > 0
    ]


def _shown(ratio: Ratio) -> list[str]:
    return [_number(value, 2) for value in (ratio.requests_per_minute, ratio.first_p50, ratio.total_p50)]


def _number(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in [head, *rows]
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
