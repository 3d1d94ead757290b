"""Speaks to a running server over HTTP, for the command line. Knows nothing about how the server answers."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from httpx_sse import connect_sse

from errors import FccRagError

POLL = 0.3  # seconds between two looks at an ingestion job


class ServerError(FccRagError):
    """The server answered an error; its own words."""

    code = "server"


class Client:
    """One server; each method raises ServerError with the server's message, or with what went wrong on the way."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(None, connect=2), trust_env=False)

    def alive(self) -> bool:
        """Whether a fcc-rag server answers there."""
        try:
            answer = self._http.get("/api/health/live", timeout=2)
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK and answer.headers.get("content-type", "").startswith("application/json")

    def get(self, path: str) -> dict[str, Any]:
        with _translated(self.url):
            return _checked(self._http.get(path))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        with _translated(self.url):
            return _checked(self._http.post(path, json=body))

    def chat(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The answer's chunks as the chain gives them: `sources`, `content` pieces, `summary`, then all the rest."""
        with _translated(self.url), connect_sse(self._http, "POST", "/api/chat", json=body | {"stream": True}) as source:
            if source.response.status_code != httpx.codes.OK:
                source.response.read()
                _checked(source.response)
            for event in source.iter_sse():
                data = json.loads(event.data)
                if event.event == "error":
                    raise ServerError(data["error"]["message"])
                yield data

    def ingest(self, paths: list[str], *, prune: bool) -> Iterator[dict[str, Any]]:
        """Start an ingestion job and follow it: its snapshots until it has ended."""
        job = self.post("/api/ingest", {"paths": paths, "prune": prune})
        yield job
        while job["state"] in {"queued", "running"}:
            time.sleep(POLL)
            job = self.get(f"/api/ingest/{job['id']}")
            yield job


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError:
        raise ServerError(f"no server answers at {url}; start one with fcc-rag serve, or name it with --url") from None
    except httpx.HTTPError as exc:
        raise ServerError(f"the connection to {url} failed: {exc or type(exc).__name__}") from None


def _checked(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        raise ServerError(f"{answer.url} answered {answer.status_code} with something that is not JSON") from None
    if answer.is_success:
        return dict(body)
    raise ServerError(body.get("error", {}).get("message", f"{answer.url} answered {answer.status_code}"))
