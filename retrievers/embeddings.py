"""Turns text into vectors: dense ones by a sentence-transformers model, sparse ones by Qdrant's BM25. Knows no store.

Everything runs offline, from a folder of weights that somebody else has resolved.
"""

import copy
import functools
import hashlib
import threading
from abc import abstractmethod
from pathlib import Path

from langchain_core.embeddings import Embeddings
from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector
from qdrant_edge import Bm25 as Encoder
from qdrant_edge import SparseVector as EncodedVector

from errors import WeightsError

BATCH = 32  # passages a step; more brings no speed on a CPU and makes whoever waits for a step wait longer
_RECENT = 256  # query vectors kept: a search asks for the same one more than once


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
        model = self._queries._client  # noqa: SLF001 -- the only way to its tokenizer and its size
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


class Bm25(SparseEmbeddings):
    """BM25 term weights, those of a Qdrant server's `qdrant/bm25`; the store adds the inverse document frequency."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        return [_sparse(self._encoder.embed_document(text)) for text in texts]

    def embed_query(self, text: str) -> SparseVector:
        return _sparse(self._encoder.embed_query(text))


def load(folder: Path, *, name: str = "", device: str = "") -> Transformer:
    """The sentence-transformers model in `folder`, on CUDA if there is one and on the CPU otherwise.

    `name` is what users call it, by default the folder's name. Raises WeightsError, which names EMBEDDING_MODEL.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    if not (folder / "modules.json").is_file():
        raise WeightsError(f"EMBEDDING_MODEL: {folder} is no sentence-transformers model (it has no modules.json)")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return Transformer(folder, name=name or folder.name, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except Exception as exc:  # a folder can be wrong in as many ways as there are libraries that read it
        raise WeightsError(f"EMBEDDING_MODEL: cannot load {folder}: {_first_line(exc)}") from exc


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


def _first_line(exc: Exception) -> str:
    return str(exc).strip().partition("\n")[0] or type(exc).__name__
