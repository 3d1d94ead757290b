"""The sample notes: each names the section it speaks of, and says that it is a paraphrase."""

import re
from pathlib import Path

import pytest

from retrievers import citations
from retrievers.documents import SourceDocument
from retrievers.loaders import load

SAMPLES = Path(__file__).parent.parent / "samples"
NOTES = sorted(SAMPLES.glob("*"))


def test_there_are_some_thirty() -> None:
    """A first start has something to answer from."""
    assert len(NOTES) >= 30
    assert {path.suffix for path in NOTES} == {".md"}


@pytest.mark.parametrize("path", NOTES, ids=lambda path: path.stem)
def test_note_cites_and_says_what_it_is(path: Path) -> None:
    """A note loads, cites its section in every paragraph, and its edition says that it is not the rule's text."""
    (document,) = load(path, root=SAMPLES)
    assert isinstance(document, SourceDocument)
    assert document.source == f"samples/{path.name}"
    assert "paraphrase" in document.edition
    for block in document.blocks:
        if block.kind != "heading":
            assert citations.parse(block.citation), document.text[block.start : block.end]
    words = len(re.findall(r"\w+", document.text))
    assert 60 <= words <= 400
