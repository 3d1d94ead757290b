"""REST as a caller meets it: a real server in a process of its own, driven over HTTP."""

import asyncio
import contextlib
import json
import random
import statistics
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import Served
from httpx_sse import connect_sse

pytestmark = pytest.mark.models

QUESTION = "How often must an amateur station identify itself?"
LONG = 6000  # tokens; the tiny model would take many seconds


def body(question: str = QUESTION, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0} | fields


def events(served: Served, request: dict[str, Any]) -> Generator[tuple[str, dict[str, Any]]]:
    with (
        httpx.Client(timeout=120) as http,
        connect_sse(http, "POST", served.url + "/api/chat", json=request | {"stream": True}) as source,
    ):
        for event in source.iter_sse():
            yield event.event, json.loads(event.data)


def idle(served: Served, *, within: float = 10) -> dict[str, Any]:
    """The queue once nothing runs or waits."""
    limit = time.monotonic() + within
    while (queue := served.queue())["running"] or queue["waiting"]:
        assert time.monotonic() < limit, queue
        time.sleep(0.1)
    return queue


def test_answer_has_the_promised_fields(server: Served) -> None:
    """A plain call answers with the message, its sources, usage and timings, all as documented."""
    answer = server.post("/api/chat", body()).json()
    assert answer["message"]["role"] == "assistant"
    assert answer["finish_reason"] in {"stop", "length"}
    first = answer["sources"][0]
    assert first["id"] == 1
    assert first["citation"].startswith("47 CFR 97.119")
    assert first["source"] == "samples/97.119-station-identification.md"
    assert {"title", "page", "edition", "quote", "score"} <= first.keys()
    usage = answer["usage"]
    assert 0 < usage["completion_tokens"] <= 16
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 <= answer["timings"]["retrieval_ms"] <= answer["timings"]["first_token_ms"] <= answer["timings"]["total_ms"]
    assert {"id", "model", "created", "summary", "citations", "withheld"} <= answer.keys()
    assert {sentence["support"] for sentence in answer["sentences"]} <= {"supported", "partly", "unsupported"}
    assert answer["sentences"]
    assert {"start", "end"} <= first.keys()


def test_stream_and_whole_answer_agree(server: Served) -> None:
    """The streamed pieces are the same text and the same sentences, in the order sources, tokens with sentences, end."""
    whole = server.post("/api/chat", body()).json()
    streamed = list(events(server, body()))
    names = [name for name, _ in streamed]
    assert names[0] == "sources"
    assert names[-1] == "end"
    assert set(names[1:-1]) == {"token", "sentence"}
    assert [data for name, data in streamed if name == "sentence"] == whole["sentences"]
    assert "".join(data["content"] for name, data in streamed if name == "token") == whole["message"]["content"]
    assert streamed[0][1]["sources"] == whole["sources"]
    end = streamed[-1][1]
    assert end["usage"] == whole["usage"]
    assert {"id", "model", "created", "finish_reason", "citations", "timings"} <= end.keys()


def test_question_out_of_the_corpus_is_refused(server: Served) -> None:
    """A cookery question gets the refusal, no source, and costs no token."""
    before = server.queue()["generated_tokens"]
    answer = server.post("/api/chat", body("How long should sourdough bread bake in the oven?")).json()
    assert answer["finish_reason"] == "no_evidence"
    assert answer["sources"] == []
    assert "hold nothing that answers" in answer["message"]["content"]
    assert server.queue()["generated_tokens"] == before


def test_stop_string_ends_the_answer(server: Served) -> None:
    """A stop string over several tokens never shows, whole or streamed."""
    text = server.post("/api/chat", body(max_tokens=64)).json()["message"]["content"]
    middle = text[len(text) // 2 : len(text) // 2 + 6]
    expected = text[: text.index(middle)].split(" [")[0].rstrip()
    cut = server.post("/api/chat", body(max_tokens=64, stop=[middle])).json()
    assert cut["finish_reason"] == "stop"
    assert middle not in cut["message"]["content"]
    assert cut["message"]["content"].startswith(expected[: len(expected) // 2])
    pieces = "".join(data["content"] for name, data in events(server, body(max_tokens=64, stop=middle)) if name == "token")
    assert pieces == cut["message"]["content"]


def test_filters_choose_the_part(server: Served) -> None:
    """A filter on a part leaves only passages of that part."""
    found = server.post("/api/retrieve", {"query": "power limit", "k": 8, "filters": {"part": "97"}}).json()["results"]
    assert found
    assert all("97." in hit["citation"] for hit in found)
    assert all(hit["text"] and hit["end"] > hit["start"] for hit in found)
    answer = server.post("/api/chat", body("What is the power limit?", filters={"part": ["80"]}, k=2)).json()
    assert all("80." in source["citation"] for source in answer["sources"])


def test_cited_paragraph_comes_first(server: Served) -> None:
    """Who names a paragraph gets that paragraph."""
    found = server.post("/api/retrieve", {"query": "what does § 97.313 ask for?"}).json()["results"]
    assert found[0]["citation"].startswith("47 CFR 97.313")
    assert found[0]["match"] == "exact"


@pytest.mark.parametrize(
    ("path", "request_body", "status", "says"),
    [
        ("/api/chat", {}, 422, "messages"),
        ("/api/chat", {"messages": []}, 422, "messages"),
        ("/api/chat", {"messages": [{"role": "wizard", "content": "x"}]}, 422, "role"),
        ("/api/chat", {"messages": [{"role": "assistant", "content": "x"}]}, 422, "last message"),
        ("/api/chat", {"messages": [{"role": "user", "content": "   "}]}, 422, "last message"),
        ("/api/chat", body(max_tokens=0), 422, "max_tokens"),
        ("/api/chat", body(max_tokens="many"), 422, "max_tokens"),
        ("/api/chat", body(temperature=-1), 422, "temperature"),
        ("/api/chat", body(stop=[""]), 422, "stop"),
        ("/api/chat", body(filters={"colour": "red"}), 422, "colour"),
        ("/api/chat", body(surprise=1), 422, "surprise"),
        ("/api/chat", body(QUESTION * 2000), 413, "window"),
        ("/api/chat", body("97.119 " * 20_000, stream=True), 413, "window"),
        ("/api/chat", "text", 422, ""),
        ("/api/retrieve", {"query": ""}, 422, "query"),
        ("/api/retrieve", {"query": "   "}, 422, "empty"),
        ("/api/retrieve", {"query": "x", "k": 1000}, 422, "k"),
        ("/api/summarize", {}, 422, "exactly one"),
        ("/api/summarize", {"text": "a", "citation": "47 CFR 15.1"}, 422, "exactly one"),
        ("/api/summarize", {"citation": "47 CFR 73.9999"}, 404, "73.9999"),
        ("/api/summarize", {"citation": "nonsense"}, 422, "nonsense"),
        ("/api/summarize", {"source": "no/such.pdf"}, 404, "no/such.pdf"),
        ("/api/ingest", {"paths": ["relative.txt"]}, 422, "absolute"),
        ("/api/retrieve", {"query": "x", "filters": {"part": ["15"] * 51}}, 422, "filters"),
        ("/api/nothing", {}, 404, ""),
    ],
)
def test_bad_request_is_told_why(server: Served, path: str, request_body: Any, status: int, says: str) -> None:
    """Every refusal has the one shape and a sentence that names what is wrong."""
    answer = server.post(path, request_body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"]
    assert says in error["message"]
    assert "\n" not in error["message"]


def test_broken_json_is_told_why(server: Served) -> None:
    """A body that is no JSON gets 422 in the one shape, on our routes and on LangServe's."""
    for path in ("/api/chat", "/api/retrieve", "/api/chat/invoke", "/api/rag/batch", "/api/rag/stream"):
        answer = httpx.post(server.url + path, content=b'{"messages": [', headers={"content-type": "application/json"})
        assert answer.status_code == 422, path
        assert answer.json()["error"]["code"] == "invalid_request"


def test_large_body_is_refused(server: Served) -> None:
    """A body over MAX_BODY_MB gets 413 and the limit's name."""
    answer = httpx.post(server.url + "/api/chat", content=b"x" * 5_000_000)
    assert answer.status_code == 413
    assert "MAX_BODY_MB" in answer.json()["error"]["message"]


def test_wrong_method_has_the_one_shape(server: Served) -> None:
    """Even a wrong method is answered in the one shape."""
    answer = server.get("/api/chat")
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"


def test_stream_that_is_left_stops_generating(server: Served) -> None:
    """When an SSE client leaves, generation stops within a few tokens."""
    idle(server)
    before = server.queue()["generated_tokens"]
    stream = events(server, body(max_tokens=LONG))
    for name, _ in stream:
        if name == "token":
            break
    stream.close()
    assert idle(server)["generated_tokens"] - before < LONG / 4


@pytest.mark.parametrize("path", ["/api/chat", "/api/chat/invoke", "/api/chat/batch"])
def test_call_that_is_left_stops_generating(server: Served, path: str) -> None:
    """When the caller of a whole answer, or of LangServe, leaves, generation stops too."""
    before = idle(server)["generated_tokens"]
    given = {"messages": [{"type": "human", "content": QUESTION}]}
    config = {"configurable": {"max_tokens": LONG, "temperature": 0.0}}
    inputs = {"inputs": [given]} if "batch" in path else {"input": given}
    request = body(max_tokens=LONG) if path == "/api/chat" else inputs | {"config": config}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + path, json=request, timeout=httpx.Timeout(30, read=0.7))
    left = server.queue()["generated_tokens"]
    assert left - before < LONG, "the answer was over before its caller left"
    assert idle(server)["generated_tokens"] - left < LONG / 4


@pytest.mark.parametrize("endpoint", ["stream", "stream_log", "stream_events"])
def test_langserve_stream_that_is_left_stops_generating(server: Served, endpoint: str) -> None:
    """When the reader of a LangServe stream leaves, generation stops."""
    idle(server)
    left: dict[str, Any] = {}
    request = {"input": {"question": QUESTION}, "config": {"configurable": {"max_tokens": LONG, "temperature": 0.0}}}
    with httpx.stream("POST", f"{server.url}/api/rag/{endpoint}", json=request, timeout=60) as answer:
        for line in answer.iter_lines():
            left = server.queue()
            if left["running"]:
                assert line is not None
                break
    assert left["running"], "the answer was over before its reader left"
    assert idle(server)["generated_tokens"] - left["generated_tokens"] < LONG / 4


def test_twenty_clients_each_get_their_own_answer(server: Served) -> None:
    """Twenty clients at once each get the answer and the sources of their own question."""
    topics = ["97.119", "97.313", "15.247", "15.19", "15.105", "15.209", "15.225", "97.113", "97.403", "80.1061"]
    questions = [f"What does § {topic} say about {word}?" for topic in topics for word in ("power", "labels")]
    alone = [server.post("/api/chat", body(q, k=1, max_tokens=12)).json() for q in questions]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda q: server.post("/api/chat", body(q, k=1, max_tokens=12)).json(), questions))
    for topic, one, other in zip([t for t in topics for _ in range(2)], alone, together, strict=True):
        assert topic in other["sources"][0]["citation"]
        assert other["message"] == one["message"]


async def test_crowd_is_told_by_status(server: Served) -> None:
    """Of a crowd that comes at the same instant those for whom there is no room get 429, and all others their whole answer."""
    idle(server)
    request = body(max_tokens=200, stream=True)
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        answers = await asyncio.gather(*(client.post(f"{server.url}/api/chat", json=request) for _ in range(80)))
    refused = [answer for answer in answers if answer.status_code == 429]
    whole = [answer.text for answer in answers if answer.status_code == 200]
    assert len(refused) + len(whole) == len(answers)
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert not [text for text in whole if "event: error" in text or "event: end" not in text]


def test_health_answers_while_the_model_works(server: Served) -> None:
    """The event loop is free while a long answer is generated and a large file ingested."""
    large = server.log.parent / "large.txt"
    large.write_text("\n\n".join(f"Paragraph {i} speaks of antenna number {i} and its height." for i in range(3000)))
    job = server.post("/api/ingest", {"paths": [str(large)]}).json()
    talking = threading.Thread(target=lambda: server.post("/api/chat", body(max_tokens=800)))
    talking.start()
    with httpx.Client(base_url=server.url) as http:
        seconds: list[float] = []
        while talking.is_alive() or len(seconds) < 20:
            started = time.perf_counter()
            assert http.get("/api/health").status_code == 200
            seconds.append(time.perf_counter() - started)
            time.sleep(0.05)
        talking.join()
        assert http.get(f"/api/ingest/{job['id']}").json()["state"] in {"running", "done"}
    assert statistics.median(seconds) < 0.1


def test_ingestion_over_http_is_answered_from(server: Served, tmp_path: Path) -> None:
    """A file ingested through the API is found at once, and asked questions during it are answered."""
    note = tmp_path / "lantern.md"
    note.write_text("# Lantern beacons\n\n47 CFR 80.9999(a): A lantern beacon must blink every 17 seconds at dusk.\n")
    job = server.post("/api/ingest", {"paths": [str(note)]}).json()
    limit = time.monotonic() + 90
    while (state := server.get(f"/api/ingest/{job['id']}").json())["state"] in {"queued", "running"}:
        assert server.post("/api/chat", body(max_tokens=2)).status_code == 200
        assert time.monotonic() < limit, state
        time.sleep(0.2)
    assert state["state"] == "done", state
    hit = server.post("/api/retrieve", {"query": "how often does a lantern beacon blink?"}).json()["results"][0]
    assert hit["citation"] == "47 CFR 80.9999(a)"
    assert hit["source"] == "lantern.md"


@pytest.mark.parametrize(
    "headers", [{"X-Forwarded-For": "203.0.113.9"}, {"Host": "evil.example"}, {"Forwarded": "for=203.0.113.9"}]
)
def test_ingestion_from_elsewhere_is_refused(server: Served, headers: dict[str, str]) -> None:
    """Who comes through a proxy, or by a name that merely resolves to this machine, may not ingest."""
    answer = httpx.post(server.url + "/api/ingest", json={"paths": ["/etc"]}, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "forbidden"


def test_status_tells_what_is_loaded(server: Served) -> None:
    """Status names model, quantisation, device, collection, queue and versions."""
    status = server.get("/api/status").json()
    assert status["model"]["name"] == "tiny-llama"
    assert status["model"]["quantization"] == "q8_0"
    assert status["model"]["engine"] == "openvino"
    assert status["model"]["device"] == "cpu"
    assert status["model"]["window"] == 8192
    assert status["collection"]["passages"] > 40
    assert any(source["source"].startswith("samples/") for source in status["collection"]["sources"])
    assert status["process"]["rss_bytes"] > 100_000_000
    assert {"torch", "langserve", "transformers"} <= status["versions"].keys()


def test_live_and_root(server: Served) -> None:
    """The process says that it lives, and the root leads to the chat playground."""
    assert server.get("/api/health/live").json() == {"status": "alive"}
    assert server.get("/").headers["location"] == "/api/chat/playground/"


def test_openapi_describes_every_route(server: Served) -> None:
    """The documentation holds each route with an example, and each error's shape."""
    paths = server.get("/openapi.json").json()["paths"]
    for path in ("/api/chat", "/api/retrieve", "/api/summarize", "/api/ingest"):
        operation = paths[path]["post"]
        assert operation["requestBody"]["content"]["application/json"]["examples"], path
        assert "422" in operation["responses"]
    for path in ("/api/status", "/api/health", "/api/health/live", "/api/chat/invoke", "/api/rag/stream"):
        assert path in paths
    assert server.get("/docs").status_code == 200


def test_summary_on_request(server: Served) -> None:
    """`summarize: always` adds a summary, also as its own event; a text can be summarised by itself."""
    answer = server.post("/api/chat", body(summarize="always", max_tokens=8)).json()
    assert answer["summary"]
    assert "summary" in [name for name, _ in events(server, body(summarize="always", max_tokens=8))]
    text = server.post("/api/summarize", {"citation": "47 CFR 97.119"}).json()
    assert text["summary"]


def test_blank_fields_of_a_form_are_no_fields(server: Served) -> None:
    """A summary asked for by a form that sends its empty fields along is made."""
    answer = server.post("/api/summarize", {"text": "", "citation": "47 CFR 97.119", "source": " "})
    assert answer.status_code == 200, answer.text


async def test_dropped_streams_leave_nothing(server: Served) -> None:
    """Fifty streams, each dropped at a random moment, leave no slot, no thread and little memory behind."""
    process = psutil.Process(server.process.pid)
    draw = random.Random(0)

    async def drop(client: httpx.AsyncClient) -> None:
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(draw.uniform(0.05, 1.5)):
                async with client.stream("POST", f"{server.url}/api/chat", json=body(max_tokens=2000, stream=True)) as answer:
                    async for _ in answer.aiter_lines():
                        pass

    async def drop_many(count: int) -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            await asyncio.gather(*(drop(client) for _ in range(count)))

    await drop_many(20)
    idle(server)
    threads, before = process.num_threads(), resident(process)
    await drop_many(50)
    after = idle(server)
    assert after["kv_cache"]["reserved_tokens"] == 0
    assert process.num_threads() <= threads + 2  # pools grow to their size as they are used
    assert resident(process) - before < 50e6


def resident(process: Any) -> int:
    """Bytes in memory of the server and the process its model runs in."""
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
