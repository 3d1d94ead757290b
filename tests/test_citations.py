"""What counts as a citation, how it is written, and which paragraph a text stands in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrievers import citations
from retrievers.citations import Citation
from retrievers.loaders.designators import goes_on, outline

_LETTERS = st.sampled_from("abcdefghijklmnopqrstuvwxyz")
_DESIGNATORS = st.one_of(
    _LETTERS,
    _LETTERS.map(lambda letter: letter * 2),
    st.integers(1, 199).map(str),
    st.sampled_from(["i", "ii", "iii", "iv", "vi", "ix", "xiv", "xxvii"]),
    _LETTERS.map(str.upper),
)
_PARTS = st.integers(1, 1999).map(str)
_PLACES = st.builds(
    lambda title, part, number, paragraphs: Citation(title, part, f"{part}.{number}", tuple(paragraphs)),
    st.integers(1, 50),
    _PARTS,
    st.integers(1, 99999),
    st.lists(_DESIGNATORS, max_size=6),
)
_CITATIONS = st.one_of(
    _PLACES,
    st.builds(Citation, st.integers(1, 50), _PARTS),
    st.builds(lambda part, name: Citation(47, part, f"Appendix {name}"), _PARTS, st.sampled_from(["A", "B1", "1", "IV"])),
    st.integers(0, 999999).map(lambda number: Citation(kdb=f"{number:06}")),
)


def _found(text: str) -> list[str]:
    return [str(citation) for citation in citations.find(text)]


def _paths(*paragraphs: str) -> list[str]:
    return [" ".join("".join(f"({token})" for token in mark.path) for mark in marks) for marks in outline(paragraphs)]


@given(_CITATIONS)
def test_a_citation_reads_back_as_written(citation: Citation) -> None:
    """What `str` writes, `parse` reads, for every title, section, paragraph, appendix and KDB publication."""
    assert citations.parse(str(citation)) == citation


@given(_PLACES)
def test_a_written_citation_is_found_in_a_sentence(citation: Citation) -> None:
    """A citation in the middle of a sentence is found whole, with no part of the sentence in it."""
    assert citations.find(f"As required by {citation}, the device must comply.") == [citation]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("15.247(b)(3)", ["47 CFR 15.247(b)(3)"]),
        ("What does § 97.313 allow?", ["47 CFR 97.313"]),
        ("§§ 15.207 and 15.209 apply", ["47 CFR 15.207", "47 CFR 15.209"]),
        ("§§ 15.1, 15.3, and 15.5 of 20 pages", ["47 CFR 15.1", "47 CFR 15.3", "47 CFR 15.5"]),
        ("§§ 95.2327-95.2329", ["47 CFR 95.2327", "47 CFR 95.2329"]),
        ("47 CFR 15.19, and once more 15.19", ["47 CFR 15.19"]),
        ("47 C.F.R. § 15.247(a)(1)(iii)", ["47 CFR 15.247(a)(1)(iii)"]),
        ("under 47 CFR part 15", ["47 CFR part 15"]),
        ("parts 15 and 18", ["47 CFR part 15", "47 CFR part 18"]),
        ("Appendix B to part 64", ["47 CFR part 64 Appendix B"]),
        ("Section 2.1091 says", ["47 CFR 2.1091"]),
        ("10 CFR 20.1201(a)(1) and 20.1301", ["10 CFR 20.1201(a)(1)", "10 CFR 20.1301"]),
        ("48 CFR 52.203-13; 10 CFR 50.55a(z)", ["48 CFR 52.203-13", "10 CFR 50.55a(z)"]),
        ("KDB 996369 D03 and KDB Publication No. 447498", ["KDB 996369", "KDB 447498"]),
        ("Is 15.247 about hopping?", ["47 CFR 15.247"]),
        ("§ 0.457 (see below)", ["47 CFR 0.457"]),
        ("15.247(note)", ["47 CFR 15.247"]),
    ],
)
def test_citations_are_found_as_people_write_them(text: str, expected: list[str]) -> None:
    """The usual ways to cite are found, in order and without repeats."""
    assert _found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "2.4 GHz",
        "2.4 or 5.8",
        "15.5 dB",
        "156.800 MHz",
        "146.52 and 146.58 MHz",
        "between 5.15\u20135.25 GHz",
        "0.5 W",
        "1.25 m",
        "3.50 to 12.55 meters",
        "a ratio of 1.75:1",
        "$15.25",
        "15.25 percent",
        "IEEE 802.11 and 802.15",
        "ANSI C63.10",
        "version 2.15",
        "see Table 3.12",
        "part 1 of the form",
        "10.10.10.10",
    ],
)
def test_numbers_are_not_taken_for_sections(text: str) -> None:
    """A frequency, a power, a price, a version or a standard's number is no citation."""
    assert _found(text) == []


@pytest.mark.parametrize("text", ["", "hello", "15.247 x", "15.247(see)", "15.247(b)(3) and (4)", "KDB 12", "2.4 GHz"])
def test_what_is_no_citation_is_refused(text: str) -> None:
    """`parse` takes one citation and nothing beside it."""
    with pytest.raises(ValueError, match="is not a citation"):
        citations.parse(text)


@given(st.text())
def test_no_text_breaks_the_search_for_citations(text: str) -> None:
    """Whatever a user types, looking for citations in it does not fail, and what is found reads back."""
    for citation in citations.find(text):
        assert citations.parse(str(citation)) == citation


def test_paragraphs_know_the_levels_above_them() -> None:
    """An item printed as "(A)" is cited with the letter, number and roman it stands under."""
    paths = _paths("(a) x", "(1) x", "(i) x", "(A) x", "(B) x", "(1) x", "(i) x", "(ii) x", "(2) x", "(C) x", "(2) x", "(b) x")
    assert paths[3:] == [
        "(a)(1)(i)(A)",
        "(a)(1)(i)(B)",
        "(a)(1)(i)(B)(1)",
        "(a)(1)(i)(B)(1)(i)",
        "(a)(1)(i)(B)(1)(ii)",
        "(a)(1)(i)(B)(2)",
        "(a)(1)(i)(C)",
        "(a)(2)",
        "(b)",
    ]


@pytest.mark.parametrize(
    ("following", "expected"),
    [
        ("(j) x", "(i)"),
        ("(ii) x", "(h)(1)(i)"),
        ("(2) x", "(h)(1)(i)"),
        ("(1) x", "(i)"),
    ],
)
def test_an_i_is_a_letter_or_a_roman_by_what_follows(following: str, expected: str) -> None:
    """After "(h)(1)", "(i)" is the ninth letter or the first roman, whichever the next paragraph goes on from."""
    assert _paths("(g) x", "(h) x", "(1) x", "(i) x", following)[3] == expected


def test_letters_go_on_after_z_and_romans_after_u() -> None:
    """(aa) follows (z), and "(v)" is a roman five or a letter by its neighbours."""
    assert _paths("(z) x", "(aa) x", "(bb) x") == ["(z)", "(aa)", "(bb)"]
    assert _paths("(u) x", "(1) x", "(i) x", "(ii) x", "(iii) x", "(iv) x", "(v) x", "(v) x", "(w) x")[-3:] == [
        "(u)(1)(v)",
        "(v)",
        "(w)",
    ]


def test_an_item_inside_a_paragraph_is_seen_by_the_next() -> None:
    """A paragraph "(d) Limits. (1) ..." opens (d)(1) in its middle, so that the "(2)" below it is (d)(2)."""
    assert _paths("(c) x", "(d) Limits. (1) Power is low.", "(2) x", "(e) x") == ["(c)", "(d) (d)(1)", "(d)(2)", "(e)"]


def test_gaps_and_reserved_paragraphs_are_bridged() -> None:
    """Numbers may be missing, as in a list whose items were removed."""
    assert _paths("(a) x", "(1) x", "(4) x", "(22) x", "(c) x")[2:] == ["(a)(4)", "(a)(22)", "(c)"]


def test_definitions_begin_their_lists_anew() -> None:
    """Below definitions without a designator each list of items starts at (1), and the next definition ends it."""
    paths = _paths("Terms.", "Beam. A thing:", "(1) x", "(2) x", "Carrier. A thing.", "Door. A thing:", "(1) x", "End. x")
    assert paths == ["", "", "(1)", "(2)", "", "", "(1)", ""]


def test_a_note_is_cited_with_the_paragraph_it_names() -> None:
    """A note to paragraph (a)(1) stands there, wherever it is printed, and moves nothing after it."""
    assert _paths("(a) x", "(1) x", "(2) x", "Note to paragraph (a)(1): x", "(3) x")[3:] == ["(a)(1)", "(a)(3)"]


def test_a_reference_at_a_line_start_is_no_paragraph() -> None:
    """A line that begins "(d) and (e) of this section" goes on with the sentence before it."""
    assert goes_on("Except as provided in paragraphs", "(d) and (e) of this section, limits apply.")
    assert not goes_on("comply with the limit; and", "(2) be labelled.")
    assert _paths("(c) x", "(800) 555-0100 is the number", "(d) x") == ["(c)", "(c)", "(d)"]


@given(
    st.lists(
        st.sampled_from(["(a) x", "(1) x", "(i) x", "(ii)", "(A) x", "(zz) x", "(", "()", "(9)(c)", "X. (1) y", "", "(IV) x"]),
        max_size=25,
    )
)
def test_no_order_of_designators_breaks_the_outline(paragraphs: list[str]) -> None:
    """Every paragraph gets a place, however odd the order of designators."""
    marks = outline(paragraphs)
    assert len(marks) == len(paragraphs)
    assert all(found[0].offset == 0 for found in marks)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("§ 15.247 Operation within the bands", "47 CFR 15.247"),
        ("10 CFR § 20.1003 Definitions", "10 CFR 20.1003"),
        ("PART 15\u2014RADIO FREQUENCY DEVICES", "47 CFR part 15"),
        ("Appendix 1 to Part 97\u2014Places", "47 CFR part 97 Appendix 1"),
        ("3.10 Test setup", None),
        ("§ 15.209 of this part applies", None),
        ("§§ 15.38-15.40 [Reserved]", None),
    ],
)
def test_headings_open_the_place_they_name(line: str, expected: str | None) -> None:
    """A rule's heading opens its section; a manual's chapter number and a sentence about a section do not."""
    found = citations.heading(line)
    assert (str(found) if found else None) == expected
