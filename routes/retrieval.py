"""POST /api/retrieve and the ingestion jobs of /api/ingest. Knows nothing about how either is done."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Request
from langchain_core.runnables import Runnable
from pydantic import BaseModel, ConfigDict, Field

from chains.schema import RetrieveRequest, RetrieveResults
from errors import Forbidden, InvalidRequest
from retrievers.jobs import Job, Jobs
from routes import errors

PROXIED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "cf-connecting-ip")
QUERY = {"query": "radiated emission limits 88-216 MHz", "k": 5, "filters": {"part": "15"}}
PATHS = {"paths": ["/srv/rules/part15.pdf"], "prune": False}


class IngestBody(BaseModel):
    """Files and folders on the server's machine, by absolute path."""

    model_config = ConfigDict(extra="forbid")

    paths: Annotated[list[Path], Field(min_length=1, max_length=1000)]
    prune: bool = Field(False, description="Remove what is indexed from under these paths and no longer there")


def router(chain: Runnable[Any, Any], jobs: Jobs, *, ingest_from: Literal["local", "any", "nobody"]) -> APIRouter:
    """The routes on a retrieval chain and the ingestion jobs; `ingest_from` says whose ingestions are taken."""
    api = APIRouter(tags=["retrieval"])

    @api.post("/api/retrieve", response_model=RetrieveResults, responses=errors.documented(422, 503))
    async def retrieve(request: Annotated[RetrieveRequest, Body(openapi_examples={"a search": {"value": QUERY}})]) -> Any:
        """Find passages without answering from them, best first, whatever their score."""
        return await chain.ainvoke(request.model_dump(exclude_none=True))

    @api.post("/api/ingest", status_code=202, responses=errors.documented(403, 422, 429, 503))
    async def ingest(request: Request, given: Annotated[IngestBody, Body(openapi_examples={"a file": {"value": PATHS}})]) -> Job:
        """Start an ingestion job; questions are answered meanwhile. Callers on this machine only, by default."""
        _admit(request, ingest_from)
        for path in given.paths:
            if not path.is_absolute():
                raise InvalidRequest(f"paths: {path} is not absolute")
        return jobs.start(given.paths, prune=given.prune)

    @api.get("/api/ingest/{job}", responses=errors.documented(403, 404))
    async def progress(request: Request, job: str) -> Job:
        """How far an ingestion job has come."""
        _admit(request, ingest_from)
        return jobs.get(job)

    return api


def _admit(request: Request, ingest_from: str) -> None:
    if ingest_from == "any":
        return
    if ingest_from == "nobody":
        raise Forbidden("this server takes no ingestions (INGEST_FROM=nobody)")
    if not _is_local(request):
        raise Forbidden("ingestions are taken from this machine only (INGEST_FROM=local)")


def _is_local(request: Request) -> bool:
    """Whether the caller is on this machine, speaks to it by a local name, and no proxy speaks for somebody else.

    The name matters because a web page can have its own host name resolve to 127.0.0.1 (DNS rebinding).
    """
    if any(name in request.headers for name in PROXIED):
        return False
    caller = request.client.host if request.client else ""
    return _is_loopback(caller) and (request.url.hostname == "localhost" or _is_loopback(request.url.hostname or ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
