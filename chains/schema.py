"""What goes into the chains and what comes out. Knows nothing about how either is carried."""

from typing import Annotated, Any, Literal, Self, TypeVar

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from errors import InvalidRequest

T = TypeVar("T", bound=BaseModel)
Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length", "no_evidence", "cancelled"]
Support = Literal["supported", "partly", "unsupported"]

MESSAGES: dict[Role, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}


def without_null(schema: dict[str, Any]) -> None:
    """Describe an optional field as what it holds when it is there.

    LangServe's playground cannot draw `null` (its page stays blank), and the documentation reads better without.
    """
    for field in schema.get("properties", {}).values():
        options = [option for option in field.get("anyOf", []) if option != {"type": "null"}]
        if len(options) == 1:
            del field["anyOf"]
            field.update(options[0])
        elif options:
            field["anyOf"] = options
        if field.get("default", "") is None:
            del field["default"]


STRICT = ConfigDict(extra="forbid", json_schema_extra=without_null)


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = STRICT

    role: Role
    content: Annotated[str, Field(max_length=200_000)]

    def to_langchain(self) -> BaseMessage:
        return MESSAGES[self.role](content=self.content)


Value = Annotated[str, Field(max_length=500)]
OneOrMore = Value | Annotated[list[Value], Field(max_length=50)]  # each costs a scan of the embedded store


class Filters(BaseModel):
    """Restricts retrieval; each field takes one value or a list of which any may match."""

    model_config = STRICT

    part: OneOrMore | None = Field(None, examples=["15"])
    section: OneOrMore | None = Field(None, examples=["15.247"])
    source: OneOrMore | None = Field(None, description="A file as /api/retrieve names it.")
    edition: OneOrMore | None = Field(
        None, description="An edition as the sources name it; by default each section's newest.", examples=["CFR 10-1-2023"]
    )
    as_of: Annotated[str, Field(max_length=20)] | None = Field(
        None,
        description="A day (2024-10-01), month or year: each section's newest edition up to its end.",
        examples=["2024-10-01"],
    )

    @field_validator("part", "section", "source", "edition", "as_of", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value in ("", []) else value  # what an untouched form sends

    @model_validator(mode="after")
    def _one_choice_of_editions(self) -> Self:
        if self.edition and self.as_of:
            raise ValueError("edition and as_of each choose the edition; give one of them")
        return self


class ChatRequest(BaseModel):
    """A conversation that ends in a question, and how it is to be answered. None takes the server's default."""

    model_config = STRICT

    messages: Annotated[list[Message], Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="New tokens at most; lowered to the window.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0 is greedy.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=8)] | None = None
    k: Annotated[int, Field(ge=1, le=50)] | None = Field(None, description="Passages to answer from, at most.")
    filters: Filters | None = None
    summarize: Literal["auto", "always", "never"] = "auto"

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("messages")
    @classmethod
    def _ends_in_a_question(cls, value: list[Message]) -> list[Message]:
        if value[-1].role != "user" or not value[-1].content.strip():
            raise ValueError("the last message must be a question from the user")
        return value

    @property
    def question(self) -> str:
        return self.messages[-1].content.strip()

    def history(self) -> list[BaseMessage]:
        """The turns before the question, without system messages."""
        return [m.to_langchain() for m in self.messages[:-1] if m.role != "system"]

    def instructions(self) -> str:
        """What the caller's own system messages ask for."""
        return "\n".join(m.content.strip() for m in self.messages if m.role == "system")


class Source(BaseModel):
    """A passage an answer was given; `id` is the number its markers carry and `score` its cosine to the question."""

    id: int
    citation: str
    title: str
    source: str
    page: int | None
    edition: str
    quote: str
    score: float
    relation: str = Field(default="", description="parent, reference or definition, if another source leans on it")

    @classmethod
    def of(cls, number: int, passage: Document) -> "Source":
        meta = passage.metadata
        return cls(
            id=number,
            citation=meta.get("citation") or meta.get("title") or meta.get("source", ""),
            title=meta.get("heading") or meta.get("title", ""),
            source=meta.get("source", ""),
            page=meta.get("page"),
            edition=meta.get("edition", ""),
            quote=passage.page_content,
            score=round(float(meta.get("score", 0.0)), 4),
            relation=meta.get("relation", ""),
        )


class Given(Source):
    """A source as an answer has it: its `quote` is the whole passage, `start` and `end` the passage's span in the document.

    The span is in characters of the document's text as it was read, None where the document has none.
    """

    start: int | None = None
    end: int | None = None

    @classmethod
    def of(cls, number: int, passage: Document) -> "Given":
        meta = passage.metadata
        return cls(**Source.of(number, passage).model_dump(), start=meta.get("start"), end=meta.get("end"))


class Sentence(BaseModel):
    """A sentence of an answer, and what code found for it in the passages it cites; see chains/verify.py for the levels.

    `start` and `end` are its characters in the answer's content, its markers included. `quote` is the words of the passage
    that come nearest to it, `quote_source` the number of that passage, `quote_start` and `quote_end` the quote's span in the
    document; None for a sentence that is unsupported or says nothing of its own. `missing` are the figures, quotations and
    section numbers that no cited passage has, as they are written.
    """

    start: int
    end: int
    support: Support
    markers: list[int] = []
    quote: str | None = None
    quote_source: int | None = None
    quote_start: int | None = None
    quote_end: int | None = None
    missing: list[str] = []


class Citation(BaseModel):
    """A marker in the answer; `attached` tells that the server put it there because the model gave none."""

    marker: int
    verified: bool
    attached: bool = False


class Usage(BaseModel):
    """Tokens of the call that answers, counted by the model's own tokenizer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Timings(BaseModel):
    """Milliseconds since the request reached the chain."""

    retrieval_ms: int = 0
    first_token_ms: int | None = None
    total_ms: int = 0


class Answer(BaseModel):
    """A whole answer, as the typed chain gives it."""

    content: str
    sources: list[Given] = []
    sentences: list[Sentence] = []
    withheld: int = Field(0, description="Sentences that are left out for want of support (STRICT_CITATIONS)")
    summary: str | None = None
    finish_reason: FinishReason
    citations: list[Citation] = []
    usage: Usage = Usage()
    timings: Timings = Timings()


class RetrieveRequest(BaseModel):
    """What to look for. `k` None takes the server's default."""

    model_config = STRICT

    query: Annotated[str, Field(min_length=1, max_length=20_000, examples=["conducted output power 2400-2483.5 MHz"])]
    k: Annotated[int, Field(ge=1, le=50)] | None = None
    neighbours: Annotated[int, Field(ge=0, le=50)] = Field(0, description="Passages more, at most, that those found lean on.")
    filters: Filters | None = None


class Found(Source):
    """A source with its whole text and its character span in the document."""

    text: str
    start: int
    end: int
    match: str = Field(description="exact: the query cites it; search: found by words and meaning; neighbour: see relation")


class RetrieveResults(BaseModel):
    """What retrieval finds, best first; `id` is the rank."""

    results: list[Found]


class SummarizeRequest(BaseModel):
    """What to summarise: exactly one of the three."""

    model_config = STRICT

    text: str | None = None
    citation: str | None = Field(None, examples=["47 CFR 15.247"])
    source: str | None = Field(None, description="A file as /api/retrieve names it")

    @field_validator("text", "citation", "source", mode="before")
    @classmethod
    def _blank_is_none(cls, value: Any) -> Any:
        return None if isinstance(value, str) and not value.strip() else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.text, self.citation, self.source)) != 1:
            raise ValueError("give exactly one of text, citation and source")
        return self


def checked(kind: type[T], given: Any) -> T:
    """`given` as a `kind`. Raises InvalidRequest, which names the field."""
    try:
        return given if isinstance(given, kind) else kind.model_validate(given)
    except ValidationError as exc:
        first = exc.errors()[0]
        where, what = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{where}: {what}" if where else what) from None


def as_data(value: Any) -> Any:
    """A chunk of an answer, or any part of it, as plain data that JSON can carry."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {name: as_data(item) for name, item in value.items()}
    return [as_data(item) for item in value] if isinstance(value, list) else value
