"""Our server and the alternatives: how each is installed, started and spoken to. Knows nothing about measuring.

Each alternative runs as its own documentation advises for many users on a CPU, and `settings` names what is not its default.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import watch
from contexts import Prompt
from load import Face, hear_langserve, hear_openai
from model_files import Weights

ROOT = Path(__file__).parent.parent
HERE = Path(__file__).parent / "alternatives"
OURS = "fcc-rag"
MARGIN = 1.4  # room in a context window over prompt and answer: questions differ in length, and templates in what they add
CORES = os.cpu_count() or 1
PROJECT = "pip install -c constraints.txt -e . && pip install -r benchmarks/requirements.txt"
LLAMA_CPP = 'CMAKE_ARGS=-DGGML_NATIVE=ON pip install "llama-cpp-python[server]"  # compiles for ten minutes; needs cmake and g++'

COUNTED = {"stream_options": {"include_usage": True}}

Command = Callable[[str, int, int], list[str]]  # python interpreter, port, clients


@dataclass(frozen=True)
class Server:
    """`family` is the software, `name` that with the file it serves; `slots`: it is started anew for each number of clients."""

    name: str
    family: str
    command: Command
    face: Face
    ready: str
    settings: str
    env: Mapping[str, str] = field(default_factory=dict)
    slots: bool = False


@dataclass(frozen=True)
class Family:
    """What must be installed for a server: the packages whose versions are reported, and the line that installs them."""

    packages: tuple[str, ...]
    install: str


FAMILIES = {
    OURS: Family(("openvino-genai", "transformers", "torch", "langchain-core"), PROJECT),
    "langserve": Family(("langserve", "langchain-huggingface", "transformers", "torch"), PROJECT),
    "transformers": Family(("transformers", "torch", "openai"), PROJECT),
    "llama-cpp-python": Family(("llama-cpp-python", "sse-starlette"), LLAMA_CPP),
    "xllamacpp": Family(("xllamacpp",), "pip install xllamacpp"),
}
NEEDED = {OURS: ("fcc-rag",)} | {name: family.packages for name, family in FAMILIES.items() if name != OURS}


def versions(python: str, family: str) -> dict[str, str] | None:
    """What the interpreter's environment holds of the packages that a family is made of; None if one it needs is missing."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in m.distributions()}\n"
        "print(json.dumps({n: found.get(n) for n in sys.argv[1:]}))"
    )
    names = [*FAMILIES[family].packages, *NEEDED[family]]
    try:
        done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    found: dict[str, str | None] = json.loads(done.stdout)
    if any(found[name] is None for name in NEEDED[family]):
        return None
    return {name: version for name, version in found.items() if version}


def install_line(family: str) -> str:
    """How to make the environment of a family, as one line of shell."""
    venv = f".venv-{family}"
    return f"python3 -m venv {venv} && . {venv}/bin/activate && {FAMILIES[family].install}"


def every(weights: Weights, *, tokens: int, max_tokens: int, store: Path) -> list[Server]:
    """All servers, those that read GGUF once for each file.

    `tokens` is the length of a prompt, `store` a folder for our server's documents.
    """
    window = int((tokens + max_tokens) * MARGIN / 256 + 1) * 256
    return [
        ours(weights, max_tokens, store),
        _langserve(weights, max_tokens),
        _transformers(weights, max_tokens, window),
        *(_llama_cpp_python(weights, kind, max_tokens, window) for kind in weights.gguf),
        *(_xllamacpp(weights, kind, max_tokens, window) for kind in weights.gguf),
    ]


@contextlib.contextmanager
def started(server: Server, python: str, clients: int, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The server's URL and process, on a free port; what it writes goes to a log in `folder`. Raises StartFailed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    log = folder / f"{server.name.replace(' ', '-')}.log"
    command = server.command(python, port, clients)
    with watch.running(command, ready=url + server.ready, log=log, env=server.env, cwd=ROOT) as process:
        yield url, process


def ours(weights: Weights, max_tokens: int, store: Path) -> Server:
    """This checkout with its default settings but for LLM_ACTIVATIONS, asked for the model itself, without retrieval."""
    activations = os.environ.get("LLM_ACTIVATIONS", "float")

    def command(python: str, port: int, _: int) -> list[str]:
        return [python, "-m", "uvicorn", "server:app", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]

    env = {"QDRANT_PATH": str(store), "QDRANT_HOST": "", "LLM_ACTIVATIONS": activations}
    settings = "defaults; POST /v1/chat/completions" if activations == "float" else f"LLM_ACTIVATIONS={activations}"
    face = _openai(weights.name, max_tokens, COUNTED)
    return Server(OURS, OURS, command, face, "/api/health", settings, env)


def _langserve(weights: Weights, max_tokens: int) -> Server:
    def command(python: str, port: int, _: int) -> list[str]:
        script = str(HERE / "stock_langserve.py")
        return [python, script, "--model", str(weights.folder), "--port", str(port), "--max-tokens", str(max_tokens)]

    face = Face("/chain/stream", lambda prompt: {"input": {"prompt": prompt.text}}, hear_langserve)
    return Server("langserve", "langserve", command, face, "/docs", "float32, HuggingFacePipeline, /stream")


def _transformers(weights: Weights, max_tokens: int, window: int) -> Server:
    pages = 16 * window // 256 + 16

    def command(python: str, port: int, _: int) -> list[str]:
        serve = [python, "-m", "transformers.cli.transformers", "serve", str(weights.folder), "--continuous-batching"]
        sizes = ["--cb-num-blocks", str(pages), "--cb-max-batch-tokens", "1024"]
        return [*serve, "--device", "cpu", "--dtype", "float32", *sizes, "--host", "127.0.0.1", "--port", str(port)]

    generation = {"eos_token_id": -1, "do_sample": False}
    face = _openai(str(weights.folder), max_tokens, {"generation_config": json.dumps(generation)})
    settings = f"float32, --continuous-batching, --cb-num-blocks {pages}, --cb-max-batch-tokens 1024"
    return Server("transformers", "transformers", command, face, "/health", settings, {"HF_HUB_OFFLINE": "1"})


def _llama_cpp_python(weights: Weights, kind: str, max_tokens: int, window: int) -> Server:
    def command(python: str, port: int, _: int) -> list[str]:
        given = {
            "model": weights.gguf[kind],
            "n_ctx": window,
            "n_threads": CORES,
            "n_threads_batch": CORES,
            "flash_attn": True,  # 13% more requests a minute than its default, measured here
            "logits_all": False,  # its default computes the vocabulary for each prompt token
            "interrupt_requests": False,  # its default drops a stream as soon as another request comes
            "host": "127.0.0.1",
            "port": port,
            "verbose": False,
        }
        return [python, "-m", "llama_cpp.server", *(word for key, value in given.items() for word in (f"--{key}", str(value)))]

    face = _openai(weights.name, max_tokens)
    settings = f"{kind.upper()}, interrupt_requests False, flash_attn True, logits_all False, n_threads {CORES}, n_ctx {window}"
    return Server(f"llama-cpp-python {kind}", "llama-cpp-python", command, face, "/v1/models", settings)


def _xllamacpp(weights: Weights, kind: str, max_tokens: int, window: int) -> Server:
    def command(python: str, port: int, clients: int) -> list[str]:
        script = [python, str(HERE / "xllamacpp_server.py"), "--model", str(weights.gguf[kind]), "--port", str(port)]
        return [*script, "--slots", str(clients), "--context", str(window)]

    face = _openai(weights.name, max_tokens, {"ignore_eos": True, **COUNTED})
    settings = f"{kind.upper()}, n_parallel as many as clients, n_ctx {window} each, {CORES} threads"
    return Server(f"xllamacpp {kind}", "xllamacpp", command, face, "/health", settings, slots=True)


def _openai(model: str, max_tokens: int, more: Mapping[str, Any] | None = None) -> Face:
    def body(prompt: Prompt) -> dict[str, Any]:
        asked = {"model": model, "messages": prompt.messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        return asked | dict(more or {})

    return Face("/v1/chat/completions", body, hear_openai)


def interpreter(given: Mapping[str, str], family: str) -> str:
    """The Python of a family's environment: the one named by the user, or the one that runs this."""
    if family not in given:
        return sys.executable
    path = Path(given[family]).expanduser()
    return str(path / "bin" / "python") if path.is_dir() else str(path)
