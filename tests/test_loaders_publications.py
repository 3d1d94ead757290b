"""Publications of numbered questions, and footnotes: answers know their question, and notes stay with what they note."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import loading
import printing
import pytest

from retrievers.splitting import embedded_text, split

_LINES = [
    "Publication Number: 123456",
    "1 Introduction",
    "This publication tells when a quiet device may be built into another.",
    "1.1 Scope of use",
    "It is for makers of modules, and follows § 7.10 of the rules.",
    "Question 1: May a module be sold alone?",
    "Answer 1: Yes, if it bears a label of its own.",
    "It must also be quiet.",
    "Question 2: Who tests the host?",
    "Answer 2: The maker of the host does.",
    "Attachment A \u2014 Test set-up",
    "Question 1: How far away is the antenna?",
    "Answer 1: Three meters.",
]
_ATTACHMENT = "Attachment A \u2014 Test set-up"
_ANSWERS = {
    "Answer 1: Yes, if it bears a label of its own.": "Question 1: May a module be sold alone?",
    "It must also be quiet.": "Question 1: May a module be sold alone?",
    "Answer 2: The maker of the host does.": "Question 2: Who tests the host?",
    "Answer 1: Three meters.": "Question 1: How far away is the antenna?",
}


def _docx(folder: Path) -> Path:
    document = docx.Document()
    for line in _LINES:
        document.add_paragraph(line)
    document.save(str(folder / "guide.docx"))
    return folder / "guide.docx"


def _pdf(folder: Path) -> Path:
    sheet = printing.Sheet()
    sheet.paragraph(50, 700, _LINES)
    return loading.write(folder, "guide.pdf", printing.pdf([sheet]))


def _html(folder: Path) -> Path:
    page = "".join(f"<p>{line}</p>" for line in _LINES)
    return loading.write(folder, "guide.html", f"<!doctype html><html><body>{page}</body></html>")


def _markdown(folder: Path) -> Path:
    return loading.write(folder, "guide.md", "\n\n".join(_LINES))


def _text(folder: Path) -> Path:
    return loading.write(folder, "guide.txt", "\n".join(_LINES))


@pytest.mark.parametrize("made", [_docx, _pdf, _html, _markdown, _text])
def test_answers_stand_below_their_questions(tmp_path: Path, made: Callable[[Path], Path]) -> None:
    """In every format each answer has its question and attachment in its heading path, and the publication's citation."""
    read = loading.document(made(tmp_path))
    assert {block.citation for block in read.blocks} == {"KDB 123456"}
    paths = {read.text[b.start : b.end]: b.headings for b in read.blocks if b.kind == "paragraph"}
    for answer, question in _ANSWERS.items():  # where lines are wrapped, the second line of an answer joins the first
        assert [path[-1] for text, path in paths.items() if answer in text] == [question]
    assert paths["Answer 1: Three meters."] == (_ATTACHMENT, "Question 1: How far away is the antenna?")
    assert paths["It is for makers of modules, and follows § 7.10 of the rules."] == ("1 Introduction", "1.1 Scope of use")


def test_an_answer_is_found_by_the_words_of_its_question(tmp_path: Path) -> None:
    """What is embedded of an answer holds its question."""
    passages = split(loading.document(_docx(tmp_path)), limit=400, measure=len, document_hash="h")
    (answer,) = [passage for passage in passages if "maker of the host" in passage.page_content]
    assert "Who tests the host?" in embedded_text(answer)
    assert answer.metadata["citation"] == "KDB 123456"


def test_the_files_own_name_tells_the_publication(tmp_path: Path) -> None:
    """A file named as the FCC names them is cited by its number in every format."""
    path = loading.write(tmp_path, "996369 D04 Module Guide v02.html", "<html><body><p>A module is a part.</p></body></html>")
    assert loading.cites(loading.document(path)) == ["KDB 996369"]


def test_a_mention_makes_no_publication(tmp_path: Path) -> None:
    """Rules that refer to a publication are not cited as one, and one question makes no list of them."""
    text = "See KDB 123456.\n\n§ 7.10 Quiet devices.\n\n(a) Be quiet, as KDB 123456 says.\n\nQuestion: Why?"
    read = loading.document(loading.write(tmp_path, "rule.md", text))
    assert loading.cites(read) == ["", "7.10", "7.10(a)", "7.10(a)"]


def test_a_question_too_long_for_a_heading_keeps_all_its_words(tmp_path: Path) -> None:
    """Of a question of many sentences only its number becomes a heading; nothing of it is lost."""
    question = "Is it quiet when it is far away? " * 20
    text = f"KDB 123456\n\nQuestion 7: {question.strip()}\n\nAnswer 7: It is."
    read = loading.document(loading.write(tmp_path, "guide.md", text))
    assert loading.blocks(read)[1:] == [
        ("heading", "KDB 123456", "Question 7:"),
        ("paragraph", "KDB 123456", question.strip()),
        ("paragraph", "KDB 123456", "Answer 7: It is."),
    ]


# Footnotes ----------------------------------------------------------------------------------------------------------


def test_a_footnote_of_a_web_page_follows_what_it_notes(tmp_path: Path) -> None:
    """Notes at the page's end go behind the paragraph or table that links to them, in their order, and link back nowhere."""
    page = """<html><body><p id="r1">(a) Be quiet<sup><a href="#n1">1</a></sup> at night<sup><a href="#n2">2</a></sup>.</p>
    <table><tr><th>Band</th><th>Level</th></tr><tr><td>Low<sup><a href="#n3">3</a></sup></td><td>5 W</td></tr></table>
    <p>(b) Be loud.</p><ol><li id="n1"><sup><a href="#r1">1</a></sup> As quiet as snow.</li>
    <li id="n2">After ten.</li><li id="n3">Below 30 MHz.</li></ol></body></html>"""
    assert [text for _, _, text in loading.blocks(loading.document(loading.write(tmp_path, "page.html", page)))] == [
        "(a) Be quiet^1 at night^2.",
        "^1 As quiet as snow.",
        "After ten.",
        "| Band | Level |\n| --- | --- |\n| Low^3 | 5 W |",
        "Below 30 MHz.",
        "(b) Be loud.",
    ]


def test_a_footnote_in_markdown_follows_what_it_notes(tmp_path: Path) -> None:
    """Definitions at the end go behind the first paragraph that refers to them; one that nothing refers to stays."""
    text = "(a) Be quiet.[^1]\n\n(b) Be loud.\n\n[^1]: As quiet as snow.\n[^2]: Unused.\n"
    read = loading.document(loading.write(tmp_path, "rule.md", text))
    assert [shown for _, _, shown in loading.blocks(read)] == [
        "(a) Be quiet.[^1]",
        "[^1]: As quiet as snow.",
        "(b) Be loud.",
        "[^2]: Unused.",
    ]


_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_NOTES = f"""<?xml version="1.0" encoding="UTF-8" standalone="yes"?><w:footnotes xmlns:w="{_W}">
<w:footnote w:type="separator" w:id="-1"><w:p/></w:footnote>
<w:footnote w:id="2"><w:p><w:r><w:footnoteRef/></w:r><w:r><w:t>As quiet as snow.</w:t></w:r></w:p></w:footnote></w:footnotes>"""


def test_a_footnote_of_a_word_file_follows_what_it_notes(tmp_path: Path) -> None:
    """Word keeps its footnotes in a part of their own; they are read and stand behind their paragraph."""
    document = docx.Document()
    document.add_paragraph("(a) Be quiet")
    document.add_paragraph("(b) Be loud.")
    document.save(str(tmp_path / "plain.docx"))
    changed = tmp_path / "noted.docx"
    with zipfile.ZipFile(tmp_path / "plain.docx") as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name).decode() if name.endswith((".xml", ".rels")) else old.read(name)
            if name == "word/document.xml":
                content = re.sub(r"(quiet</w:t></w:r>)", r'\1<w:r><w:footnoteReference w:id="2"/></w:r>', str(content))
            elif name == "word/_rels/document.xml.rels":
                kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
                relation = f'<Relationship Id="rId99" Type="{kind}" Target="footnotes.xml"/>'
                content = str(content).replace("</Relationships>", f"{relation}</Relationships>")
            elif name == "[Content_Types].xml":
                kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
                part = f'<Override PartName="/word/footnotes.xml" ContentType="{kind}"/>'
                content = str(content).replace("</Types>", f"{part}</Types>")
            new.writestr(name, content)
        new.writestr("word/footnotes.xml", _NOTES)
    assert [text for _, _, text in loading.blocks(loading.document(changed))] == [
        "(a) Be quiet^1",
        "^1 As quiet as snow.",
        "(b) Be loud.",
    ]
