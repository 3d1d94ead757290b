"""Runs a converted embedding model in OpenVINO: texts in, unit vectors out. Knows neither torch nor whose model it was."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

GRAPH, TOKENIZER, ABOUT = "model.xml", "tokenizer.json", "about.json"
STEP = 1024  # tokens computed at a time, padding included; more brings no speed and takes memory
# f32, so that vectors do not depend on the machine; its threads are as many as there are physical cores, and not tied to
# them, for the chat model computes on the same ones.
PROPERTIES = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}


class About(BaseModel):
    """What neither graph nor tokenizer tells: the vectors' length, the tokens read of a text, and what is put before each."""

    size: int
    limit: int
    prompt: str


class Model:
    """A converted model's graph and tokenizer. Any thread may use it; computing is a `Runner`'s business."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.about = About.model_validate_json((folder / ABOUT).read_bytes())
        self._core = openvino().Core()
        self._graph = self._core.read_model(folder / GRAPH)
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self._counter = Tokenizer.from_file(str(folder / TOKENIZER))
        padding = self._tokenizer.padding or {}
        self.padding = {name: padding[name] for name in ("direction", "pad_id", "pad_type_id", "pad_token")}
        for tokenizer in (self._tokenizer, self._counter):
            tokenizer.no_padding()
        self._counter.no_truncation()

    def count_tokens(self, text: str) -> int:
        return len(self._counter.encode(text).ids)

    def tokenize(self, texts: Sequence[str]) -> list[Any]:
        """Encodings cut to what the model reads, not padded."""
        # line feeds go as in LangChain's HuggingFaceEmbeddings, whose vectors these must be
        return self._tokenizer.encode_batch_fast([self.about.prompt + text.replace("\n", " ") for text in texts])

    def compile(self) -> Any:
        """The graph made ready for this machine, which takes half a second and a copy of the layers' weights."""
        return self._core.compile_model(self._graph, "CPU", PROPERTIES)


class Runner:
    """Computes a model's vectors, for one thread at a time. Two runners do not wait for each other."""

    def __init__(self, model: Model) -> None:
        compiled = model.compile()
        self._model, self._request = model, compiled.create_infer_request()
        self._inputs = {port.any_name for port in compiled.inputs}

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A row of length one for each text, in their order."""
        encodings = self._model.tokenize(texts)
        vectors = np.empty((len(texts), self._model.about.size), np.float32)
        for batch in _batches([len(encoding) for encoding in encodings]):
            vectors[batch] = self._infer([encodings[at] for at in batch])
        return vectors

    def _infer(self, batch: list[Any]) -> NDArray[np.float32]:
        width = max(len(encoding) for encoding in batch)
        for encoding in batch:
            encoding.pad(width, **self._model.padding)
        rows = {
            "input_ids": [encoding.ids for encoding in batch],
            "attention_mask": [encoding.attention_mask for encoding in batch],
            "token_type_ids": [encoding.type_ids for encoding in batch],
        }
        inputs = {name: np.array(rows[name], np.int64) for name in rows.keys() & self._inputs}
        vectors: NDArray[np.float32] = self._request.infer(inputs)[0]
        return vectors


def openvino() -> Any:
    """The package openvino, which reports nothing to its maker.

    Importing it sends an event to Google Analytics by way of `openvino_telemetry`, and so does each conversion. Where that
    package is missing OpenVINO goes without, so here it is missing; the alternative is a file in the user's home folder.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino  # type: ignore[import-untyped]

    return openvino


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Positions, the shortest texts first, in batches that hold `STEP` tokens at most if padded (or one text)."""
    batch: list[int] = []
    for at in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[at] > STEP:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
