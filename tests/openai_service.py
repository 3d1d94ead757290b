"""A stand-in for an OpenAI-compatible service that answers by a script, and notices when a caller leaves.

Real ones, llama.cpp's and transformers', answer in test_remote.py; this one also fails in the ways that they do not on demand.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from settings import LLM

KEY = "open-sesame"
LISTING: dict[str, Any] = {"data": [{"id": "tiny", "max_model_len": 2048}]}


@dataclass
class Reply:
    """What one request gets: a status with a body, or the events of a stream, in which a number is a pause in seconds."""

    status: int = 200
    body: object = ""
    headers: dict[str, str] = field(default_factory=dict)
    events: Sequence[object] = ()
    whole: bool = True  # ends as HTTP says it must


@dataclass
class Service:
    """Where it listens, what it was asked, and what it answers next; the last reply is repeated."""

    url: str
    port: int
    listing: Reply = field(default_factory=lambda: Reply(body=LISTING))
    replies: list[Reply] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # a caller went away while it was answered

    def settings(self, **fields: Any) -> LLM:
        given: dict[str, Any] = {"llm_base_url": self.url, "llm_model": "tiny", "llm_api_key": KEY, "llm_timeout_s": 5.0}
        return LLM(**given | fields)


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    protocol_version = "HTTP/1.1"
    service: Service

    def do_GET(self) -> None:
        self.service.keys.append(self.headers.get("authorization"))
        self.give(self.service.listing)

    def do_POST(self) -> None:
        self.service.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.service.keys.append(self.headers.get("authorization"))
        self.give(self.service.replies.pop(0) if len(self.service.replies) > 1 else self.service.replies[0])

    def give(self, reply: Reply) -> None:
        content = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
        streams = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        self.close_connection = True
        self.send_response(reply.status)
        for name, value in (reply.headers | (streams if reply.events else {"content-length": str(len(content))})).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(b"" if reply.events else content)
            for event in reply.events:
                self.tell(event)
            self.wfile.write(b"0\r\n\r\n" if reply.events and reply.whole else b"")
        except OSError:
            self.service.left.set()

    def tell(self, event: object) -> None:
        if isinstance(event, int | float):
            time.sleep(event)
            return
        data = f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the usual 5 would turn away callers who come together


@contextlib.contextmanager
def serving(*replies: Reply, port: int = 0) -> Iterator[Service]:
    with _Server(("127.0.0.1", port), Handler) as server:
        service = Service(f"http://127.0.0.1:{server.server_port}/v1", server.server_port, replies=list(replies))
        server.RequestHandlerClass = type("Bound", (Handler,), {"service": service})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


def piece(text: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": reason}]}


def answer(*texts: str, reason: str = "stop", usage: bool = True) -> Reply:
    counted = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(texts), "total_tokens": 7 + len(texts)}}
    events = [piece(""), *map(piece, texts), piece(None, reason), *([counted] if usage else []), "[DONE]"]
    return Reply(events=events)


def endless(pause: float = 0.02) -> Reply:
    return Reply(events=[event for _ in range(1000) for event in (piece("word "), pause)])
