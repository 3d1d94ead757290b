"""Turns text into vectors: dense ones by a sentence-transformers model, sparse ones by Qdrant's BM25. Knows no store.

Everything runs offline, from a folder of weights that somebody else has resolved. On a CPU the dense model is converted
for OpenVINO once; from then on neither torch nor sentence-transformers is imported.
"""

import copy
import ctypes
import functools
import hashlib
import logging
import os
import re
import threading
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from langchain_core.embeddings import Embeddings
from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector
from qdrant_edge import Bm25 as Encoder
from qdrant_edge import SparseVector as EncodedVector

import quantities
import weights
from errors import WeightsError
from retrievers import conversion, vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH = 32  # passages a step; more brings no speed on a CPU and makes whoever waits for a step wait longer
_WORDS = 100_000  # words whose numbers are kept
_WORD = re.compile(r"\w+(?:\.\d+)?")
_RECENT = 256  # query vectors kept: a search asks for the same one more than once

logger = logging.getLogger(__name__)


Engine = Literal["auto", "openvino", "torch"]


class Dense(Embeddings):
    """A dense embedding model, and what the store and the splitter must know of it.

    `name` is what users call it, `digest` tells two models of one name apart, `size` is the length of its unit vectors,
    and `limit` the number of tokens it reads of a text (the rest would be ignored).
    """

    name: str
    digest: str
    size: int
    limit: int

    @abstractmethod
    def count_tokens(self, text: str) -> int:
        """How many of `limit` tokens the text takes, the model's own special tokens included."""

    def release(self) -> None:
        """Let go of the memory that only documents need, until there are some again."""


class Transformer(Dense):
    """A sentence-transformers model behind LangChain's HuggingFaceEmbeddings. Any thread may use it.

    Tokenizers may not be shared by threads ("Already borrowed"), and a question must not wait for a batch of documents.
    So questions, documents and counting have a tokenizer each; the weights are shared.
    """

    def __init__(self, folder: Path, *, name: str, device: str) -> None:
        from langchain_huggingface import HuggingFaceEmbeddings

        self._queries = HuggingFaceEmbeddings(
            model_name=str(folder),
            model_kwargs={"device": device, "local_files_only": True},
            encode_kwargs={"normalize_embeddings": True, "batch_size": BATCH},
        )
        self.model: SentenceTransformer = self._queries._client  # noqa: SLF001 -- the only way to its tokenizer and its size
        model = self.model.float() if device == "cpu" else self.model  # as OpenVINO computes it
        self._documents = copy.deepcopy(self._queries, {id(weight): weight for weight in model.parameters()})
        self._count = copy.deepcopy(model.tokenizer.backend_tokenizer)
        self._count.no_truncation()
        self._count.no_padding()
        self._querying, self._documenting = threading.Lock(), threading.Lock()
        self._recent = functools.lru_cache(_RECENT)(self._queries.embed_query)
        self.name, self.digest = name, _digest(folder)
        self.size = model.get_embedding_dimension() or len(self._queries.embed_query(name))
        self.limit = model.max_seq_length or model.tokenizer.model_max_length

    def embed_query(self, text: str) -> list[float]:
        with self._querying:
            return list(self._recent(text))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        with self._documenting:
            return self._documents.embed_documents(texts)

    def count_tokens(self, text: str) -> int:
        return len(self._count.encode(text).ids)


class Converted(Dense):
    """A model that `conversion` has made for OpenVINO. Any thread may use it.

    Questions and documents are computed apart, so that a question need not wait for a batch of documents. What computes
    documents is made when there are some, and let go of by `release`: a server that only answers goes without its memory.
    """

    def __init__(self, folder: Path, *, name: str, digest: str) -> None:
        self._model = vectors.Model(folder)
        self._queries = vectors.Runner(self._model)
        self._documents: vectors.Runner | None = None
        self._querying, self._documenting = threading.Lock(), threading.Lock()
        self._recent = functools.lru_cache(_RECENT)(lambda text: self._queries.embed([text])[0])
        self.name, self.digest = name, digest
        self.size, self.limit = self._model.about.size, self._model.about.limit

    def embed_query(self, text: str) -> list[float]:
        with self._querying:
            return list(self._recent(text).tolist())

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        with self._documenting:
            self._documents = self._documents or vectors.Runner(self._model)
            return list(self._documents.embed(texts).tolist())

    def release(self) -> None:
        with self._documenting:
            self._documents = None

    def count_tokens(self, text: str) -> int:
        return self._model.count_tokens(text)


class Bm25(SparseEmbeddings):
    """BM25 term weights, those of a Qdrant server's `qdrant/bm25`; the store adds the inverse document frequency.

    A figure with a unit is a word more, the same one however it is written: 60 m and 60-meter, 1 W, 1000 mW and one watt.
    """

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._term = functools.lru_cache(_WORDS)(lambda word: tuple(self._encoder.embed_query(word).indices))

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        return [_sparse(self._encoder.embed_document(_with_figures(text))) for text in texts]

    def embed_query(self, text: str) -> SparseVector:
        return _sparse(self._encoder.embed_query(_with_figures(text)))

    def terms(self, text: str) -> list[int]:
        """The words of a text that count, in their order, as the numbers that stand for them in its vector."""
        return [term for word in _WORD.findall(text) for term in self._term(word)]


def open(folder: Path, *, engine: Engine, cache: Path, name: str = "") -> Dense:  # noqa: A001 -- it is read as `embeddings.open`
    """The sentence-transformers model in `folder`, run by `engine`; what is made of it for OpenVINO is kept in `cache`.

    `auto` is torch where there is CUDA, and else OpenVINO, or torch again, and a warning, if OpenVINO cannot run the model.
    `name` is what users call it, by default the folder's name. Raises WeightsError, which names EMBEDDING_MODEL.
    """
    _check(folder)
    if engine == "torch" or (engine == "auto" and _has_cuda()):
        return load(folder, name=name)
    try:
        return _converted(folder, cache, name or folder.name)
    except WeightsError as exc:
        if engine == "openvino":
            raise
        logger.warning("%s; torch runs it (EMBEDDING_ENGINE=torch saves the attempt)", exc)
        return load(folder, name=name)


def load(folder: Path, *, name: str = "", device: str = "") -> Transformer:
    """The sentence-transformers model in `folder`, run by torch: on CUDA if there is one and on the CPU otherwise.

    Raises WeightsError, which names EMBEDDING_MODEL.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    _check(folder)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return Transformer(folder, name=name or folder.name, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except Exception as exc:  # a folder can be wrong in as many ways as there are libraries that read it
        raise WeightsError(f"EMBEDDING_MODEL: cannot load {folder}: {_first_line(exc)}") from exc


def _converted(folder: Path, cache: Path, name: str) -> Converted:
    def fill(out: Path) -> None:
        weights.say(f"preparing {name} for OpenVINO, once")
        conversion.convert(folder, out)

    digest = _digest(folder)
    made = weights.once(cache / "embeddings" / f"{digest}-{configuration(folder)}", str(conversion.FORMAT), fill)
    try:
        return Converted(made, name=name, digest=digest)
    except Exception as exc:  # OpenVINO and tokenizers have no classes for what goes wrong in them
        raise WeightsError(f"EMBEDDING_MODEL: OpenVINO cannot load {made}: {_first_line(exc)}") from exc


def _check(folder: Path) -> None:
    if not (folder / "modules.json").is_file():
        raise WeightsError(f"EMBEDDING_MODEL: {folder} is no sentence-transformers model (it has no modules.json)")


def _has_cuda() -> bool:
    """Whether torch can use CUDA. The driver is asked first: without a device it is not worth importing torch."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    devices = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(devices)) or not devices.value:
        return False
    import torch

    return torch.cuda.is_available()


def _with_figures(text: str) -> str:
    """The text, and for each figure with a unit a word of its kind and value, such as power1000e00, which nobody writes."""
    named = [(figure.unit.kind, figure.value) for figure in quantities.find(text) if figure.unit]
    return " ".join([text, *(re.sub(r"\W", "", f"{kind}{value:.3e}".replace("-", "n")) for kind, value in named)])


def _sparse(vector: EncodedVector) -> SparseVector:
    return SparseVector(indices=list(vector.indices), values=list(vector.values))


def _digest(folder: Path) -> str:
    """16 hex digits over the weights and what decides how they are used, the same wherever the folder lies."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in {".safetensors", ".bin"} or file.name in {"modules.json", "sentence_bert_config.json"}:
            with file.open("rb") as reader:
                total.update(hashlib.file_digest(reader, "sha256").digest())
    return total.hexdigest()[:16]


def configuration(folder: Path) -> str:
    """8 hex digits over the small files beside the weights: tokenizer, pooling and prompts change the vectors as well."""
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in {".json", ".txt", ".model"} and not file.name.startswith("."):
            total.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:8]


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
