"""Qdrant Edge as the embedded store: what survives a kill, what is refused, and what an older folder is turned into."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes_retrieval import Words, by_id, opened, point, texts
from qdrant_client import models

from errors import CollectionMismatch, StoreError, StoreLocked
from retrievers import edge_models, edge_shard
from retrievers import store as stores
from retrievers.connection import DENSE, SPARSE
from retrievers.edge import EdgeClient
from retrievers.edge_shard import EdgeFailure
from retrievers.store import Store
from settings import Retrieval

MANY = 2000

WRITER = """
import sys
from pathlib import Path
from fakes_retrieval import opened, point

store = opened(Path(sys.argv[1]))
for batch in range(int(sys.argv[2]), 10_000):
    store.upsert([point(f"batch{batch} line{n}", batch * 10 + n, document=f"/d/{batch}", ordinal=n) for n in range(10)])
    if batch % 5 == 4:
        store.delete([f"/d/{batch - 2}"])
    if batch % 7 == 6:
        store.optimize()
    print(batch, flush=True)
"""

OPTIMISER = """
import sys
from pathlib import Path
from test_edge import many

store = many(Path(sys.argv[1]))
print("written", flush=True)
store.optimize()
print("optimised", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened_store = opened(tmp_path)
    yield opened_store
    opened_store.close()


def started(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )


def local(path: Path) -> Store:
    """A store kept by qdrant-client's local mode."""
    settings = Retrieval(qdrant_embedded="local", collection_name="rules")
    return stores.open(settings, path, Words())


def many(path: Path) -> Store:
    """A store with so many points that an optimisation takes a moment."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(edge_models, "INDEXED_FROM", 500)
        store = opened(path, Words(size=384))
    vectors = np.random.default_rng(1).normal(size=(MANY, 384))
    for start in range(0, MANY, 1000):
        points = [point("noise", number, ordinal=number) for number in range(start, start + 1000)]
        for one, vector in zip(points, vectors[start:], strict=False):
            one.vector = {DENSE: vector.tolist(), SPARSE: models.SparseVector(indices=[1], values=[1.0])}
        store.upsert(points)
    return store


def test_a_kill_loses_nothing(tmp_path: Path) -> None:
    """A writer killed at any time leaves all that it has reported, deletions too, and a folder that simply opens."""
    batch = 0
    for stay in (1, 6, 9, 16):
        with started(WRITER, tmp_path, batch) as writer:
            assert writer.stdout is not None
            for _ in range(stay):
                batch = int(writer.stdout.readline())
            time.sleep(0.003 * stay)  # so that it is killed within a batch
            writer.kill()
            reported = [int(line) for line in writer.stdout if line.strip().isdigit()]
        batch = max([batch, *reported])
        store = opened(tmp_path)
        held = {uri: sum(copy.found for copy in copies) for uri, copies in store.documents().items()}
        deleted = {one - 2 for one in range(4, batch + 1, 5)}
        under_way = {batch + 1, batch - 1}  # written or deleted by the batch that was not reported
        expected = {f"/d/{one}": 10 for one in range(batch + 1) if one not in deleted | under_way}
        assert {uri: number for uri, number in held.items() if int(uri[3:]) not in under_way} == expected
        assert store.ranked(f"batch{batch} line7", 1)[1][0][0].page_content == f"batch{batch} line7"
        assert store.count() == sum(held.values())
        store.close()
        batch += 1


def test_a_file_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    """A file of Edge's log that gets its final name just then does not fail a write."""
    (tmp_path / "tmp-open-2").symlink_to("gone")
    (tmp_path / "open-1").write_text("")
    edge_shard._sync_files(tmp_path)


@pytest.mark.parametrize("wait", [0.0, 0.2])
def test_a_kill_while_optimising(tmp_path: Path, wait: float) -> None:
    """An optimisation that is killed leaves all points, and the next one completes it."""
    with started(OPTIMISER, tmp_path) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "written\n"
        time.sleep(wait)
        writer.kill()
    store = opened(tmp_path, Words(size=384))
    assert store.count() == MANY
    store.optimize()
    assert store.client.get_collection("rules").indexed_vectors_count
    assert len(by_id(store.ranked("anything", 50)[0])) == 50
    assert store.count() == MANY
    store.close()


def test_searches_go_on_while_it_optimises(tmp_path: Path) -> None:
    """Searches are answered while it optimises, none waits as long as that takes, and afterwards there is an index."""
    store = many(tmp_path)
    store.upsert([wide("a zeppelin", MANY)])
    began = time.monotonic()
    optimising = threading.Thread(target=store.optimize)
    optimising.start()
    waits = [began]
    while optimising.is_alive():
        assert texts([passage for passage, _ in store.search("a zeppelin", 1)]) == ["a zeppelin"]
        waits.append(time.monotonic())
        time.sleep(0.001)
    total, longest = time.monotonic() - began, max(np.diff(waits))
    assert longest < total / 2
    assert len(waits) > 20
    assert store.client.get_collection("rules").indexed_vectors_count
    assert texts([passage for passage, _ in store.search("a zeppelin", 1)]) == ["a zeppelin"]
    store.close()


def test_a_write_while_it_optimises_is_kept(tmp_path: Path) -> None:
    """What is written while it optimises is there at once and stays; the index then waits for the next time."""
    store = many(tmp_path)
    optimising = threading.Thread(target=store.optimize)
    optimising.start()
    while len([*tmp_path.glob("edge/rules.collection/shard-*")]) < 2:
        time.sleep(0.01)
    store.upsert([wide("a zeppelin", MANY)])
    assert texts([passage for passage, _ in store.search("a zeppelin", 1)]) == ["a zeppelin"]
    optimising.join()
    assert texts([passage for passage, _ in store.search("a zeppelin", 1)]) == ["a zeppelin"]
    store.close()
    store = opened(tmp_path, Words(size=384))
    assert store.count() == MANY + 1
    store.close()


def wide(text: str, number: int) -> models.PointStruct:
    one, words = point(text, number), Words(size=384)
    assert isinstance(one.vector, dict)
    one.vector[DENSE] = words.embed_query(text)
    return one


def test_closing_waits_for_calls(store: Store) -> None:
    """Closing lets a call under way end and refuses the next."""
    client = store.client
    assert isinstance(client, EdgeClient)
    store.upsert([point("one watt", 1)])
    collection, entered, leave = client._collection("rules"), threading.Event(), threading.Event()

    def hold() -> None:
        with collection.reading() as shard:
            entered.set()
            leave.wait(10)
            assert shard.info().points_count == 1

    holder, closer = threading.Thread(target=hold), threading.Thread(target=client.close)
    holder.start()
    entered.wait(10)
    closer.start()
    time.sleep(0.05)
    assert closer.is_alive()
    with pytest.raises(StoreError, match="has been closed"):
        collection.update(edge_models.to_deletion([1]))
    leave.set()
    closer.join(10)
    assert not closer.is_alive()
    with pytest.raises(StoreError, match="has been closed"):
        client.count("rules")


def test_closing_gives_up_an_optimisation(tmp_path: Path) -> None:
    """A server that stops does not wait for its store to be optimised, and leaves nothing of it behind."""
    store = many(tmp_path)
    optimising = threading.Thread(target=store.optimize)
    optimising.start()
    folder = tmp_path / "edge" / "rules.collection"
    while len([*folder.glob("shard-*")]) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    store.client.close()
    assert time.monotonic() - began < 2
    optimising.join(10)
    assert len([*folder.glob("shard-*")]) == 1
    store.close()
    store = opened(tmp_path, Words(size=384))
    assert store.count() == MANY
    store.close()


def test_a_failed_optimisation_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimisation that fails is reported in one line, and the points stay as they were."""
    monkeypatch.setattr(edge_shard, "FEW", 0)
    monkeypatch.setattr(edge_shard, "_OPTIMISE", "raise OSError('no space left')")
    store.upsert([point("one watt", 1)])
    with pytest.raises(StoreError, match=r"cannot be optimised: OSError: no space left$"):
        store.optimize()
    assert store.search("one watt", 1)[0][0].page_content == "one watt"


def make(client: EdgeClient, name: str) -> None:
    client.create_collection(
        name,
        vectors_config={DENSE: models.VectorParams(size=64, distance=models.Distance.COSINE)},
        sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )


@pytest.mark.parametrize(
    "refused",
    [
        lambda client: client.query_points("rules", query=[0.1] * 64, using=DENSE, query_filter=_geo()),
        lambda client: client.query_points("rules", query="00000000-0000-0000-0000-000000000001", using=DENSE),
        lambda client: client.query_points("rules", query=models.OrderByQuery(order_by="metadata.part")),
        lambda client: client.query_points(
            "rules", query=[0.1] * 64, using=DENSE, search_params=models.SearchParams(indexed_only=True)
        ),
        lambda client: client.query_points("rules", query=models.FusionQuery(fusion=models.Fusion.DBSF), prefetch=_parts()),
        lambda client: client.query_points(
            "rules", query=models.FusionQuery(fusion=models.Fusion.RRF), prefetch=_parts(prefetch=_parts())
        ),
        lambda client: client.query_points("rules", query=[0.1] * 64, using=DENSE, prefetch=_parts()),
        lambda client: client.scroll("rules", models.Filter(must=[_condition(match=models.MatchText(text="a b"))])),
        lambda client: client.count("rules", models.Filter(must=[_condition(values_count=models.ValuesCount(gt=1))])),
        lambda client: client.scroll("rules", with_payload=models.PayloadSelectorExclude(exclude=["metadata"])),
        lambda client: client.delete("rules", models.PointIdsList(points=[1], shard_key="a")),
        lambda client: client.upsert("rules", [models.PointStruct(id=1, vector=[0.1] * 64)]),
        lambda client: client.create_payload_index("rules", "metadata.part", models.PayloadSchemaType.TEXT),
        lambda client: client.create_collection("new", vectors_config=_vector(models.Distance.DOT), sparse_vectors_config={}),
        lambda client: client.create_collection(
            "new", vectors_config=_vector(models.Distance.COSINE, on_disk=True), sparse_vectors_config={}
        ),
    ],
)
def test_what_it_cannot_do_is_refused(store: Store, refused: Callable[[EdgeClient], object]) -> None:
    """A request that Edge would answer otherwise than a server is refused in one line, not answered."""
    assert isinstance(store.client, EdgeClient)
    with pytest.raises(StoreError, match=r"^the embedded store \(Qdrant Edge\) does no [^\n]+ \(QDRANT_HOST\)$"):
        refused(store.client)


def _vector(distance: models.Distance, **more: Any) -> dict[str, models.VectorParams]:
    return {"v": models.VectorParams(size=4, distance=distance, **more)}


def _geo() -> models.Filter:
    return models.Filter(
        must=[_condition(geo_radius=models.GeoRadius(center=models.GeoPoint(lon=0, lat=0), radius=1))],
    )


def _condition(**by: Any) -> models.FieldCondition:
    return models.FieldCondition(key="metadata.part", **by)


def _parts(**more: Any) -> list[models.Prefetch]:
    return [models.Prefetch(query=[0.1] * 64, using=DENSE, limit=3, **more)]


@pytest.mark.parametrize(
    ("identity", "vector"),
    [
        (1, {DENSE: [0.5] * 63}),
        (1, {"other": [0.5] * 64}),
        (1, {DENSE: models.SparseVector(indices=[1], values=[1.0])}),
        (1, {SPARSE: models.SparseVector(indices=[1, 1], values=[1.0, 2.0])}),
        (1, {SPARSE: models.SparseVector(indices=[1, 2], values=[1.0])}),
        ("no id", {DENSE: [0.5] * 64}),
    ],
)
def test_wrong_points_leave_no_trace(tmp_path: Path, identity: int | str, vector: Any) -> None:
    """A point that does not fit is refused before it is logged: the others are kept, and the folder opens again."""
    store = opened(tmp_path)
    store.upsert([point("good", 1)])
    with pytest.raises(StoreError):
        store.upsert([point("also good", 2), models.PointStruct(id=identity, vector=vector)])
    store.close()
    store = opened(tmp_path)
    assert store.count() == 1
    store.close()


def test_fields_are_indexed(store: Store) -> None:
    """What is filtered on has an index, so that a filter costs no scan."""
    assert store.client.get_collection("rules").payload_schema.keys() >= {
        f"metadata.{name}" for name in ("part", "section", "source", "edition", "citation", "document", "document_hash")
    }


def test_any_collection_name_will_do(tmp_path: Path) -> None:
    """A collection called ".." stays in its folder, and one whose making was cut off is made anew."""
    client = EdgeClient(tmp_path / "edge")
    unfinished = tmp_path / "edge" / "...collection" / "shard" / "segments"
    unfinished.mkdir(parents=True)
    assert not client.collection_exists("..")
    make(client, "..")
    assert client.count("..").count == 0
    assert [one.name for one in tmp_path.iterdir()] == ["edge"]
    with pytest.raises(StoreError, match=r"there is a collection \.\. already"):
        make(client, "..")
    assert client.delete_collection("..")
    assert not client.delete_collection("..")
    with pytest.raises(StoreError, match=r"there is no collection \.\."):
        client.count("..")
    client.close()


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    """A damaged folder is reported in one line that says what to do, and a folder in other hands likewise."""
    opened(tmp_path).close()
    place = tmp_path / "edge" / "rules.collection"
    held = EdgeClient(tmp_path / "edge")
    assert held.count("rules").count == 0
    with pytest.raises(StoreLocked, match="is in use by another process"):
        opened(tmp_path)
    held.close()
    next(place.glob("shard-*/edge_config.json")).write_text("{broken")
    with pytest.raises(StoreError, match=r"QDRANT_PATH.* cannot be read: .*move it away and ingest again") as caught:
        opened(tmp_path)
    assert "\n" not in str(caught.value)


def test_failures_of_the_engine_are_one_line(store: Store) -> None:
    """What Edge itself reports becomes a StoreError that names the place."""
    assert isinstance(store.client, EdgeClient)
    with pytest.raises(EdgeFailure) as caught:
        store.client.query_points("rules", query=[0.1] * 64, using="nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match=r"QDRANT_PATH\) cannot be used: "), store._calling():
        store.client.query_points("rules", query=[0.1] * 63, using=DENSE)


def test_local_mode_is_moved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an earlier version kept in local mode is there after the first start with Edge, and is not moved twice."""
    old = local(tmp_path)
    old.upsert([point(f"passage {number} § ü", number) for number in range(1, 601)])
    payloads = [one.payload for one in old.client.scroll("rules", limit=2000)[0]]
    ids = [f"00000000-0000-0000-0000-{number:012}" for number in (1, 77, 600)]
    best, vectors = old.ranked("77 § ü", 1)[1], old.vectors_of(ids)
    old.close()
    with caplog.at_level(logging.INFO):
        store = opened(tmp_path)
    assert f"moved 600 passages into Qdrant Edge; {tmp_path / 'collection' / 'rules'} is not read again" in caplog.text
    assert [one.payload for one in store.client.scroll("rules", limit=2000)[0]] == payloads
    assert by_id(store.ranked("77 § ü", 1)[1]) == pytest.approx(by_id(best), rel=1e-4)
    assert all(np.allclose(vector, vectors[one], atol=1e-6) for one, vector in store.vectors_of(ids).items())
    store.delete(["/d/77"])
    store.close()
    caplog.clear()
    store = opened(tmp_path)
    assert (store.count(), "moved" in caplog.text) == (599, False)
    store.close()


def test_a_move_that_is_cut_off_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving that ends half-way leaves the old store as it was, and the next start moves everything."""
    old = local(tmp_path)
    old.upsert([point(f"passage {number}", number) for number in range(1, 601)])
    old.close()
    upsert = EdgeClient.upsert

    def fail(self: EdgeClient, name: str, points: list[models.PointStruct]) -> models.UpdateResult:
        if points[0].id != "00000000-0000-0000-0000-000000000001":
            raise OSError("no space left")
        return upsert(self, name, points)

    with monkeypatch.context() as patched:
        patched.setattr(EdgeClient, "upsert", fail)
        with pytest.raises(StoreError, match="no space left"):
            opened(tmp_path)
    store = opened(tmp_path)
    assert store.count() == 600
    store.close()


def test_local_mode_of_another_model_is_not_moved(tmp_path: Path) -> None:
    """An old collection of another embedding model is refused as before, and stays."""
    local(tmp_path).close()
    with pytest.raises(CollectionMismatch, match="EMBEDDING_MODEL is other"):
        opened(tmp_path, Words(name="other"))
    opened(tmp_path).close()
