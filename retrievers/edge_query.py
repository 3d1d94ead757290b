"""Answers searches from a shard of Qdrant Edge: one vector, or several searches fused. Knows no files and no passages.

Equal scores are put in the order of their ids and the fusion is qdrant-client's own, so that the same points give the same
answer after a restart or an optimisation. Edge's own fusion leaves the order of equals open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.hybrid.fusion import reciprocal_rank_fusion

from retrievers import edge_models
from retrievers.edge_models import unsupported


@dataclass(frozen=True, slots=True)
class Question:
    """The arguments of `query_points`."""

    query: Any
    using: str | None
    prefetch: models.Prefetch | list[models.Prefetch] | None
    query_filter: models.Filter | None
    search_params: models.SearchParams | None
    limit: int
    offset: int
    with_payload: Any
    with_vectors: Any
    score_threshold: float | None


@dataclass(slots=True)
class _Hit:
    """As much of a point as fusing needs; whole points take more time to make than Edge takes to find them."""

    id: Any
    score: float


def answered(shard: edge.EdgeShard, asked: Question) -> list[models.ScoredPoint]:
    """The points that answer, best first."""
    if asked.prefetch:
        return _with_contents(shard, _fused(shard, asked), asked)
    request = edge.QueryRequest(
        limit=asked.limit,
        offset=asked.offset,
        query=edge_models.to_query(asked.query, asked.using),
        filter=edge_models.to_filter(asked.query_filter),
        params=edge_models.to_params(asked.search_params),
        score_threshold=asked.score_threshold,
        with_payload=edge_models.to_names(asked.with_payload),
        with_vector=edge_models.to_names(asked.with_vectors),
    )
    return [edge_models.scored_point_of(point) for point in _ordered(shard.query(request))]


def retrieved(
    shard: edge.EdgeShard, ids: Sequence[models.ExtendedPointId], with_payload: Any, with_vectors: Any
) -> list[models.Record]:
    """The points in the order of `ids`, each once, without those that are not there."""
    wanted = list(dict.fromkeys(edge_models.to_id(identity) for identity in ids))
    records = shard.retrieve([*wanted], edge_models.to_names(with_payload), edge_models.to_names(with_vectors))
    found = {record.id: record for record in map(edge_models.record_of, records)}
    return [found[identity] for identity in map(edge_models.id_of, wanted) if identity in found]


def _fused(shard: edge.EdgeShard, asked: Question) -> list[_Hit]:
    if asked.score_threshold is not None or asked.search_params is not None:
        raise unsupported("score threshold or search parameters on a fusion; they belong to its parts")
    constant, weights = _fusion(asked.query)
    parts = asked.prefetch if isinstance(asked.prefetch, list) else [asked.prefetch]
    requests = [_part(part, asked.query_filter) for part in parts if part is not None]
    answers = shard.query_batch(edge.QueryBatchRequest(requests))
    ranked: Any = [[_Hit(point.id, point.score) for point in _ordered(answer)] for answer in answers]
    fused: Any = reciprocal_rank_fusion(ranked, asked.limit + asked.offset, constant, weights)
    return list(fused[asked.offset :])


def _fusion(query: object) -> tuple[int | None, list[float] | None]:
    """The constant and the weights of a reciprocal rank fusion; None is qdrant-client's own."""
    if isinstance(query, models.FusionQuery) and query.fusion is models.Fusion.RRF:
        return None, None
    if isinstance(query, models.RrfQuery):
        return query.rrf.k, query.rrf.weights
    raise unsupported("combination of searches but by reciprocal rank")


def _part(part: models.Prefetch, outer: models.Filter | None) -> edge.QueryRequest:
    if part.prefetch or part.lookup_from:
        raise unsupported("searches within the parts of a fusion")
    filters = [one for one in (outer, part.filter) if one is not None]
    return edge.QueryRequest(
        limit=10 if part.limit is None else part.limit,
        query=edge_models.to_query(part.query, part.using),
        filter=edge_models.to_filter(models.Filter(must=[*filters]) if filters else None),
        params=edge_models.to_params(part.params),
        score_threshold=part.score_threshold,
        with_payload=False,
    )


def _with_contents(shard: edge.EdgeShard, hits: list[_Hit], asked: Question) -> list[models.ScoredPoint]:
    """The points with what is wanted of them; one that was deleted since it was found is left out."""
    payload, vectors = edge_models.to_names(asked.with_payload), edge_models.to_names(asked.with_vectors)
    records = {record.id: record for record in shard.retrieve([hit.id for hit in hits], payload, vectors)}
    return [edge_models.scored_point(records[hit.id], hit.score) for hit in hits if hit.id in records]


def _ordered(points: Sequence[edge.ScoredPoint]) -> list[edge.ScoredPoint]:
    return sorted(points, key=lambda point: (-point.score, str(point.id)))
