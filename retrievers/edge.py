"""Qdrant's engine inside this process, behind the calls of qdrant-client that the store and LangChain make.

Knows no passages, and nothing about how a collection's files are kept: see edge_shard.
"""

import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.models import QueryResponse  # `models` has another of this name

from errors import StoreError
from retrievers import edge_models, edge_query
from retrievers.edge_models import unsupported
from retrievers.edge_shard import ABOUT, Collection, reported, sync


class EdgeClient:
    """The collections in one folder, which belong to this process alone. Any thread may call any method.

    Methods and types are QdrantClient's. When one that writes returns, what it wrote outlives a crash. Each may raise
    StoreError for what is not supported, and EdgeFailure for what fails.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, Collection] = {}
        self._closed = False
        self._lock = threading.Lock()

    def collection_exists(self, collection_name: str) -> bool:
        return (self._place(collection_name) / ABOUT).is_file()

    def create_collection(
        self,
        collection_name: str,
        *,
        vectors_config: Mapping[str, models.VectorParams],
        sparse_vectors_config: Mapping[str, models.SparseVectorParams],
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        made = models.CreateCollection(
            vectors=dict(vectors_config), sparse_vectors=dict(sparse_vectors_config), metadata=metadata
        )
        config = edge_models.to_config(vectors_config, sparse_vectors_config)
        with self._lock:
            if self.collection_exists(collection_name):
                raise StoreError(f"there is a collection {collection_name} already")
            self._opened[collection_name] = Collection.create(self._place(collection_name), made, config)
        return True

    def rename_collection(self, collection_name: str, new_name: str) -> None:
        """Give a collection another name, wholly or not at all. QdrantClient has nothing like it."""
        with self._lock:
            self._let_go(collection_name)
            self._place(collection_name).rename(self._place(new_name))
            sync(self.folder)

    def delete_collection(self, collection_name: str) -> bool:
        existed = self.collection_exists(collection_name)
        with self._lock:
            self._let_go(collection_name)
            (self._place(collection_name) / ABOUT).unlink(missing_ok=True)
            shutil.rmtree(self._place(collection_name), ignore_errors=True)
        return existed

    def get_collection(self, collection_name: str) -> models.CollectionInfo:
        collection = self._collection(collection_name)
        with collection.reading() as shard:
            return edge_models.info_of(shard.info(), collection.made)

    def update_collection(self, collection_name: str, *, metadata: dict[str, Any]) -> bool:
        self._collection(collection_name).describe(metadata)
        return True

    def create_payload_index(
        self,
        collection_name: str,
        field_name: str,
        field_schema: models.PayloadSchemaType,
        *,
        wait: bool = True,  # noqa: ARG002
    ) -> models.UpdateResult:
        if field_schema is not models.PayloadSchemaType.KEYWORD:
            raise unsupported(f"payload index of the kind {field_schema.value}")
        made = edge.UpdateOperation.create_field_index(field_name, edge.PayloadSchemaType.Keyword)
        return self._update(collection_name, made)

    def upsert(
        self,
        collection_name: str,
        points: Sequence[models.PointStruct],
        *,
        wait: bool = True,  # noqa: ARG002 -- it always does
    ) -> models.UpdateResult:
        made = self._collection(collection_name).made
        with reported():
            written = edge.UpdateOperation.upsert_points([edge_models.to_point(point, made) for point in points])
        return self._update(collection_name, written)

    def delete(
        self,
        collection_name: str,
        points_selector: models.FilterSelector | models.Filter | Sequence[models.ExtendedPointId],
        *,
        wait: bool = True,  # noqa: ARG002 -- it always does
    ) -> models.UpdateResult:
        return self._update(collection_name, edge_models.to_deletion(points_selector))

    def count(self, collection_name: str, count_filter: models.Filter | None = None, *, exact: bool = True) -> models.CountResult:
        request = edge.CountRequest(exact=exact, filter=edge_models.to_filter(count_filter))
        with self._collection(collection_name).reading() as shard:
            return models.CountResult(count=shard.count(request))

    def scroll(
        self,
        collection_name: str,
        scroll_filter: models.Filter | None = None,
        limit: int = 10,
        *,
        offset: models.ExtendedPointId | None = None,
        with_payload: bool | Sequence[str] = True,
        with_vectors: bool | Sequence[str] = False,
    ) -> tuple[list[models.Record], models.ExtendedPointId | None]:
        """A page of the points in the order of their ids, and the id that the next page begins with."""
        request = edge.ScrollRequest(
            offset=None if offset is None else edge_models.to_id(offset),
            limit=limit,
            filter=edge_models.to_filter(scroll_filter),
            with_payload=edge_models.to_names(with_payload),
            with_vector=edge_models.to_names(with_vectors),
        )
        with self._collection(collection_name).reading() as shard:
            records, following = shard.scroll(request)
        return [edge_models.record_of(one) for one in records], None if following is None else edge_models.id_of(following)

    def retrieve(
        self,
        collection_name: str,
        ids: Sequence[models.ExtendedPointId],
        with_payload: bool | Sequence[str] = True,
        with_vectors: bool | Sequence[str] = False,
    ) -> list[models.Record]:
        """The points in the order of `ids`, without those that are not there."""
        with self._collection(collection_name).reading() as shard:
            return edge_query.retrieved(shard, ids, with_payload, with_vectors)

    def query_points(
        self,
        collection_name: str,
        query: Any = None,
        *,
        using: str | None = None,
        prefetch: models.Prefetch | list[models.Prefetch] | None = None,
        query_filter: models.Filter | None = None,
        search_params: models.SearchParams | None = None,
        limit: int = 10,
        offset: int | None = None,
        with_payload: bool | Sequence[str] = True,
        with_vectors: bool | Sequence[str] = False,
        score_threshold: float | None = None,
        consistency: models.ReadConsistency | None = None,  # noqa: ARG002 -- there is one copy
    ) -> QueryResponse:
        """The nearest points to a dense or a sparse vector, or those of several such searches fused by reciprocal rank."""
        question = edge_query.Question(
            query, using, prefetch, query_filter, search_params, limit, offset or 0, with_payload, with_vectors, score_threshold
        )
        with self._collection(collection_name).reading() as shard:
            return QueryResponse.model_construct(points=edge_query.answered(shard, question))

    def optimize(self, collection_name: str) -> bool:
        """Build the indexes, which can take minutes, while reads go on; see `Collection.optimize`."""
        return self._collection(collection_name).optimize()

    def close(self) -> None:
        """Wait for the calls under way, then let the folder go. May be called again."""
        with self._lock:
            self._closed = True
            for name in [*self._opened]:
                self._let_go(name)

    def _update(self, collection_name: str, operation: edge.UpdateOperation) -> models.UpdateResult:
        self._collection(collection_name).update(operation)
        return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)

    def _collection(self, collection_name: str) -> Collection:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.folder} has been closed")
            if collection_name not in self._opened:
                if not self.collection_exists(collection_name):
                    raise StoreError(f"there is no collection {collection_name} in {self.folder}")
                self._opened[collection_name] = Collection.load(self._place(collection_name))
            return self._opened[collection_name]

    def _let_go(self, collection_name: str) -> None:
        if (collection := self._opened.pop(collection_name, None)) is not None:
            collection.close()

    def _place(self, collection_name: str) -> Path:
        return self.folder / f"{collection_name}.collection"  # so that ".." is a name like any other
