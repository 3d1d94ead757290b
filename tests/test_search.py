"""Searching: what a question cites, what it means, and when there is nothing to answer with."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_retrieval import opened, point, texts

import settings
import weights
from errors import InvalidRequest, StoreError
from retrievers import embeddings
from retrievers.index import Indexer
from retrievers.search import PassageRetriever
from retrievers.store import Store

SAMPLES = Path(__file__).parent.parent / "samples"
RULES = [
    point("The maximum conducted output power is one watt.", 1, section="15.247", citation="47 CFR 15.247(b)(3)"),
    point("Hopping systems may use 125 milliwatts.", 2, section="15.247", citation="47 CFR 15.247(b)(1)"),
    point("Antenna gain above 6 dBi lowers the power.", 3, section="15.247", citation="47 CFR 15.247(c)"),
    point("Field strength in the band is limited.", 4, section="15.249", citation="47 CFR 15.249(a)", source="b.txt"),
    point("A station identifies itself every ten minutes.", 5, part="97", section="97.119", citation="47 CFR 97.119(a)"),
    point("Modules are described in this publication.", 6, part="", section="", citation="KDB 996369", source="kdb.md"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened_store = opened(tmp_path)
    opened_store.upsert(RULES)
    yield opened_store
    opened_store.close()


@pytest.fixture
def retriever(store: Store) -> PassageRetriever:
    return PassageRetriever(store=store, k=3, min_score=0.3)


def test_best_passage_comes_first(retriever: PassageRetriever) -> None:
    """The passage that shares the question's words is the first, with its cosine as the score."""
    found = retriever.invoke("how often a station identifies itself")
    assert found[0].page_content == "A station identifies itself every ten minutes."
    assert found[0].metadata["match"] == "search"
    assert 0.3 < found[0].metadata["score"] <= 1
    assert found[0].metadata.keys().isdisjoint({"_id", "_collection_name"})


def test_cited_paragraph_is_first(retriever: PassageRetriever) -> None:
    """A paragraph that the question cites comes first, whatever else the question resembles."""
    found = retriever.invoke("hopping systems in 47 CFR 15.247(b)(3)?")
    assert found[0].metadata["citation"] == "47 CFR 15.247(b)(3)"
    assert [passage.metadata["match"] for passage in found] == ["exact", "search", "search"]


def test_cited_group_brings_its_paragraphs(retriever: PassageRetriever) -> None:
    """Citing a paragraph that only exists in pieces brings the pieces."""
    found = retriever.invoke("explain § 15.247(b)")
    exact = {passage.metadata["citation"] for passage in found if passage.metadata["match"] == "exact"}
    assert exact == {"47 CFR 15.247(b)(3)", "47 CFR 15.247(b)(1)"}


@pytest.mark.parametrize(
    ("question", "citation"),
    [
        ("§ 15.247(c)(9)(ii)", "47 CFR 15.247(c)"),  # the paragraph it would be in
        ("§ 97.119(z)", "47 CFR 97.119(a)"),  # the section
        ("what is KDB 996369?", "KDB 996369"),
    ],
)
def test_nearest_to_the_cite(retriever: PassageRetriever, question: str, citation: str) -> None:
    """A cite that is not indexed as such brings what is nearest to it: the enclosing paragraph, else the section."""
    found = retriever.invoke(question)
    assert (found[0].metadata["citation"], found[0].metadata["match"]) == (citation, "exact")


def test_paragraph_inside_a_passage(store: Store, retriever: PassageRetriever) -> None:
    """A short paragraph that shares a passage with those before it is found where it stands."""
    rows = [
        ("(a) First. \n(b) Second.\n(c) Third.", "(a)"),
        ("(d)(1) Deep.\n(2) Deeper.", "(d)(1)"),
        ("(e) Last.", "(e)"),
    ]
    store.upsert(
        [
            point(text, 50 + row, document="/s", ordinal=row, section="15.5", citation=f"47 CFR 15.5{paragraph}")
            for row, (text, paragraph) in enumerate(rows)
        ]
    )
    for cite, row in (("(c)", 0), ("(d)", 1), ("(d)(2)", 1), ("(e)", 2), ("(e)(7)", 2)):
        found = [p for p in retriever.invoke(f"§ 15.5{cite} last deep") if p.metadata["match"] == "exact"]
        assert texts(found) == [rows[row][0]]


def test_cited_paragraph_before_its_surroundings(store: Store) -> None:
    """The cited paragraph itself is first, then what lies within it, then what goes on into it, whatever is asked."""
    rows = [
        ("(a) Kettles. (b) Pans in general.", "(a)"),
        ("(b)(1) Lids and lids and lids.", "(b)(1)"),
        ("Of pans, too.", "(b)"),
    ]
    store.upsert(
        [
            point(text, 60 + row, document="/s", ordinal=row, section="15.5", citation=f"47 CFR 15.5{paragraph}")
            for row, (text, paragraph) in enumerate(rows)
        ]
    )
    found = PassageRetriever(store=store, min_score=0).invoke("kettles, lids and pans: § 15.5(b)", k=3)
    assert [passage.metadata["citation"] for passage in found] == ["47 CFR 15.5(b)", "47 CFR 15.5(b)(1)", "47 CFR 15.5(a)"]


def test_another_title_is_not_meant(retriever: PassageRetriever) -> None:
    """A section of another title of the CFR is not answered with ours of the same number."""
    assert all(passage.metadata["match"] != "exact" for passage in retriever.invoke("10 CFR 15.247 power"))


def test_every_cite_gets_a_share(retriever: PassageRetriever) -> None:
    """A question that compares two sections gets passages of both."""
    found = retriever.invoke("compare § 15.247 with § 15.249", k=2)
    assert {passage.metadata["section"] for passage in found} == {"15.247", "15.249"}


def test_nothing_near_is_nothing(retriever: PassageRetriever) -> None:
    """A question that nothing resembles gets no passages rather than bad ones."""
    assert retriever.invoke("bake sourdough bread overnight") == []


def test_no_threshold_keeps_everything(retriever: PassageRetriever) -> None:
    """With a threshold of 0 even what has nothing in common with the question is returned."""
    retriever.min_score = 0
    assert len(retriever.invoke("bake sourdough bread overnight", k=2)) == 2


def test_cite_is_evidence_enough(retriever: PassageRetriever) -> None:
    """A cited section is returned even if the question shares no words with it."""
    assert retriever.invoke("gibberish of § 15.249(a)")[0].metadata["section"] == "15.249"


def test_empty_collection(tmp_path: Path) -> None:
    """An empty index finds nothing, and says so without an error."""
    empty = opened(tmp_path)
    try:
        assert PassageRetriever(store=empty).invoke("what does 47 CFR 15.247 say about power?") == []
    finally:
        empty.close()


def test_filters(retriever: PassageRetriever) -> None:
    """A filter keeps everything else out, what the question cites included."""
    retriever.min_score = 0
    question = "power of the station in 15.247(b)(3)"
    assert {p.metadata["part"] for p in retriever.invoke(question, filters={"part": "97"})} == {"97"}
    sections = retriever.invoke("field strength power", filters={"section": ["15.249", "97.119"]})
    assert {p.metadata["section"] for p in sections} == {"15.249", "97.119"}
    assert texts(retriever.invoke("field strength", filters={"source": "b.txt", "part": None})) == [
        "Field strength in the band is limited."
    ]


@pytest.mark.parametrize(
    ("query", "arguments", "said"),
    [
        ("  \n", {}, "empty"),
        ("power", {"k": 0}, "k must be from 1 to 50"),
        ("power", {"filters": {"colour": "red"}}, "no filter 'colour'"),
        ("power", {"filters": {"part": 15}}, "filter 'part' must be a text"),
        ("power", {"filters": {"part": []}}, "filter 'part' must be a text"),
    ],
)
def test_impossible_requests(retriever: PassageRetriever, query: str, arguments: dict[str, Any], said: str) -> None:
    """What cannot be searched for is refused with the reason."""
    with pytest.raises(InvalidRequest, match=said):
        retriever.invoke(query, **arguments)


def test_stop_words_alone(retriever: PassageRetriever) -> None:
    """A question of nothing but stop words is searched by its meaning alone."""
    assert texts(retriever.invoke("the a is of in every ten", k=1)) == [RULES[4].payload["page_content"]]  # type: ignore[index]
    assert len(PassageRetriever(store=retriever.store, min_score=0).invoke("is the", k=2)) == 2


def test_same_order_each_time(tmp_path: Path) -> None:
    """The same question gets the same passages in the same order, after a restart too."""
    answers = []
    for _ in range(3):
        store = opened(tmp_path)
        store.upsert(RULES)
        answers.append(texts(PassageRetriever(store=store).invoke("how often a station identifies itself", k=2)))
        store.close()
    assert answers[0] == answers[1] == answers[2]


async def test_async_search_leaves_the_loop_free(retriever: PassageRetriever, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is busy, an asynchronous search waits without stopping the event loop or its executor."""
    released = threading.Event()
    client = retriever.store.client
    query_points = client.query_points

    def held(*args: Any, **kwargs: Any) -> Any:
        released.wait(10)
        return query_points(*args, **kwargs)

    monkeypatch.setattr(client, "query_points", held)
    searches = [asyncio.create_task(retriever.ainvoke("station identifies itself")) for _ in range(20)]
    await asyncio.sleep(0.05)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 1) == "free"
    assert not any(search.done() for search in searches)
    released.set()
    results = await asyncio.gather(*searches)
    assert all(result[0].page_content.startswith("A station") for result in results)


async def test_closed_store_says_so(retriever: PassageRetriever) -> None:
    """A search after the store was closed ends in one line."""
    retriever.store.close()
    with pytest.raises(StoreError, match="has been closed"):
        await retriever.ainvoke("power")


@pytest.mark.models
def test_real_model_tells_rules_from_recipes(tmp_path: Path) -> None:
    """With the real model and a few samples, a question in other words finds its rule, and a recipe finds nothing."""
    folder = weights.resolve(weights.DEFAULT_EMBEDDING, variable="EMBEDDING_MODEL", cache=settings.load().cache.fcc_rag_cache)
    store = opened(tmp_path, embeddings.load(folder, device="cpu"))
    samples = sorted(SAMPLES.glob("97.*.md"))
    report = Indexer(store).ingest(samples)
    retriever = PassageRetriever(store=store, k=3)
    assert (report.files_read, report.failures) == (len(samples), [])
    assert retriever.invoke("how often does a ham have to say the call sign?")[0].metadata["section"] == "97.119"
    assert retriever.invoke("what does § 97.113 forbid?")[0].metadata["match"] == "exact"
    assert retriever.invoke("How long should I bake sourdough bread?") == []
    store.close()


NEWEST, OLDER = "eCFR 2025-01", "CFR 10-1-2011"


@pytest.fixture
def editions(store: Store) -> PassageRetriever:
    """Two editions of one section, and a section of which there is an old one only."""
    rows = [
        ("The kettle limit is two litres.", "300.1", NEWEST),
        ("The kettle limit was one litre.", "300.1", OLDER),
        ("The pan limit is nine inches.", "300.2", OLDER),
    ]
    store.upsert(
        [
            point(text, 70 + row, section=section, citation=f"47 CFR {section}", edition=edition, document=f"/e{row}")
            for row, (text, section, edition) in enumerate(rows)
        ]
    )
    return PassageRetriever(store=store, k=9, min_score=0.1)


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({}, {"The kettle limit is two litres.", "The pan limit is nine inches."}),
        ({"as_of": "2020"}, {"The kettle limit was one litre.", "The pan limit is nine inches."}),
        ({"as_of": "2010-06"}, set()),
        ({"edition": OLDER}, {"The kettle limit was one litre.", "The pan limit is nine inches."}),
        (
            {"edition": [OLDER, NEWEST], "section": "300.1"},
            {"The kettle limit is two litres.", "The kettle limit was one litre."},
        ),
    ],
)
@pytest.mark.parametrize("question", ["kettle and pan limit", "§ 300.1 and § 300.2 limit"])
def test_one_edition(editions: PassageRetriever, filters: dict[str, Any], shown: set[str], question: str) -> None:
    """Of each section the newest edition, that of a day, or those asked for; looked up and found alike."""
    found = editions.invoke(question, filters=filters)
    assert {text for text in texts(found) if "limit" in text and "band" not in text} == shown


def test_new_edition_is_noticed(editions: PassageRetriever, store: Store) -> None:
    """An edition that is ingested while the server runs takes the place of the older one at once."""
    assert "The pan limit is nine inches." in texts(editions.invoke("pan limit"))
    newer = point("The pan limit is ten inches.", 80, section="300.2", citation="47 CFR 300.2", edition=NEWEST, document="/e9")
    store.upsert([newer])
    found = texts(editions.invoke("pan limit"))
    assert "The pan limit is ten inches." in found
    assert "The pan limit is nine inches." not in found


@pytest.mark.parametrize(
    ("filters", "why"),
    [({"as_of": "soon"}, "as_of"), ({"as_of": ["2020"]}, "one day"), ({"as_of": "2020", "edition": OLDER}, "one of them")],
)
def test_impossible_edition(editions: PassageRetriever, filters: dict[str, Any], why: str) -> None:
    """A day that is none, or two ways to choose an edition at once, is refused."""
    with pytest.raises(InvalidRequest, match=why):
        editions.invoke("kettle", filters=filters)


def test_named_part_and_subpart(store: Store) -> None:
    """A question that names a part, or a subpart of it, is answered from there if there is anything."""
    headings = {"A": "Subpart A—General", "B": "Subpart B—Kettles"}
    store.upsert(
        [
            point(
                "Power is limited for kettles.",
                90 + n,
                part="300",
                section=f"300.{n}",
                citation=f"47 CFR 300.{n}",
                heading=heading,
            )
            for n, heading in enumerate(headings.values())
        ]
    )
    retriever = PassageRetriever(store=store, k=5, min_score=0)
    assert {p.metadata["part"] for p in retriever.invoke("What limits power in part 300?")} == {"300"}
    assert [p.metadata["heading"] for p in retriever.invoke("power in part 300, subpart B")] == [headings["B"]]
    assert {p.metadata["part"] for p in retriever.invoke("power in part 300, subpart Q")} == {"300"}
    assert len(retriever.invoke("power in part 999")) == 5


def test_neighbours_follow(store: Store) -> None:
    """Neighbours come after the passages found, as many as are asked for, and are marked."""
    store.upsert(
        [
            point("Measure as § 15.249 says.", 95, section="15.31", citation="47 CFR 15.31(a)", document="/n"),
        ]
    )
    retriever = PassageRetriever(store=store, k=1, min_score=0)
    found = retriever.invoke("how to measure", neighbours=2)
    assert [(p.metadata["match"], p.metadata.get("relation", "")) for p in found] == [("search", ""), ("neighbour", "reference")]
    assert found[1].page_content == "Field strength in the band is limited."
    assert len(retriever.invoke("how to measure")) == 1
    with pytest.raises(InvalidRequest, match="neighbours"):
        retriever.invoke("how to measure", neighbours=-1)
