"""Text, Markdown, HTML and DOCX files, and any file at all: one document or one plain reason out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docx
import loading
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retrievers.documents import SourceDocument
from retrievers.loaders import LoadFailure, discover, load
from retrievers.loaders.tables import Cell, Row, markdown

_RULE = (
    "§ 7.10 Quiet devices.\n\n(a) A device must be quiet.\n\n(1) At night.\n\n(2) By day.\n\n(b) A loud device is switched off."
)
_CITED = ["7.10", "7.10(a)", "7.10(a)(1)", "7.10(a)(2)", "7.10(b)"]


def _docx(path: Path) -> Path:
    document = docx.Document()
    document.core_properties.title = "Quiet devices guide"
    document.add_heading("Part 7 notes", 1)
    document.add_heading("§ 7.10 Quiet devices.", 2)
    document.add_paragraph("(a) A device must be quiet.")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip([c for row in table.rows for c in row.cells], ["Band", "Limit", "Low", "5 W"], strict=True):
        cell.text = text
    document.add_paragraph("(b) A loud device is switched off.")
    document.save(str(path))
    return path


# Text ---------------------------------------------------------------------------------------------------------------


def test_a_text_file_is_read_along_its_sections(tmp_path: Path) -> None:
    """Headings and designators in plain text give each paragraph its citation."""
    document = loading.document(loading.write(tmp_path, "rule.txt", _RULE))
    assert loading.cites(document) == _CITED
    assert (document.title, document.part, document.section) == ("§ 7.10 Quiet devices.", "7", "7.10")
    assert document.blocks[1].headings == ("§ 7.10 Quiet devices.",)


def test_text_without_blank_lines_is_parted_at_designators(tmp_path: Path) -> None:
    """Wrapped lines stay in their paragraph, and a reference at a line's start begins none."""
    text = "§ 7.10 Quiet devices.\n(a) Except as in paragraphs\n(b) and (c) of this section, be\nquiet.\n(b) Be loud."
    assert loading.blocks(loading.document(loading.write(tmp_path, "rule.txt", text)))[1:] == [
        ("paragraph", "7.10(a)", "(a) Except as in paragraphs\n(b) and (c) of this section, be\nquiet."),
        ("paragraph", "7.10(b)", "(b) Be loud."),
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_text_is_read_in_the_encoding_it_has(tmp_path: Path, encoding: str) -> None:
    """UTF-8, UTF-16 with and without a mark, UTF-32 and an old code page give the same text."""
    text = f"{_RULE}\n\nThe limit is 5 µV/m, \u201cmeasured at 3 m\u201d, as said in § 7.11 and the annex to it."
    plain = loading.document(loading.write(tmp_path, "plain.txt", text))
    assert loading.document(loading.write(tmp_path, "other.txt", text.encode(encoding))).text == plain.text


def test_the_title_of_other_rules_is_taken_from_their_text(tmp_path: Path) -> None:
    """Nothing is bound to title 47: a file that says "Title 10" is cited as 10 CFR."""
    document = loading.document(loading.write(tmp_path, "rule.txt", f"Title 10\u2014Energy\n\n{_RULE}"))
    assert document.blocks[-1].citation == "10 CFR 7.10(b)"


@given(st.text())
@example(".TXT")
def test_no_text_breaks_a_loader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a text or Markdown file holds, it is a document without a gap, or a reason."""
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.txt", "a.md", "a.html"):
        for item in loading.loaded(loading.write(folder, name, text.encode("utf-8", "replace"))):
            if isinstance(item, SourceDocument):
                loading.check(item)
            else:
                assert "cannot be read" not in item.reason


# Markdown -----------------------------------------------------------------------------------------------------------


def test_markdown_gives_headings_tables_and_front_matter(tmp_path: Path) -> None:
    """Front matter names the document; headings make paths; a table is one block; a leading cite goes before all."""
    text = (
        "---\ntitle: Quiet devices\ncitation: 47 CFR 7.10\nedition: 2024\n---\n# Overview\n\nIntro.\n\n"
        "| Band | Limit |\n|---|---|\n| Low | 5 W |\n\n## Details\n\n**47 CFR 7.12(c)(1):** Keep a log.\n\nMore.\n\n"
        "```\n# no heading\n```\n"
    )
    document = loading.document(loading.write(tmp_path, "guide.md", text))
    assert loading.blocks(document) == [
        ("heading", "7.10", "Overview"),
        ("paragraph", "7.10", "Intro."),
        ("table", "7.10", "| Band | Limit |\n|---|---|\n| Low | 5 W |"),
        ("heading", "7.10", "Details"),
        ("paragraph", "7.12(c)(1)", "**47 CFR 7.12(c)(1):** Keep a log."),
        ("paragraph", "7.10", "More."),
        ("paragraph", "7.10", "```\n# no heading\n```"),
    ]
    assert (document.title, document.edition, document.part, document.section) == ("Quiet devices", "2024", "7", "")
    assert document.blocks[-1].headings == ("Overview", "Details")


def test_a_kdb_note_is_cited_as_one(tmp_path: Path) -> None:
    """A KDB publication's number in the front matter is the citation of all it says."""
    document = loading.document(loading.write(tmp_path, "kdb.md", "---\ncitation: KDB 996369\n---\nA module is a part."))
    assert (document.blocks[0].citation, document.part) == ("KDB 996369", "")


def test_front_matter_that_cites_nothing_is_reported(tmp_path: Path) -> None:
    """A citation that cannot be read is a failure of the file, not a silent gap."""
    assert "no citation" in loading.reason(loading.write(tmp_path, "guide.md", "---\ncitation: the rules\n---\nText."))


# HTML ---------------------------------------------------------------------------------------------------------------


def test_html_gives_headings_lists_and_tables_without_scripts(tmp_path: Path) -> None:
    """What a reader sees is kept in order; scripts, styles and menus are not."""
    page = """<!doctype html><html><head><title>Page</title><style>p {color: red}</style></head><body>
    <nav>Home | Rules</nav><h1>Part 7</h1><h2>§ 7.10 Quiet devices.</h2><script>alert(1)</script>
    <p>(a) A device<br>must be <b>quiet</b>, 10<sup>3</sup> times.</p>loose
    <table><tr><th rowspan=2>Band</th><th colspan=2>Limit</th></tr><tr><th>day</th><th>night</th></tr>
    <tr><td>Low</td><td>5 W</td><td>1 W</td></tr></table><ul><li>(b) Off.</li></ul></body></html>"""
    document = loading.document(loading.write(tmp_path, "page.html", page))
    assert loading.blocks(document)[1:] == [
        ("heading", "7.10", "§ 7.10 Quiet devices."),
        ("paragraph", "7.10(a)", "(a) A device\nmust be quiet, 10^3 times."),
        ("paragraph", "7.10(a)", "loose"),
        ("table", "7.10(a)", "| Band | Limit / day | Limit / night |\n| --- | --- | --- |\n| Low | 5 W | 1 W |"),
        ("paragraph", "7.10(b)", "(b) Off."),
    ]
    assert document.title == "Part 7"


def test_a_page_of_scripts_has_no_text(tmp_path: Path) -> None:
    """A page that shows nothing without its scripts is reported."""
    assert "no text" in loading.reason(loading.write(tmp_path, "page.html", "<html><body><script>x()</script></body></html>"))


def test_a_long_head_over_many_columns_is_said_once(tmp_path: Path) -> None:
    """A header is repeated in each passage of its table, so a very long one says what spans columns above the first only."""
    above = "Separation in kilometers from the contour that is protected"
    cells = "".join(f"<th>{n} watts</th>" for n in range(6))
    row = "".join(f"<td>{n}</td>" for n in range(7))
    table = f"<tr><th rowspan=2>Height</th><th colspan=6>{above}</th></tr><tr>{cells}</tr><tr>{row}</tr>"
    document = loading.document(loading.write(tmp_path, "page.html", f"<html><body><table>{table}</table></body></html>"))
    header = document.text.split("\n")[0]
    assert header == f"| Height | {above} / 0 watts | 1 watts | 2 watts | 3 watts | 4 watts | 5 watts |"


# DOCX ---------------------------------------------------------------------------------------------------------------


def test_docx_gives_headings_and_tables_in_their_place(tmp_path: Path) -> None:
    """Heading styles make the path, a table stands between the paragraphs it was put between."""
    document = loading.document(_docx(tmp_path / "guide.docx"))
    assert loading.blocks(document)[1:] == [
        ("heading", "7.10", "§ 7.10 Quiet devices."),
        ("paragraph", "7.10(a)", "(a) A device must be quiet."),
        ("table", "7.10(a)", "| Band | Limit |\n| --- | --- |\n| Low | 5 W |"),
        ("paragraph", "7.10(b)", "(b) A loud device is switched off."),
    ]
    assert document.title == "Quiet devices guide"


def test_docx_that_is_none_is_reported(tmp_path: Path) -> None:
    """A damaged package and the old or encrypted format each get their own reason."""
    whole = _docx(tmp_path / "guide.docx").read_bytes()
    assert "damaged" in loading.reason(loading.write(tmp_path, "half.docx", whole[: len(whole) // 2]))
    assert "password" in loading.reason(loading.write(tmp_path, "old.docx", b"\xd0\xcf\x11\xe0" + bytes(600)))


# Any file -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["txt", "md", "html", "pdf", "docx", "xml", "jsonl"])
def test_an_empty_file_is_reported_as_empty(tmp_path: Path, suffix: str) -> None:
    """An empty file of any kind is named as that."""
    assert loading.reason(loading.write(tmp_path, f"empty.{suffix}", b"")) == "it is empty"


@pytest.mark.parametrize("suffix", ["txt", "md", "html", "pdf", "docx", "xml", "jsonl"])
@pytest.mark.parametrize("content", [bytes(range(256)) * 20, b"\x89PNG\r\n\x1a\n" + bytes(300)])
def test_binary_data_is_refused_under_any_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    """A picture or a program is reported, whatever suffix it was given."""
    failures = loading.loaded(loading.write(tmp_path, f"binary.{suffix}", content))
    assert failures
    assert all(isinstance(item, LoadFailure) for item in failures)


def test_a_wrong_suffix_is_seen_through(tmp_path: Path) -> None:
    """A PDF named .txt and a web page named .pdf are read as what they are."""
    assert loading.document(loading.write(tmp_path, "a.txt", loading.pdf([["Some text here."]]))).text == "Some text here."
    assert loading.document(loading.write(tmp_path, "b.pdf", "<html><body><p>Some text.</p></body></html>")).text == "Some text."


def test_what_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    """A missing file, an unknown kind and a file beyond all bounds each get a reason."""
    assert "No such file" in loading.reason(tmp_path / "missing.txt")
    assert "are not read" in loading.reason(loading.write(tmp_path, "sound.mp3", b"ID3"))
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(200_000_001)  # sparse: it takes no room
    assert "larger than 200 MB" in loading.reason(tmp_path / "huge.txt")


def test_folders_are_searched_in_order_and_once(tmp_path: Path) -> None:
    """Folders give their readable files sorted; hidden ones, links in circles and repeats are passed over; others are counted."""
    folder = tmp_path / "rules"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("b.txt", "a.MD", "sub/c.html", ".hidden.txt", ".git/x.txt", "~$open.docx", "picture.png"):
        loading.write(folder, name, "x")
    (folder / "sub" / "circle").symlink_to(folder)
    files, ignored, failed = discover([folder, folder / "b.txt", tmp_path / "missing.txt"])
    assert failed == []
    assert [file.relative_to(tmp_path).as_posix() for file, _ in files] == [
        "rules/a.MD",
        "rules/b.txt",
        "rules/sub/c.html",
        "missing.txt",
    ]
    assert [file.name for file in ignored] == ["picture.png"]
    sources = [item.source for file, root in files for item in load(file, root=root)]
    assert sources == ["rules/a.MD", "rules/b.txt", "rules/sub/c.html", "missing.txt"]


def test_what_may_not_be_entered_or_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without the right to list it or to open what is in it, or an impossible name, stops no other file."""
    for name in ("a.txt", "closed/b.txt", "listed/c.txt", "z.txt"):  # the tests may run as root, whom no mode stops
        (tmp_path / name).parent.mkdir(exist_ok=True)
        loading.write(tmp_path, name, "x")
    scan, is_file, is_dir = os.scandir, Path.is_file, Path.is_dir

    def scandir(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    def guarded(call: Any) -> Any:
        def asked(path: Path) -> bool:
            if path.parent.name == "listed":
                raise PermissionError(13, "Permission denied", str(path))
            return bool(call(path))

        return asked

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "is_file", guarded(is_file))
    monkeypatch.setattr(Path, "is_dir", guarded(is_dir))
    named = tmp_path / "listed" / "named.txt"
    found = discover([tmp_path, named, tmp_path / "nul\0.txt"])
    assert [file.name for file, _ in found.files] == ["a.txt", "z.txt"]
    assert {path: reason.rpartition(": ")[2] for path, reason in found.failed} == {
        tmp_path / "closed": "Permission denied",
        tmp_path / "listed" / "c.txt": "Permission denied",
        named: "Permission denied",
        tmp_path / "nul\0.txt": "embedded null byte",
    }


# Tables -------------------------------------------------------------------------------------------------------------


def test_a_cell_over_rows_is_repeated_if_it_is_short() -> None:
    """A short cell stands in each row it spans; a long one once, and the columns stay where they are."""
    long = "word " * 100
    rows = [
        Row([Cell("Band"), Cell("Note"), Cell("Limit")]),
        Row([Cell("Low", rows=2), Cell(long, rows=2), Cell("5")]),
        Row([Cell("6")]),
    ]
    assert markdown(rows).splitlines()[2:] == [f"| Low | {long.strip()} | 5 |", "| Low |  | 6 |"]


@pytest.mark.parametrize(
    "first",
    [
        Row([Cell("x" * 10_000, rows=9999)]),
        Row([Cell("x" * 300, rows=9999) for _ in range(100)]),
        Row([Cell("x", columns=9999, rows=9999) for _ in range(3000)]),
        Row([Cell("x" * 10_000, columns=9999, rows=9999)], header=True),
        Row([Cell("x" * 300, columns=9999, rows=9999)], header=True),
    ],
)
def test_spans_do_not_multiply_a_table(first: Row) -> None:
    """Whatever spans a table claims, it grows by no more than a file of its size may, and loses none of its cells."""
    rows = [first, *(Row([Cell(f"cell{number}")]) for number in range(2000))]
    size = sum(len(cell.text) + 9 for row in rows for cell in row.cells)
    text = markdown(rows)
    assert len(text) < 30 * size
    assert text.count("x" * len(first.cells[0].text)) >= len(first.cells)
    assert all(f" cell{number} " in text for number in range(2000))


def test_cells_beyond_the_widest_table_are_kept() -> None:
    """A row of more cells than any table has loses none of them, with spans or without."""
    cells: Sequence[Cell] = [Cell(f"cell{number}", columns=1 + number % 3) for number in range(500)]
    text = markdown([Row(cells), Row([Cell("end")])])
    assert all(f" cell{number} " in text for number in range(500))
