"""How the command looks in a terminal. Knows nothing about where what it prints comes from."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from rich.console import Console

out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
MARKS = {
    "partly": ("(?)", "yellow", "the sources support this in part"),
    "unsupported": ("(!)", "red", "the sources do not support this"),
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a document must not speak to the terminal


def print_hits(hits: list[dict[str, Any]]) -> None:
    """What retrieval found, best first."""
    for hit in hits:
        out.print(f"{hit['id']:>2}. {place(hit)}  {hit['score']:.2f}{' exact' if hit['match'] == 'exact' else ''}", style="bold")
        out.print(f"    {plain(' '.join(hit['text'].split())[:300])}\n")
    if not hits:
        out.print("nothing found")


def print_status(answer: dict[str, Any]) -> None:
    """What a server has loaded and indexed."""
    model, collection, queue = answer["model"], answer["collection"], answer["queue"]
    adapter = f", adapter {model['adapter']['name']} ({model['adapter']['mode']})" if model["adapter"] else ""
    out.print(f"model       {model['name']}{adapter}, {model['dtype']}, quantization {model['quantization']}, {model['device']}")
    out.print(f"collection  {collection['name']} ({collection['place']}), {collection['passages']} passages")
    out.print(f"queue       {queue['running']} running, {queue['waiting']} waiting of {queue['max_queue']}")
    out.print(
        f"memory      {answer['process']['rss_bytes'] / 2**30:.2f} GiB, up {answer['uptime_s']} s, version {answer['version']}"
    )
    for source in collection["sources"]:
        out.print(f"  {source['passages']:>6} passages  part {source['part'] or '-':<4} {source['source']}")


@contextlib.contextmanager
def progress() -> Iterator[Any]:
    """A progress bar over files on a terminal; nothing where stderr is not one."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def show(now: dict[str, Any]) -> None:
            what = f"{now['documents']} documents, {now['passages']} passages  {now['source']}"
            bar.update(task, completed=now["done_files"], total=now["total_files"] or None, description=what)

        yield show


def print_report(report: dict[str, Any]) -> None:
    out.print(
        f"files: {report['files_read']} read, {report['files_unchanged']} unchanged, {report['files_skipped']} skipped,"
        f" {report['files_failed']} failed\n"
        f"documents: {report['documents_indexed']} indexed ({report['documents_replaced']} of them replaced),"
        f" {report['documents_unchanged']} unchanged, {report['documents_pruned']} pruned\n"
        f"passages: {report['passages_written']} written in {report['seconds']:.0f} s"
        + ("; stopped before the end" if report["stopped"] else "")
    )
    for note in report["skipped"]:
        err.print(f"skipped: {note['source']}: {note['reason']}")
    for note in report["failures"]:
        err.print(f"failed: {note['source']}: {note['reason']}")


def print_marks(sentences: list[dict[str, Any]], *, shown: int) -> None:
    """Mark each sentence that is not fully supported and ends at the last of the `shown` characters.

    One that ended before waited for the next, whose support it shares and whose mark stands for both.
    """
    for sentence in sentences:
        if sentence["support"] in MARKS and sentence["end"] == shown:
            mark, style, _ = MARKS[sentence["support"]]
            out.print(f" {mark}", style=style, end="")


def print_sources(answer: dict[str, Any]) -> None:
    """What stands below an answer: its summary, the sources it cites, and what its marks mean."""
    if summary := answer.get("summary"):
        out.print(f"\nSummary: {plain(summary)}")
    if answer.get("finish_reason") == "length":
        out.print("\n(cut off at --max-tokens)", style="dim")
    sources = answer.get("sources", [])
    cited = [s for s in sources if f"[{s['id']}]" in answer["content"]] or sources
    if answer.get("finish_reason") == "no_evidence":  # what was found supports nothing
        cited = []
    if cited:
        out.print("\nSources:", style="bold")
    for source in cited:
        out.print(f" [{source['id']}] {place(source)}")
    supports = {sentence["support"] for sentence in answer.get("sentences", [])}
    if legend := [f"{mark} {meaning}" for support, (mark, _, meaning) in MARKS.items() if support in supports]:
        out.print("\n" + "; ".join(legend), style="dim")


def place(hit: dict[str, Any]) -> str:
    page = f", page {hit['page']}" if hit["page"] else ""
    edition = f"; {hit['edition']}" if hit["edition"] else ""
    return plain(f"{hit['citation']}  {hit['title']}  ({hit['source']}{page}{edition})")


def plain(text: str) -> str:
    return CONTROL.sub("", text)
