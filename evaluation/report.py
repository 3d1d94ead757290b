"""How figures are shown and kept: a drawn table on a terminal, aligned text elsewhere, JSON in a file. Knows no measure."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import InvalidRequest
from terminal import out, plain


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as they are printed; the first column names the rows."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def interval(figure: Mapping[str, Any] | None, *, sign: str = "") -> str:
    """A figure and its interval, such as "0.653 [0.580, 0.724]"; "not measured" for None."""
    if figure is None:
        return "not measured"
    value, low, high = (format(figure[name], f"{sign}.3f") for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def show(tables: Sequence[Table]) -> None:
    """Print the tables to stdout, each with an empty line after it."""
    for table in tables:
        out.print(plain(table.title), style="bold")
        if out.is_terminal:
            _draw(table)
        else:
            _align(table)
        out.print()


def check_writable(path: Path) -> None:
    """Raise InvalidRequest if a file cannot be written there, before hours are spent on what it is to hold."""
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise InvalidRequest(f"--out: {path} cannot be written")


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON; the file is whole or as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _draw(table: Table) -> None:
    from rich.table import Table as Drawn

    drawn = Drawn()
    for number, head in enumerate(table.heads):
        drawn.add_column(head, justify="right" if number else "left", no_wrap=not number)
    for row in table.rows:
        drawn.add_row(*map(plain, row))
    out.print(drawn, soft_wrap=False)


def _align(table: Table) -> None:
    lines = [list(map(plain, line)) for line in (table.heads, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        out.print("  ".join(cells).rstrip())
