"""The command as a person meets it: processes of their own, with what they print and how they end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, VARIABLES, Served, free_port

NOTE = "# Lighthouse lamps\n\n47 CFR 80.8888(b): A lighthouse lamp must be tested every nine weeks by its keeper.\n"


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment = inherited | {"HF_HUB_OFFLINE": "1", "PORT": "1", "COLUMNS": "200"} | variables
    command = [sys.executable, str(ROOT / "cli.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


def beside(served: Served) -> dict[str, str]:
    """The settings under which a command meets that server's store and address."""
    return {name: served.environment[name] for name in ("QDRANT_PATH", "PORT", "EMBEDDING_MODEL")}


def test_help_names_every_command() -> None:
    """`fcc-rag --help` lists what there is."""
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "ingest", "search", "ask", "summarize", "status", "merge"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("words", "variables", "says"),
    [
        (("serve",), {"PORT": "99999"}, "PORT"),
        (("serve",), {"QUANTIZATION": "int3"}, "QUANTIZATION"),
        (("serve",), {"LOCAL_MODEL_PATH": "/no/such/folder"}, "LOCAL_MODEL_PATH"),
        (("serve",), {"EMBEDDING_MODEL": "/no/such/folder"}, "EMBEDDING_MODEL"),
        (("serve",), {"QDRANT_HOST": "127.0.0.1", "QDRANT_PORT": "1"}, "QDRANT_HOST"),
        (("status",), {}, "no server answers"),
        (("ingest", "/no/such/file.txt"), {}, "/no/such/file.txt"),
        (("summarize", "/no/such/file.txt", "--url", "http://127.0.0.1:1"), {}, "127.0.0.1:1"),
        (("merge",), {}, "LOCAL_MODEL_PATH"),
        (("search", ""), {}, "query"),
        (("summarize", "x" * 300, "--url", "http://127.0.0.1:1"), {}, "127.0.0.1:1"),
        (("ingest", "~nobody-here/x"), {}, "nobody-here"),
        (("status",), {"FCC_RAG_CACHE": "~nobody-here/x"}, "FCC_RAG_CACHE"),
    ],
)
@pytest.mark.models
def test_what_cannot_work_is_one_line(tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], says: str) -> None:
    """Whatever cannot work ends with a line that names it, never with a traceback."""
    free = {} if "PORT" in variables else {"PORT": "18999"} if words == ("serve",) else {}
    done = run(*words, **({"QDRANT_PATH": str(tmp_path / "qdrant")} | free | variables))
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_uvicorn_start_fails_in_one_line(tmp_path: Path) -> None:
    """`python -m uvicorn server:app` tells a wrong setting in one line, too."""
    command = [sys.executable, "-m", "uvicorn", "server:app", "--app-dir", str(ROOT), "--port", "0"]
    environment = os.environ | {"QUANTIZATION": "int3"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "fcc-rag cannot start: QUANTIZATION" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_is_told_at_once(tmp_path: Path) -> None:
    """A port in use is told before any model is loaded."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--port", str(taken.getsockname()[1]), QDRANT_PATH=str(tmp_path))
    assert done.returncode != 0
    assert "in use" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.models
def test_ingest_then_search(tmp_path: Path) -> None:
    """Documents are indexed, bad ones told with their reasons, unchanged ones skipped, and all of it is found."""
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "lamps.md").write_text(NOTE)
    (rules / "empty.txt").write_text("")
    (rules / "picture.txt").write_bytes(bytes(range(256)) * 20)
    store = {"QDRANT_PATH": str(tmp_path / "qdrant")}
    first = run("ingest", str(rules), **store)
    assert first.returncode == 1
    assert "documents: 1 indexed" in first.stdout
    assert "rules/empty.txt" in first.stderr
    assert "rules/picture.txt" in first.stderr
    again = run("ingest", str(rules / "lamps.md"), **store)
    assert again.returncode == 0
    found = run("search", "how often is a lighthouse lamp tested?", "--json", **store)
    assert json.loads(found.stdout)["results"][0]["citation"] == "47 CFR 80.8888(b)"


@pytest.mark.models
def test_commands_work_beside_a_running_server(server: Served, tmp_path: Path) -> None:
    """While a server holds the store, ingest hands the work to it, and the other commands ask it."""
    note = tmp_path / "lamps.md"
    note.write_text(NOTE)
    done = run("ingest", str(note), **beside(server))
    assert done.returncode == 0, done.stderr
    assert "documents: 1 indexed" in done.stdout
    found = run("search", "lighthouse lamp", **beside(server))
    assert "80.8888(b)" in found.stdout
    asked = run("ask", "How often is a lighthouse lamp tested?", "--max-tokens", "5", **beside(server))
    assert asked.returncode == 0, asked.stderr
    assert "Sources:" in asked.stdout
    assert "80.8888(b)" in asked.stdout
    status = run("status", **beside(server))
    assert "tiny-llama" in status.stdout
    assert "lamps.md" in status.stdout
    summary = run("summarize", str(note), **beside(server))
    assert summary.returncode == 0, summary.stderr
    assert summary.stdout.strip()
    note.unlink()
    pruned = run("ingest", str(tmp_path), "--prune", **beside(server))
    assert "1 pruned" in pruned.stdout, pruned.stdout + pruned.stderr


@pytest.mark.models
def test_second_server_is_one_line(server: Served) -> None:
    """A second server on the same embedded folder stops with one clear line."""
    done = run("serve", "--port", "18998", **{k: v for k, v in beside(server).items() if k != "PORT"})
    assert done.returncode != 0
    assert "in use by another process" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.models
def test_no_server_to_hand_over_to(server: Served, tmp_path: Path) -> None:
    """If the store is held and no server answers at the address, the line says to name it with --url."""
    note = tmp_path / "lamps.md"
    note.write_text(NOTE)
    done = run("ingest", str(note), **(beside(server) | {"PORT": "1"}))
    assert done.returncode == 1
    assert "--url" in done.stderr


@pytest.mark.models
@pytest.mark.parametrize("after", [2.0, 5.0])
def test_interrupt_ends_a_start_at_once(tmp_path: Path, after: float) -> None:
    """Ctrl-C while models load ends the server at once, without a traceback."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment = inherited | {"HF_HUB_OFFLINE": "1", "PORT": str(free_port()), "QDRANT_PATH": str(tmp_path / "qdrant")}
    command = [sys.executable, str(ROOT / "cli.py"), "serve"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=10)
    assert "Traceback" not in told
