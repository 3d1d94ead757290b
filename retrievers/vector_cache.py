"""Computes the vector of each text once: texts that come again are looked up. Knows neither documents nor stores."""

import hashlib
from collections.abc import Sequence

import numpy as np

from retrievers.cache import Cache
from retrievers.embeddings import Dense

_STORED = np.dtype("<f4")


class VectorCache:
    """The document vectors of one model. Without a cache nothing is known and nothing is kept.

    Vectors come as float32 values whether they were computed or looked up, so that both ways fill a store alike.
    """

    def __init__(self, dense: Dense, cache: Cache | None) -> None:
        self._dense, self._cache = dense, cache
        self._model = f"{dense.digest} {dense.size} {dense.limit} ".encode()

    def known(self, texts: Sequence[str]) -> dict[str, list[float]]:
        """The vectors of those texts that were computed before, in whatever collection or edition."""
        if self._cache is None:
            return {}
        keys = {self._key(text): text for text in texts}
        found = self._cache.get([*keys])
        return {keys[key]: np.frombuffer(value, _STORED).tolist() for key, value in found.items()}

    def embed(self, texts: Sequence[str]) -> dict[str, list[float]]:
        """The vectors of texts that are not known; a text that stands there twice is computed once."""
        once = [*dict.fromkeys(texts)]
        vectors = np.asarray(self._dense.embed_documents(once), _STORED)
        if self._cache is not None:
            self._cache.put({self._key(text): vector.tobytes() for text, vector in zip(once, vectors, strict=True)})
        return dict(zip(once, vectors.tolist(), strict=True))

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(self._model + text.encode()).digest()
