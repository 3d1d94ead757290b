"""OpenVINO GenAI's continuous batching as a backend: the default on a CPU. In a process of its own; see openvino_worker."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import settings
from errors import EngineError, FccRagError
from llm.backend import BackendLost, Output
from llm.openvino_worker import BLOCK, Add, Cancel, Moved, Setup
from llm.requests import Sampling

START_LIMIT = 300  # seconds; a 13B model is read and compiled in a minute or two
STEP_LIMIT = 300  # seconds without a word; a step of a 13B model takes one or two minutes on a small machine
# Results must not depend on the machine: without these, keys and values are kept in 8 bits, and some CPUs compute in bfloat16.
_PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"}
# OpenVINO and oneDNN below it keep what they compile for each number of tokens in a step, 5,000 and 1,024 pieces by default: with
# prompts of ever new lengths the process would grow by 10 MB with each hundred. Sixteen are as fast: layers share them.
_KEPT = {"CPU_RUNTIME_CACHE_CAPACITY": "16"}
_KEPT_BY_ONEDNN = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}  # an environment variable, read when the process first computes
# How many activations share a scale where they are rounded to 8 bits for weights of 8 bits, as only CPUs with VNNI do; 0: none.
_GROUP = {"float": "0", "int8": "32"}


def properties(activations: settings.Activations) -> dict[str, str]:
    """OpenVINO's properties for how exactly it computes and how much it keeps."""
    return _PRECISION | _KEPT | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP[activations]}


class OpenVino:
    """A continuous batch in a child process, which ends when this does, however this ends."""

    block = BLOCK
    preempts = True

    def __init__(
        self,
        folder: Path,
        *,
        end_tokens: tuple[int, ...],
        slots: int,
        capacity: int,
        chunk: int,
        activations: settings.Activations = "float",
    ) -> None:
        """`folder` holds openvino_model.xml; `capacity` is in tokens. Raises EngineError when the model does not start."""
        blocks = max(1, capacity // BLOCK)
        self.slots, self.capacity = slots, blocks * BLOCK
        self._keys: set[int] = set()
        self._received: list[list[Moved]] = []
        self._heard = time.monotonic()
        ours, theirs = socket.socketpair()
        with theirs:  # closed here, else its end would never be noticed
            self._process = start("run", str(theirs.fileno()), pass_fds=(theirs.fileno(),))
        self._pipe = Connection(ours.detach())
        try:
            self._pipe.send(Setup(folder, end_tokens, slots, blocks, chunk, properties(activations)))
            answer = self._pipe.recv() if self._pipe.poll(START_LIMIT) else f"not loaded within {START_LIMIT} seconds"
        except (EOFError, OSError):
            answer = f"its process ended while it loaded, {self._exit()}"
        if isinstance(answer, str):
            self.close()
            raise EngineError(f"OpenVINO cannot run {folder.name}: {answer}")
        self.memory_bytes = int(answer)

    @property
    def pid(self) -> int:
        return self._process.pid

    def add(self, key: int, ids: list[int], sampling: Sampling, max_new_tokens: int) -> None:
        seed = (sampling.seed or 0) & (2**32 - 1) ^ (sampling.seed or 0) >> 32
        temperature = None if sampling.greedy else sampling.temperature
        if not self._keys:
            self._heard = time.monotonic()
        self._send(Add(key, ids, max_new_tokens, temperature, sampling.top_p, seed))
        self._keys.add(key)

    def cancel(self, key: int) -> None:
        if key in self._keys:
            self._keys.discard(key)
            self._send(Cancel(key))

    def step(self) -> list[Output]:
        self._receive(wait=1)
        moved, self._received = self._received, []
        if not moved and time.monotonic() - self._heard > STEP_LIMIT:
            raise BackendLost(f"the model's process has not answered for {STEP_LIMIT} seconds")
        return [self._output(each) for step in moved for each in step if each.key in self._keys]

    def check(self) -> None:
        if self._process.poll() is not None:
            raise BackendLost(f"the model's process has ended: {self._exit()}")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # within a long step, or hanging
            self._process.kill()
            self._process.wait()

    def _output(self, moved: Moved) -> Output:
        if moved.end:
            self._keys.discard(moved.key)
        match moved.end:
            case "lost":
                error: FccRagError | None = EngineError("the model had no memory left for this request")
                return Output(moved.key, moved.tokens, None, error)
            case "refused":
                error = EngineError("the model did not take this request; the server's log says why")
                return Output(moved.key, (), None, error)
            case "stop" | "length" | None as end:
                return Output(moved.key, moved.tokens, end)
        raise EngineError(f"the model's process said {moved.end!r}")

    def _receive(self, *, wait: float) -> None:
        try:
            while self._pipe.poll(wait):
                self._received.append(self._pipe.recv())
                self._heard, wait = time.monotonic(), 0
        except (EOFError, OSError):
            raise BackendLost(f"the model's process has ended: {self._exit()}") from None

    def _send(self, order: Add | Cancel) -> None:
        self._receive(wait=0)  # else both ends might wait for the other to read
        try:
            self._pipe.send(order)
        except OSError:
            raise BackendLost(f"the model's process has ended: {self._exit()}") from None

    def _exit(self) -> str:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "closing its pipe"
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def start(*arguments: str, pass_fds: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
    """Start openvino_worker. Not by multiprocessing, which would import the main program once more, whatever that does."""
    root = Path(__file__).parent.parent
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "llm.openvino_worker", *arguments]  # -P: not from the current folder
    env = _KEPT_BY_ONEDNN | os.environ | {"PYTHONPATH": path}
    return subprocess.Popen(  # noqa: S603 -- ourselves
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env, pass_fds=pass_fds
    )
