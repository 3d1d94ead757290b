"""Reads files of labelled questions: JSON lines, a JSON array, or CSV. Knows nothing about what is asked with them.

A row is an object with `question`; `cfr`, the citations that answer it; `choices` and `answer_index`, which counts from 0;
`answerable`, false if the documents hold no answer; and `id`. All but `question` may be left out, and other fields are
ignored. In CSV, citations are set apart by ";" and choices by "|".
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from errors import InvalidRequest
from retrievers import citations
from retrievers.citations import Citation

_BETWEEN = {"cfr": ";", "choices": "|"}  # what sets the items of a CSV cell apart

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]


@dataclass(frozen=True, slots=True)
class Question:
    """One row. `where` names its line; `cited` is empty where the row has no `cfr`, `choices` where it offers none.

    `answer` is the place of the right choice among `choices`; `answerable` is None where the row does not say.
    """

    where: str
    id: str
    text: str
    cited: tuple[Citation, ...] = ()
    choices: tuple[str, ...] = ()
    answer: int = 0
    answerable: bool | None = None


@dataclass(frozen=True, slots=True)
class File:
    """The questions of a file in their order, and a line for each label that was not read just as it stands."""

    questions: list[Question]
    notes: list[str]


class _Row(BaseModel):
    question: Text
    id: str | int | None = None
    cfr: list[Text] = []
    choices: Annotated[list[Text], Field(max_length=26)] = []  # each gets a letter
    answer_index: int | None = None
    answerable: bool | None = None

    @model_validator(mode="after")
    def _choices_have_an_answer(self) -> Self:
        if not self.choices and self.answer_index is None:
            return self
        if len(self.choices) < 2:
            raise ValueError("choices: there must be two or more beside answer_index")
        if self.answer_index is None or not 0 <= self.answer_index < len(self.choices):
            raise ValueError(f"answer_index: must be from 0 to {len(self.choices) - 1}; it is {self.answer_index}")
        return self


def read(path: Path) -> File:
    """Read a file. Raises InvalidRequest, one line that names the file and the line in it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InvalidRequest(f"{path} does not exist") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not UTF-8 text") from None
    except OSError as exc:
        raise InvalidRequest(f"{path} cannot be read: {exc.strerror or exc}") from None
    if path.suffix.lower() == ".csv":
        rows = _csv(text, path.name)
    elif text.lstrip().startswith("["):
        rows = _array(text, path.name)
    else:
        rows = _lines(text, path.name)
    notes: list[str] = []
    questions = [_question(row, where, notes) for where, row in rows]
    if not questions:
        raise InvalidRequest(f"{path} holds no questions")
    return File(questions, notes)


def with_citations(questions: Sequence[Question]) -> list[Question]:
    """The questions that the documents should answer. Raises InvalidRequest if one of them has no `cfr`, or if there is none."""
    wanted = [question for question in questions if question.answerable is not False]
    if unlabelled := next((question for question in wanted if not question.cited), None):
        raise InvalidRequest(f"{unlabelled.where}: cfr: the citations that answer the question are missing")
    if not wanted:
        raise InvalidRequest("no question is answerable: nothing can be found for them")
    return wanted


def _lines(text: str, name: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            try:
                yield where, json.loads(line)
            except ValueError as exc:
                raise InvalidRequest(f"{where}: not JSON: {exc}") from None


def _array(text: str, name: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as exc:
        raise InvalidRequest(f"{name}, line {exc.lineno}: not JSON: {exc.msg}") from None
    for number, row in enumerate(rows, start=1):
        yield f"{name}, row {number}", row


def _csv(text: str, name: str) -> Iterator[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in rows:
            filled = {column: cell for column, cell in row.items() if column and cell}
            parted = {column: cell.split(_BETWEEN[column]) for column, cell in filled.items() if column in _BETWEEN}
            yield f"{name}, line {rows.line_num}", filled | parted
    except csv.Error as exc:
        raise InvalidRequest(f"{name}, line {rows.line_num}: {exc}") from None


def _question(given: Any, where: str, notes: list[str]) -> Question:
    try:
        row = _Row.model_validate(given)
    except ValidationError as exc:
        first = exc.errors()[0]
        field, why = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{where}: {field}: {why}" if field else f"{where}: {why}") from None
    return Question(
        where=where,
        id=where if row.id is None else str(row.id),
        text=row.question,
        cited=tuple(dict.fromkeys(place for label in row.cfr for place in _places(label, where, notes))),
        choices=tuple(row.choices),
        answer=row.answer_index or 0,
        answerable=row.answerable,
    )


def _places(label: str, where: str, notes: list[str]) -> list[Citation]:
    bare = re.sub(r"\s+(?=\()", "", label).strip("[] ")  # "[97.3 (a)]"
    if place := citations.read(bare):
        return [place]
    found = citations.find(f"§§ {bare}")  # "97.301(a)-(e)": what of it can be read, and it is told
    if not found:
        raise InvalidRequest(f"{where}: cfr: {label!r} is not a citation")
    notes.append(f"{where}: cfr: {label!r} is read as {', '.join(map(str, found))}")
    return found
