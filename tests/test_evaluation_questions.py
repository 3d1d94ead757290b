"""Files of labelled questions are read in three forms, and a mistake in one is told by its line."""

import json
from pathlib import Path

import pytest

from errors import InvalidRequest
from evaluation import questions

ROW = {
    "id": "lamp-1",
    "question": " How often is the lamp tested? ",
    "cfr": ["80.8888(b)", "47 CFR 80.8889"],
    "choices": ["weekly", "every nine weeks"],
    "answer_index": 1,
    "pool": "lamps",
}


def written(folder: Path, text: str, name: str = "asked.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_three_forms_say_the_same(tmp_path: Path) -> None:
    """JSON lines, a JSON array and CSV give the same questions; only where each stands differs."""
    lines = written(tmp_path, f"\n{json.dumps(ROW)}\n\n")
    array = written(tmp_path, json.dumps([ROW], indent=2), "asked.json")
    table = written(
        tmp_path,
        "id,question,cfr,choices,answer_index,pool\n"
        "lamp-1,How often is the lamp tested?,80.8888(b);80.8889,weekly|every nine weeks,1,x\n",
        "asked.csv",
    )
    (one,), (two,), (three,) = (questions.read(path).questions for path in (lines, array, table))
    assert (one.where, two.where, three.where) == ("asked.jsonl, line 2", "asked.json, row 1", "asked.csv, line 2")
    assert one.text == two.text == three.text == "How often is the lamp tested?"
    assert [str(place) for place in one.cited] == ["47 CFR 80.8888(b)", "47 CFR 80.8889"]
    assert one.cited == two.cited == three.cited
    assert one.choices == two.choices == three.choices == ("weekly", "every nine weeks")
    assert one.answer == two.answer == three.answer == 1
    assert one.id == two.id == three.id == "lamp-1"
    assert one.answerable is None


def test_a_row_without_id_is_named_by_its_line(tmp_path: Path) -> None:
    """Outcomes can be traced to their rows also where these have no id."""
    path = written(tmp_path, '{"question": "Why?", "answerable": false}')
    (only,) = questions.read(path).questions
    assert only.id == "asked.jsonl, line 1"
    assert only.answerable is False


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ('{"question": "Why?"}\n{"question": ', "asked.jsonl", "asked.jsonl, line 2: not JSON"),
        ('[{"question": "Why?"},\n oops]', "asked.json", "asked.json, line 2: not JSON"),
        ('{"question": "  "}', "asked.jsonl", "asked.jsonl, line 1: question: "),
        ('{"query": "Why?"}', "asked.jsonl", "asked.jsonl, line 1: question: Field required"),
        ('"Why?"', "asked.jsonl", "asked.jsonl, line 1: "),
        ('{"question": "Why?", "cfr": ["the rules"]}', "asked.jsonl", "asked.jsonl, line 1: cfr: 'the rules' is not a citation"),
        ('{"question": "Why?", "cfr": [""]}', "asked.jsonl", "asked.jsonl, line 1: cfr.0: "),
        (
            '{"question": "Why?", "choices": ["a", "b"], "answer_index": 2}',
            "asked.jsonl",
            "line 1: answer_index: must be from 0 to 1; it is 2",
        ),
        ('{"question": "Why?", "choices": ["a", "b"]}', "asked.jsonl", "answer_index: must be from 0 to 1; it is None"),
        ('{"question": "Why?", "choices": ["a"], "answer_index": 0}', "asked.jsonl", "line 1: choices: there must be two"),
        ('{"question": "Why?", "answer_index": 0}', "asked.jsonl", "line 1: choices: there must be two"),
        ("id,text\n1,Why?\n", "asked.csv", "asked.csv, line 2: question: Field required"),
        ('question\n"Why?', "asked.csv", "asked.csv, line "),
        ("\n \n", "asked.jsonl", "holds no questions"),
        ("[]", "asked.json", "holds no questions"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, name: str, says: str) -> None:
    """What is wrong with a file is told in one line, with the line it stands in."""
    with pytest.raises(InvalidRequest) as raised:
        questions.read(written(tmp_path, text, name))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are told, too."""
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, says in (("gone.jsonl", "does not exist"), ("bytes.jsonl", "is not UTF-8 text"), (".", "cannot be read")):
        with pytest.raises(InvalidRequest, match=says):
            questions.read(tmp_path / name)


def test_a_label_that_is_half_a_citation_is_told(tmp_path: Path) -> None:
    """Of a label such as a range of paragraphs what can be read is taken, and said so."""
    file = questions.read(written(tmp_path, '{"question": "Why?", "cfr": ["80.8888(a)-(c)"]}'))
    assert [str(place) for place in file.questions[0].cited] == ["47 CFR 80.8888(a)"]
    assert file.notes == ["asked.jsonl, line 1: cfr: '80.8888(a)-(c)' is read as 47 CFR 80.8888(a)"]


@pytest.mark.parametrize("label", ["80.8888(b)", "[80.8888(b)]", "§ 80.8888 (b)", "47 CFR 80.8888(b)", "47 CFR § 80.8888(b)."])
def test_labels_are_written_in_many_ways(tmp_path: Path, label: str) -> None:
    """However people write a citation, it is the same one, and needs no remark."""
    file = questions.read(written(tmp_path, json.dumps({"question": "Why?", "cfr": [label]})))
    assert [str(place) for place in file.questions[0].cited] == ["47 CFR 80.8888(b)"]
    assert not file.notes


def test_a_label_may_hold_several(tmp_path: Path) -> None:
    """A label that names two sections is both, and said so."""
    file = questions.read(written(tmp_path, '{"question": "Why?", "cfr": ["80.1, 80.2"]}'))
    assert [str(place) for place in file.questions[0].cited] == ["47 CFR 80.1", "47 CFR 80.2"]
    assert len(file.notes) == 1


def test_search_needs_citations(tmp_path: Path) -> None:
    """A question that nothing is labelled for cannot tell whether the search is right; one without an answer is left out."""
    rows = '{"question": "Why?", "cfr": ["80.1"]}\n{"question": "Who?", "answerable": false}\n'
    asked = questions.with_citations(questions.read(written(tmp_path, rows)).questions)
    assert [question.text for question in asked] == ["Why?"]
    with pytest.raises(InvalidRequest, match="line 3: cfr: the citations"):
        questions.with_citations(questions.read(written(tmp_path, rows + '{"question": "How?"}')).questions)
    with pytest.raises(InvalidRequest, match="no question is answerable"):
        questions.with_citations(questions.read(written(tmp_path, '{"question": "Who?", "answerable": false}')).questions)
