"""What the store promises wherever it keeps its points: in Qdrant Edge, in qdrant-client's local mode, on a real server."""

import math
import os
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fakes_retrieval import Words, by_id, point
from qdrant_client import QdrantClient, models
from qdrant_client.hybrid.fusion import reciprocal_rank_fusion

from errors import CollectionMismatch
from retrievers import store as stores
from retrievers.connection import DENSE, SPARSE
from retrievers.embeddings import Bm25
from retrievers.store import Copy, Store, among, equals
from settings import Retrieval

URL = os.environ.get("QDRANT_TEST_URL", "")
WHY = "QDRANT_TEST_URL names no Qdrant server, such as http://127.0.0.1:6333"

TEXTS = [
    "the beacon sends its call sign every ten minutes",
    "a beacon may send on one frequency in each band",
    "output power of a transmitter is at most one watt",
    "power above one watt needs a report on exposure",
    "the label shows the number of the grant",
    "a label on the screen is good enough for small devices",
    "radar must be noticed before the channel is used",
    "a channel with radar is left within ten seconds",
    "zeppelin stations follow the rules for aircraft",
]

Opening = Callable[..., Store]


def identity(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


@pytest.fixture(
    params=["edge", "local", pytest.param("server", marks=pytest.mark.skipif(not URL, reason=WHY))],
)
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opening]:
    """Opens the same collection each time it is called; another one if `name` is given."""
    unique = uuid.uuid4().hex
    opened: list[Store] = []

    def open_store(*, name: str = "rules", dense: Words | None = None) -> Store:
        server = httpx.URL(URL)
        settings = Retrieval(
            qdrant_host=f"{server.scheme}://{server.host}" if request.param == "server" else "",
            qdrant_port=server.port or 6333,
            qdrant_embedded="local" if request.param == "local" else "edge",
            collection_name=f"{name}-{unique}",
        )
        opened.append(stores.open(settings, tmp_path / "store", dense or Words()))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()
    if request.param == "server":
        cleaner = QdrantClient(url=URL)
        for name in {store.collection for store in opened}:
            cleaner.delete_collection(name)
        cleaner.close()


@pytest.fixture
def store(opening: Opening) -> Store:
    return opening()


@pytest.fixture
def filled(store: Store) -> Store:
    """Point number n holds the nth text; parts alternate, and every third has a page."""
    store.upsert(
        [
            point(
                text,
                number,
                part=str(15 + number % 2),
                section=f"15.{number}",
                document=f"/d/{number % 3}",
                document_passages=3,
                ordinal=number,
                **({"page": number} if number % 3 == 0 else {}),
            )
            for number, text in enumerate(TEXTS)
        ]
    )
    return store


def found_by(store: Store, where: models.Filter) -> set[int]:
    """The numbers of the points that match, counted, scrolled and searched for alike."""
    scrolled, following = store.client.scroll(store.collection, where, limit=100, with_payload=False)
    searched = store.client.query_points(
        store.collection, query=Words().embed_query("a"), using=DENSE, query_filter=where, limit=100, with_payload=False
    ).points
    assert following is None
    assert {str(one.id) for one in scrolled} == {str(one.id) for one in searched}
    assert store.client.count(store.collection, where, exact=True).count == len(scrolled)
    return {int(str(one.id)[-12:]) for one in scrolled}


def test_what_is_written_can_be_read(store: Store) -> None:
    """A point comes back as it was written, whatever its text; writing it again replaces it."""
    texts = ["§ 15.247 — «μW»", "출력은 1 와트 이하", "\u0645\u0631\u062d\u0628\u0627 🛰️ \x01", 'quotes " \\ and\nlines', ""]
    store.upsert([point(text, number, title=text) for number, text in enumerate(texts)])
    passages = store.vectors.get_by_ids([identity(number) for number in (3, 1, 0, 9, 2, 4)])
    assert {passage.metadata["_id"]: passage.page_content for passage in passages} == {
        identity(number): text for number, text in enumerate(texts)
    }
    assert [passage.metadata["title"] for passage in passages] == [passage.page_content for passage in passages]
    assert all(passage.metadata["page"] is None for passage in passages)
    store.upsert([point("changed", 1)])
    assert store.count() == 5
    assert [passage.page_content for passage in store.vectors.get_by_ids([identity(1)])] == ["changed"]


def test_vectors_are_kept(filled: Store) -> None:
    """Both vectors come back as they were written, the dense one of length one."""
    records = filled.client.retrieve(filled.collection, [identity(2)], with_payload=False, with_vectors=True)
    vectors = records[0].vector
    assert isinstance(vectors, dict)
    assert vectors[DENSE] == pytest.approx(Words().embed_query(TEXTS[2]), abs=1e-6)
    expected = Bm25().embed_documents([TEXTS[2]])[0]
    sparse = vectors[SPARSE]
    assert isinstance(sparse, models.SparseVector)
    assert dict(zip(sparse.indices, sparse.values, strict=True)) == pytest.approx(
        dict(zip(expected.indices, expected.values, strict=True))
    )
    arrays = filled.vectors_of([identity(2), identity(77)])
    assert arrays.keys() == {identity(2)}
    assert arrays[identity(2)].dtype == np.float32
    assert np.linalg.norm(arrays[identity(2)]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (models.Filter(must=[equals("part", "15")]), {0, 2, 4, 6, 8}),
        (models.Filter(must=equals("part", "15")), {0, 2, 4, 6, 8}),
        (models.Filter(must=[among("section", ["15.1", "15.2", "15.77"])]), {1, 2}),
        (models.Filter(must=[among("section", [])]), set()),
        (models.Filter(must=[equals("part", "15"), among("section", ["15.1", "15.2"])]), {2}),
        (models.Filter(must_not=[equals("part", "15")]), {1, 3, 5, 7}),
        (models.Filter(must=[equals("part", "15")], must_not=[among("section", ["15.4", "15.6"])]), {0, 2, 8}),
        (models.Filter(should=[equals("section", "15.3"), equals("section", "15.5")]), {3, 5}),
        (models.Filter(must=[models.Filter(should=[equals("part", "16"), equals("section", "15.8")])]), {1, 3, 5, 7, 8}),
        (models.Filter(must=[models.HasIdCondition(has_id=[identity(4), identity(5)])]), {4, 5}),
        (models.Filter(must=[models.FieldCondition(key="metadata.ordinal", range=models.Range(gte=3, lt=6))]), {3, 4, 5}),
        (models.Filter(must=[models.FieldCondition(key="metadata.page", match=models.MatchValue(value=6))]), {6}),
        (
            models.Filter(must=[models.FieldCondition(key="metadata.part", match=models.MatchExcept(**{"except": ["15"]}))]),
            {1, 3, 5, 7},
        ),
        (
            models.Filter(must_not=[models.IsNullCondition(is_null=models.PayloadField(key="metadata.page"))]),
            {0, 3, 6},
        ),
        (models.Filter(must=[equals("nothing", "here")]), set()),
    ],
)
def test_filters(filled: Store, where: models.Filter, expected: set[int]) -> None:
    """A filter lets through what it says, for counting, scrolling and searching."""
    assert found_by(filled, where) == expected


def test_deletion(filled: Store) -> None:
    """Deleting takes the documents named, but for the version to keep, and naming none deletes nothing."""
    filled.delete([])
    assert filled.count() == 9
    filled.upsert([point("newer", 20, document="/d/0", document_hash="new")])
    filled.delete(["/d/0", "/d/1"], keep=["new"])
    assert filled.documents() == {"/d/0": [Copy("new", 1, 1)], "/d/2": [Copy("h", 3, 3)]}
    filled.client.delete(filled.collection, [identity(20), identity(99)])
    assert {int(str(one.id)[-12:]) for one in filled.client.scroll(filled.collection, limit=10)[0]} == {2, 5, 8}
    assert [passage.page_content for passage, _ in filled.search("beacon call sign", 9)].count(TEXTS[0]) == 0


def test_dense_search_is_exact(filled: Store) -> None:
    """The nearest points come in the order of their cosines, and the cosines are right."""
    question = "one watt of power on a label"
    asked, vectors = Words().embed_query(question), Words().embed_documents(TEXTS)
    cosines = {identity(n): float(np.dot(vector, asked)) for n, vector in enumerate(vectors)}
    expected = sorted(cosines.items(), key=lambda hit: (-hit[1], hit[0]))
    dense, _ = filled.ranked(question, 9)
    assert by_id(dense) == pytest.approx(dict(expected), abs=1e-5)
    assert [score for _, score in dense] == sorted((score for _, score in dense), reverse=True)
    assert filled.cosines(question, [identity(3), identity(4)]) == pytest.approx(
        {identity(3): cosines[identity(3)], identity(4): cosines[identity(4)]}, abs=1e-5
    )
    assert [passage.id for passage, _ in filled.nearest(question, 1)] == [dense[0][0].id]


def test_bm25_weighs_by_rarity(filled: Store) -> None:
    """A BM25 score is the sum of the words' weights times their inverse document frequency over all points."""
    assert by_id(filled.ranked("zeppelin", 9)[1]) == pytest.approx(
        {identity(8): _idf(1) * _weight(TEXTS[8], "zeppelin")}, rel=1e-4
    )
    scores = by_id(filled.ranked("radar beacon", 9)[1])
    assert scores == pytest.approx({identity(n): _idf(2) * _weight(TEXTS[n], "radar beacon") for n in (0, 1, 6, 7)}, rel=1e-4)
    narrowed = filled.ranked("radar beacon", 9, models.Filter(must=[equals("part", "15")]))[1]
    assert by_id(narrowed) == pytest.approx({identity(n): scores[identity(n)] for n in (0, 6)}, rel=1e-4)
    assert filled.ranked("the of and", 9)[1] == []
    assert filled.ranked("xylophone", 9)[1] == []


def _idf(holding: int) -> float:
    return math.log(1 + (len(TEXTS) - holding + 0.5) / (holding + 0.5))


def _weight(text: str, words: str) -> float:
    vector, asked = Bm25().embed_documents([text])[0], Bm25().embed_query(words)
    return sum(value for index, value in zip(vector.indices, vector.values, strict=True) if index in asked.indices)


class Noise(Words):
    """Vectors that have nothing to do with the text, so that no two points are equally near to anything."""

    def embed_query(self, text: str) -> list[float]:
        vector = np.random.default_rng(zlib.crc32(text.encode())).normal(size=self.size)
        return list((vector / np.linalg.norm(vector)).tolist())


@pytest.mark.parametrize("question", ["radar", "channel radar", "filler3 channel", "filler7 filler8"])
@pytest.mark.parametrize("where", [None, models.Filter(must=[equals("part", "15")])])
def test_fusion(opening: Opening, question: str, where: models.Filter | None) -> None:
    """Hybrid search gives, in this order, the reciprocal ranks of the dense and the BM25 search, added up."""
    noise = Noise()
    store = opening(dense=noise)
    points = []
    for n in range(20):
        words = ["radar"] * (1 + n % 3) + ["channel"] * (n % 2) + [f"filler{m}" for m in range(n)]
        one = point(" ".join(words), n, part=str(15 + n // 10))
        assert isinstance(one.vector, dict)
        points.append(one.model_copy(update={"vector": one.vector | {DENSE: noise.embed_query(" ".join(words))}}))
    store.upsert(points)
    both = [
        [models.ScoredPoint(id=str(hit.id), version=0, score=score) for hit, score in hits]
        for hits in store.ranked(question, 5, where)
    ]
    assert all(len({one.score for one in hits}) == len(hits) for hits in both)
    scores = {one.id: one.score for one in reciprocal_rank_fusion(both, 10)}
    found = store.search(question, 5, where)
    assert {passage.id: score for passage, score in found} == pytest.approx({p.id: scores[str(p.id)] for p, _ in found})
    assert [score for _, score in found] == pytest.approx(sorted(scores.values(), reverse=True)[:5])
    assert all("_id" not in passage.metadata for passage, _ in found)


def test_langchain_on_top(store: Store) -> None:
    """The LangChain vector store on the collection adds, finds, gets and deletes."""
    ids = [str(uuid.uuid4()) for _ in TEXTS]
    assert store.vectors.add_texts(TEXTS, [{"number": n} for n in range(len(TEXTS))], ids) == ids
    assert store.vectors.similarity_search("zeppelin stations", k=1)[0].metadata["number"] == 8
    where = models.Filter(must=[models.FieldCondition(key="metadata.number", range=models.Range(gt=1, lte=3))])
    assert {one.metadata["number"] for one in store.vectors.similarity_search("watt", k=9, filter=where)} == {2, 3}
    assert store.vectors.delete([*ids[:5]])
    assert sorted(one.page_content for one in store.vectors.get_by_ids(ids)) == sorted(TEXTS[5:])


def test_empty_collection(store: Store) -> None:
    """An empty collection answers everything with nothing."""
    assert (store.count(), store.documents(), store.sources(), store.search("anything", 5)) == (0, {}, [], [])
    assert (store.ranked("anything", 5), store.vectors.get_by_ids([identity(1)]), store.vectors_of([])) == (([], []), [], {})
    store.delete(["/d/1"])
    store.optimize()
    assert store.count() == 0


def test_three_thousand_points(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many points none is lost or told twice, and after some are deleted the others answer."""
    monkeypatch.setattr(stores, "_PAGE", 350)
    number = 600 if store._connection.local else 3000  # local mode writes a few hundred in a second
    each = number // 30
    points = [
        point(f"passage {n} about topic{n % 50}", n, document=f"/d/{n % 30}", ordinal=n, document_passages=each)
        for n in range(number)
    ]
    for start in range(0, len(points), 500):
        store.upsert(points[start : start + 500])
    store.optimize()
    assert (store.count(), store.documents()) == (number, {f"/d/{n}": [Copy("h", each, each)] for n in range(30)})
    seventh = store.passages(models.Filter(must=[equals("document", "/d/7")]))
    assert [one.metadata["ordinal"] for one in seventh] == [*range(7, number, 30)]
    store.delete(["/d/7"])
    store.optimize()
    assert (store.count(), len(store.documents()), "/d/7" in store.documents()) == (number - each, 29, False)
    assert {int(str(hit.id)[-12:]) % 50 for hit, _ in store.ranked("topic48", 30)[1]} == {48}
    assert {str(hit.id)[-4:] for hit, _ in store.ranked("topic34 534", 1)[1]} == {"0534"}


def test_answers_stay_the_same(opening: Opening) -> None:
    """After an optimisation, and after a restart, the same questions get the same answers."""
    questions = ["radar on a channel", "label", "beacon sends one watt"]
    store = opening()
    store.upsert([point(text, number) for number, text in enumerate(TEXTS)])
    before = [store.ranked(question, 9) for question in questions]
    store.optimize()
    optimised = [store.ranked(question, 9) for question in questions]
    store.close()
    store = opening()
    reopened = [store.ranked(question, 9) for question in questions]
    store.close()
    for first, *others in zip(before, optimised, reopened, strict=True):
        for other in others:
            assert [by_id(hits) for hits in other] == [pytest.approx(by_id(hits)) for hits in first]
    with pytest.raises(CollectionMismatch, match="EMBEDDING_MODEL is other"):
        opening(dense=Words(name="other"))


def test_collections_stay_apart(opening: Opening, request: pytest.FixtureRequest) -> None:
    """Two collections in one place know nothing of each other."""
    first = opening(name="one")
    first.upsert([point("only here", 1)])
    if first.embedded:
        first.close()
    second = opening(name="two")
    assert second.count() == 0
    second.upsert([point("only there", 1), point("and there", 2)])
    if second.embedded:
        second.close()
        first = opening(name="one")
    assert [passage.page_content for passage, _ in first.search("only", 5)] == ["only here"]
