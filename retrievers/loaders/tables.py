"""Writes tables as Markdown, one line a row. Knows nothing about where the cells come from."""

from collections.abc import Sequence
from dataclasses import dataclass

# A table may claim any span; more than this is a mistake or an attack. Cells further right are kept, but span nothing.
_WIDEST, _TALLEST = 50, 2000
_SHORT = 300  # characters; a longer cell is not repeated
_LONGEST_HEADER = 240  # characters; in a longer header what spans columns is said once
_GROWTH = 8  # how many times a table's own size all that is repeated in it may have


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    columns: int = 1
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Row:
    cells: Sequence[Cell]
    header: bool = False


def markdown(rows: Sequence[Row]) -> str:
    """A pipe table with one header line; "" if no cell holds text.

    Several header rows become one, so that each column's heading is complete (but see `headings`). A short cell that
    spans rows is repeated in each, since rows may be separated later; one that spans columns is repeated in the header
    only. Without header rows the first row is the header, as Markdown has no other way.
    """
    grid = _grid(rows)
    count = 0
    while count < len(rows) and rows[count].header:
        count += 1
    count = max(1, min(count, len(grid)))
    width = max((len(line) for line in grid), default=0)
    if not any(text for line in grid for text in line):
        return ""
    header = headings([[line[column] if column < len(line) else "" for line in grid[:count]] for column in range(width)])
    lines = [_line(header, width), "|" + " --- |" * width]
    lines.extend(_line(line, width) for line in grid[count:] if any(line))
    return "\n".join(lines)


def _grid(rows: Sequence[Row]) -> list[list[str]]:
    grid: list[list[str]] = []
    hanging: dict[int, tuple[str, int]] = {}  # column: text and how many more rows it reaches down
    room = _GROWTH * sum(len(cell.text) + 10 for row in rows for cell in row.cells)  # 10: what a cell takes in a file

    def again(text: str) -> str:
        nonlocal room
        if len(text) > min(_SHORT, room):
            return ""
        room -= len(text)
        return text

    for row in rows:
        line: list[str] = []
        cells = [*reversed(row.cells)]
        while cells or len(line) in hanging:
            column = len(line)
            if column in hanging:
                text, left = hanging.pop(column)
                text = again(text)
                line.append(text)
                if left > 1:
                    hanging[column] = (text, left - 1)
                continue
            cell = cells.pop()
            text = _clean(cell.text)
            for offset in range(max(1, min(cell.columns, _WIDEST - column))):
                shown = text if offset == 0 else again(text) if row.header else ""
                line.append(shown)
                if cell.rows > 1 and column < _WIDEST:
                    hanging[column + offset] = (shown, min(cell.rows, _TALLEST) - 1)
        grid.append(line)
    return grid


def headings(stacks: Sequence[Sequence[str]]) -> list[str]:
    """Each column's heading out of the cells above it, from the top down, without the repetitions that spans make.

    A header is repeated wherever its table is cut. So in a very long one a cell above several columns is said once.
    """
    columns = [list(dict.fromkeys(text for text in stack if text)) for stack in stacks]
    if sum(len(text) for column in columns for text in column) > _LONGEST_HEADER:
        for column, before in reversed(list(zip(columns[1:], columns, strict=False))):
            column[:-1] = [text for text in column[:-1] if text not in before]
    return [" / ".join(column) for column in columns]


def _line(texts: Sequence[str], width: int) -> str:
    """A row, filled up to the table's width; but in the widest tables, as Markdown lets a row be short."""
    return "| " + " | ".join([*texts, *[""] * (width - len(texts) if width <= _WIDEST else 0)]) + " |"


def _clean(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
