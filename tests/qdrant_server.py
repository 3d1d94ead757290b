"""The few REST calls that the store makes, answered by qdrant-client's own in-memory engine, with TLS and an API key.

It stands in for a Qdrant server, which cannot be installed with pip.
"""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pydantic import TypeAdapter
from qdrant_client import QdrantClient, models


@dataclass
class Server:
    """Where it listens, what it was asked and with which key."""

    port: int
    engine: QdrantClient
    calls: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    indexes: dict[str, str] = field(default_factory=dict)


@contextmanager
def serving(*, api_key: str | None = None, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    engine = QdrantClient(":memory:", force_disable_check_same_thread=True)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"null")
            path = self.path.partition("?")[0]
            server.calls.append(f"{self.command} {path}")
            server.keys.add(self.headers.get("api-key"))
            if api_key and self.headers.get("api-key") != api_key:
                self.answer(401, b"Must provide an API key")
                return
            with lock:
                result = _answer(server, self.command, path.removeprefix("/collections/").split("/"), body)
            if result is None:
                self.answer(404, b'{"status": {"error": "Not found"}}')
                return
            shape = TypeAdapter(type(result)).dump_python(result, mode="json")
            self.answer(200, json.dumps({"result": shape, "status": "ok", "time": 0}).encode())

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
            pass

        do_GET = do_PUT = do_POST = handle_any  # noqa: N815 -- http.server's names

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        http.socket = tls.wrap_socket(http.socket, server_side=True)
    server = Server(http.server_address[1], engine)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
        engine.close()


def _answer(server: Server, method: str, path: list[str], body: Any) -> Any:
    name, rest, engine = path[0], "/".join(path[1:]), server.engine
    if (method, rest) == ("PUT", ""):
        asked = models.CreateCollection.model_validate(body)
        return engine.create_collection(
            name,
            vectors_config=asked.vectors,
            sparse_vectors_config=asked.sparse_vectors,
            metadata=asked.metadata,
        )
    exists = engine.collection_exists(name)
    if rest == "exists" or not exists:
        return {"exists": exists} if rest == "exists" else None
    return _points(server, name, rest, body) if rest.startswith("points") else _collection(server, name, rest, body)


def _collection(server: Server, name: str, rest: str, body: Any) -> Any:
    if not rest:
        indexed = {key: models.PayloadIndexInfo(data_type=models.PayloadSchemaType.KEYWORD, points=0) for key in server.indexes}
        return server.engine.get_collection(name).model_copy(update={"payload_schema": indexed})
    server.indexes[body["field_name"]] = body["field_schema"]
    return {"operation_id": 0, "status": "completed"}


def _points(server: Server, name: str, rest: str, body: Any) -> Any:
    engine = server.engine
    if "points" in body:
        return engine.upsert(name, models.PointsList.model_validate(body).points)
    if rest == "points":
        asked_points = models.PointRequest.model_validate(body)
        return engine.retrieve(name, asked_points.ids, with_payload=bool(body["with_payload"]), with_vectors=body["with_vector"])
    return _search(engine, name, rest, body)


def _search(engine: QdrantClient, name: str, rest: str, body: Any) -> Any:
    if rest == "points/delete":
        return engine.delete(name, models.FilterSelector.model_validate(body))
    if rest == "points/count":
        return engine.count(name)
    if rest == "points/scroll":
        asked = models.ScrollRequest.model_validate(body)
        points, following = engine.scroll(name, limit=asked.limit or 10, offset=asked.offset, with_payload=body["with_payload"])
        return {"points": [point.model_dump() for point in points], "next_page_offset": following}
    if rest == "points/query":
        query = models.QueryRequest.model_validate(body)
        return engine.query_points(
            name,
            query=query.query,
            prefetch=query.prefetch,
            using=query.using,
            query_filter=query.filter,
            limit=query.limit or 10,
            with_payload=True,
        )
    return None
