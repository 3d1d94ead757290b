"""SIGTERM: nothing new is taken, what runs may finish, and the exit status is 0."""

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, Served, serving
from httpx_sse import connect_sse

QUESTION = "How often must an amateur station identify itself?"


def commands() -> dict[str, tuple[str, ...]]:
    return {"serve": (sys.executable, str(ROOT / "cli.py"), "serve"), "uvicorn": ()}


class Stream:
    """A stream that is read in a thread of its own; `started` is set by its first token."""

    def __init__(self, served: Served, **fields: Any) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.started = threading.Event()
        self._body = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "summarize": "never"} | fields
        self._url = served.url
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.started.wait(60)

    def _read(self) -> None:
        with httpx.Client(timeout=60) as client, connect_sse(client, "POST", f"{self._url}/api/chat", json=self._body) as source:
            for event in source.iter_sse():
                self.events.append((event.event, json.loads(event.data)))
                if event.event == "token":
                    self.started.set()

    def end(self) -> tuple[str, dict[str, Any]]:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.events[-1]


@pytest.mark.parametrize("way", ["serve", "uvicorn"])
def test_running_answers_finish(tmp_path: Path, tiny_model: Path, embedding_folder: Path, way: str) -> None:
    """An answer that runs when the server is told to stop is finished; new calls find nobody."""
    command = commands()[way]
    with serving(tmp_path, command=command, LOCAL_MODEL_PATH=str(tiny_model), EMBEDDING_MODEL=str(embedding_folder)) as served:
        stream = Stream(served, max_tokens=1000, summarize="always")  # whose summary is asked for after the signal
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            served.get("/api/health/live")
        name, end = stream.end()
        assert (name, end["finish_reason"], end["usage"]["completion_tokens"]) == ("end", "length", 1000)
        assert "summary" in [event for event, _ in stream.events]
        assert served.process.wait(30) == 0
    assert "Traceback" not in served.log.read_text()


def test_grace_ends(tmp_path: Path, tiny_model: Path, embedding_folder: Path) -> None:
    """What has not finished by SHUTDOWN_GRACE_S is cancelled, and its reader is told so."""
    variables = {"LOCAL_MODEL_PATH": str(tiny_model), "EMBEDDING_MODEL": str(embedding_folder), "SHUTDOWN_GRACE_S": "0.5"}
    with serving(tmp_path, command=commands()["serve"], **variables) as served:
        stream = Stream(served, max_tokens=7000)
        served.process.send_signal(signal.SIGTERM)
        name, end = stream.end()
        assert (name, end["finish_reason"]) == ("end", "cancelled")
        assert served.process.wait(30) == 0
    assert "Traceback" not in served.log.read_text()
