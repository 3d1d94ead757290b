"""Makes the Qdrant client and the collection, and refuses what cannot work with one line. Knows no passages.

Embedded in a folder (QDRANT_PATH) or a server (QDRANT_HOST): the rest of the package need not know which.
"""

import contextlib
import logging
import sqlite3
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock, Timeout
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from errors import CollectionMismatch, StoreError, StoreLocked
from retrievers.embeddings import Dense
from settings import Retrieval

DENSE, SPARSE = "dense", "bm25"  # the names of a point's two vectors
_FILTERED = ("part", "section", "source", "citation", "document", "document_hash")
_TIMEOUT = 30  # seconds for one call to a server
PATIENCE = 2  # seconds for the question whether it is there

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connection:
    """A client, and in `place` what error messages call what it leads to. `lock` keeps its folder ours.

    `probe` leads to the same server as `client`, but gives up soon.
    """

    client: QdrantClient
    place: str
    lock: FileLock | None = None
    probe: QdrantClient | None = None

    @property
    def embedded(self) -> bool:
        return self.lock is not None

    def close(self) -> None:
        self.client.close()
        if self.probe is not None:
            self.probe.close()
        if self.lock is not None:
            self.lock.release()


def connect(settings: Retrieval, path: Path) -> Connection:
    """The server that QDRANT_HOST names, or the embedded store in the folder `path`.

    Raises StoreLocked if another process holds the folder, and StoreError if it cannot be read.
    """
    return _server(settings) if settings.qdrant_host else _folder(path)


def prepare(connection: Connection, collection: str, dense: Dense) -> None:
    """Create the collection if it is missing, and make sure that it was made with this embedding model.

    Raises CollectionMismatch if it was not, and StoreError if the store cannot be used.
    """
    client = connection.client
    with translated(connection.place):
        if not client.collection_exists(collection):
            _create(client, collection, dense)
        info = client.get_collection(collection)
        _check(info.config, collection, dense)
        if not connection.embedded:  # an embedded store has no indexes
            for field in sorted({f"metadata.{name}" for name in _FILTERED} - info.payload_schema.keys()):
                client.create_payload_index(collection, field, models.PayloadSchemaType.KEYWORD, wait=True)


@contextlib.contextmanager
def translated(place: str) -> Iterator[None]:
    """Whatever a client or the disk may raise, as a StoreError of one line that begins with the place."""
    try:
        yield
    except UnexpectedResponse as exc:
        if exc.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            raise StoreError(f"{place} refuses the request ({exc.status_code}): check QDRANT_API_KEY") from exc
        said = " ".join(exc.content.decode(errors="replace")[:200].split())
        raise StoreError(f"{place} answered {exc.status_code} {exc.reason_phrase}: {said}") from exc
    except (ApiException, QdrantException, httpx.HTTPError, OSError, sqlite3.Error) as exc:
        said = " ".join(str(exc).split()) or type(exc).__name__
        raise StoreError(f"{place} cannot be used: {said}") from exc


def _server(settings: Retrieval) -> Connection:
    host, key = settings.qdrant_host, settings.qdrant_api_key.get_secret_value()
    url = host if "://" in host else f"{'https' if settings.qdrant_https else 'http'}://{host}"
    if key and url.startswith("http://"):
        logger.warning("QDRANT_API_KEY is sent unencrypted; QDRANT_HTTPS=true if the server speaks TLS")
    warnings.filterwarnings("ignore", message="Api key is used with an insecure connection")  # said above
    try:
        client, probe = (
            QdrantClient(url=url, port=settings.qdrant_port, api_key=key or None, timeout=seconds, check_compatibility=False)
            for seconds in (_TIMEOUT, PATIENCE)
        )
    except ValueError as exc:
        raise StoreError(f"QDRANT_HOST: {host!r} is no host name and no URL: {exc}") from exc
    return Connection(client, f"Qdrant at {url}, port {settings.qdrant_port} (QDRANT_HOST)", probe=probe)


def _folder(path: Path) -> Connection:
    place = f"the store in {path} (QDRANT_PATH)"
    in_use = f"{place} is in use by another process: stop that one, or share a Qdrant server (QDRANT_HOST)"
    # qdrant-client has a lock too, but it reads and writes the folder before it looks at it
    lock = FileLock(path / ".fcc-rag.lock", timeout=0, thread_local=False)
    with translated(place):
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLocked(in_use) from None
    warnings.filterwarnings("ignore", message="Local mode is not recommended")  # the store says it in the log
    try:
        return Connection(QdrantClient(path=str(path), force_disable_check_same_thread=True), place, lock)
    except Exception as exc:  # a damaged folder shows in as many ways as it has formats: JSON, SQLite, pickles
        lock.release()
        if "already accessed by another instance" in str(exc):  # by a program that is not ours
            raise StoreLocked(in_use) from exc
        raise StoreError(f"{place} cannot be read: {exc!r}; move it away and ingest again") from exc


def _create(client: QdrantClient, collection: str, dense: Dense) -> None:
    try:
        client.create_collection(
            collection,
            vectors_config={DENSE: models.VectorParams(size=dense.size, distance=models.Distance.COSINE)},
            sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            metadata={"embedding_model": dense.name, "embedding_digest": dense.digest},
        )
    except UnexpectedResponse as exc:
        if exc.status_code != httpx.codes.CONFLICT:  # another process was faster
            raise


def _check(config: models.CollectionConfig, collection: str, dense: Dense) -> None:
    vectors, sparse = config.params.vectors, config.params.sparse_vectors or {}
    vector = vectors.get(DENSE) if isinstance(vectors, dict) else None
    made_by = config.metadata or {}
    if vector is None or SPARSE not in sparse or "embedding_digest" not in made_by:
        raise CollectionMismatch(
            f"the collection {collection} was not made by fcc-rag, or on a Qdrant server older than 1.16: "
            "set another COLLECTION_NAME and ingest again"
        )
    if (vector.size, made_by["embedding_digest"]) != (dense.size, dense.digest):
        theirs = f"{made_by['embedding_model']} ({vector.size} dimensions, weights {made_by['embedding_digest']})"
        ours = f"{dense.name} ({dense.size} dimensions, weights {dense.digest})"
        raise CollectionMismatch(
            f"the collection {collection} was made with the embedding model {theirs}, but EMBEDDING_MODEL is {ours}: "
            "set it back, or set another COLLECTION_NAME and ingest again"
        )
