"""A dense embedding of our own interface that needs no weights, and what makes a store of it."""

import hashlib
import re
from pathlib import Path

from qdrant_client import models

from retrievers import store
from retrievers.connection import DENSE, SPARSE
from retrievers.documents import Passage, PassageMetadata
from retrievers.embeddings import Bm25, Dense
from retrievers.store import Store
from settings import Retrieval


class Words(Dense):
    """A text's vector counts its words in `size` buckets: texts that share words are near, and it takes no time."""

    def __init__(self, *, name: str = "words", size: int = 64) -> None:
        self.name, self.size, self.limit = name, size, 100
        self.digest = hashlib.sha256(f"{name} {size}".encode()).hexdigest()[:16]
        self.embedded: list[str] = []

    def embed_query(self, text: str) -> list[float]:
        vector = [0.0] * self.size
        for word in re.findall(r"\w+", text.lower()):
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.size] += 1
        length = sum(value * value for value in vector) ** 0.5 or 1.0
        return [value / length for value in vector]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded += texts
        return [self.embed_query(text) for text in texts]

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"\w+|[^\w\s]", text))


def opened(path: Path, dense: Dense | None = None) -> Store:
    """An embedded store in the folder; close it."""
    return store.open(Retrieval(qdrant_host="", collection_name="rules"), path, dense or Words())


def point(text: str, number: int, **metadata: str | int) -> models.PointStruct:
    """A point for a passage that alone is its document."""
    values = {
        "citation": "",
        "heading": "",
        "title": "",
        "part": "15",
        "section": "15.1",
        "source": "a.txt",
        "page": None,
        "edition": "",
        "start": 0,
        "end": len(text),
        "document": f"/d/{number}",
        "document_hash": "h",
        "document_passages": 1,
        "ordinal": 0,
    }
    payload = PassageMetadata.model_validate(values | metadata).model_dump()
    dense, sparse = Words().embed_query(text), Bm25().embed_documents([text])[0]
    return models.PointStruct(
        id=f"00000000-0000-0000-0000-{number:012}",
        vector={DENSE: dense, SPARSE: models.SparseVector(indices=sparse.indices, values=sparse.values)},
        payload={"page_content": text, "metadata": payload},
    )


def texts(passages: list[Passage]) -> list[str]:
    return [passage.page_content for passage in passages]


def by_id(hits: list[tuple[Passage, float]]) -> dict[str | None, float]:
    return {passage.id: score for passage, score in hits}
