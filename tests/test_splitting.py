"""What a passage holds, what it is cited as, and that nothing is lost between two of them."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrievers.documents import Block, Passage, SourceDocument
from retrievers.loaders.pieces import SECTION, Origin, Piece, assemble
from retrievers.splitting import content_hash, embedded_text, split


def _document(*pieces: Piece, title: str = "") -> SourceDocument:
    return assemble(pieces, Origin("/rules.txt", "rules.txt", title=title), separator="\n\n")


def _section(*texts: str) -> SourceDocument:
    return _document(Piece("§ 7.10 Quiet devices.", "heading", SECTION), *(Piece(text) for text in texts))


def _split(document: SourceDocument, limit: int = 400, measure: Callable[[str], int] = len) -> list[Passage]:
    return split(document, limit=limit, measure=measure, document_hash="hash")


def _texts(passages: Sequence[Passage]) -> list[str]:
    return [passage.page_content for passage in passages]


def _cites(passages: Sequence[Passage]) -> list[str]:
    return [passage.metadata["citation"] for passage in passages]


def _words(text: str) -> int:
    """As a tokenizer does: whitespace costs nothing, every text has two tokens more."""
    return len(re.findall(r"\w+|[^\w\s]", text)) + 2


def _sentences(count: int, word: str = "device") -> str:
    return " ".join(f"Sentence {n} speaks of one {word}." for n in range(count))


def _check(document: SourceDocument, passages: Sequence[Passage], limit: int, measure: Callable[[str], int]) -> None:
    position = 0
    covered = [False] * len(document.text)
    for ordinal, passage in enumerate(passages):
        meta = passage.metadata
        assert position <= meta["start"] < meta["end"]
        span = document.text[meta["start"] : meta["end"]]
        header, _, _ = passage.page_content.rpartition(span)
        assert passage.page_content.endswith(span)
        assert all(line in document.text for line in header.split("\n"))
        assert measure(embedded_text(passage)) <= limit
        assert (meta["ordinal"], meta["document_passages"]) == (ordinal, len(passages))
        position = meta["end"]
        covered[meta["start"] : meta["end"]] = [True] * (meta["end"] - meta["start"])
    for block in document.blocks:
        for index in range(block.start, block.end):
            assert covered[index] or document.text[index].isspace() or block.kind == "heading"


_PARAGRAPHS = st.one_of(
    st.text(max_size=300),
    st.builds(
        lambda start, words: f"{start} {' '.join(words)}",
        st.sampled_from(["(a)", "(b)", "(1)", "(2)", "(i)", "(A)", "Note:", "[54 FR 1, Jan. 1, 1989]", "§ 7.11 Logs."]),
        st.lists(st.sampled_from(["radio.", "A", "limits,", "5.15 GHz;", "x" * 90, "e.g.", "§ 7.1"]), max_size=60),
    ),
)
_TABLES = st.lists(st.text("ab |-\u00e4", min_size=1, max_size=60), min_size=1, max_size=12).map(
    lambda rows: "\n".join(f"| {row} |" for row in rows)
)
_PIECES = st.one_of(
    _PARAGRAPHS.map(Piece),
    _TABLES.map(lambda text: Piece(text, "table")),
    st.builds(Piece, st.text(max_size=80), st.just("heading"), st.integers(1, 6)),
    st.just(Piece("Table 1. Limits of noise", tracked=False)),
    st.just(Piece("^1 At night only.", tracked=False)),
    st.just(Piece("§ 7.12 A section.", "heading", SECTION)),
)


@given(st.lists(_PIECES, max_size=12), st.integers(80, 400), st.sampled_from([len, _words]))
def test_splitting_loses_no_character(pieces: list[Piece], limit: int, measure: Callable[[str], int]) -> None:
    """Every visible character of text and tables is in exactly one passage, and no passage exceeds the limit."""
    document = _document(*pieces)
    _check(document, _split(document, limit, measure), limit, measure)


@given(st.text(min_size=1, max_size=600), st.integers(30, 200))
def test_even_unbroken_text_fits(text: str, limit: int) -> None:
    """Text without sentences or spaces is cut hard rather than left too long."""
    document = SourceDocument("/x", "x", text, (Block(0, len(text)),))
    _check(document, _split(document, limit), limit, len)


def test_short_neighbours_share_a_passage() -> None:
    """Short paragraphs stand together, cited as the first of them."""
    passages = _split(_section("(a) Be quiet.", "(1) At night.", "(2) By day."))
    assert _texts(passages) == ["(a) Be quiet.\n\n(1) At night.\n\n(2) By day."]
    assert _cites(passages) == ["47 CFR 7.10(a)"]


@pytest.mark.parametrize(("title", "count"), [("Definitions", 3), ("Vessels", 1)])
def test_a_definition_is_a_passage(title: str, count: int) -> None:
    """Under "Definitions" each term has a passage of its own, cited by its own paragraph; elsewhere the same lines share one."""
    lines = ["(a) Kettle. A vessel.", "(b) Lid. It closes a kettle.", "(c) Steam means vapour."]
    found = _split(_document(Piece(f"§ 7.3 {title}.", "heading", SECTION), *map(Piece, lines)))
    assert _cites(found) == [f"47 CFR 7.3({letter})" for letter in "abc"][:count]


def test_a_new_letter_begins_a_passage_once_one_is_half_full() -> None:
    """A passage more than half full ends before the next paragraph of the first level, though that would fit."""
    passages = _split(_section("(a) " + _sentences(6), "(1) Short.", "(b) Short, too."), limit=400)
    assert _cites(passages) == ["47 CFR 7.10(a)", "47 CFR 7.10(b)"]


def test_a_long_paragraph_is_split_at_sentences() -> None:
    """Each part of a long paragraph begins with a sentence and is cited as the paragraph."""
    passages = _split(_section("(a) Intro. " + _sentences(40)), limit=300)
    assert len(passages) > 3
    assert all(text.endswith(".") for text in _texts(passages))
    assert set(_cites(passages)) == {"47 CFR 7.10(a)"}


def test_an_abbreviation_ends_no_sentence() -> None:
    """Neither "e.g." nor "No. 5" ends a passage while real sentences can."""
    text = "First sentence here about e.g. Radios and about No. 5 of U.S. Code which is long. Second sentence here."
    assert _texts(_split(_section(text), limit=125))[0].endswith("long.")


def test_a_table_repeats_its_header() -> None:
    """Each part of a long table has the header rows above it, and its span is of its own rows."""
    header = "| Band | Limit |\n| --- | --- |"
    rows = [f"| band {n} | {n} W |" for n in range(40)]
    document = _document(Piece("§ 7.10 Limits.", "heading", SECTION), Piece("\n".join([header, *rows]), "table"))
    passages = _split(document, limit=300)
    assert all(text.startswith(header + "\n| band") for text in _texts(passages))
    second = passages[1]
    span = document.text[second.metadata["start"] : second.metadata["end"]]
    assert second.page_content == f"{header}\n{span}"
    assert "".join(_texts(passages)).count("| 7 W |") == 1


def test_a_narrow_passage_has_a_tables_heads_rather_than_its_caption() -> None:
    """Where caption and heads leave no room for rows the caption goes, and figures keep their heads."""
    table = "\n".join(["| Band | Limit of noise in decibel |", "| --- | --- |", *(f"| {n} | {n} |" for n in range(30))])
    pieces = [Piece("Table 1. " + "Noise at sea and on land " * 3, tracked=False), Piece(table, "table")]
    passages = _split(_document(Piece("§ 7.10 Limits.", "heading", SECTION), *pieces), limit=120)
    assert len(passages) > 4
    for passage in passages[1:]:
        assert passage.page_content.startswith("| Band | Limit of noise in decibel |\n| --- | --- |\n")


def test_the_line_of_dashes_in_a_table_is_not_embedded() -> None:
    """It costs tokens and says nothing; the passage's text keeps it."""
    (passage,) = _split(_document(Piece("| Band | Limit |\n| --- | :-: |\n| Low | 5 W |", "table")))
    assert "---" in passage.page_content
    assert embedded_text(passage) == "| Band | Limit |\n| Low | 5 W |"


def test_a_table_stays_with_the_line_above_it() -> None:
    """A table that needs a new passage takes the sentence that introduces it along."""
    table = "\n".join(["| Band | Limit |", "| --- | --- |", *(f"| band {n} | {n} W |" for n in range(12))])
    document = _document(
        Piece("§ 7.10 Limits.", "heading", SECTION), Piece(_sentences(8)), Piece("The limits are:"), Piece(table, "table")
    )
    assert _texts(_split(document, limit=450))[-1] == f"The limits are:\n\n{table}"


def test_a_passage_never_crosses_a_section() -> None:
    """Two short sections are two passages, each with its own part, section and heading path."""
    document = _document(
        Piece("PART 7\u2014DEVICES", "heading", 1),
        Piece("§ 7.10 Quiet devices.", "heading", SECTION),
        Piece("Be quiet."),
        Piece("§ 7.11 Logs.", "heading", SECTION),
        Piece("Keep a log.", page=4),
    )
    first, second = _split(document)
    assert (first.metadata["section"], second.metadata["section"], second.metadata["part"]) == ("7.10", "7.11", "7")
    assert second.metadata["page"] == 4
    assert embedded_text(second) == "47 CFR 7.11 | PART 7\u2014DEVICES > § 7.11 Logs.\nKeep a log."


def test_a_heading_with_nothing_below_is_a_passage() -> None:
    """A reserved section is found, since its heading is all there is of it."""
    document = _document(Piece("§ 7.10 [Reserved]", "heading", SECTION), Piece("§ 7.11 Logs.", "heading", SECTION), Piece("Log."))
    assert _texts(_split(document)) == ["§ 7.10 [Reserved]", "Log."]


def test_long_headings_leave_room_for_the_text() -> None:
    """The context line keeps to its share: outer headings go first, then the last one is shortened."""
    document = _document(
        Piece("Chapter " + "about things " * 15, "heading", 1),
        Piece("Section " + "about more " * 15, "heading", 2),
        Piece(_sentences(9)),
    )
    for passage in _split(document, limit=150):
        assert len(passage.metadata["heading"]) <= 50
        assert len(embedded_text(passage)) <= 150


def test_a_limit_without_room_is_refused() -> None:
    """A limit that the citation alone fills is a mistake of the caller and said so."""
    with pytest.raises(ValueError, match="leaves no room"):
        _split(_section("(a) Be quiet."), limit=12)


def test_source_notes_are_kept_but_not_embedded() -> None:
    """The Federal Register note stays in the passage's text and out of what is searched."""
    (passage,) = _split(_section("(a) Be quiet.", "[54 FR 17714, Apr. 25, 1989]"))
    assert passage.page_content.endswith("[54 FR 17714, Apr. 25, 1989]")
    assert embedded_text(passage).endswith("(a) Be quiet.")


def test_the_hash_tells_changed_documents_from_equal_ones() -> None:
    """Equal content hashes equally; a changed text, citation, edition or page does not."""
    document = _section("(a) Be quiet.")
    changed = [
        dataclasses.replace(document, text=document.text.replace("quiet.", "silent")),
        dataclasses.replace(document, edition="2025"),
        dataclasses.replace(document, blocks=tuple(dataclasses.replace(block, page=2) for block in document.blocks)),
    ]
    assert content_hash(document) == content_hash(_section("(a) Be quiet."))
    assert len({content_hash(one) for one in [document, *changed]}) == 4


def test_measuring_stays_linear() -> None:
    """A document ten times as long is measured about ten times as much, so that a tokenizer can be the measure."""

    def measured(count: int) -> int:
        seen = 0

        def measure(text: str) -> int:
            nonlocal seen
            seen += len(text)
            return len(text)

        _split(_section(_sentences(count)), measure=measure)
        return seen

    assert measured(2000) < 13 * measured(200)
