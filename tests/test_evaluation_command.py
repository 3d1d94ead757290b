"""`fcc-rag eval` as a person meets it: what it prints and writes, how it stops, and the same over HTTP."""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Served
from fakes import ListRetriever, ScriptedModel, saying
from fakes_evaluation import KeptThreshold, LaidDown, library, passage
from langchain_core.documents import Document
from test_cli import run as run_apart

import cli
import services
import terminal
from chains import chat
from errors import EngineError, StoreLocked
from retrievers.stages import ALL, Stages

LABELLED = [
    {"id": "one", "question": "q1", "cfr": ["80.1(a)"]},
    {"id": "two", "question": "q2", "cfr": ["80.2", "80.3(b)"]},
    {"id": "three", "question": "q3", "cfr": ["80.9"]},
]
FINDINGS: dict[str, list[Document] | BaseException] = {
    "q1": [passage("47 CFR 80.1(b)"), passage("47 CFR 80.1(a)(1)")],
    "q2": [passage("47 CFR 80.7"), passage("47 CFR 80.3"), passage("47 CFR 80.2(a)")],
    "q3": [passage("47 CFR 80.7")],
}


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return written(tmp_path / "asked.jsonl", LABELLED)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of the command."""
    monkeypatch.setattr(sys, "argv", ["fcc-rag", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def opened(monkeypatch: pytest.MonkeyPatch, retriever: LaidDown, store: KeptThreshold | None = None) -> None:
    """Let the command open this search in place of the settings' own."""
    opening = contextlib.nullcontext(library(retriever, store or KeptThreshold()))
    monkeypatch.setattr(services, "open_library", lambda _: opening)


def test_retrieval_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: Path, tmp_path: Path
) -> None:
    """Figures by section and by paragraph, each stage's worth and the latency are printed, and all of it is written."""
    retriever = LaidDown(findings=FINDINGS)
    opened(monkeypatch, retriever)
    assert run(monkeypatch, "eval", "retrieval", "--questions", str(asked), "--out", str(tmp_path / "found.json")) == 0
    told = capsys.readouterr().out
    for word in ("by section", "by paragraph", "hit@1", "hit@5", "hit@10", "MRR@10", "nDCG@10", "p50", "p95", "rerank"):
        assert word in told
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["partial"] is False
    assert (report["command"], report["asked"], report["options"]) == ("retrieval", 3, {"seed": 0, "k": 10})
    assert report["system"] == {"where": "in process", "embedding": "words", "collection": "rules", "passages": 3}
    section, paragraph = report["levels"]["section"], report["levels"]["paragraph"]
    assert section["hit@1"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert section["hit@5"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert section["MRR@10"]["value"] == pytest.approx((1 + 1 / 2) / 3, abs=1e-4)
    assert section["nDCG@10"]["value"] == pytest.approx((1 + (0.63093 + 0.5) / 1.63093) / 3, abs=1e-4)
    assert paragraph["hit@1"]["value"] == 0.0
    assert paragraph["MRR@10"]["value"] == pytest.approx((1 / 2 + 1 / 2) / 3, abs=1e-4)
    assert report["questions"][1]["first_rank"] == {"section": 2, "paragraph": 2}
    assert report["questions"][2]["first_rank"] == {"section": None, "paragraph": None}
    assert report["latency_ms"]["calls"] == 2


def test_each_stage_is_left_out(monkeypatch: pytest.MonkeyPatch, asked: Path, tmp_path: Path) -> None:
    """Every stage there is gets its turn, one at a time, and what it is worth is told with its sign."""
    retriever = LaidDown(findings=FINDINGS)
    opened(monkeypatch, retriever)
    assert run(monkeypatch, "eval", "retrieval", "--questions", str(asked), "-k", "20", "--out", str(tmp_path / "o")) == 0
    names = [stage.name for stage in fields(Stages)]
    expected = [ALL, *(replace(ALL, **{name: False}) for name in names)]
    assert [stages for question, _, stages in retriever.asked if question == "q1"] == expected
    assert {k for _, k, _ in retriever.asked} == {20}
    without = json.loads((tmp_path / "o").read_text())["without"]
    assert list(without) == names
    rerank = without["rerank"]["section"]  # the fake gives its findings last first: q2 gains, q1 stays
    assert rerank["figures"]["MRR@10"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert rerank["differences"]["MRR@10"]["value"] == pytest.approx((1 / 2) / 3, abs=1e-4)
    assert without["dense"]["section"]["differences"]["MRR@10"] == {"value": 0, "low": 0, "high": 0, "n": 3}
    retriever.asked.clear()
    assert run(monkeypatch, "eval", "retrieval", "--questions", str(asked), "--no-ablation", "--limit", "2") == 0
    assert [stages for _, _, stages in retriever.asked] == [ALL, ALL]


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt(), 130), (EngineError("the engine is away"), 1)])
def test_a_stopped_run_keeps_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: Path,
    tmp_path: Path,
    error: BaseException,
    status: int,
) -> None:
    """Ctrl-C, or an error on the way, loses nothing: what is there is printed and written as partial."""
    opened(monkeypatch, LaidDown(findings=FINDINGS | {"q3": error}))
    assert run(monkeypatch, "eval", "retrieval", "--questions", str(asked), "--out", str(tmp_path / "o")) == status
    told = capsys.readouterr()
    assert "by section" in told.out
    assert "stopped after 2 of 3 questions" in told.err
    assert "Traceback" not in told.err
    report = json.loads((tmp_path / "o").read_text())
    assert report["partial"] is True
    assert [row["id"] for row in report["questions"]] == ["one", "two"]
    assert report["levels"]["section"]["hit@1"]["n"] == 2


def test_stopped_before_the_first_question(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: Path, tmp_path: Path
) -> None:
    """Where nothing is there yet, that is said, and no figure is made up."""
    opened(monkeypatch, LaidDown(findings=dict.fromkeys(FINDINGS, KeyboardInterrupt())))
    assert run(monkeypatch, "eval", "retrieval", "--questions", str(asked), "--out", str(tmp_path / "o")) == 130
    told = capsys.readouterr()
    assert not told.out.strip()
    assert "stopped after 0 of 3" in told.err
    assert json.loads((tmp_path / "o").read_text())["levels"] == {"section": {}, "paragraph": {}}


def test_a_terminal_gets_drawn_tables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: Path) -> None:
    """On a terminal the tables have lines, elsewhere they are plain columns that line up."""
    opened(monkeypatch, LaidDown(findings=FINDINGS))
    run(monkeypatch, "eval", "retrieval", "--questions", str(asked), "--no-ablation")
    lines = capsys.readouterr().out.split("\n")
    head, first, second = (next(line for line in lines if word in line) for word in ("hit@1", "by section", "by paragraph"))
    assert len(head) == len(first) == len(second)
    assert not any(set(line) & set("│┃━") for line in lines)
    monkeypatch.setattr(terminal.out, "_force_terminal", True)
    run(monkeypatch, "eval", "retrieval", "--questions", str(asked), "--no-ablation")
    assert "┃" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("retrieval", "--questions", "gone.jsonl"), "gone.jsonl does not exist"),
        (("retrieval", "--questions", "bad.jsonl"), "bad.jsonl, line 1: question: Field required"),
        (("retrieval", "--questions", "unlabelled.jsonl"), "unlabelled.jsonl, line 1: cfr: "),
        (("answers", "--questions", "unlabelled.jsonl"), "cfr or choices"),
        (("calibrate", "--questions", "unlabelled.jsonl"), "--without"),
        (("retrieval", "--questions", "asked.jsonl", "--out", "gone/o.json"), "--out: gone/o.json cannot be written"),
        (("retrieval", "--questions", "asked.jsonl", "--url", "http://127.0.0.1:1"), "no server answers"),
        (("answers", "--questions", "asked.jsonl", "--url", "http://127.0.0.1:1"), "no server answers"),
        (("retrieval", "--questions", "asked.jsonl"), "is empty: index documents"),
    ],
)
def test_what_cannot_work_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    asked: Path,
    words: tuple[str, ...],
    says: str,
) -> None:
    """What cannot be measured is one line, before anything long begins."""
    written(tmp_path / "bad.jsonl", [{"query": "q1"}])
    written(tmp_path / "unlabelled.jsonl", [{"question": "q1"}])
    opened(monkeypatch, LaidDown(findings=FINDINGS), KeptThreshold(passages=0))
    assert run(monkeypatch, "eval", *words) == 1
    told = capsys.readouterr()
    assert says in told.err
    assert told.err.count("\n") <= 1
    assert not told.out


def test_a_held_store_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], asked: Path) -> None:
    """If another process holds the store, the line says that a server can be named."""

    @contextlib.contextmanager
    def held(chosen: object) -> Iterator[None]:
        raise StoreLocked("it is in use by another process")
        yield

    monkeypatch.setattr(services, "open_library", held)
    assert run(monkeypatch, "eval", "retrieval", "--questions", str(asked)) == 1
    assert "--url" in capsys.readouterr().err


def scores(**best: float) -> dict[str, list[Document] | BaseException]:
    return {question: [passage("47 CFR 80.1", score=score)] for question, score in best.items()}


def test_calibrate_keeps_the_threshold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The chosen threshold is printed with its trade-off and kept with the collection; a dry run keeps nothing."""
    asked = written(tmp_path / "a.jsonl", [{"question": "q1"}, {"question": "q2"}, {"question": "q3", "answerable": False}])
    without = written(tmp_path / "w.jsonl", [{"question": "q4"}])
    store = KeptThreshold()
    opened(monkeypatch, LaidDown(findings=scores(q1=0.6, q2=0.5, q3=0.3, q4=0.1)), store)
    words = ("eval", "calibrate", "--questions", str(asked), "--without", str(without), "--out", str(tmp_path / "o"))
    assert run(monkeypatch, *words, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "threshold 0.4: not kept; MIN_SCORE=0.4 sets it" in told
    assert "0.4000 chosen" in told
    assert store.threshold is None
    assert run(monkeypatch, *words) == 0
    assert "threshold 0.4: kept with the collection rules" in capsys.readouterr().out
    assert store.threshold == 0.4
    report = json.loads((tmp_path / "o").read_text())
    assert (report["kept"], report["answerable"], report["unanswerable"]) == (True, 2, 2)


def test_a_stopped_calibration_keeps_no_threshold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A threshold of half the questions is not kept."""
    asked = written(tmp_path / "a.jsonl", [{"question": "q1"}, {"question": "q2", "answerable": False}, {"question": "q3"}])
    store = KeptThreshold()
    opened(monkeypatch, LaidDown(findings=scores(q1=0.6, q2=0.3) | {"q3": KeyboardInterrupt()}), store)
    assert run(monkeypatch, "eval", "calibrate", "--questions", str(asked)) == 130
    assert store.threshold is None


def test_answers_in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The real chain is asked, with the choices and without; the model alone gets the same words and no passages."""
    rows = [{"question": "How much power?", "cfr": ["80.1"], "choices": ["ten watts", "two watts"], "answer_index": 1}]
    asked = written(tmp_path / "a.jsonl", rows)
    model = ScriptedModel(say=saying("two watts [1]."))
    document = passage("47 CFR 80.1(a)")
    document.page_content = "The power is two watts."
    found = ListRetriever(documents=[document])
    chain = chat.build(found, model, window=4096, max_tokens=64, temperature=0.0, k=2, summary_threshold=400)
    settled = SimpleNamespace(k=2)
    writer = SimpleNamespace(model=model, name="scripted")
    documents = library(LaidDown(findings={}), KeptThreshold())
    served = SimpleNamespace(chat=lambda: chain, writer=writer, settings=settled, library=documents)
    monkeypatch.setattr(services, "open_all", lambda _: contextlib.nullcontext(served))
    words = ("eval", "answers", "--questions", str(asked), "--max-tokens", "33", "--out", str(tmp_path / "o"))
    assert run(monkeypatch, *words) == 0
    told = capsys.readouterr().out
    for word in ("citation accuracy", "sentences supported", "refusal rate", "with retrieval", "model alone"):
        assert word in told
    report = json.loads((tmp_path / "o").read_text())
    assert report["citation_accuracy"]["value"] == 1.0
    assert report["choices"]["with_retrieval"]["value"] == report["choices"]["alone"]["value"] == 1.0
    assert report["system"]["model"] == "scripted"
    plain, lettered, alone = model.calls
    assert (plain.kwargs["max_tokens"], plain.kwargs["temperature"], alone.kwargs["temperature"]) == (33, 0.0, 0.0)
    assert "ten watts" not in plain.text
    assert "A) " in lettered.text
    assert "The power is two watts." in lettered.text
    assert "The power is two watts." not in alone.text
    assert "A) " in alone.text


@pytest.mark.models
def test_over_http(server: Served, tmp_path: Path) -> None:
    """The three commands measure a running server, and say what cannot be had over HTTP."""
    rows: list[dict[str, Any]] = [
        {"question": "How often must an amateur station identify itself?", "cfr": ["97.119"]},
        {"question": "How do I bake bread with rye flour?", "answerable": False},
    ]
    asked = written(tmp_path / "a.jsonl", rows)
    beside = ("--questions", str(asked), "--url", server.url, "--out", str(tmp_path / "o"))
    done = run_apart("eval", "retrieval", *beside)
    assert done.returncode == 0, done.stderr
    assert "over HTTP" in done.stderr
    report = json.loads((tmp_path / "o").read_text())
    assert report["levels"]["section"]["hit@1"]["value"] == 1.0
    assert report["system"]["model"] == "tiny-llama"
    done = run_apart("eval", "calibrate", *beside)
    assert done.returncode == 0, done.stderr
    assert "not kept" in done.stdout
    offered = [row | {"choices": ["yes", "no"], "answer_index": 0} for row in rows[:1]]
    written(asked, offered)
    done = run_apart("eval", "answers", *beside, "--max-tokens", "8", "--choice-tokens", "4")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o").read_text())
    assert report["choices"]["alone"]["n"] == 1
    assert report["refusal_rate"]["value"] == 0.0


@pytest.mark.models
def test_in_process_on_a_real_index(tmp_path: Path) -> None:
    """Documents that were indexed by the command are measured by the command, without a server."""
    note = tmp_path / "lamps.md"
    note.write_text("# Lighthouse lamps\n\n47 CFR 80.8888(b): A lighthouse lamp must be tested every nine weeks by its keeper.\n")
    store = {"QDRANT_PATH": str(tmp_path / "qdrant")}
    assert run_apart("ingest", str(note), **store).returncode == 0
    asked = written(tmp_path / "a.jsonl", [{"question": "How often is a lighthouse lamp tested?", "cfr": ["80.8888(b)"]}])
    done = run_apart("eval", "retrieval", "--questions", str(asked), "--out", str(tmp_path / "o"), **store)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o").read_text())
    assert report["levels"]["paragraph"]["hit@1"]["value"] == 1.0
    assert set(report["without"]) == {stage.name for stage in fields(Stages)}
