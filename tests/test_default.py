"""What a user gets who sets nothing: the default models, the sample notes, and true answers to the README's questions."""

import re
from pathlib import Path

import psutil
import pytest
from conftest import Served, serving

import services
import settings

pytestmark = pytest.mark.models
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def ask(served: Served, question: str) -> dict[str, object]:
    request = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 100}
    return dict(served.post("/api/chat", request).json())


@pytest.mark.parametrize(
    ("question", "fact", "citation"),
    [
        ("How often must an amateur station identify itself?", "10 minutes", "47 CFR 97.119(a)"),
        ("What is the radiated limit of a Class B digital device from 88 to 216 MHz?", "150 microvolts", "47 CFR 15.109"),
        ("What power spectral density may a digitally modulated 15.247 device have?", "8 dBm", "47 CFR 15.247"),
    ],
)
def test_readme_question_is_answered(default_server: Served, question: str, fact: str, citation: str) -> None:
    """The README's example questions are answered from the notes, with a verified citation of the right paragraph."""
    assert question in README
    answer = ask(default_server, question)
    assert fact in str(answer["message"])
    sources = {source["id"]: source["citation"] for source in answer["sources"]}  # type: ignore[attr-defined]
    verified = [c["marker"] for c in answer["citations"] if c["verified"]]  # type: ignore[attr-defined]
    assert any(sources[marker].startswith(citation) for marker in verified), (sources, verified)


def test_marker_stands_in_the_text(default_server: Served) -> None:
    """Each marker in the text names a listed source."""
    answer = ask(default_server, "How often must an amateur station identify itself?")
    markers = {int(n) for n in re.findall(r"\[(\d+)\]", str(answer["message"]))}
    assert markers
    assert markers <= {source["id"] for source in answer["sources"]}  # type: ignore[attr-defined]


def test_second_start_fetches_and_indexes_nothing(tmp_path: Path) -> None:
    """What the first start made is there at the second; a first indexing that was cut off is finished by it."""
    with serving(tmp_path) as first:
        before = first.get("/api/status").json()["collection"]["passages"]
    chosen = settings.load(qdrant_path=str(tmp_path / "qdrant"))
    with services.open_library(chosen) as library:
        library.store.delete(sorted(library.store.documents())[5:])
    with serving(tmp_path) as second:
        assert "indexing" in second.log.read_text(encoding="utf-8")
        assert second.get("/api/status").json()["collection"]["passages"] == before
    with serving(tmp_path) as third:
        log = third.log.read_text(encoding="utf-8")
        assert not [word for word in ("fetching", "preparing", "indexing") if word in log], log
        assert third.get("/api/status").json()["collection"]["passages"] == before
        assert "10 minutes" in str(ask(third, "How often must an amateur station identify itself?")["message"])
        assert not [path for path in libraries(third) if "libtorch" in path]
        assert third.get("/api/status").json()["process"]["rss_bytes"] < 1.5e9


def libraries(served: Served) -> set[str]:
    """The files that the server and its model's process have in memory."""
    process = psutil.Process(served.process.pid)
    return {area.path for each in (process, *process.children(recursive=True)) for area in each.memory_maps()}
