"""Takes outcomes one after another, shows how far it is, and keeps what is there when it is stopped. Knows no measure."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from terminal import err

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Run(Generic[T]):
    """The outcomes there are, and what stopped the run before its end: Ctrl-C or an error; None if nothing did."""

    outcomes: list[T]
    stopped: BaseException | None = None


def collect(outcomes: Iterable[T], *, total: int) -> Run[T]:
    """Take them all, or as many as come before the run is stopped; the caller raises again what stopped it."""
    taken: list[T] = []
    with _progress(total) as advance:
        try:
            for outcome in outcomes:
                taken.append(outcome)
                advance()
        except (KeyboardInterrupt, Exception) as exc:  # noqa: BLE001 -- raised again when what is there is told
            return Run(taken, exc)
    return Run(taken)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar with the time that is left, on stderr if that is a terminal; what it gives is called after each question."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("questions"), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("asking", total=total)
        yield lambda: bar.advance(task)
