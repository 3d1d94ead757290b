"""The Qdrant collection that holds the passages, embedded in a folder or on a server. Knows no files and no citations.

Searches run beside each other and beside writes. Only qdrant-client's local mode is not thread-safe: every call on it runs
under one lock, held for that call alone. Callers on an event loop use `run`.
"""

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar, cast

import numpy as np
from langchain_qdrant import QdrantVectorStore, RetrievalMode
from numpy.typing import NDArray
from pydantic import BaseModel
from qdrant_client import QdrantClient, models

from errors import StoreError
from retrievers.connection import DENSE, PATIENCE, SPARSE, Connection, connect, prepare, translated
from retrievers.documents import Passage
from retrievers.edge import EdgeClient
from retrievers.embeddings import Bm25, Dense
from settings import Retrieval

_THRESHOLD = "min_score"
_PAGE = 2000  # points read in one call
_LARGE = 20_000  # passages from which on qdrant-client calls its local mode too slow
_THREADS = 8  # for those who wait on an event loop

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


class Copy(NamedTuple):
    """What the store holds of one version of a document; that version is whole if `found` equals `expected`."""

    hash: str
    found: int
    expected: int


class Source(BaseModel):
    """How much is indexed of one source in one part of the rules."""

    source: str
    part: str
    documents: int
    passages: int


class Store:
    """One collection and all that is done with it. Any thread may call any method; each may raise StoreError."""

    def __init__(self, connection: Connection, collection: str, dense: Dense) -> None:
        self.collection, self.dense = collection, dense
        self.sparse = Bm25()
        self.client, self.place, self.embedded = connection.client, connection.place, connection.embedded
        self._connection = connection
        self._lock = threading.RLock()
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="store-check")  # not behind those who wait for a search
        self._sources: list[Source] | None = None
        self._writes = 0
        self._closed = self._told_large = False
        self.vectors = self._vector_store(RetrievalMode.HYBRID)
        self._by_meaning = self._vector_store(RetrievalMode.DENSE)
        self._by_words = self._vector_store(RetrievalMode.SPARSE)
        self._tell_if_large()

    @property
    def writes(self) -> int:
        """Goes up with every write of this process."""
        return self._writes

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking function on the store's own threads: neither the event loop nor its executor waits for it."""
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(function, *args, **kwargs))

    async def check(self) -> None:
        """Return if the collection can be used, without waiting for other calls, nor for a server longer than `PATIENCE`."""
        if self.embedded:
            self.ping()
            return
        self._check_open()
        asked = asyncio.get_running_loop().run_in_executor(self._checker, self.ping)
        try:
            await asyncio.wait_for(asked, PATIENCE)
        except TimeoutError:
            raise StoreError(f"{self.place} does not answer within {PATIENCE} s") from None

    def ping(self) -> None:
        """Return if the collection can be used. An embedded one is ours alone until it is closed: nobody is asked."""
        self._check_open()
        if (probe := self._connection.probe) is not None:
            with translated(self.place):
                if not probe.collection_exists(self.collection):
                    raise StoreError(f"{self.place} has no collection {self.collection}; start again to create it")

    def count(self) -> int:
        """How many passages are indexed."""
        with self._calling():
            return self.client.count(self.collection, exact=True).count

    def documents(self) -> dict[str, list[Copy]]:
        """What is held of each document, by its uri: usually one copy, more after an ingestion was cut off."""
        found: Counter[tuple[str, str, int]] = Counter(
            (metadata["document"], metadata["document_hash"], metadata["document_passages"])
            for metadata in self._metadata("document", "document_hash", "document_passages")
        )
        copies: dict[str, list[Copy]] = {}
        for (uri, document_hash, expected), number in found.items():
            copies.setdefault(uri, []).append(Copy(document_hash, number, expected))
        return copies

    def sources(self) -> list[Source]:
        """What is indexed, source by source, in order."""
        known, writes = self._sources, self._writes
        if known is None:
            passages: Counter[tuple[str, str]] = Counter()
            documents: dict[tuple[str, str], set[str]] = {}
            for metadata in self._metadata("source", "part", "document"):
                key = metadata["source"], metadata["part"]
                passages[key] += 1
                documents.setdefault(key, set()).add(metadata["document"])
            known = [
                Source(source=source, part=part, documents=len(documents[source, part]), passages=number)
                for (source, part), number in sorted(passages.items())
            ]
            with self._lock:
                if self.embedded and writes == self._writes:  # on a server, others write too
                    self._sources = known
        return known

    def editions(self) -> dict[str, set[str]]:
        """The names of the editions that are held of each place that can be cited."""
        held: dict[str, set[str]] = {}
        for metadata in self._metadata("place", "edition"):
            if metadata.get("place"):  # passages of before 0.2 have none until they are ingested again
                held.setdefault(metadata["place"], set()).add(metadata["edition"])
        return held

    def threshold(self) -> float | None:
        """The MIN_SCORE that was found for this collection by `fcc-rag eval calibrate`, if it was."""
        with self._calling():
            found = (self.client.get_collection(self.collection).config.metadata or {}).get(_THRESHOLD)
        return None if found is None else float(found)

    def set_threshold(self, value: float) -> None:
        """Keep a MIN_SCORE with the collection, for every later start."""
        with self._calling():
            self.client.update_collection(self.collection, metadata={_THRESHOLD: value})

    def upsert(self, points: Sequence[models.PointStruct]) -> None:
        """Write points; when this returns they are stored."""
        with self._calling():
            self.client.upsert(self.collection, list(points), wait=True)
        self._forget_sources()
        self._tell_if_large()

    def delete(self, documents: Sequence[str], *, keep: Sequence[str] = ()) -> None:
        """Remove all passages of the documents, but for those that carry one of the hashes in `keep`."""
        where = models.Filter(must=[among("document", documents)], must_not=[among("document_hash", keep)] if keep else None)
        with self._calling():
            self.client.delete(self.collection, models.FilterSelector(filter=where), wait=True)
        self._forget_sources()

    def optimize(self) -> None:
        """Make an embedded store fast again after much was written, which can take minutes; a server does so by itself.

        Searches and writes go on meanwhile, and whatever ends the process costs only this work.
        """
        if isinstance(self.client, EdgeClient):
            with self._calling():
                self.client.optimize(self.collection)

    def search(self, query: str, limit: int, where: models.Filter | None = None) -> list[tuple[Passage, float]]:
        """The best `limit` passages by dense and BM25 search, fused by reciprocal rank, with the fused score."""
        if not self.sparse.embed_query(query).indices:  # a question of stop words alone
            return self.nearest(query, limit, where)
        self.dense.embed_query(query)  # it is remembered, so nobody waits at the lock while it is made
        with self._calling():
            found = self.vectors.similarity_search_with_score(query, limit, filter=where)
        return [(_clean(passage), score) for passage, score in found]

    def nearest(self, query: str, limit: int, where: models.Filter | None = None) -> list[tuple[Passage, float]]:
        """The passages whose dense vectors are nearest to the question's, with the cosine; equal ones by id."""
        self.dense.embed_query(query)  # as in `search`
        return self._best(self._by_meaning, query, limit, where)

    def ranked(
        self, query: str, limit: int, where: models.Filter | None = None
    ) -> tuple[list[tuple[Passage, float]], list[tuple[Passage, float]]]:
        """The best `limit` passages by dense search, with their cosine, and by BM25, with its score; equal scores by id.

        The second is empty if the question consists of stop words alone, or shares no word with any passage.
        """
        has_words = bool(self.sparse.embed_query(query).indices)
        return self.nearest(query, limit, where), self._best(self._by_words, query, limit, where) if has_words else []

    def vectors_of(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The dense vectors of these points, each of length one."""
        with self._calling():
            records = self.client.retrieve(self.collection, list(ids), with_payload=False, with_vectors=[DENSE])
        return {
            str(record.id): np.asarray(record.vector[DENSE], np.float32) for record in records if isinstance(record.vector, dict)
        }

    def cosines(self, query: str, ids: Sequence[str]) -> dict[str, float]:
        """The cosine between the question and each of the points."""
        vector = np.asarray(self.dense.embed_query(query))
        return {identity: float(vector @ other) for identity, other in self.vectors_of(ids).items()}

    def close(self) -> None:
        """Let the calls under way end, then give up the client and the folder. May be called again."""
        self._executor.shutdown(cancel_futures=True)
        with self._lock:
            self._closed = True
            self._checker.shutdown(wait=False, cancel_futures=True)
            self._connection.close()

    def passages(self, where: models.Filter) -> list[Passage]:
        """All passages that match, document by document, each in its own order."""
        found = [_passage(record) for record in self._records(True, where)]
        return sorted(found, key=lambda passage: (passage.metadata["document"], passage.metadata["ordinal"]))

    def _vector_store(self, mode: RetrievalMode) -> QdrantVectorStore:
        return QdrantVectorStore(
            cast(QdrantClient, self.client),  # an EdgeClient has the methods that are called
            self.collection,
            embedding=self.dense,
            retrieval_mode=mode,
            vector_name=DENSE,
            sparse_embedding=self.sparse,
            sparse_vector_name=SPARSE,
            validate_embeddings=False,
            validate_collection_config=False,  # `prepare` has checked more than it would
        )

    def _best(
        self, vectors: QdrantVectorStore, query: str, limit: int, where: models.Filter | None
    ) -> list[tuple[Passage, float]]:
        with self._calling():
            found = vectors.similarity_search_with_score(query, limit, filter=where)
        return sorted(((_clean(passage), score) for passage, score in found), key=lambda hit: (-hit[1], str(hit[0].id)))

    def _metadata(self, *fields: str) -> Iterator[dict[str, Any]]:
        wanted = [f"metadata.{name}" for name in fields]
        return (record.payload["metadata"] for record in self._records(wanted) if record.payload)

    def _records(self, wanted: list[str] | bool, where: models.Filter | None = None) -> Iterator[models.Record]:
        offset: Any = None
        while True:
            with self._calling():
                records, offset = self.client.scroll(self.collection, where, limit=_PAGE, offset=offset, with_payload=wanted)
            yield from records
            if offset is None:
                return

    @contextlib.contextmanager
    def _calling(self) -> Iterator[None]:
        """What every call on the client runs in: the lock if local mode needs it, and one line for whatever fails."""
        with self._lock if self._connection.local else contextlib.nullcontext(), translated(self.place):
            self._check_open()
            yield

    def _forget_sources(self) -> None:
        with self._lock:
            self._sources, self._writes = None, self._writes + 1

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.place} has been closed")

    def _tell_if_large(self) -> None:
        if self._connection.local and not self._told_large and (count := self.count()) > _LARGE:
            self._told_large = True
            logger.warning("%s holds %d passages; from %d on QDRANT_EMBEDDED=edge is faster", self.place, count, _LARGE)


def open(settings: Retrieval, path: Path, dense: Dense) -> Store:  # noqa: A001 -- it is read as `store.open`
    """The collection the settings name, created if missing, in the folder `path` unless QDRANT_HOST names a server.

    Raises StoreLocked if another process holds the folder, CollectionMismatch if the collection was made with another
    embedding model, and StoreError if the store cannot be reached or read.
    """
    connection = connect(settings, path)
    try:
        prepare(connection, settings.collection_name, dense)
        return Store(connection, settings.collection_name, dense)
    except BaseException:
        connection.close()
        raise


def among(name: str, values: Sequence[str]) -> models.FieldCondition:
    """The condition that a passage's metadata has one of these values."""
    return models.FieldCondition(key=f"metadata.{name}", match=models.MatchAny(any=list(values)))


def equals(name: str, value: str) -> models.FieldCondition:
    """The condition that a passage's metadata has this value."""
    return models.FieldCondition(key=f"metadata.{name}", match=models.MatchValue(value=value))


def _passage(record: models.Record) -> Passage:
    payload = record.payload or {}
    return Passage(id=str(record.id), page_content=payload["page_content"], metadata=payload["metadata"])


def _clean(passage: Passage) -> Passage:
    """Take out what langchain-qdrant adds to the metadata."""
    identity = str(passage.metadata.pop("_id"))
    passage.metadata.pop("_collection_name")
    return Passage(id=identity, page_content=passage.page_content, metadata=passage.metadata)
