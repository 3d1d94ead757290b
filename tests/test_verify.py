"""What the check finds for a sentence: how far a passage supports it, by which words, and what is missing."""

import time

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from chains import claims
from chains.schema import Given
from chains.verify import Verdict, Verifier

POWER = (
    "The rule is about power. The maximum peak conducted output power of a digital transmission system in the 2400-2483.5 MHz"
    " band shall not exceed 1 Watt.\nTransmitting antennas may have a directional gain of up to 6 dBi."
)
LABEL = "The device must bear a label with the identifier. The label may not be placed on a detachable cover."
TABLE = "| Frequency (MHz) | Field strength (microvolts/meter) |\n| --- | --- |\n| 30-88 | 100 |\n| 88-216 | 150 |"


def given(number: int, quote: str, citation: str, start: int | None = None, end: int | None = None) -> Given:
    return Given(
        id=number, citation=citation, title="", source="a.md", page=None, edition="", quote=quote, score=0.5, start=start, end=end
    )


SOURCES = [
    given(1, POWER, "47 CFR 15.247(b)(3)", 1000, 1000 + len(POWER)),
    given(2, LABEL, "47 CFR 2.925(a)", 50, 50 + len(LABEL)),
    given(3, TABLE, "47 CFR 15.209(a)"),
    given(4, "The label must be seen, and no screw may hold the cover.", "47 CFR 2.926"),
]


def check(sentence: str, *markers: int, sources: list[Given] = SOURCES) -> Verdict:
    return Verifier(sources).check(claims.of(sentence), markers)


@pytest.mark.parametrize(
    ("sentence", "marker"),
    [
        ("The peak conducted output power must not exceed 1 watt.", 1),
        ("The maximum conducted output power is 30 dBm in the 2.4 GHz band.", 1),
        ("Under 47 CFR 15.247(b)(3) the conducted output power of a digital system is at most 1 W.", 1),
        ("A label with the identifier must be on the device.", 2),
        ('The label "may not be placed on a detachable cover".', 2),
        ('The label "may not be placed ... detachable cover".', 2),
        ("The label may not be on a detachable cover.", 2),
        ("The antennas may have a gain of 6 dBi.", 1),
        ("The label must be seen.", 4),  # what is denied beside it is another thing
        ("The field strength limit at 30-88 MHz is 100 microvolts/meter.", 3),
        ("1. The label bears the identifier.", 2),
        ("By 2.925 the device must bear a label.", 2),
        ("According to the provided passages, the device must bear a label.", 2),
        ("The passages state that a label is on the device.", 2),
        ("Specifically, they also mention that the label is borne by a device.", 2),
    ],
)
def test_supported(sentence: str, marker: int) -> None:
    """A sentence whose figures, quotations, section numbers and words stand in the passage it cites is supported."""
    found = check(sentence, marker)
    assert (found.support, found.missing, found.verified) == ("supported", [], True)


@pytest.mark.parametrize(
    ("sentence", "markers", "missing"),
    [
        ("The maximum conducted output power is 4 watts.", [1], ["4 watts"]),
        ("The maximum conducted output power is 1 mW.", [1], ["1 mW"]),
        ('The label is "easily removed" from the device.', [2], ['"easily removed"']),
        ("Under § 15.249 the conducted output power is 1 watt.", [1], ["§ 15.249"]),
        ("Under 15.247(c) the conducted output power is 1 watt.", [1], ["15.247(c)"]),
        ("The system may have 47 transmitting antennas.", [1], ["47"]),  # a section's number is no amount
        ("Cats sleep through most of every afternoon.", [1], []),
        ("The maximum conducted output power is 4 watts.", [], ["4 watts"]),
        ("Cats sleep through most of every afternoon.", [], []),
    ],
)
def test_unsupported(sentence: str, markers: list[int], missing: list[str]) -> None:
    """A figure, quotation or section number that is in no cited passage is named; so is a sentence on another subject told."""
    found = check(sentence, *markers)
    assert (found.support, found.missing, found.quote) == ("unsupported", missing, None)
    assert found.verified == (not missing and bool(markers))


@pytest.mark.parametrize(
    ("sentence", "markers"),
    [
        ("Nothing stronger than 1 watt is ever legal.", [1]),  # the figure, in other words
        ("The label may be placed on a detachable cover.", [2]),  # the passage denies it
        ("The device must bear no label with the identifier.", [2]),  # it affirms it
        ("The conducted output power of the system must exceed 1 watt.", [1]),  # it bounds it from the other side
        ("The conducted output power in the 2.45 GHz band is 1 watt.", [1]),  # a figure within a range only
        ("The field strength at 30-88 MHz is 150 microvolts/meter.", [3]),  # another row's figure
        ("The device with 1 watt must bear a label with the identifier.", [1, 2]),  # neither passage says both
        ("Yes.", [1]),  # nothing to look for
    ],
)
def test_partly(sentence: str, markers: list[int]) -> None:
    """What is found in part, or in a line that disagrees, is told as such."""
    assert check(sentence, *markers).support == "partly"


def test_quote() -> None:
    """The quote is the passage's own words that come nearest, with their place in the document."""
    found = check("The conducted output power must not exceed 1 watt.", 2, 1)
    assert found.quote_source == 1
    assert found.quote is not None
    assert found.quote.startswith("The maximum peak conducted output power")
    assert found.quote.endswith("1 Watt.")
    start = 1000 + POWER.index("The maximum")
    assert found.span == (start, start + len(found.quote))


def test_quote_of_a_table() -> None:
    """Of a table the row is quoted; a document that gives its passages no places gives its quotes none."""
    found = check("At 88-216 MHz the field strength is 150 microvolts/meter.", 3)
    assert (found.quote, found.span) == ("| 88-216 | 150 |", None)


def test_quote_below_a_repeated_head() -> None:
    """A table's head that is repeated above a passage does not shift the places of its rows."""
    head, row = TABLE.splitlines()[0], TABLE.splitlines()[-1]
    cut = given(1, f"{head}\n{row}", "47 CFR 15.209(a)", 300, 300 + len(row))
    found = check("At 88-216 MHz the field strength is 150 microvolts/meter.", 1, sources=[cut])
    assert (found.quote, found.span) == ("| 88-216 | 150 |", (300, 316))


def test_attached() -> None:
    """A sentence without markers is checked against the passage that says the same, which is named."""
    found = check("The maximum conducted output power is 1 watt.")
    assert (found.support, found.attached, found.quote_source) == ("supported", 1, 1)


@pytest.mark.parametrize("sentence", ["A label.", "Power is 1 watt.", "The device must bear no cats, dogs, birds or 7 labels."])
def test_not_attached(sentence: str) -> None:
    """A sentence that says too little, or what no passage has, gets none."""
    found = check(sentence)
    assert (found.support, found.attached, found.verified) == ("unsupported", None, False)


@pytest.mark.parametrize(
    ("text", "stance"),
    [
        ("It may not be used.", {"denies"}),
        ("It must not exceed 1 W.", {"most"}),
        ("No more than 5 are needed.", {"most"}),
        ("It is not less than 5.", {"least"}),
        ("At least 5, whether or not used.", {"least"}),
        ("Not only labels.", set()),
        ("See no. 5 and note it.", set()),
        ("It isn't prohibited.", {"denies"}),
    ],
)
def test_stance(text: str, stance: set[str]) -> None:
    """A bound is no denial, though it is made with "not"."""
    assert claims.stance(text) == stance


@given_any(st.text(alphabet='ab.1,% \n"()[]§-xMHzW', max_size=60), st.text(alphabet='ab.1,% \n"()§-xMHzW', max_size=60))
def test_any_text(sentence: str, passage: str) -> None:
    """Whatever a model writes about whatever stands in a document is checked without an error."""
    found = check(sentence, 1, sources=[given(1, passage, "47 CFR 15.1", 10, 10 + len(passage))])
    if found.quote:
        assert found.span is not None
        assert passage[found.span[0] - 10 : found.span[1] - 10] == found.quote


def test_fast() -> None:
    """A sentence costs about two milliseconds among six long passages, also one that cites nothing."""
    words = [f"word{n:03d}" for n in range(200)]
    texts = [". ".join(" ".join(words[n : n + 12]) + f" at {n}.5 MHz" for n in range(k, 180, 6)) for k in range(6)]
    verifier = Verifier([given(n, text, f"47 CFR 15.{200 + n}") for n, text in enumerate(texts, start=1)])
    verifier.check(claims.of("word001 word002 word003"), [1, 2, 3, 4, 5, 6])  # reads the passages
    started = time.perf_counter()
    for n in range(100):
        sentence = f"The word{n:03d} of word{n + 1:03d} and word{n + 2:03d} is {n}.5 MHz."
        verifier.check(claims.of(sentence), [n % 6 + 1] if n % 2 else [])
    assert (time.perf_counter() - started) / 100 < 0.01  # five times the promise, for a busy machine
