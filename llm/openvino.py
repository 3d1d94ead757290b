"""OpenVINO GenAI's continuous batching as a backend: the default on a CPU. In a process of its own; see openvino_worker."""

import contextlib
import multiprocessing
from pathlib import Path

from errors import EngineError, FccRagError
from llm.backend import Output
from llm.openvino_worker import BLOCK, Add, Cancel, Moved, Setup, main
from llm.requests import Sampling

START_LIMIT = 300  # seconds; a 13B model is read and compiled in a minute or two
# Results must not depend on the machine: without these, keys and values are kept in 8 bits and some CPUs compute in bfloat16.
PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f16"}


class OpenVino:
    """A continuous batch in a child process, which ends when this does, however this ends."""

    block = BLOCK
    preempts = True

    def __init__(self, folder: Path, *, end_tokens: tuple[int, ...], slots: int, capacity: int, chunk: int) -> None:
        """`folder` holds openvino_model.xml; `capacity` is in tokens. Raises EngineError when the model does not start."""
        blocks = max(1, capacity // BLOCK)
        self.slots, self.capacity = slots, blocks * BLOCK
        self._keys: set[int] = set()
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        setup = Setup(folder, end_tokens, slots, blocks, chunk, PRECISION)
        self._process = spawn.Process(target=main, args=(theirs, setup), name="llm-openvino", daemon=True)
        self._process.start()
        theirs.close()  # else its end would never be noticed
        try:
            answer = self._pipe.recv() if self._pipe.poll(START_LIMIT) else f"not loaded within {START_LIMIT} seconds"
        except (EOFError, OSError):
            answer = f"its process ended while it loaded, {self._exit()}"
        if isinstance(answer, str):
            self.close()
            raise EngineError(f"OpenVINO cannot run {folder.name}: {answer}")
        self.memory_bytes = int(answer)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def add(self, key: int, ids: list[int], sampling: Sampling, max_new_tokens: int) -> None:
        seed = (sampling.seed or 0) & (2**32 - 1) ^ (sampling.seed or 0) >> 32
        temperature = None if sampling.greedy else sampling.temperature
        self._send(Add(key, ids, max_new_tokens, temperature, sampling.top_p, seed))
        self._keys.add(key)

    def cancel(self, key: int) -> None:
        if key in self._keys:
            self._keys.discard(key)
            self._send(Cancel(key))

    def step(self) -> list[Output]:
        try:
            moved: list[Moved] = self._pipe.recv()
        except (EOFError, OSError):
            raise EngineError(f"the model's process has ended: {self._exit()}") from None
        return [self._output(each) for each in moved if each.key in self._keys]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _output(self, moved: Moved) -> Output:
        if moved.end:
            self._keys.discard(moved.key)
        match moved.end:
            case "lost":
                error: FccRagError | None = EngineError("the model had no memory left for this request")
                return Output(moved.key, moved.tokens, None, error)
            case "stop" | "length" | None as end:
                return Output(moved.key, moved.tokens, end)
        raise EngineError(f"the model's process said {moved.end!r}")

    def _send(self, order: Add | Cancel) -> None:
        try:
            self._pipe.send(order)
        except OSError:
            raise EngineError(f"the model's process has ended: {self._exit()}") from None

    def _exit(self) -> str:
        self._process.join(5)
        code = self._process.exitcode
        return f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
