"""The process in which OpenVINO GenAI runs: its steps hold Python's global lock, which would stall a server in the same process.

`python -m llm.openvino_worker run FD` reads orders from a pipe and writes what each step brought; `graph FILE` makes a graph of a
GGUF file and ends. Knows nothing about text: tokens in, tokens out.
"""

import contextlib
import ctypes
import mmap
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

BLOCK = 32  # tokens in a block of keys and values; OpenVINO's own choice on a CPU


@dataclass(frozen=True, slots=True)
class Setup:
    """What to run and how; `blocks` of keys and values are kept, at most `chunk` tokens are computed in a step."""

    folder: Path
    end_tokens: tuple[int, ...]
    slots: int
    blocks: int
    chunk: int
    properties: dict[str, str]


@dataclass(frozen=True, slots=True)
class Add:
    """A request joins; `temperature` None is greedy."""

    key: int
    ids: list[int]
    max_new_tokens: int
    temperature: float | None
    top_p: float
    seed: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """A request leaves."""

    key: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What a step brought for a request: new tokens, and "stop", "length", "lost" or "refused" if it ended."""

    key: int
    tokens: tuple[int, ...]
    end: str | None


def run(pipe: Connection) -> None:
    """Run until the other end closes the pipe, which also happens when its process is killed."""
    for ours in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches the whole group: the server decides when this ends
        signal.signal(ours, signal.SIG_IGN)
    try:
        setup = pipe.recv()
        try:
            worker = _Worker(setup)
        except Exception as exc:  # noqa: BLE001 -- told to the one who waits, in one line
            pipe.send(str(exc).strip().splitlines()[-1] if str(exc).strip() else type(exc).__name__)
            return
        pipe.send(worker.memory)
        while True:
            if not worker.busy:
                worker.rest()
            while not worker.busy or pipe.poll():
                worker.take(pipe.recv())
            pipe.send(worker.step())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)  # OpenVINO's own threads take a second to unload


def write_graph(source: Path) -> None:
    """Read the GGUF file `source` and write OpenVINO's own form, openvino_model.xml and .bin, beside it."""
    genai = _genai()
    # a tokenizer that holds nothing: only token ids are used
    nothing = genai.Tokenizer(str(source.parent))
    genai.ContinuousBatchingPipeline(str(source), nothing, genai.SchedulerConfig(), "CPU", enable_save_ov_model=True)


class _Worker:
    def __init__(self, setup: Setup) -> None:
        self._genai = genai = _genai()
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = setup.blocks
        scheduler.max_num_batched_tokens = setup.chunk
        scheduler.max_num_seqs = setup.slots
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        self._pipe = genai.ContinuousBatchingPipeline(str(setup.folder), scheduler, "CPU", setup.properties)
        self._weights = list(_mapped(setup.folder))
        self._end_tokens = setup.end_tokens
        self._handles: dict[int, Any] = {}
        self._unsaid: list[Moved] = []
        self.memory = _resident_bytes()

    @property
    def busy(self) -> bool:
        return bool(self._handles or self._unsaid or self._pipe.has_non_finished_requests())

    def rest(self) -> None:
        """Let the pages of the weights' file go: products read copies of their own, and what is read again comes back."""
        for start, length in self._weights:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)

    def take(self, order: Add | Cancel) -> None:
        if isinstance(order, Cancel):
            if handle := self._handles.pop(order.key, None):
                handle.cancel()
            return
        try:
            self._handles[order.key] = self._pipe.add_request(order.key, _tensor(order.ids), self._config(order))
        except Exception as exc:  # noqa: BLE001 -- one bad request must not end the others
            sys.stderr.write(f"openvino: {exc}\n")
            self._unsaid.append(Moved(order.key, (), "refused"))

    def step(self) -> list[Moved]:
        if self._pipe.has_non_finished_requests():
            self._pipe.step()
        moved, self._unsaid = self._unsaid, []
        for key, handle in list(self._handles.items()):
            result = self._read(key, handle)
            if result.end:
                del self._handles[key]
            if result.end or result.tokens:
                moved.append(result)
        return moved

    def _read(self, key: int, handle: Any) -> Moved:
        tokens: list[int] = []
        end = None
        reasons, statuses = self._genai.GenerationFinishReason, self._genai.GenerationStatus
        while handle.can_read():
            for output in handle.read().values():
                tokens += output.generated_ids
                if output.finish_reason != reasons.NONE:
                    end = "length" if output.finish_reason == reasons.LENGTH else "stop"
        status = handle.get_status()
        if end is None and status != statuses.RUNNING:
            end = "lost" if status == statuses.IGNORED else "length"
        return Moved(key, tuple(tokens), end)

    def _config(self, order: Add) -> Any:
        config = self._genai.GenerationConfig(max_new_tokens=order.max_new_tokens, apply_chat_template=False)
        config.set_eos_token_id(next(iter(self._end_tokens), 0))  # the tokenizer would say; there is none here
        config.ignore_eos = not self._end_tokens
        config.stop_token_ids = set(self._end_tokens) or {0}
        config.do_sample = order.temperature is not None
        if order.temperature is not None:
            config.temperature = order.temperature
            config.top_p = order.top_p
            config.rng_seed = order.seed
        return config


def _genai() -> Any:
    """The package openvino_genai, without the report that importing it would send to its maker (see retrievers/vectors.py)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino_genai  # type: ignore[import-untyped]

    return openvino_genai


def _tensor(ids: list[int]) -> Any:
    import numpy as np
    import openvino  # type: ignore[import-untyped]

    return openvino.Tensor(np.array([ids], dtype=np.int64))


def _mapped(folder: Path) -> Iterator[tuple[int, int]]:
    """Where files of the folder are in this process's memory, as address and length in bytes; nothing where nobody can tell."""
    with contextlib.suppress(FileNotFoundError):
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
            if line.partition("/")[2].startswith(f"{folder.resolve()}/"[1:]):
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                yield start, end - start


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    from llm import openvino_worker  # noqa: PLW0406 -- the name by which the other end knows what is sent

    order, argument = sys.argv[1:]
    if order == "run":
        openvino_worker.run(Connection(int(argument)))
    else:
        openvino_worker.write_graph(Path(argument))
