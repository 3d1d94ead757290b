"""Makes passages that are no text but behave like it: vectors in clusters, words by Zipf's law. Knows no store.

Passages belong to topics, 50 to each on average. A vector is its topic's centre plus what is its own, both from a space of 32
dimensions turned into 384, plus a little of all 384: neighbours have cosines about 0.7, strangers about 0, as embeddings of
text do, whereas uniform noise has no neighbours worth finding. A passage's 60 words are drawn from 20,000 with frequencies
that fall as one over the rank, a third of them from the 30 words of its topic. A question is made like a passage of a topic,
with eight words.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from retrievers.connection import DENSE, SPARSE
from retrievers.documents import PassageMetadata
from retrievers.embeddings import Bm25, Dense

SIZE, _LATENT, _WORDS, _OWN_WORDS, _PASSAGES_OF_A_TOPIC, _CHUNK = 384, 32, 20_000, 30, 50, 5_000
PARTS = [str(number) for number in range(1, 41)]


def identity(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    vector: NDArray[np.float32]


class Given(Dense):
    """An embedding that knows the vectors of the questions, so that looking for them is all that is measured."""

    name, digest, size, limit = "given", "given", SIZE, 256

    def __init__(self, questions: list[Question]) -> None:
        self._vectors = {question.text: question.vector.tolist() for question in questions}

    def embed_query(self, text: str) -> list[float]:
        return list(self._vectors[text])

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class Passages:
    """As many passages as asked for, the same ones for the same seed."""

    def __init__(self, number: int, *, seed: int = 1) -> None:
        self.number, self._seed = number, seed
        random = np.random.default_rng(seed)
        topics = max(1, number // _PASSAGES_OF_A_TOPIC)
        self._turn = random.normal(size=(_LATENT, SIZE))
        self._centres = random.normal(size=(topics, _LATENT))
        self._own_words = random.integers(0, _WORDS, size=(topics, _OWN_WORDS))
        frequencies = 1 / np.arange(1, _WORDS + 1)
        self._frequencies = frequencies / frequencies.sum()

    def questions(self, number: int) -> list[Question]:
        random = np.random.default_rng(self._seed + 1)
        topics = random.integers(0, len(self._centres), number)
        texts = self._texts(topics, 8, random)
        return [Question(*pair) for pair in zip(texts, self._vectors(topics, random), strict=True)]

    def chunks(self) -> Iterator[tuple[list[models.PointStruct], NDArray[np.float32]]]:
        """Points, and the same points' vectors as an array, some thousands at a time."""
        random, encoder = np.random.default_rng(self._seed + 2), Bm25()
        for start in range(0, self.number, _CHUNK):
            topics = random.integers(0, len(self._centres), min(_CHUNK, self.number - start))
            texts, vectors = self._texts(topics, 60, random), self._vectors(topics, random)
            sparse = encoder.embed_documents(texts)
            points = [
                models.PointStruct(
                    id=identity(start + at),
                    vector={
                        DENSE: vectors[at].tolist(),
                        SPARSE: models.SparseVector(indices=sparse[at].indices, values=sparse[at].values),
                    },
                    payload={"page_content": text, "metadata": _metadata(start + at, text)},
                )
                for at, text in enumerate(texts)
            ]
            yield points, vectors

    def _vectors(self, topics: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float32]:
        own = random.normal(size=(len(topics), _LATENT))
        rows = (self._centres[topics] + 0.65 * own) @ self._turn
        rows += 0.15 * np.linalg.norm(rows, axis=1, keepdims=True) / np.sqrt(SIZE) * random.normal(size=rows.shape)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

    def _texts(self, topics: NDArray[np.int64], length: int, random: np.random.Generator) -> list[str]:
        common = random.choice(_WORDS, size=(len(topics), length - length // 3), p=self._frequencies)
        own = self._own_words[topics[:, None], random.integers(0, _OWN_WORDS, size=(len(topics), length // 3))]
        return [" ".join(f"word{word}" for word in row) for row in np.hstack([common, own])]


def _metadata(number: int, text: str) -> dict[str, object]:
    part = PARTS[number % len(PARTS)]
    section = f"{part}.{number // len(PARTS) % 400}"
    return PassageMetadata(
        citation=f"47 CFR {section}",
        heading="A heading of the usual length",
        title="A title",
        part=part,
        section=section,
        source=f"part{part}.txt",
        page=None,
        edition="2025",
        start=0,
        end=len(text),
        document=f"/rules/part{part}.txt#{section}",
        document_hash=f"{number // len(PARTS):064x}",
        document_passages=1,
        ordinal=0,
    ).model_dump()
