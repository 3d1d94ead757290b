"""The sub-commands `fcc-rag eval ...`: read the questions, run them, print the figures and write them. Knows no measure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import settings as configuration
import terminal

if TYPE_CHECKING:
    from evaluation.questions import Question
    from evaluation.report import Table
    from evaluation.running import Run

app = typer.Typer(no_args_is_help=True, help="Measure search and answers on labelled questions.")

Questions = Annotated[Path, typer.Option(help="Labelled questions: JSON lines, a JSON array or CSV.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Also write all figures and how each question went, as JSON.", show_default=False)]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first questions, so many of each file.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, help="Of the intervals' resamples and the order of choices.")]
Url = Annotated[str, typer.Option(help="The server to measure; by default what is opened here.", show_default=False)]


@app.command()
def retrieval(
    questions: Questions,
    k: Annotated[int, typer.Option("-k", "--k", min=10, max=50, help="Passages to search for; the first 10 count.")] = 10,
    ablation: Annotated[bool, typer.Option(help="Search again without each stage; not over HTTP.")] = True,
    seed: Seed = 0,
    limit: Limit = None,
    out: Out = None,
    url: Url = "",
) -> None:
    """How high the cited places come, what each stage of the search is worth, and how long a search takes."""
    from evaluation import questions as files
    from evaluation import retrieval as search
    from evaluation import running, systems

    asked = files.with_citations(_read(questions, out))[:limit]
    with systems.searching(configuration.load(), url) as searched:
        if url and ablation:
            terminal.err.print("stages cannot be left out over HTTP: the server's whole search alone is measured")
        without = searched.without if ablation else {}
        run = running.collect(search.judged(asked, searched.find, without, k=k), total=len(asked))
        head = _head("retrieval", [questions], searched.about, asked, seed=seed, k=k)
    _tell(run, head | search.summary(run.outcomes, seed=seed), search.tables, out)


@app.command()
def answers(
    questions: Questions,
    k: Annotated[
        int | None, typer.Option("-k", "--k", min=1, max=50, help="Passages to answer from; by default as served.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens of an answer at most.")] = 256,
    choice_tokens: Annotated[int, typer.Option(min=1, help="New tokens of an answer to lettered choices at most.")] = 64,
    seed: Seed = 0,
    limit: Limit = None,
    out: Out = None,
    url: Url = "",
) -> None:
    """Whether answers cite the labelled section, are supported, are refused, and choose right with and without retrieval."""
    from evaluation import answers as written
    from evaluation import running, systems

    asked = _read(questions, out)[:limit]
    written.check(asked)
    with systems.answering(configuration.load(), url, k=k) as answering:
        outcomes = written.asked(asked, answering, seed=seed, max_tokens=max_tokens, choice_tokens=choice_tokens)
        run = running.collect(outcomes, total=len(asked))
        head = _head(
            "answers", [questions], answering.about, asked, seed=seed, max_tokens=max_tokens, choice_tokens=choice_tokens
        )
    _tell(run, head | written.summary(run.outcomes, seed=seed), written.tables, out)


@app.command()
def calibrate(
    questions: Questions,
    without: Annotated[
        Path | None, typer.Option(help="Questions the documents do not answer, besides rows marked so.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Keep nothing.")] = False,
    limit: Limit = None,
    out: Out = None,
    url: Url = "",
) -> None:
    """Find the score below which nothing found is evidence, and keep it with the collection (not over HTTP)."""
    from evaluation import calibration, running, systems

    asked = _taken(_read(questions, out)[:limit], answerable=True)
    asked += _taken(_read(without, out)[:limit], answerable=False) if without else []
    calibration.check(asked)
    with systems.searching(configuration.load(), url) as searched:
        run = running.collect(calibration.scored(asked, searched.find), total=len(asked))
        head = _head("calibrate", [questions, *([without] if without else [])], searched.about, asked)
        found = calibration.summary(run.outcomes)
        if keep := not (dry_run or url or run.stopped):
            searched.keep(found["chosen"]["threshold"])
    _tell(run, head | found | {"kept": keep}, calibration.tables, out)
    threshold = found["chosen"]["threshold"]
    kept = f"kept with the collection {searched.about['collection']}" if keep else f"not kept; MIN_SCORE={threshold} sets it"
    terminal.out.print(f"threshold {threshold}: {kept}")


def _read(path: Path, out: Path | None) -> list["Question"]:
    """The questions, with a line on stderr for each label that is not read as it stands; `out` is looked at early."""
    from evaluation import questions, report

    if out:
        report.check_writable(out)
    file = questions.read(path)
    for note in file.notes:
        terminal.err.print(terminal.plain(note))
    return file.questions


def _taken(questions: Sequence["Question"], *, answerable: bool) -> list["Question"]:
    """The same, those that do not say for themselves taken as answerable or not."""
    return [q if q.answerable is not None else replace(q, answerable=answerable) for q in questions]


def _head(
    command: str, files: Sequence[Path], about: Mapping[str, Any], asked: Sequence["Question"], **options: Any
) -> dict[str, Any]:
    names = [path.name for path in files]
    return {"command": command, "files": names, "asked": len(asked), "options": options, "system": dict(about)}


def _tell(
    run: "Run[Any]",
    report: Mapping[str, Any],
    tables: Callable[[Mapping[str, Any]], list["Table"]],
    out: Path | None,
) -> None:
    """Write and print what there is; then raise what stopped the run, Ctrl-C as exit status 130."""
    from evaluation import report as reports

    try:
        if out:
            reports.write(out, {**report, "partial": run.stopped is not None})
    finally:
        if run.outcomes:
            reports.show(tables(report))
    if run.stopped:
        terminal.err.print(f"stopped after {len(run.outcomes)} of {report['asked']} questions")
        raise typer.Exit(130) if isinstance(run.stopped, KeyboardInterrupt) else run.stopped
