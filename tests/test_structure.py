"""The shape of rules, in every format: as many sections and paragraphs as the document's own table of contents names."""

import json
from collections.abc import Callable
from pathlib import Path

import docx
import loading
import printing
import pytest

from retrievers import citations
from retrievers.documents import SourceDocument
from retrievers.loaders.designators import outline

# Section, heading, and the paths of its paragraphs. "(i)" is a letter in 7.3(i) and a roman number in 7.3(h)(1)(i).
_PART: list[tuple[str, str, list[tuple[str, ...]]]] = [
    ("7.1", "Scope.", [()]),
    (
        "7.3",
        "Terms.",
        [
            *((letter,) for letter in "abcdefgh"),
            ("h", "1"),
            ("h", "1", "i"),
            ("h", "1", "ii"),
            ("h", "2"),
            *((letter,) for letter in "ijklmnopqrstuvwxyz"),
            ("aa",),
            ("bb",),
        ],
    ),
    (
        "7.5",
        "Limits of noise.",
        [
            ("a", "1", "i", "A"),
            ("a", "1", "i", "B"),
            ("a", "1", "ii"),
            ("a", "2"),
            ("b",),
            ("f",),  # 7.5(c) to (e) are reserved
            ("f", "1"),
            ("f", "1", "i"),
            ("f", "1", "ii"),
        ],
    ),
    ("7.7", "Logs, under § 7.5 and others.", [("a",), ("b",), ("b", "1"), ("c",)]),
]


def _paragraphs(section: str, paths: list[tuple[str, ...]]) -> list[str]:
    """The paragraphs as rules print them: only what is new of each path, and references that could be taken for more."""
    printed: list[str] = []
    before: tuple[str, ...] = ()
    for path in paths:
        common = next((n for n, (one, other) in enumerate(zip(path, before, strict=False)) if one != other), len(before))
        new = path[min(common, len(path) - 1) :] if path else ()
        mark = "".join(f"({token})" for token in new)
        named = "".join(f"({token})" for token in path) or "as a whole"
        printed.append(f"{mark} Under § {section} {named} a device is quiet, as paragraphs (a) and (i) of § 7.3 want it.".strip())
        if section == "7.5" and path == ("b",):
            printed.append("(c)-(e) [Reserved]")
        before = path
    return printed


def _lines() -> list[str]:
    """The part as text: its table of contents, then its sections, a paragraph a line."""
    lines = ["PART 7\u2014QUIET DEVICES", "Sec.", *(f"{section} {heading}" for section, heading, _ in _PART)]
    for section, heading, paths in _PART:
        lines += [f"§ {section} {heading}", *_paragraphs(section, paths)]
    return lines


def _is_heading(line: str) -> bool:
    return line.startswith(("PART ", "§ 7"))


def _text(folder: Path) -> Path:
    return loading.write(folder, "part7.txt", "\n\n".join(_lines()))


def _markdown(folder: Path) -> Path:
    return loading.write(folder, "part7.md", "\n\n".join(f"## {line}" if _is_heading(line) else line for line in _lines()))


def _html(folder: Path) -> Path:
    shown = [f"<h2>{line}</h2>" if _is_heading(line) else f"<p>{line}</p>" for line in _lines()]
    return loading.write(folder, "part7.html", f"<!doctype html><html><body>{''.join(shown)}</body></html>")


def _docx(folder: Path) -> Path:
    document = docx.Document()
    for line in _lines():
        if _is_heading(line):
            document.add_heading(line, 2)
        else:
            document.add_paragraph(line)
    document.save(str(folder / "part7.docx"))
    return folder / "part7.docx"


def _xml(folder: Path) -> Path:
    sections = "".join(
        f'<DIV8 N="{section}" TYPE="SECTION"><HEAD>§ {section} {heading}</HEAD>'
        + "".join(f"<P>{text}</P>" for text in _paragraphs(section, paths))
        + "</DIV8>"
        for section, heading, paths in _PART
    )
    contents = "".join(f"<P>{section} {heading}</P>" for section, heading, _ in _PART)
    page = f'<?xml version="1.0"?><DIV5 N="7" TYPE="PART"><HEAD>PART 7\u2014QUIET DEVICES</HEAD>{contents}{sections}</DIV5>'
    return loading.write(folder, "part7.xml", page)


def _jsonl(folder: Path) -> Path:
    rows = [
        {"part": "7", "section": section, "heading": heading, "text": "\n".join(_paragraphs(section, paths))}
        for section, heading, paths in _PART
    ]
    return loading.write(folder, "part7.jsonl", "\n".join(json.dumps(row) for row in rows))


def _pdf(folder: Path) -> Path:
    """Two columns of narrow print, with running heads, page numbers and words broken at the ends of lines."""
    wrapped = [piece for line in _lines() for piece in _wrapped(line)]
    sheets: list[printing.Sheet] = []
    rows = 25
    for start in range(0, len(wrapped), 2 * rows):
        sheet = printing.Sheet()
        sheet.text(50, 780, f"{len(sheets) + 101}")
        sheet.text(300, 780, "Quiet Devices Board (10-1-24 Edition)")
        sheet.paragraph(50, 750, wrapped[start : start + rows])
        sheet.paragraph(310, 750, wrapped[start + rows : start + 2 * rows])
        sheets.append(sheet)
    assert len(sheets) > 2
    return loading.write(folder, "part7.pdf", printing.pdf(sheets))


def _wrapped(line: str, width: int = 40) -> list[str]:
    pieces: list[str] = []
    while len(line) > width:
        cut = line.rfind(" ", 0, width)
        broken = line.find("paragraphs", cut - 1, cut + len(" paragraphs"))
        if broken > 0:
            pieces.append(line[:broken] + "para-")
            line = line[broken + len("para") :]
        else:
            pieces.append(line[:cut])
            line = line[cut + 1 :]
    return [*pieces, line]


@pytest.mark.parametrize("made", [_text, _markdown, _html, _docx, _xml, _jsonl, _pdf])
def test_each_format_gives_what_the_contents_name(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    """Every section of the table of contents is there once, with each of its paragraphs under its full designator path."""
    documents = loading.loaded(made(tmp_path))
    blocks = [(document, block) for document in documents if isinstance(document, SourceDocument) for block in document.blocks]
    headings = [citations.heading(d.text[b.start : b.end]) for d, b in blocks if b.kind == "heading"]
    assert [heading.section for heading in headings if heading and heading.section] == [section for section, _, _ in _PART]
    reserved = citations.parse("7.5(c)")
    found = [
        cited
        for document, block in blocks
        if block.kind == "paragraph" and (cited := citations.read(block.citation)) and cited.section and cited != reserved
        if document.text[block.start : block.end].strip("*") and "Reserved" not in document.text[block.start : block.end]
    ]
    assert [(one.section, one.paragraphs) for one in found] == [(section, path) for section, _, paths in _PART for path in paths]


def test_a_word_broken_in_print_is_whole(tmp_path: Path) -> None:
    """What the two columns of print have broken is read as it was written."""
    document = loading.document(_pdf(tmp_path))
    assert "para-" not in document.text
    assert document.text.count("paragraphs (a) and (i)") == sum(len(paths) for _, _, paths in _PART)
    assert document.edition == "CFR 10-1-2024"


@pytest.mark.parametrize(
    "range_", ["(b)-(d) [Reserved]", "(b)\u2013(d) [Reserved]", "(b) through (d) [Reserved]", "(b) and (c) [Reserved]"]
)
def test_a_reserved_range_counts_on(range_: str) -> None:
    """After a range that is reserved the row goes on from its end, also where the next letter could be a roman number."""
    marks = outline(["(a) One.", range_, "(e) Five.", "(1) Below.", "(f) Six."])
    assert [mark[0].path for mark in marks] == [("a",), ("b",), ("e",), ("e", "1"), ("f",)]


def test_a_reserved_range_up_to_h_makes_i_a_letter() -> None:
    """(i) after "(b)-(h) [Reserved]" is the ninth letter, and under (i)(1) it is a roman number."""
    marks = outline(
        ["(a) One.", "(1) First.", "(b)-(h) [Reserved]", "(i) Nine.", "(1) First.", "(i) Below.", "(ii) Below.", "(j) Ten."]
    )
    assert [mark[0].path for mark in marks[2:]] == [("b",), ("i",), ("i", "1"), ("i", "1", "i"), ("i", "1", "ii"), ("j",)]


def test_two_levels_that_open_inside_a_paragraph_are_both_named() -> None:
    """The text "(c) Rules. (1)(i) First" holds paragraph (c)(1)(i), not (c)(1)."""
    marks = outline(["(a) One.", "(b) Two.", "(c) Rules. (1)(i) First.", "(ii) Second.", "(2) (i) Third."])
    assert [mark.path for found in marks[2:] for mark in found] == [("c",), ("c", "1", "i"), ("c", "1", "ii"), ("c", "2", "i")]
