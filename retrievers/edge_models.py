"""Turns qdrant-client's filters, points and vectors into Qdrant Edge's, and back. Knows no files and no shards.

What has no counterpart, or one that nothing here needs, is refused with a StoreError: never answered in another way.
"""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import qdrant_edge as edge
from qdrant_client import models

from errors import StoreError

INDEXED_FROM = 10_000  # kilobytes of vectors; comparing with fewer is as fast as an index, and exact


def unsupported(what: str) -> StoreError:
    """The error for what only a Qdrant server can do."""
    return StoreError(f"the embedded store (Qdrant Edge) does no {what}; a Qdrant server may (QDRANT_HOST)")


def to_config(vectors: Mapping[str, models.VectorParams], sparse: Mapping[str, models.SparseVectorParams]) -> edge.EdgeConfig:
    for name, params in [*vectors.items(), *sparse.items()]:
        if other := params.model_dump(exclude_none=True).keys() - {"size", "distance", "modifier"}:
            raise unsupported(f"{min(other)} for the vector {name}")
    if any(params.distance is not models.Distance.COSINE for params in vectors.values()):
        raise unsupported("distance but the cosine")
    return edge.EdgeConfig(
        vectors={name: edge.EdgeVectorParams(params.size, edge.Distance.Cosine) for name, params in vectors.items()},
        sparse_vectors={name: edge.EdgeSparseVectorParams(modifier=_modifier(params)) for name, params in sparse.items()},
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=INDEXED_FROM),
    )


def to_filter(where: models.Filter | None) -> edge.Filter | None:
    if where is None:
        return None
    least = where.min_should
    return edge.Filter(
        must=_conditions(where.must),
        should=_conditions(where.should),
        must_not=_conditions(where.must_not),
        min_should=edge.MinShould(_conditions(least.conditions) or [], least.min_count) if least else None,
    )


def to_deletion(selector: object) -> edge.UpdateOperation:
    """The deletion of what a filter matches, or of the points with these ids."""
    where = selector.filter if isinstance(selector, models.FilterSelector) else selector
    if isinstance(where, models.Filter) and (found := to_filter(where)) is not None:
        return edge.UpdateOperation.delete_points_by_filter(found)
    if isinstance(where, list):
        return edge.UpdateOperation.delete_points([to_id(identity) for identity in where])
    raise unsupported(f"selector of the kind {type(where).__name__}")


def to_point(point: models.PointStruct, made: models.CreateCollection) -> edge.Point:
    """The point, if its vectors are those of the collection.

    Edge finds out only when it has written the point to its log, from which nothing can be taken back.
    """
    if not isinstance(point.vector, dict):
        raise unsupported("points without named vectors")
    dense = made.vectors if isinstance(made.vectors, dict) else {}
    vectors: dict[str, Any] = {}
    for name, value in point.vector.items():
        if isinstance(value, models.SparseVector) and name in (made.sparse_vectors or {}):
            if not len(value.values) == len(value.indices) == len(set(value.indices)):
                raise StoreError(f"the vector {name} of point {point.id} has not one value for each index")
            vectors[name] = _sparse(value)
        elif isinstance(value, list) and name in dense and len(value) == dense[name].size:
            vectors[name] = value
        else:
            raise StoreError(f"the vector {name} of point {point.id} does not fit the collection")
    return edge.Point(to_id(point.id), vectors, point.payload)


def to_query(query: object, using: str | None) -> edge.Query:
    """The search for what is nearest to a dense or a sparse vector."""
    if isinstance(query, models.SparseVector):
        return edge.Query.Nearest(_sparse(query), using=using)
    if isinstance(query, list) and all(isinstance(value, int | float) for value in query):
        return edge.Query.Nearest(query, using=using)
    raise unsupported(f"query of the kind {type(query).__name__}")


def to_params(params: models.SearchParams | None) -> edge.SearchParams | None:
    if params is None:
        return None
    if other := params.model_dump(exclude_none=True).keys() - {"hnsw_ef", "exact"}:
        raise unsupported(f"search parameter {min(other)}")
    return edge.SearchParams(hnsw_ef=params.hnsw_ef, exact=bool(params.exact))


def to_names(wanted: object) -> bool | list[str]:
    """Which fields of the payload, or which vectors, are wanted: all, none, or those named."""
    if isinstance(wanted, bool | list):
        return wanted
    raise unsupported(f"selector of the kind {type(wanted).__name__}")


def to_id(identity: object) -> int | UUID:
    if isinstance(identity, int | UUID):
        return identity
    try:
        return UUID(str(identity))
    except ValueError:
        raise StoreError(f"{identity!r} is no point id: it must be a number or a UUID") from None


def id_of(identity: object) -> int | str:
    return identity if isinstance(identity, int) else str(identity)


def record_of(record: edge.Record) -> models.Record:
    # not validated: this is the inner loop of every call, and what Edge returns is known
    return models.Record.model_construct(id=id_of(record.id), payload=record.payload, vector=_vectors(record.vector))


def scored_point_of(point: edge.ScoredPoint) -> models.ScoredPoint:
    return scored_point(point, point.score)


def scored_point(found: edge.ScoredPoint | edge.Record, score: float) -> models.ScoredPoint:
    return models.ScoredPoint.model_construct(
        id=id_of(found.id), version=0, score=score, payload=found.payload, vector=_vectors(found.vector)
    )


def info_of(info: Any, made: models.CreateCollection) -> models.CollectionInfo:
    keyword = models.PayloadSchemaType.KEYWORD  # `create_payload_index` makes no others
    return models.CollectionInfo(
        status=models.CollectionStatus.GREEN,
        optimizer_status=models.OptimizersStatusOneOf.OK,
        points_count=info.points_count,
        indexed_vectors_count=info.indexed_vectors_count,
        segments_count=info.segments_count,
        payload_schema={
            name: models.PayloadIndexInfo(data_type=keyword, points=index.points) for name, index in info.payload_schema.items()
        },
        config=models.CollectionConfig(
            params=models.CollectionParams(vectors=made.vectors, sparse_vectors=made.sparse_vectors),
            hnsw_config=models.HnswConfig(m=16, ef_construct=100, full_scan_threshold=10_000),  # Edge's defaults
            optimizer_config=models.OptimizersConfig(
                deleted_threshold=0.2, vacuum_min_vector_number=1000, default_segment_number=0, flush_interval_sec=0
            ),
            metadata=made.metadata,
        ),
    )


def _modifier(params: models.SparseVectorParams) -> edge.Modifier | None:
    return edge.Modifier.Idf if params.modifier is models.Modifier.IDF else None


def _sparse(vector: models.SparseVector) -> edge.SparseVector:
    return edge.SparseVector(list(vector.indices), list(vector.values))


def _conditions(conditions: Any) -> list[Any] | None:
    if conditions is None:
        return None
    several = conditions if isinstance(conditions, list) else [conditions]
    return [_condition(one) for one in several] or None


def _condition(condition: object) -> Any:
    match condition:
        case models.FieldCondition():
            return _field(condition)
        case models.HasIdCondition():
            return edge.HasIdCondition({to_id(identity) for identity in condition.has_id})
        case models.IsEmptyCondition():
            return edge.IsEmptyCondition(condition.is_empty.key)
        case models.IsNullCondition():
            return edge.IsNullCondition(condition.is_null.key)
        case models.Filter():
            return to_filter(condition)
    raise unsupported(f"condition of the kind {type(condition).__name__}")


def _field(condition: models.FieldCondition) -> edge.FieldCondition:
    asked = {name for name in type(condition).model_fields if getattr(condition, name) is not None} - {"key"}
    if asked == {"match"}:
        return edge.FieldCondition(condition.key, match=_match(condition.match))
    bounds = condition.range
    if asked == {"range"} and isinstance(bounds, models.Range):
        limits = edge.RangeFloat(gte=bounds.gte, gt=bounds.gt, lte=bounds.lte, lt=bounds.lt)
        return edge.FieldCondition(condition.key, range=limits)
    raise unsupported(f"condition on {condition.key} by {' and '.join(sorted(asked)) or 'nothing'}")


def _match(match: object) -> Any:
    if isinstance(match, models.MatchValue):
        return edge.MatchValue(match.value)
    if isinstance(match, models.MatchAny):
        return edge.MatchAny([*match.any])
    if isinstance(match, models.MatchExcept):
        return edge.MatchExcept([*match.except_])
    raise unsupported(f"condition of the kind {type(match).__name__}")


def _vectors(vectors: Any) -> dict[str, Any] | None:
    if not isinstance(vectors, dict):
        return None
    return {
        name: models.SparseVector.model_construct(indices=value.indices, values=value.values)
        if isinstance(value, edge.SparseVector)
        else value
        for name, value in vectors.items()
    }
