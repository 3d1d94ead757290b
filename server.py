"""The composition root of the server: `create_app(settings)`, and `app` for `python -m uvicorn server:app`.

Importing it loads nothing heavy; models load in the lifespan, before the first request is taken.
"""

import asyncio
import contextlib
import importlib.metadata
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from sse_starlette.sse import AppStatus

import settings as configuration
from routes import errors
from routes.guard import Guard

if TYPE_CHECKING:  # heavy
    from retrievers.jobs import Jobs
    from services import Services, Writer

log = logging.getLogger("fcc_rag")

DESCRIPTION = """
Asks FCC rules questions and answers with the paragraph each statement rests on.

**Chat** is the plain REST call; the `invoke`, `batch`, `stream` and schema paths are LangServe's, for RemoteRunnable clients.
Playgrounds: [chat](/api/chat/playground/), [rag](/api/rag/playground/), [retrieve](/api/retrieve/playground/),
[summarize](/api/summarize/playground/). Every error is `{"error": {"code", "message"}}`; under `/v1` errors have OpenAI's shape.
"""
HASTE_S = 5.0  # seconds that answers get after Ctrl-C, where somebody sits and waits


def create_app(settings: configuration.Settings | None = None) -> FastAPI:
    """A server on these settings, or on those of the environment and `.env`, which are read when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        from fastapi.concurrency import run_in_threadpool

        import services
        from retrievers.jobs import Jobs

        chosen = settings or configuration.load()
        _set_up_logging(chosen.server)
        for line in configuration.unknown_in_dotenv():
            log.warning("%s", line)
        opened = services.open_all(chosen)
        app.state.settings = chosen
        served = await run_in_threadpool(opened.__enter__)
        jobs = Jobs(served.library.indexer)
        try:
            _add_routes(app, served, jobs)
            log.info("ready: %s/api/chat/playground/ and %s/docs", chosen.server.url, chosen.server.url)
            with _draining(app, served.writer, chosen.server.shutdown_grace_s):
                yield
        finally:
            await run_in_threadpool(jobs.stop)
            await run_in_threadpool(opened.__exit__, None, None, None)

    app = FastAPIOffline(
        title="fcc-rag",
        version=importlib.metadata.version("fcc-rag"),
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    errors.install(app)
    app.state.draining = False
    app.add_middleware(
        Guard,
        max_body_bytes=lambda: int(app.state.settings.server.max_body_mb * 1_000_000),
        draining=lambda: bool(app.state.draining),
    )
    return app


def _add_routes(app: FastAPI, served: "Services", jobs: "Jobs") -> None:
    from routes import chat, langserve, openai, retrieval, status, summarize

    chain, retrieve, summary = served.chat(), served.retrieve(), served.summarize()
    model, chains = served.writer.model, served.settings.chains
    checks = {"model": served.writer.check, "store": served.library.check}
    app.include_router(chat.router(chain, model=served.writer.name))
    app.include_router(
        openai.router(
            chain,
            model,
            name=served.writer.name,
            window=model.window,
            max_tokens=chains.max_tokens,
            temperature=chains.temperature,
        )
    )
    app.include_router(retrieval.router(retrieve, jobs, ingest_from=served.settings.server.ingest_from))
    app.include_router(summarize.router(summary))
    app.include_router(status.router(served.describe, checks))
    langserve.add(app, chat=chain, retrieve=retrieve, summarize=summary)


@contextlib.contextmanager
def _draining(app: FastAPI, writer: "Writer", grace_s: float) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the server in order: nothing new is taken, what runs may finish for a while, then is told.

    The streams end by themselves then, so sse-starlette, which would cut them off at once, is asked not to. A second signal
    cuts the time short. Outside of a main thread no signal comes, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    status: Any = AppStatus  # its methods are untyped
    status.disable_automatic_graceful_drain()
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    told = 0

    def drain(number: int) -> None:
        nonlocal told
        told += 1
        app.state.draining = True
        writer.drain()
        grace = grace_s if number == signal.SIGTERM else min(grace_s, HASTE_S)
        loop.call_later(grace if told == 1 else 0, writer.cancel_all)

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain, number)
        handler = previous[signal.Signals(number)]
        server: Any = getattr(handler, "__self__", None)
        if number == signal.SIGTERM and hasattr(server, "should_exit"):
            server.should_exit = True  # uvicorn's handler would raise the signal again in the end: exit status 143
        elif callable(handler):
            handler(number, frame)

    for number in previous:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        status.enable_automatic_graceful_drain_mode()


def _set_up_logging(server: configuration.Server) -> None:
    """Let the project's own lines be seen, unless whoever runs us has set logging up already."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s:     %(message)s")
    for name in ("fcc_rag", "llm", "retrievers", "chains", "routes", "services"):
        logging.getLogger(name).setLevel(server.log_level.upper())


app = create_app()
