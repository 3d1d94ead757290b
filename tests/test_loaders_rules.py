"""The formats that rules come in, PDF, eCFR XML and sections JSONL: documents that know their paragraphs, or a reason."""

import io
import json
from pathlib import Path

import loading
import pypdf
import pytest

from retrievers.documents import SourceDocument
from retrievers.loaders import LoadFailure

# PDF ----------------------------------------------------------------------------------------------------------------


def test_pdf_gives_pages_and_drops_running_heads(tmp_path: Path) -> None:
    """Blocks know the page they begin on; heads that repeat go; a wrapped line and a wrapped heading are joined."""
    pages = [
        [
            "Quiet Rules 1",
            "§ 7.10 Quiet devices that are used",
            "in houses.",
            "(a) A device of the kind described",
            "here is to be quiet.",
        ],
        ["Quiet Rules 2", "(b) A loud device is switched off."],
        ["Quiet Rules 3", "§ 7.11 Logs.", "Keep a log."],
    ]
    document = loading.document(loading.write(tmp_path, "rules.pdf", loading.pdf(pages)))
    assert loading.blocks(document) == [
        ("heading", "7.10", "§ 7.10 Quiet devices that are used in houses."),
        ("paragraph", "7.10(a)", "(a) A device of the kind described here is to be quiet."),
        ("paragraph", "7.10(b)", "(b) A loud device is switched off."),
        ("heading", "7.11", "§ 7.11 Logs."),
        ("paragraph", "7.11", "Keep a log."),
    ]
    assert [block.page for block in document.blocks] == [1, 1, 2, 3, 3]


def test_a_broken_word_is_mended(tmp_path: Path) -> None:
    """A word that a line's end has broken is whole again, also for the search."""
    lines = ["The rules for emis-", "sions are long and apply to all devices that are", "made for sale in any shop."]
    assert "emissions are" in loading.document(loading.write(tmp_path, "rules.pdf", loading.pdf([lines]))).text


def test_a_kdb_file_is_known_by_its_name(tmp_path: Path) -> None:
    """A publication saved under the FCC's own name for it is cited by its number."""
    path = loading.write(tmp_path, "996369 D04 Module Guide v02.pdf", loading.pdf([["A module is a part."]]))
    assert loading.document(path).blocks[0].citation == "KDB 996369"


def test_a_truncated_pdf_is_refused(tmp_path: Path) -> None:
    """A PDF that was cut off is reported rather than read in part."""
    whole = loading.pdf([["Page one."], ["Page two."]])
    assert "cut off" in loading.reason(loading.write(tmp_path, "half.pdf", whole[: len(whole) // 2]))


def test_an_encrypted_pdf_is_refused(tmp_path: Path) -> None:
    """A PDF behind a password is reported with what to do."""
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(loading.pdf([["Secret."]])))
    writer.encrypt("sesame", algorithm="AES-256")
    path = tmp_path / "locked.pdf"
    writer.write(path)
    assert loading.reason(path) == "it is encrypted; save it without a password"


def test_a_pdf_of_pictures_is_refused(tmp_path: Path) -> None:
    """A PDF without a text layer is reported with what to do."""
    assert loading.reason(loading.write(tmp_path, "scan.pdf", loading.pdf([[], []]))) == "no text is in it; run OCR first"


def test_a_pdf_that_is_none_is_refused(tmp_path: Path) -> None:
    """A file that only bears the suffix is reported."""
    assert "no PDF" in loading.reason(loading.write(tmp_path, "note.pdf", b"hello %%EOF"))


def test_a_source_note_and_a_heading_are_whole_beside_a_table(tmp_path: Path) -> None:
    """A source note goes on to its bracket although its lines begin with numbers; wide rows hide no wrapped heading."""
    rows = [f"| {'Band of the kind described ' * 3}{n} | {'Limit ' * 9} |" for n in range(30)]
    lines = [
        "§ 7.10 Quiet devices.",
        "(a) A device of the kind described",
        "is quiet.",
        "[54 FR 17714, Apr. 25, 1989, as amended at 56 FR 1, Jan. 2, 1991;",
        "88 FR 47394, July 24, 2023]",
        "§ 7.11 Logs of the kind",
        "that is described here.",
        "Keep a log.",
        *rows,
    ]
    document = loading.document(loading.write(tmp_path, "rules.pdf", loading.pdf([lines])))
    assert [text for kind, _, text in loading.blocks(document) if kind != "table"] == [
        "§ 7.10 Quiet devices.",
        "(a) A device of the kind described is quiet.",
        "[54 FR 17714, Apr. 25, 1989, as amended at 56 FR 1, Jan. 2, 1991; 88 FR 47394, July 24, 2023]",
        "§ 7.11 Logs of the kind that is described here.",
        "Keep a log.",
    ]


# eCFR XML -----------------------------------------------------------------------------------------------------------

_ECFR = """<?xml version="1.0"?>
<DIV5 N="7" TYPE="PART" hierarchy_metadata="{&quot;path&quot;:&quot;/on/2024-05-06/title-12/part-7&quot;}">
<HEAD>PART 7\u2014QUIET DEVICES</HEAD><AUTH><HED>Authority:</HED><PSPACE>12 U.S.C. 1.</PSPACE></AUTH>
<DIV6 N="A" TYPE="SUBPART"><HEAD>Subpart A\u2014General</HEAD>
<DIV8 N="7.10" TYPE="SECTION"><HEAD>§ 7.10 Quiet devices.</HEAD>
<P>(a) <I>Limits.</I> (<I>1</I>) At most 10<sup>3</sup>:</P>
<DIV><TABLE><CAPTION>Limits</CAPTION><THEAD><TR><TH>Band</TH><TH>Limit<br/>in W</TH></TR></THEAD>
<TBODY><TR><TD>Low</TD><TD>5 | 6</TD></TR></TBODY><TFOOT><TR><TD colspan="2">Peak values.</TD></TR></TFOOT></TABLE></DIV>
<P>(2) By day.</P><NOTE><HED>Note to paragraph (a):</HED><P>Nights differ.</P></NOTE>
<CITA TYPE="N">[54 FR 1, Jan. 1, 1989]</CITA></DIV8>
</DIV6><DIV9 N="Appendix A to Part 7" TYPE="APPENDIX"><HEAD>Appendix A to Part 7\u2014Forms</HEAD><P>Form one.</P></DIV9></DIV5>
"""


def test_ecfr_xml_gives_a_document_for_each_section(tmp_path: Path) -> None:
    """Sections, appendices and what a part says above them come with title, edition, headings and Markdown tables."""
    section, appendix, part = loading.loaded(loading.write(tmp_path, "part7.xml", _ECFR))
    assert isinstance(section, SourceDocument)
    loading.check(section)
    assert [(kind, citation, text) for kind, citation, text in loading.blocks(section)][1:] == [
        ("paragraph", "12 CFR 7.10(a)", "(a) Limits."),
        ("paragraph", "12 CFR 7.10(a)(1)", "(1) At most 10^3:"),
        ("paragraph", "12 CFR 7.10(a)(1)", "Limits"),
        ("table", "12 CFR 7.10(a)(1)", "| Band | Limit in W |\n| --- | --- |\n| Low | 5 \\| 6 |"),
        ("paragraph", "12 CFR 7.10(a)(1)", "Peak values."),
        ("paragraph", "12 CFR 7.10(a)(2)", "(2) By day."),
        ("paragraph", "12 CFR 7.10(a)", "Note to paragraph (a): Nights differ."),
        ("paragraph", "12 CFR 7.10", "[54 FR 1, Jan. 1, 1989]"),
    ]
    assert section.blocks[1].headings == ("PART 7\u2014QUIET DEVICES", "Subpart A\u2014General", "§ 7.10 Quiet devices.")
    assert (section.title, section.section, section.edition) == ("Quiet devices.", "7.10", "eCFR 2024-05-06")
    assert section.uri.endswith("part7.xml#12 CFR 7.10@eCFR 2024-05-06")
    assert isinstance(appendix, SourceDocument)
    assert appendix.blocks[1].citation == "12 CFR part 7 Appendix A"
    assert isinstance(part, SourceDocument)
    assert "Authority: 12 U.S.C. 1." in part.text


def test_broken_xml_keeps_the_sections_before_the_break(tmp_path: Path) -> None:
    """A file that breaks off gives its whole sections and then one reason with the line."""
    section, failure = loading.loaded(loading.write(tmp_path, "part7.xml", _ECFR[: _ECFR.index("</DIV6>")]))
    assert isinstance(section, SourceDocument)
    assert isinstance(failure, LoadFailure)
    assert "not well-formed" in failure.reason


def test_other_xml_is_refused_and_entities_are_not_resolved(tmp_path: Path) -> None:
    """XML without sections is reported, and an entity brings no other file into a document."""
    assert "not eCFR" in loading.reason(loading.write(tmp_path, "feed.xml", "<rss><item>x</item></rss>"))
    secret = loading.write(tmp_path, "secret.txt", "sesame")
    attack = f'<!DOCTYPE DIV5 [<!ENTITY x SYSTEM "{secret.as_uri()}">]>' + _ECFR.partition("\n")[2].replace(
        "By day", "By &x; day"
    )
    for item in loading.loaded(loading.write(tmp_path, "attack.xml", attack)):
        assert "sesame" not in getattr(item, "text", "")


# JSONL --------------------------------------------------------------------------------------------------------------


def _row(**fields: object) -> str:
    row = {"part": "7", "section": "7.10", "heading": "Quiet devices.", "subpart": "Subpart A\u2014General", "edition": "2024"}
    return json.dumps({**row, "text": "(a) Be quiet.\n(1) At night.\n| Band | Limit |\n| Low | 5 W |\n[54 FR 1]", **fields})


def test_sections_jsonl_gives_a_document_a_line(tmp_path: Path) -> None:
    """A row becomes a section with its headings, tables, paragraph citations and its source note by itself."""
    (document,) = loading.loaded(
        loading.write(tmp_path, "rules.jsonl", _row(text="(a) Be quiet.\n| Band |\n| Low |\n[54 FR 1, Jan. 1]"))
    )
    assert isinstance(document, SourceDocument)
    loading.check(document)
    assert loading.blocks(document)[1:] == [
        ("paragraph", "7.10(a)", "(a) Be quiet."),
        ("table", "7.10(a)", "| Band |\n| Low |"),
        ("paragraph", "7.10", "[54 FR 1, Jan. 1]"),
    ]
    assert document.blocks[1].headings == ("Part 7", "Subpart A\u2014General", "§ 7.10 Quiet devices.")
    assert document.uri == f"{(tmp_path / 'rules.jsonl').as_posix()}#47 CFR 7.10@2024"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"part": "7", "section": "7.10"}', '"text" is missing'),
        (_row(text=5), '"text" is not a string'),
        (_row(text=" ", heading=""), "no text"),
        (_row(title="x"), '"title"'),
        (_row(text="\ud800"), "surrogate"),
        (_row(), "stands in line 1 already"),
    ],
)
def test_a_bad_line_is_one_failure(tmp_path: Path, line: str, reason: str) -> None:
    """A bad line is named and explained, and the lines around it are read."""
    first, failure, last = loading.loaded(
        loading.write(tmp_path, "rules.jsonl", f"{_row()}\n{line}\n{_row(section='7.11', title=10)}\n")
    )
    assert isinstance(first, SourceDocument)
    assert isinstance(failure, LoadFailure)
    assert failure.reason.startswith("line 2: ")
    assert reason in failure.reason
    assert isinstance(last, SourceDocument)
    assert last.blocks[0].citation == "10 CFR 7.11"


def test_a_file_of_bad_lines_is_left_early(tmp_path: Path) -> None:
    """A JSONL file of another kind does not fill the summary with its every line."""
    assert len(loading.loaded(loading.write(tmp_path, "log.jsonl", '{"level": "info"}\n' * 1000))) < 60
