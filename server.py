"""The composition root of the server: `create_app(settings)`, and `app` for `python -m uvicorn server:app`.

Importing it loads nothing heavy; models load in the lifespan, before the first request is taken.
"""

import contextlib
import importlib.metadata
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import settings as configuration
from routes import errors
from routes.guard import Guard

if TYPE_CHECKING:  # heavy
    from retrievers.jobs import Jobs
    from services import Services

log = logging.getLogger("fcc_rag")

DESCRIPTION = """
Asks FCC rules questions and answers with the paragraph each statement rests on.

**Chat** is the plain REST call; the `invoke`, `batch`, `stream` and schema paths are LangServe's, for RemoteRunnable clients.
Playgrounds: [chat](/api/chat/playground/), [rag](/api/rag/playground/), [retrieve](/api/retrieve/playground/),
[summarize](/api/summarize/playground/). Every error is `{"error": {"code", "message"}}`.
"""


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
    app.add_middleware(Guard, max_body_bytes=lambda: int(app.state.settings.server.max_body_mb * 1_000_000))
    return app


def _add_routes(app: FastAPI, served: "Services", jobs: "Jobs") -> None:
    from routes import chat, langserve, retrieval, status, summarize

    chain, retrieve, summary = served.chat(), served.retrieve(), served.summarize()
    checks = {"model": served.writer.check, "store": served.library.check}
    app.include_router(chat.router(chain, model=served.writer.loaded.name))
    app.include_router(retrieval.router(retrieve, jobs, ingest_from=served.settings.server.ingest_from))
    app.include_router(summarize.router(summary))
    app.include_router(status.router(served.describe, checks))
    langserve.add(app, chat=chain, retrieve=retrieve, summarize=summary)


def _set_up_logging(server: configuration.Server) -> None:
    """Let the project's own lines be seen, unless whoever runs us has set logging up already."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s:     %(message)s")
    for name in ("fcc_rag", "llm", "retrievers", "chains", "routes", "services"):
        logging.getLogger(name).setLevel(server.log_level.upper())


app = create_app()
