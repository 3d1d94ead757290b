"""The command `fcc-rag`. Each sub-command is a few lines that call a package, or a running server where there is one."""

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

import settings as configuration
import terminal
from chains.schema import as_data
from client import Client
from errors import FccRagError, SettingsError, StoreLocked
from evaluation import command as evaluation
from terminal import err, out, plain

if TYPE_CHECKING:
    import uvicorn

    from services import Library

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Asks FCC rules questions and cites the paragraph each answer rests on.",
)
app.add_typer(evaluation.app, name="eval")
Url = Annotated[str, typer.Option(help="The server to talk to; by default the one HOST and PORT name.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Count = Annotated[int, typer.Option("-k", min=1, max=50, help="Passages at most.")]
Part = Annotated[list[str] | None, typer.Option(help="Only this part of the rules; may be repeated.")]


def main() -> None:
    """Run the command; whatever we know to go wrong is one line on stderr and exit status 1."""
    try:
        app()
    except FccRagError as exc:
        err.print(f"fcc-rag: {exc}")
        sys.exit(1)
    except BrokenPipeError:  # `fcc-rag search ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (OSError, UnicodeError, RuntimeError) as exc:  # a path or a text that the system does not take
        err.print(f"fcc-rag: {exc}")
        sys.exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Overrides HOST.", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Overrides PORT.", show_default=False)] = None,
) -> None:
    """Serve the chat, REST and LangServe faces; fetch the models and index the sample notes if that is still to do."""
    import uvicorn

    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    chosen = configuration.load(**given)
    import server

    # Bound first: a port in use should not cost the loading of a model. The app ends its streams; uvicorn waits a little longer.
    listening = _bound(chosen.server)
    patience = int(chosen.server.shutdown_grace_s) + 5
    config = uvicorn.Config(server.create_app(chosen), log_level=chosen.server.log_level, timeout_graceful_shutdown=patience)
    signal.signal(signal.SIGTERM, lambda *_: None)  # which uvicorn raises again when all is done
    running = _stoppable(uvicorn.Server(config))
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down in order and passes Ctrl-C on
        running.run(sockets=[listening])
    if not running.started:
        sys.exit(3)


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders (.txt .md .html .pdf .docx .xml .jsonl).")],
    prune: Annotated[bool, typer.Option(help="Forget what was indexed from these paths and is gone.")] = False,
    url: Url = "",
) -> None:
    """Index documents. Unchanged ones are skipped; a running server that holds the store does the work."""
    chosen = configuration.load()
    absolute = [_expanded(path).absolute() for path in paths]
    if missing := [path for path in absolute if not path.exists()]:
        raise FccRagError(f"{missing[0]} does not exist")
    report = _ingested(chosen, absolute, prune=prune, url=url)
    terminal.print_report(report)
    if report["files_failed"] or report["failures"] or report["stopped"]:
        sys.exit(1)


@app.command()
def search(query: str, k: Count = 6, part: Part = None, as_json: AsJson = False, url: Url = "") -> None:
    """Show what retrieval finds for a query, best first."""
    body = {"query": query, "k": k} | ({"filters": {"part": part}} if part else {})
    found = _retrieved(configuration.load(), body, url)
    if as_json:
        out.print_json(json.dumps(found))
        return
    terminal.print_hits(found["results"])


@app.command()
def ask(
    question: str,
    max_tokens: Annotated[int, typer.Option(min=1, help="New tokens at most.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 gives the same answer each time.")] = 0.0,
    k: Annotated[int | None, typer.Option("-k", min=1, max=50, help="Passages to answer from.", show_default=False)] = None,
    part: Part = None,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Answer a question, with a list of the sources it cites."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    body |= ({"k": k} if k else {}) | ({"filters": {"part": part}} if part else {})
    chosen = configuration.load()
    whole: dict[str, Any] = {"content": "", "sentences": []}
    with _chunks(chosen, body, url) as chunks:
        for chunk in chunks:
            if not as_json and (text := chunk.get("content")):
                out.print(plain(text), end="")
            whole |= chunk | {name: whole[name] + chunk.get(name, whole[name][:0]) for name in ("content", "sentences")}
            if not as_json:
                terminal.print_marks(chunk.get("sentences", []), shown=len(whole["content"]))
    if as_json:
        out.print_json(json.dumps(whole))
        return
    out.print()
    terminal.print_sources(whole)


@app.command()
def summarize(what: Annotated[str, typer.Argument(help="A file, or a citation such as '47 CFR 15.247'.")], url: Url = "") -> None:
    """Summarise a file of any length, or an indexed section."""
    chosen = configuration.load()
    path = _expanded(Path(what))
    body = {"text": _text_of(path)} if _is_file(path) else {"citation": what}
    if server := _server(chosen, url):
        out.print(plain(server.post("/api/summarize", body)["summary"]))
        return
    import asyncio

    import services

    with services.open_all(chosen) as served:
        out.print(plain(asyncio.run(served.summarize().ainvoke(body))))


@app.command()
def status(as_json: AsJson = False, url: Url = "") -> None:
    """Show what a running server has loaded and indexed."""
    answer = Client(url or configuration.load().server.url).get("/api/status")
    if as_json:
        out.print_json(json.dumps(answer))
        return
    terminal.print_status(answer)


@app.command()
def merge(
    target: Annotated[
        Path | None, typer.Argument(help="The folder to write; by default LOCAL_MODEL_PATH.", show_default=False)
    ] = None,
) -> None:
    """Merge LOCAL_ADAPTER_PATH into LOCAL_BASE_MODEL_PATH and write the model."""
    import services

    out.print(f"wrote {services.merge(configuration.load(), target)}")


def _bound(server: configuration.Server) -> socket.socket:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    listening = socket.socket(family)
    if os.name != "nt":  # there it would let two servers share the port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((server.host, server.port))
    except OSError as exc:
        listening.close()
        raise SettingsError(f"HOST and PORT: cannot listen on {server.host}:{server.port}: {exc.strerror or exc}") from None
    return listening


def _stoppable(running: "uvicorn.Server") -> "uvicorn.Server":
    """Let Ctrl-C end a start at once, where uvicorn would first load everything; what is cut off is made again."""
    shut_down = running.handle_exit

    def handle_exit(sig: int, frame: FrameType | None) -> None:
        if not running.started:
            os._exit(130)
        shut_down(sig, frame)

    running.handle_exit = handle_exit  # type: ignore[method-assign]
    return running


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise FccRagError(f"{path}: there is no such home folder") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a pasted text is no file name
        return False


def _server(chosen: configuration.Settings, url: str) -> Client | None:
    """The server that was named, or the one of the settings if it runs."""
    server = Client(url or chosen.server.url)
    return server if url or server.alive() else None


@contextlib.contextmanager
def _library(chosen: configuration.Settings) -> "Iterator[Library]":
    import services

    with services.open_library(chosen) as library:
        yield library


def _retrieved(chosen: configuration.Settings, body: dict[str, Any], url: str) -> dict[str, Any]:
    if server := _server(chosen, url):
        return server.post("/api/retrieve", body)
    import asyncio

    from chains import retrieve

    with _library(chosen) as library:
        return asyncio.run(retrieve.build(library.searching).ainvoke(body))


@contextlib.contextmanager
def _chunks(chosen: configuration.Settings, body: dict[str, Any], url: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The answer's chunks as plain data, from the server if one runs, else from a model loaded here."""
    if server := _server(chosen, url):
        yield ({"sentences": [event]} if "support" in event else event for event in server.chat(body))
        return
    import asyncio

    import services

    with services.open_all(chosen) as served, asyncio.Runner() as runner:
        stream: AsyncIterator[dict[str, Any]] = _as_data(served.chat().astream(body))
        yield iter(lambda: runner.run(_next(stream)), None)


async def _as_data(stream: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    async for chunk in stream:
        yield as_data(chunk)


async def _next(stream: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
    return await anext(stream, None)


def _ingested(chosen: configuration.Settings, paths: list[Path], *, prune: bool, url: str) -> dict[str, Any]:
    if not url:
        try:
            with _library(chosen) as library, terminal.progress() as show:
                report = library.indexer.ingest(paths, prune=prune, on_progress=lambda now: show(now.model_dump()))
                return report.model_dump()
        except StoreLocked as exc:
            url = chosen.server.url
            if not Client(url).alive():
                raise StoreLocked(f"{exc}; no server answers at {url}, or name it with --url") from None
    job: dict[str, Any] = {}
    with terminal.progress() as show:
        for job in Client(url).ingest([str(path) for path in paths], prune=prune):
            show(job["progress"])
    if job["report"] is None:
        raise FccRagError(job["error"] or f"the ingestion was {job['state']}")
    return dict(job["report"])


def _text_of(path: Path) -> str:
    from retrievers import reading

    return reading.text_of(path)


if __name__ == "__main__":
    main()
