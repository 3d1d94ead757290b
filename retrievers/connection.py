"""Makes the Qdrant client and the collection, and refuses what cannot work with one line. Knows no passages.

A server (QDRANT_HOST), or embedded in a folder (QDRANT_PATH): by Qdrant Edge, or by qdrant-client's local mode where
QDRANT_EMBEDDED=local asks for it. The rest of the package need not know which.
"""

import contextlib
import logging
import sqlite3
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx
from filelock import FileLock, Timeout
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from errors import CollectionMismatch, StoreError, StoreLocked
from retrievers.edge import EdgeClient
from retrievers.embeddings import Dense
from settings import Retrieval

DENSE, SPARSE = "dense", "bm25"  # the names of a point's two vectors
_FILTERED = ("part", "section", "source", "edition", "place", "citation", "document", "document_hash")
_PAGE = 500  # points moved at a time
_TIMEOUT = 30  # seconds for one call to a server
PATIENCE = 2  # seconds for the question whether it is there

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Connection:
    """A client, and in `place` what error messages call what it leads to. `lock` keeps its folder ours.

    `probe` leads to the same server as `client`, but gives up soon.
    """

    client: QdrantClient | EdgeClient
    place: str
    lock: FileLock | None = None
    probe: QdrantClient | None = None

    @property
    def embedded(self) -> bool:
        return self.lock is not None

    @property
    def local(self) -> bool:
        """Whether this is qdrant-client's local mode, which takes one call at a time and compares with every point."""
        return self.embedded and isinstance(self.client, QdrantClient)

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
    return _server(settings) if settings.qdrant_host else _folder(path, settings.qdrant_embedded)


def prepare(connection: Connection, collection: str, dense: Dense) -> None:
    """Create the collection if it is missing, and make sure that it was made with this embedding model.

    Raises CollectionMismatch if it was not, and StoreError if the store cannot be used.
    """
    client = connection.client
    with translated(connection.place):
        if isinstance(client, EdgeClient) and not client.collection_exists(collection):
            _move(client, connection.place, collection, dense)
        if not client.collection_exists(collection):
            _create(client, collection, dense)
        info = client.get_collection(collection)
        _check(info.config, collection, dense)
        if not connection.local:  # which has no indexes
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


def _folder(path: Path, engine: Literal["edge", "local"]) -> Connection:
    place = f"the store in {path} (QDRANT_PATH)"
    # qdrant-client has a lock too, but it reads and writes the folder before it looks at it
    lock = FileLock(path / ".fcc-rag.lock", timeout=0, thread_local=False)
    with translated(place):
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise StoreLocked(_in_use(place)) from None
    logger.info("%s is kept by %s", place, "Qdrant Edge" if engine == "edge" else "qdrant-client's local mode")
    try:
        return Connection(EdgeClient(path / "edge") if engine == "edge" else _local(path, place), place, lock)
    except StoreError:
        lock.release()
        raise


def _local(path: Path, place: str) -> QdrantClient:
    warnings.filterwarnings("ignore", message="Local mode is not recommended")  # the store says it in the log
    try:
        return QdrantClient(path=str(path), force_disable_check_same_thread=True)
    except Exception as exc:  # a damaged folder shows in as many ways as it has formats: JSON, SQLite, pickles
        if "already accessed by another instance" in str(exc):  # by a program that is not ours
            raise StoreLocked(_in_use(place)) from exc
        raise StoreError(f"{place} cannot be read: {exc!r}; move it away and ingest again") from exc


def _in_use(place: str) -> str:
    return f"{place} is in use by another process: stop that one, or share a Qdrant server (QDRANT_HOST)"


def _move(client: EdgeClient, place: str, collection: str, dense: Dense) -> None:
    """Take over what local mode, once the default, holds of the collection in the same folder; its files stay.

    The collection gets its name when it is whole: if this is cut off, the next start begins again.
    """
    path, unfinished, moved = client.folder.parent, f"~{collection}", 0  # no COLLECTION_NAME begins like that
    old = path / "collection" / collection
    if not (old / "storage.sqlite").is_file():
        return
    local = _local(path, place)
    try:
        if not local.collection_exists(collection):  # it was cut off while it was made
            return
        _check(local.get_collection(collection).config, collection, dense)
        client.delete_collection(unfinished)
        _create(client, unfinished, dense)
        records, following = local.scroll(collection, limit=_PAGE, with_vectors=True)
        while records:
            points = [models.PointStruct.model_construct(id=one.id, vector=one.vector, payload=one.payload) for one in records]
            client.upsert(unfinished, points)
            moved += len(points)
            if following is None:
                break
            records, following = local.scroll(collection, limit=_PAGE, offset=following, with_vectors=True)
        client.rename_collection(unfinished, collection)
    finally:
        local.close()
    logger.info("%s: moved %d passages into Qdrant Edge; %s is not read again and can be deleted", place, moved, old)


def _create(client: QdrantClient | EdgeClient, collection: str, dense: Dense) -> None:
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
