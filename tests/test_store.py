"""The store: embedded or on a server, whose model it belongs to, and what happens when it cannot be used."""

import asyncio
import datetime as dt
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fakes_retrieval import Words, opened, point, texts
from pydantic import SecretStr
from qdrant_client import QdrantClient, models
from qdrant_server import serving

from errors import CollectionMismatch, StoreError, StoreLocked
from retrievers import store as stores
from retrievers.connection import SPARSE
from retrievers.search import PassageRetriever
from retrievers.store import Copy, Source, Store
from settings import Retrieval


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened_store = opened(tmp_path)
    yield opened_store
    opened_store.close()


def local(path: Path) -> Store:
    """A store kept by qdrant-client's local mode, which takes one call at a time."""
    return stores.open(Retrieval(qdrant_embedded="local", collection_name="rules"), path, Words())


def on_server(port: int, dense: Words | None = None, *, key: str = "", host: str = "127.0.0.1", https: bool = False) -> Store:
    settings = Retrieval(
        qdrant_host=host, qdrant_port=port, qdrant_api_key=SecretStr(key), qdrant_https=https, collection_name="rules"
    )
    return stores.open(settings, Path("/nowhere"), dense or Words())


def _self_signed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def test_passages_survive_a_restart(tmp_path: Path) -> None:
    """What was written is there after the store has been closed and opened again."""
    first = opened(tmp_path)
    first.upsert([point("one watt", 1), point("two watts", 2)])
    first.close()
    second = opened(tmp_path)
    assert (second.count(), second.search("two watts", 1)[0][0].page_content) == (2, "two watts")
    second.close()


def test_inventory(store: Store) -> None:
    """The store knows how whole each version of each document is, and how much each source holds."""
    store.upsert(
        [
            point("a", 1, document="/d", document_hash="old", document_passages=2),
            point("b", 2, document="/d", document_hash="new", document_passages=2),
            point("c", 3, document="/d", document_hash="new", document_passages=2, ordinal=1),
            point("d", 4, document="/e", part="97", source="b.txt"),
        ]
    )
    assert {uri: sorted(copies) for uri, copies in store.documents().items()} == {
        "/d": [Copy("new", 2, 2), Copy("old", 1, 2)],
        "/e": [Copy("h", 1, 1)],
    }
    assert store.sources() == [
        Source(source="a.txt", part="15", documents=1, passages=3),
        Source(source="b.txt", part="97", documents=1, passages=1),
    ]
    store.delete(["/d"], keep=["new"])
    assert store.documents()["/d"] == [Copy("new", 2, 2)]
    store.delete(["/d", "/e"])
    assert (store.count(), store.documents(), store.sources()) == (0, {}, [])


def test_inventory_of_many_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inventory that takes several calls misses nothing."""
    monkeypatch.setattr(stores, "_PAGE", 2)
    store.upsert([point(f"text {number}", number) for number in range(1, 6)])
    assert len(store.documents()) == 5


def test_hybrid_search_uses_both(store: Store) -> None:
    """Fused search brings what is best by either kind of vector, and BM25 weighs a rare word higher than others."""
    store.upsert([point("station alpha", 1), point("station beta", 2), point("zeppelin gamma", 3), point("unlike delta", 4)])
    weights = store.sparse.embed_query("station zeppelin")
    question = models.SparseVector(indices=weights.indices, values=weights.values)
    best = store.client.query_points(store.collection, query=question, using=SPARSE).points
    assert best[0].payload is not None
    assert best[0].payload["page_content"] == "zeppelin gamma"
    assert len(best) == 3
    assert len(store.search("station zeppelin", 4)) == 4


def test_cosines_are_those_of_the_vectors(store: Store) -> None:
    """A passage with the question's very words has the cosine one; an unknown id has none."""
    store.upsert([point("one watt", 1), point("something else", 2)])
    ids = [f"00000000-0000-0000-0000-{number:012}" for number in (1, 2, 9)]
    assert store.cosines("one watt", ids) == pytest.approx({ids[0]: 1, ids[1]: 0}, abs=1e-6)


def test_rankings_and_contents(store: Store) -> None:
    """Both rankings come apart and best first, and vectors can be had by their ids."""
    store.upsert([point("one watt", 1), point("two watts of power", 2), point("a beacon", 3)])
    dense, sparse = store.ranked("one watt", 3)
    ids = [f"00000000-0000-0000-0000-{number:012}" for number in (3, 9, 1)]
    assert dense[0][0].id == ids[2]
    assert dense[0][1] == pytest.approx(1, abs=1e-6)
    assert [score for _, score in dense] == sorted((score for _, score in dense), reverse=True)
    assert {hit.page_content for hit, _ in sparse} == {"one watt", "two watts of power"}
    assert store.ranked("of the", 3)[1] == []
    assert {one: vector.shape for one, vector in store.vectors_of(ids).items()} == {ids[0]: (64,), ids[2]: (64,)}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Words(name="other"), r"embedding model words \(64 dimensions.*EMBEDDING_MODEL is other \(64 dimensions"),
        (Words(size=32), r"words \(64 dimensions, weights \w+\), but EMBEDDING_MODEL is words \(32 dimensions"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, other: Words, said: str) -> None:
    """A collection made with another model, or another size, is refused in a line that names both."""
    opened(tmp_path).close()
    with pytest.raises(CollectionMismatch, match=said) as caught:
        opened(tmp_path, other)
    assert "\n" not in str(caught.value)
    opened(tmp_path).close()


def test_foreign_collection_is_refused(tmp_path: Path) -> None:
    """A collection that some other program made is left alone."""
    client = QdrantClient(path=str(tmp_path))
    client.create_collection("rules", vectors_config=models.VectorParams(size=64, distance=models.Distance.COSINE))
    client.close()
    with pytest.raises(CollectionMismatch, match="the collection rules was not made by fcc-rag"):
        opened(tmp_path)


def test_second_process_gets_one_line(tmp_path: Path) -> None:
    """While one process holds the folder, another is told so at once; when the first is killed, it gets in."""
    script = "import sys; from pathlib import Path; from fakes_retrieval import opened; s = opened(Path(sys.argv[1])); "
    with subprocess.Popen(
        [sys.executable, "-c", script + "print(s.count(), flush=True); input()", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"0\n"
        with pytest.raises(StoreLocked, match=r"QDRANT_PATH.* is in use by another process") as caught:
            opened(tmp_path)
        assert "\n" not in str(caught.value)
        other.kill()
    opened(tmp_path).close()


def test_same_process_too(store: Store, tmp_path: Path) -> None:
    """A second store on the same folder is refused within one process as well, and does no harm to the first."""
    with pytest.raises(StoreLocked):
        opened(tmp_path)
    store.upsert([point("still mine", 1)])
    assert store.count() == 1


def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A file in the place of the folder, or a damaged folder, is reported in one line."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"QDRANT_PATH.*cannot be used"):
        opened(tmp_path / "file")
    local(tmp_path).close()
    (tmp_path / "meta.json").write_text("{broken")
    for attempt in (local, opened):  # the second would move what the first has left
        with pytest.raises(StoreError, match=r"QDRANT_PATH.* cannot be read: .*ingest again"):
            attempt(tmp_path)


def test_closed_store(tmp_path: Path) -> None:
    """A closed store refuses in one line, closing twice does nothing, and the folder is free."""
    store = opened(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="has been closed"):
        store.ping()
    opened(tmp_path).close()


async def test_check_does_not_wait(tmp_path: Path) -> None:
    """Whether an embedded store can be used is said at once, whoever holds it and however many wait for it."""
    store = local(tmp_path)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            held.set()
            done.wait(10)

    threading.Thread(target=hold).start()
    held.wait(10)
    waiting = [asyncio.create_task(store.run(store.count)) for _ in range(20)]
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await store.check()
    assert time.monotonic() - started < 0.1
    done.set()
    await asyncio.gather(*waiting)
    store.close()
    with pytest.raises(StoreError, match="has been closed"):
        await store.check()


async def test_check_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is asked on a thread of its own; one without the collection, or that hangs, fails the check in time."""
    with serving() as server:
        store = on_server(server.port)
        free = threading.Event()
        waiting = [asyncio.create_task(store.run(free.wait, 10)) for _ in range(20)]
        await store.check()
        free.set()
        await asyncio.gather(*waiting)
        with monkeypatch.context() as patched:
            patched.setattr(server.engine, "collection_exists", lambda _: False)
            with pytest.raises(StoreError, match="has no collection rules"):
                await store.check()
            free.clear()
            patched.setattr(server.engine, "collection_exists", lambda _: free.wait(10))
            started = time.monotonic()
            results = await asyncio.gather(*(store.check() for _ in range(5)), return_exceptions=True)
            assert time.monotonic() - started < 3
            assert [type(result) for result in results] == [StoreError] * 5
            free.set()
        await store.check()
        store.close()
        with pytest.raises(StoreError, match="has been closed"):
            await store.check()


def test_large_store_is_mentioned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Past the size that local mode is made for, one line in the log advises Edge."""
    monkeypatch.setattr(stores, "_LARGE", 2)
    store = local(tmp_path)
    with caplog.at_level(logging.WARNING):
        for number in range(1, 6):
            store.upsert([point(f"text {number}", number)])
    store.close()
    assert [record.getMessage() for record in caplog.records if "is faster" in record.getMessage()] == [
        f"the store in {tmp_path} (QDRANT_PATH) holds 3 passages; from 2 on QDRANT_EMBEDDED=edge is faster"
    ]


def test_searches_during_writes(store: Store) -> None:
    """Searches from several threads are right while others write."""
    store.upsert([point("the lighthouse answers", 1)])
    wrong: list[object] = []

    def search() -> None:
        found = [texts([passage for passage, _ in store.search("lighthouse answers", 3)]) for _ in range(20)]
        wrong.extend(passages for passages in found if "the lighthouse answers" not in passages)

    def write(start: int) -> None:
        for number in range(start, start + 60, 6):
            store.upsert([point(f"noise {one}", one) for one in range(number, number + 6)])
            store.delete([f"/d/{number}"])

    threads = [threading.Thread(target=search) for _ in range(3)]
    threads += [threading.Thread(target=write, args=(start,)) for start in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert store.count() == 1 + 120 - 20


def test_server_does_what_the_folder_does() -> None:
    """With QDRANT_HOST the same collection lives on a server, with an index for each field that is filtered on."""
    with serving() as server:
        store = on_server(server.port)
        store.ping()
        store.upsert(
            [
                point("one watt of power", 1, section="15.247", citation="47 CFR 15.247(b)"),
                point("identify every ten minutes", 2, part="97", section="97.119", document="/x"),
            ]
        )
        retriever = PassageRetriever(store=store, min_score=0.1)
        assert texts(retriever.invoke("power", filters={"part": "15"})) == ["one watt of power"]
        assert retriever.invoke("what is in § 15.247(b)?")[0].metadata["match"] == "exact"
        assert (store.count(), store.documents()["/x"]) == (2, [Copy("h", 1, 1)])
        store.delete(["/x"])
        assert [source.part for source in store.sources()] == ["15"]
        store.close()
        assert server.indexes.keys() >= {"metadata.part", "metadata.section", "metadata.source", "metadata.document"}
        with pytest.raises(CollectionMismatch, match="EMBEDDING_MODEL is other"):
            on_server(server.port, Words(name="other"))


def test_server_key(caplog: pytest.LogCaptureFixture) -> None:
    """The API key is sent, a wrong one is reported by the setting's name, and that it travels in the clear is said."""
    with serving(api_key="right") as server:
        on_server(server.port, key="right").close()
        assert server.keys == {"right"}
        assert "QDRANT_API_KEY is sent unencrypted" in caplog.text
        with pytest.raises(StoreError, match=r"refuses the request \(401\): check QDRANT_API_KEY"):
            on_server(server.port, key="wrong")


def test_server_with_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With QDRANT_HTTPS the server is spoken to over TLS, and one whose certificate is not trusted is refused."""
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(_self_signed())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(tls=context, api_key="secret") as server:
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            on_server(server.port, key="secret", host="localhost", https=True)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        store = on_server(server.port, key="secret", host="localhost", https=True)
        assert store.count() == 0
        store.close()


def test_server_away() -> None:
    """A server that cannot be reached is reported in one line that names the setting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        with pytest.raises(StoreError, match=r"Qdrant at http://127.0.0.1.*\(QDRANT_HOST\) cannot be used: .*refused") as caught:
            on_server(taken.getsockname()[1])
    assert "\n" not in str(caught.value)
    with pytest.raises(StoreError, match="QDRANT_HOST"):
        on_server(6333, host="ftp://qdrant")
