"""What every test stands on: no network but this machine, no settings but the test's own, the models fetched once."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny

import settings
import weights

ROOT = Path(__file__).parent.parent
VARIABLES = {name.upper() for section in settings.SECTIONS.values() for name in section.model_fields} - {"FCC_RAG_CACHE"}
START_LIMIT = 240  # seconds; a first start converts the default model


def pytest_runtest_setup() -> None:
    """Switch the network off: a test that reaches beyond this machine fails."""
    import pytest_socket

    pytest_socket.socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from the machine the tests run on, neither by its environment nor by a `.env`."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def embedding_folder() -> Path:
    """The default embedding model, fetched if this machine does not have it."""
    return weights.resolve(weights.DEFAULT_EMBEDDING, variable="EMBEDDING_MODEL", cache=cache())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny real Llama whose window takes retrieval-sized prompts."""
    return tiny.make(tmp_path_factory.mktemp("models") / "tiny-llama", window=8192)


def cache() -> Path:
    return Path(os.environ.get("FCC_RAG_CACHE") or settings.load().cache.fcc_rag_cache)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Served:
    """A real server in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str] = field(repr=False)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def post(self, path: str, body: object) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=120)

    def queue(self) -> dict[str, Any]:
        return dict(self.get("/api/status").json()["queue"])


@contextlib.contextmanager
def serving(folder: Path, *, command: tuple[str, ...] = (), **variables: str) -> Iterator[Served]:
    """Start `python -m uvicorn server:app` on a free port with these settings; end it by its process id."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment = inherited | {"QDRANT_PATH": str(folder / "qdrant"), "PORT": str(port), "HF_HUB_OFFLINE": "1"} | variables
    run = command or (sys.executable, "-m", "uvicorn", "server:app", "--app-dir", str(ROOT), "--port", str(port))
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(run, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    served = Served(f"http://127.0.0.1:{port}", process, log, environment)
    try:
        _wait(served)
        yield served
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(served: Served) -> None:
    limit = time.monotonic() + START_LIMIT
    while time.monotonic() < limit:
        with contextlib.suppress(httpx.HTTPError):
            if served.get("/api/health").status_code == httpx.codes.OK:
                return
        if served.process.poll() is not None:
            break
        time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{served.log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, embedding_folder: Path) -> Iterator[Served]:
    """A server on the sample notes, real embeddings and the tiny Llama, whose answers are noise but quick."""
    folder = tmp_path_factory.mktemp("server")
    with serving(folder, LOCAL_MODEL_PATH=str(tiny_model), EMBEDDING_MODEL=str(embedding_folder), MAX_QUEUE="40") as served:
        yield served


@pytest.fixture(scope="session")
def default_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """What a user gets who sets nothing: the default models and the sample notes, by `fcc-rag serve`."""
    folder = tmp_path_factory.mktemp("default")
    with serving(folder, command=(sys.executable, str(ROOT / "cli.py"), "serve")) as served:
        yield served
