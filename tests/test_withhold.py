"""What is let through of an answer, with and without its unsupported sentences."""

from itertools import pairwise

import pytest
from hypothesis import given as having
from hypothesis import strategies as st
from test_verify import SOURCES

from chains.markers import Markers
from chains.schema import Sentence
from chains.withhold import Gate

GOOD = "The maximum conducted output power is 1 Watt."
WRONG = "The maximum conducted output power is 4 Watts."
ALSO = "The device must bear a label with the identifier."
WORDS = [GOOD, WRONG, ALSO, "Yes.", " [1]", " [2]", " [9]", " ", "\n", "\n\n", "- "]
PIECES = st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


def run(text: str, *, strict: bool, cuts: tuple[int, ...] = ()) -> tuple[str, list[Sentence], int]:
    markers, gate = Markers(SOURCES), Gate(strict=strict)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    shown = ""
    sentences: list[Sentence] = []
    for piece in [*(text[start:end] for start, end in pairwise(ends)), None]:
        passed = markers.flush() if piece is None else markers.feed(piece)
        for out, closed in gate.feed(passed, markers.closed()):
            shown += out
            if closed and closed.sentence:
                assert closed.sentence.end <= len(shown)
                sentences.append(closed.sentence)
    return shown, sentences, gate.withheld


def test_withheld() -> None:
    """An unsupported sentence is left out with the space before it, and counted."""
    shown, sentences, withheld = run(f"{GOOD} {WRONG} {ALSO}", strict=True)
    assert shown == f"{GOOD} [1] {ALSO} [2]"
    assert [shown[s.start : s.end] for s in sentences] == [f"{GOOD} [1]", f"{ALSO} [2]"]
    assert withheld == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{WRONG} {GOOD}", f"{GOOD} [1]"),  # nothing before the first
        (f"{GOOD}\n\n{WRONG} {ALSO}", f"{GOOD} [1]\n\n{ALSO} [2]"),  # a new paragraph stays one
        (f"- {GOOD}\n- {WRONG}\n- {ALSO}", f"- {GOOD} [1]\n- {ALSO} [2]"),
        (f"Yes. {WRONG}", ""),  # what says nothing of its own goes with the next sentence
        (f"{WRONG} Yes. {GOOD}", f"Yes. {GOOD} [1]"),
        (f"{GOOD} That is all.", f"{GOOD} [1] That is all."),
        ("Yes.", ""),
        (WRONG, ""),
        ("", ""),
    ],
)
def test_shape(text: str, shown: str) -> None:
    """What is left reads as if the rest had not been written."""
    assert run(text, strict=True)[0] == shown


def test_shown_in_time() -> None:
    """Withholding, nothing of a sentence is shown before it is checked; otherwise all of it is shown as it comes."""
    for strict, shown in ((True, ""), (False, GOOD)):
        markers, gate = Markers(SOURCES), Gate(strict=strict)
        assert "".join(out for out, _ in gate.feed(markers.feed(GOOD), markers.closed())) == shown


@having(PIECES, st.lists(st.integers(0, 400), max_size=12))
def test_open(text: str, cuts: list[int]) -> None:
    """Without withholding the text and its sentences do not depend on how it arrives, and each sentence is where it says."""
    shown, sentences, withheld = run(text, strict=False, cuts=tuple(cuts))
    assert (shown, sentences, withheld) == run(text, strict=False)
    markers = Markers(SOURCES)
    assert shown == markers.feed(text) + markers.flush()
    assert all(before.end <= after.start for before, after in pairwise(sentences))
    assert all(shown[s.start : s.end] == shown[s.start : s.end].strip() != "" for s in sentences)


@having(PIECES, st.lists(st.integers(0, 400), max_size=12))
def test_strict(text: str, cuts: list[int]) -> None:
    """With it, what is shown is the supported sentences, whole, in their order, and nothing else but white space."""
    shown, sentences, withheld = run(text, strict=True, cuts=tuple(cuts))
    full, every, _ = run(text, strict=False)
    assert (shown, sentences, withheld) == run(text, strict=True)
    kept = [full[s.start : s.end] for s in every if s.support != "unsupported"]
    assert [shown[s.start : s.end] for s in sentences] == kept
    assert withheld == len(every) - len(kept)
    assert not any(s.support == "unsupported" for s in sentences)
    between = [shown[before.end : after.start] for before, after in pairwise(sentences)]
    assert not "".join(between).replace("[1]", "").replace("[2]", "").strip()
