"""The [n] markers of an answer: checked, attached, and never at the cost of its text."""

import re
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chains.markers import Markers
from chains.schema import Citation, Given

POWER = "The maximum peak conducted output power of a digital transmission system in the 2400-2483.5 MHz band is 1 Watt."
LABEL = "A label on the device must bear the FCC Identifier and be permanently affixed."
MARKER = re.compile(r"\s*\[\d{1,3}(?: ?, ?\d{1,3}){0,7}\]")


def source(number: int, quote: str, citation: str = "47 CFR 15.247(b)(3)") -> Given:
    return Given(id=number, citation=citation, title="", source="a.md", page=None, edition="", quote=quote, score=0.5)


SOURCES = [source(1, POWER), source(2, LABEL, "47 CFR 2.925(a)")]
WORDS = st.sampled_from(
    [
        *(" ", " ", "\n", "  ", "\n\n", ". ", ".", "! ", "; ", ", ", "[", "]", "[1]", " [1]", " [2]", " [9]", "[1, 2]", "[1,9]"),
        *("[12", "[100, 101, 102, 103, 104, 105, 106]", "The", "power", " Watt", "1", "2400-2483.5 MHz", "label", "e.g.", "U.S."),
        *(
            "maximum peak conducted output power",
            "\N{NO-BREAK SPACE}",
            "한국어",
            '"',
            "x [y] ",
            "A label on the device must bear ",
        ),
    ]
)
TEXT = st.lists(WORDS, max_size=20).map("".join)


def run(text: str, sources: list[Given] = SOURCES, cuts: tuple[int, ...] = ()) -> tuple[str, list[Citation], bool]:
    markers = Markers(sources)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [markers.feed(text[start:end]) for start, end in pairwise(ends)]
    return "".join(pieces) + markers.flush(), markers.citations, markers.repeating


@example("[100, 101, 102, 103, 104, 105, 106]", [34])  # longer than what was once held back
@example("[1" + " " * 40 + ",2]", [42])
@given(TEXT, st.lists(st.integers(0, 200), max_size=20))
def test_any_chopping(text: str, cuts: list[int]) -> None:
    """What is shown and what is cited do not depend on how the answer's text arrives."""
    assert run(text) == run(text, cuts=tuple(cuts)) == run(text, cuts=tuple(range(len(text))))


@given(st.text(alphabet="[],. 19aA\n", max_size=30))
def test_any_chopping_of_noise(text: str) -> None:
    """Nor of text that is hardly any."""
    assert run(text) == run(text, cuts=tuple(range(len(text))))


@given(TEXT)
def test_nothing_lost(text: str) -> None:
    """Apart from markers no character is added, lost or moved, but for what follows a repetition."""
    shown, _, repeating = run(text)
    bare, was = ("".join(MARKER.sub("", t).split()) for t in (shown, text))
    assert bare == was or (repeating and was.startswith(bare))


@given(TEXT)
def test_without_sources(text: str) -> None:
    """Where no passage was given, only markers are taken out."""
    shown, citations, repeating = run(text, sources=[])
    assert MARKER.search(shown) is None or "[[" in text or re.search(r"\[[\d, ]*\s*\[", text)
    assert not any(citation.verified or citation.attached for citation in citations)
    if not MARKER.search(text) and not repeating:
        assert shown == text


@given(TEXT)
def test_citations_are_the_markers(text: str) -> None:
    """Each marker that is shown is among the citations, in its order."""
    shown, citations, repeating = run(text)
    if repeating or re.search(r"\[[\d, ]*\s*\[", text):
        return  # brackets within brackets are no markers of a model's
    numbers = [int(n) for marker in MARKER.findall(shown) for n in re.findall(r"\d+", marker)]
    assert numbers == [c.marker for c in citations if c.marker in {1, 2}]


def test_unknown() -> None:
    """A marker that names no passage is not shown, and is reported as unverified."""
    shown, citations, _ = run("It must be small [7]. Yes.")
    assert shown == "It must be small. Yes."
    assert citations == [Citation(marker=7, verified=False)]


def test_order() -> None:
    """Citations come in the order of their markers, the unknown ones among them."""
    _, citations, _ = run("The limit [1] is said [9] to hold [2]. Next.")
    assert [citation.marker for citation in citations] == [1, 9, 2]


def test_verified() -> None:
    """A marker is verified if its passage holds each figure of the sentence."""
    _, citations, _ = run("The limit is 1 Watt in 2400-2483.5 MHz [1]. The limit is 4 Watts [1]. A label is needed [2].")
    assert [(c.marker, c.verified) for c in citations] == [(1, True), (1, False), (2, True)]


def test_quotation() -> None:
    """A quotation that is not in the passage is not verified."""
    _, citations, _ = run('It must be "permanently affixed" [2]. It must be "easily removed" [2].')
    assert [c.verified for c in citations] == [True, False]


def test_thousands() -> None:
    """A figure is the same with and without its thousands separator."""
    markers = Markers([source(1, "The fee is 1000 dollars.")])
    markers.feed("The fee is 1,000 dollars [1].")
    markers.flush()
    assert markers.citations == [Citation(marker=1, verified=True)]


def test_several_in_one() -> None:
    """A marker with several numbers is shown as several, without those that name no passage."""
    assert run("Both hold [1, 2] here.")[0] == "Both hold [1][2] here."
    assert run("Both hold [1, 9] here.")[0] == "Both hold [1] here."


def test_attached() -> None:
    """A sentence the model left without a marker gets the passage that says the same."""
    shown, citations, _ = run("The maximum conducted output power is 1 Watt. That is all.")
    assert shown == "The maximum conducted output power is 1 Watt. [1] That is all."
    assert citations == [Citation(marker=1, verified=True, attached=True)]


@pytest.mark.parametrize(
    "text",
    [
        "The maximum conducted output power is 4 Watts.",  # another figure
        "Cats sleep through most of every afternoon.",  # other words
        "A label.",  # too little to go by
        'The label on the device must be "easily removed" by a permanently affixed identifier.',  # not a quotation
    ],
)
def test_not_attached(text: str) -> None:
    """No passage is claimed for a sentence that it does not hold."""
    assert run(text) == (text, [], False)


def test_prompt() -> None:
    """Words are shown as they come; only white space and what may be a marker wait for what follows."""
    markers = Markers(SOURCES)
    assert [markers.feed(piece) for piece in ("The", " pow", "er", " ", "[", "1", "]", " is")] == [
        *("The", " pow", "er", "", "", "", " [1]", " is")
    ]


@pytest.mark.parametrize("text", ["the 2.4 GHz band, e.g. Wi-Fi", "see sec. 15.247 for U.S. rules", "1. one item"])
def test_abbreviations(text: str) -> None:
    """An abbreviation does not end a sentence, so no marker is put into its middle."""
    assert run(text)[0] == text


def test_repeating() -> None:
    """A sentence said before ends the answer there, so that a model does not run in circles."""
    text = "The limit holds for all bands. It is low. The limit  holds for all BANDS. It is low. And so on."
    assert run(text, []) == ("The limit holds for all bands. It is low. The limit  holds for all BANDS.", [], True)


def test_repeated_lines() -> None:
    """So does a line said before."""
    text = "- the limit holds for all\n- it is low\n- the limit holds for all\n- it is low\n"
    assert run(text, []) == ("- the limit holds for all\n- it is low\n- the limit holds for all", [], True)


def test_repeating_with_markers() -> None:
    """A repetition is one with other markers, too, and keeps those it has."""
    text = "The limit is 1 Watt for all [1]. The limit is 1 Watt for all [2]. The limit"
    shown, citations, repeating = run(text)
    assert repeating
    assert shown == "The limit is 1 Watt for all [1]. The limit is 1 Watt for all [2]."
    assert [citation.marker for citation in citations] == [1, 2]


def test_short_repetition() -> None:
    """Short sentences may be said twice."""
    assert run("See the table. It is low. See the table. Yes. See the table. No.", [])[2] is False


def test_nothing_after_repeating() -> None:
    """Nothing of what comes after the repetition is shown, even if the model is still being read."""
    markers = Markers([])
    markers.feed("One two three four five. One two three four five. More")
    assert markers.repeating
    assert markers.feed(" and more.") == ""
    assert markers.flush() == ""


@pytest.mark.parametrize(
    ("sentence", "passage", "said"),
    [
        ("A 2.4 GHz device may use 1 watt.", "In 902-928, 2400-2483.5 and 5725-5850 MHz the device may use 1 watt.", True),
        ("The device may use 13560 kHz.", "The device may use 13.56 MHz.", True),
        ("The device may use 30 dBm.", "The device may use 1 watt.", True),
        ("A 5 GHz device may use 1 watt.", "In 2400-2483.5 MHz the device may use 1 watt.", False),
        ("A 2.4 GHz device may use 4 watts.", "In 2400-2483.5 MHz the device may use 1 watt.", False),
    ],
)
def test_figures_in_other_units(sentence: str, passage: str, said: bool) -> None:
    """A marker is verified where its passage gives the figures in other units, or in a list whose unit stands at its end."""
    _, citations, _ = run(f"{sentence} [1]", [source(1, passage)])
    assert citations == [Citation(marker=1, verified=said)]


def supports(text: str) -> list[tuple[str, str]]:
    """Each sentence as it is shown, with its support."""
    markers = Markers(SOURCES)
    shown = markers.feed(text) + markers.flush()
    sentences = [closed.sentence for closed in markers.closed() if closed.sentence]
    return [(shown[s.start : s.end], s.support) for s in sentences]


def test_sentences() -> None:
    """Each sentence is told by its place with its markers, and with how far it is supported."""
    text = "The limit is 4 Watts [1]. \n\nThe maximum conducted output power is 1 Watt. Cats sleep all afternoon long [7]."
    assert supports(text) == [
        ("The limit is 4 Watts [1].", "unsupported"),
        ("The maximum conducted output power is 1 Watt. [1]", "supported"),
        ("Cats sleep all afternoon long.", "unsupported"),
    ]


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("Yes. The maximum output power is 1 Watt [1].", ["supported", "supported"]),
        ("Yes. The maximum output power is 4 Watts [1].", ["unsupported", "unsupported"]),
        ("## Limits\n\nIn short:\nThe maximum output power is 1 Watt [1].", ["supported"] * 3),
        ("**These limits apply to devices of every kind:**\n\n- The maximum output power is 4 Watts [1].", ["unsupported"] * 2),
        ("# Everything about small green devices\nThe maximum output power is 1 Watt [1].", ["supported"] * 2),
        ("The maximum output power is 1 Watt [1]. That is all.", ["supported", "supported"]),
        ("Yes.", ["unsupported"]),
        ("Yes [1].", ["partly"]),
        ("1. The maximum output power is 1 Watt [1].", ["supported"]),
    ],
)
def test_bare_sentences(text: str, levels: list[str]) -> None:
    """A sentence that says nothing of its own shares the support of the next, at the end that of the last."""
    assert [support for _, support in supports(text)] == levels


def test_sentences_come_when_they_end() -> None:
    """A sentence is told as soon as the next word shows that it is over, and only once."""
    markers = Markers(SOURCES)
    counts = []
    for piece in ("The label must be affixed [2].", " ", "It", " is.", ""):
        markers.feed(piece)
        counts.append(len(markers.closed()))
    assert counts == [0, 0, 1, 0, 0]
    markers.flush()
    assert len(markers.closed()) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "The limit is {n} MHz and 4 W [1]. ",
        "a. b. ",
        "1 ",
        "[1]",
        "[1",
        "(a)",
        "§ ",
        '"x ',
        "no. ",
        "{n}, ",
        "- {n}.\n",
        "not ",
        "A",
        "\n",
    ],
)
def test_hostile_repetition_costs_no_time(sentence: str) -> None:
    """A long answer that repeats itself in whatever way costs no more than its length, word by word."""
    markers = Markers([source(n, f"{POWER} {LABEL} " * 5) for n in range(1, 7)])
    started = time.perf_counter()
    for n in range(2000):
        markers.feed(sentence.format(n=n))
    markers.flush()
    assert time.perf_counter() - started < 4
