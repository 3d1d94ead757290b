"""Tables of print become Markdown rows, and each passage of a table knows its heads and caption."""

import time
from pathlib import Path

import loading
import printing
import pytest

from retrievers.documents import SourceDocument
from retrievers.loaders.leaders import tabulated
from retrievers.loaders.pieces import Origin, Piece, assemble
from retrievers.splitting import split


def _tables(read: SourceDocument) -> list[tuple[str, list[str]]]:
    """The caption and the lines of each table."""
    return [(b.caption, read.text[b.start : b.end].split("\n")) for b in read.blocks if b.kind == "table"]


def _printed(tmp_path: Path, *sheets: printing.Sheet) -> SourceDocument:
    return loading.document(loading.write(tmp_path, "rules.pdf", printing.pdf(sheets)))


# Print --------------------------------------------------------------------------------------------------------------


def test_a_printed_table_keeps_its_columns(tmp_path: Path) -> None:
    """Words go to the columns between the lines, leaders go, and the paragraphs around the table stay whole."""
    sheet = printing.Sheet()
    y = sheet.paragraph(50, 700, ["§ 7.10 Quiet devices.", "(a) A device shall not be louder than this:"])
    rows = [
        ["9-30 MHz ................", "40", "3"],
        ["30-88 MHz ..............", "-61.5", "30"],
        ["Above 88 MHz ...........", "50", "3"],
    ]
    foot = sheet.table(50, y, [100, 90, 70], ["Frequency", "Level (dBm)", "Distance (m)"], rows)
    sheet.text(60, foot - 8, "1 At night only, and never on", size=6)
    sheet.text(50, foot - 15, "the coast.", size=6)
    sheet.paragraph(50, foot - 35, ["(b) Be silent."])
    read = _printed(tmp_path, sheet)
    ((_, lines),) = _tables(read)
    assert lines == [
        "| Frequency | Level (dBm) | Distance (m) |",
        "| --- | --- | --- |",
        "| 9-30 MHz | 40 | 3 |",
        "| 30-88 MHz | -61.5 | 30 |",
        "| Above 88 MHz | 50 | 3 |",
    ]
    assert [(citation, text) for kind, citation, text in loading.blocks(read) if kind == "paragraph"] == [
        ("7.10(a)", "(a) A device shall not be louder than this:"),
        ("7.10(a)", "1 At night only, and never on the coast."),
        ("7.10(b)", "(b) Be silent."),
    ]


def test_heads_that_span_columns_stand_above_each(tmp_path: Path) -> None:
    """A head over two columns is part of the heading of both, and a raised mark is told from a figure."""
    sheet = printing.Sheet()
    for y, left in ((700, 50), (680, 150), (660, 50), (630, 50)):
        sheet.line(left, y, 350, y)
    sheet.line(150, 700, 150, 630)
    sheet.line(250, 680, 250, 630)
    sheet.text(55, 675, "Time of day", size=7)
    sheet.text(200, 688, "Level", size=7)
    sheet.text(155, 668, "Peak", size=7)
    sheet.text(255, 668, "Mean", size=7)
    sheet.text(55, 648, "Day", size=7)
    sheet.text(155, 651, "1", size=4)
    sheet.text(160, 648, "40 to 50", size=7)
    sheet.text(255, 648, "30", size=7)
    sheet.text(55, 638, "Night", size=7)
    sheet.text(155, 638, "20", size=7)
    sheet.text(255, 638, "10", size=7)
    assert _tables(_printed(tmp_path, sheet)) == [
        (
            "",
            [
                "| Time of day | Level / Peak | Level / Mean |",
                "| --- | --- | --- |",
                "| Day | ^1 40 to 50 | 30 |",
                "| Night | 20 | 10 |",
            ],
        )
    ]


def test_a_row_wrapped_over_lines_is_one_row(tmp_path: Path) -> None:
    """Lines of print that go on with a cell belong to its row; an empty first cell beside full ones is a row of its own."""
    sheet = printing.Sheet()
    rows = [
        ["Device used at sea and", "", ""],
        ["  on land ..........", "40", "low"],
        ["Other device ........", "50", "high, and in win-"],
        ["", "", "ter very high"],
        ["", "60", "none"],
    ]
    sheet.table(50, 700, [120, 60, 100], ["Kind", "Level", "Note"], rows)
    ((_, lines),) = _tables(_printed(tmp_path, sheet))
    assert lines[2:] == [
        "| Device used at sea and on land | 40 | low |",
        "| Other device | 50 | high, and in winter very high |",
        "|  | 60 | none |",
    ]


def _cut_table(*, caption: str, again: str, heads: bool) -> list[printing.Sheet]:
    """A table that a page's end cuts, with its caption and heads printed again or not."""
    sheets = [printing.Sheet(), printing.Sheet(), printing.Sheet()]
    for number, sheet in enumerate(sheets):
        sheet.text(50, 780, f"Quiet Rules {number}")
    sheets[0].paragraph(50, 730, ["§ 7.10 Quiet devices.", "(a) The levels follow."])
    sheets[0].text(60, 690, caption)
    sheets[0].boxes(50, 680, [120, 120], [["Place", "Level"], *([f"Town {n}", f"{n} dB"] for n in range(9))])
    sheets[1].text(60, 740, again)
    rest = [[f"Town {n}", f"{n} dB"] for n in range(9, 20)]
    sheets[1].boxes(50, 730, [120, 120], [["Place", "Level"], *rest] if heads else rest)
    sheets[2].paragraph(50, 700, ["(b) Be silent."])
    return sheets


@pytest.mark.parametrize(("again", "heads"), [("TABLE 1\u2014LEVELS\u2014Continued", True), ("", True), ("", False)])
def test_a_table_that_a_page_cuts_is_one(tmp_path: Path, again: str, heads: bool) -> None:
    """The rest on the next page is put back, whether its caption and heads are printed again or not."""
    read = _printed(tmp_path, *_cut_table(caption="TABLE 1\u2014LEVELS", again=again, heads=heads))
    ((caption, lines),) = _tables(read)
    assert caption == "TABLE 1\u2014LEVELS"
    assert lines == ["| Place | Level |", "| --- | --- |", *(f"| Town {n} | {n} dB |" for n in range(20))]
    assert loading.cites(read)[-1] == "7.10(b)"


def test_another_table_on_the_next_page_is_another(tmp_path: Path) -> None:
    """Two tables with captions of their own are not put together."""
    read = _printed(tmp_path, *_cut_table(caption="TABLE 1\u2014LEVELS", again="TABLE 2\u2014OTHERS", heads=True))
    assert [caption for caption, _ in _tables(read)] == ["TABLE 1\u2014LEVELS", "TABLE 2\u2014OTHERS"]


def test_a_boxed_cell_that_spans_rows_is_in_each(tmp_path: Path) -> None:
    """Rows may be separated later, so what holds for several is repeated, and wrapped text in a box is one cell."""
    sheet = printing.Sheet()
    for x, top in ((50, 700), (150, 700), (250, 700)):
        sheet.line(x, top, x, 620)
    for y, left in ((700, 50), (680, 50), (650, 150), (620, 50)):
        sheet.line(left, y, 250, y)
    for x, y, text in (
        (55, 688, "Band"),
        (155, 688, "Level"),
        (55, 648, "Low"),
        (155, 668, "40 dB by"),
        (155, 657, "day"),
        (155, 630, "20 dB"),
    ):
        sheet.text(x, y, text, size=8)
    ((_, lines),) = _tables(_printed(tmp_path, sheet))
    assert lines == ["| Band | Level |", "| --- | --- |", "| Low | 40 dB by day |", "| Low | 20 dB |"]


def test_a_drawing_is_no_table(tmp_path: Path) -> None:
    """Lines that run through words leave the text as text."""
    sheet = printing.Sheet()
    sheet.boxes(50, 700, [60, 60, 60], [["", "", ""]] * 3)
    for y in (690, 676, 662):
        sheet.text(55, y, "A sentence that runs across all lines.", size=8)
    read = _printed(tmp_path, sheet)
    assert _tables(read) == []
    assert read.text.count("A sentence that runs across all lines.") == 3


def test_the_minus_of_the_printed_rules_is_one(tmp_path: Path) -> None:
    """The printed CFR's fonts call their minus a yen sign; elsewhere a yen sign is one."""
    sheets = [printing.Sheet() for _ in range(3)]
    for sheet, printed in zip(sheets, ("Levels reach \xa551.3 dBm.", "And \xa5 7 dBm.", "No more."), strict=True):
        sheet.text(50, 780, "47 CFR Ch. I (10-1-23 Edition)")
        sheet.text(50, 700, printed)
    assert "Levels reach \u221251.3 dBm. And \u22127 dBm." in _printed(tmp_path, *sheets).text
    assert "\xa5500" in loading.document(loading.write(tmp_path, "price.pdf", loading.pdf([["It costs \xa5500."]]))).text


# Passages -----------------------------------------------------------------------------------------------------------


def test_each_passage_of_a_table_says_what_it_is_of() -> None:
    """Caption and heads stand above the rows of every passage, within the limit, and each row is in one passage."""
    rows = [f"| {n}-{n + 1} MHz | {n * 7} dB |" for n in range(60)]
    pieces = [
        Piece("§ 7.10 Limits.", "heading", 7),
        Piece("TABLE 1 TO PARAGRAPH (a)", tracked=False),
        Piece("\n".join(["| Frequency | Level |", "| --- | --- |", *rows]), "table"),
    ]
    document = assemble(pieces, Origin("/x", "x"))
    passages = split(document, limit=300, measure=len, document_hash="h")
    assert len(passages) > 3
    for passage in passages:
        assert passage.page_content.startswith("TABLE 1 TO PARAGRAPH (a)\n| Frequency | Level |\n| --- | --- |\n")
        assert passage.page_content.endswith(document.text[passage.metadata["start"] : passage.metadata["end"]])
    contents = [passage.page_content for passage in passages]
    assert all(sum(row in content.split("\n") for content in contents) == 1 for row in rows)


def test_a_long_table_is_read_and_split_in_linear_time() -> None:
    """Ten times the rows take about ten times as long, not a hundred."""

    def seconds(count: int) -> float:
        lines = ["Text: Band (MHz) Level (mV)", *(f"{n}-{n + 1} ........ {n}" for n in range(count))]
        started = time.process_time()
        pieces = [Piece("\n".join(text for _, text in tabulated(lines)[1:]), "table", caption="TABLE 1")]
        split(assemble(pieces, Origin("/x", "x")), limit=300, measure=len, document_hash="h")
        return time.process_time() - started

    seconds(100)
    assert min(seconds(4000) for _ in range(3)) < 50 * max(min(seconds(400) for _ in range(3)), 0.01)


def test_each_passage_of_a_table_has_its_notes() -> None:
    """What is noted below a table that is cut is said with each part of it, and below it once."""
    rows = [f"| {n}-{n + 1} MHz | {n * 7} dB^1 |" for n in range(60)]
    table = Piece("\n".join(["| Frequency | Level |", "| --- | --- |", *rows]), "table")
    pieces = [table, Piece("^1 At night only.", tracked=False), Piece("(b) Be silent.")]
    passages = split(assemble(pieces, Origin("/x", "x")), limit=300, measure=len, document_hash="h")
    cut = [passage.page_content for passage in passages if "MHz" in passage.page_content]
    assert len(cut) > 3
    assert all(content.startswith("^1 At night only.\n| Frequency | Level |") for content in cut)
    assert "dB^1 |\n^1 At night only.\n(b) Be silent." in passages[-1].page_content


def test_a_table_in_one_passage_has_its_notes_once() -> None:
    """Notes that stand below the whole table are not said above it, too."""
    pieces = [Piece("| Band | Level |\n| --- | --- |\n| Low | 5 W^1 |", "table"), Piece("^1 At night only.", tracked=False)]
    (passage,) = split(assemble(pieces, Origin("/x", "x")), limit=300, measure=len, document_hash="h")
    assert passage.page_content.count("At night only.") == 1
