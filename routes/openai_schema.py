"""OpenAI's request and answer, as far as they are honoured. Knows nothing about who answers."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from chains.schema import ChatRequest, Citation, Filters, Message, Source, Usage, without_null
from routes.streams import SOURCES

OPEN = ConfigDict(extra="allow", json_schema_extra=without_null)  # what is not read changes nothing, but see NEUTRAL
ONLY_RAG = ("k", "filters", "summarize")
# What would change the answer and cannot be had here, with the values that ask for nothing; other names are not looked at.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "web_search_options": (),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
}


class TextPart(BaseModel):
    """A piece of a message's content."""

    type: Literal["text"]
    text: str


def _joined(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    texts = [part["text"] for part in content if isinstance(part, dict) and part.get("type") == "text" and "text" in part]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        raise ValueError('each part must be {"type": "text", "text": ...}; images, sounds and files cannot be read')
    return "\n".join(texts)


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


Content = Annotated[str, Field(max_length=200_000), BeforeValidator(_joined, json_schema_input_type=str | list[TextPart])]
StopText = Annotated[str, Field(min_length=1, max_length=200)]
Stop = Annotated[list[StopText], Field(max_length=4), BeforeValidator(_listed, json_schema_input_type=StopText | list[StopText])]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), AfterValidator(lambda seed: seed % 2**63)]  # torch's begin at 0


class Turn(BaseModel):
    """One message; `developer` is another word for `system`."""

    model_config = OPEN

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    tool_calls: Any = None

    @field_validator("tool_calls")
    @classmethod
    def _no_tools(cls, value: Any) -> None:
        if value:
            raise ValueError("tools cannot be used here")

    def as_message(self) -> Message:
        return Message(role="system" if self.role == "developer" else self.role, content=self.content)

    def without_sources(self) -> "Turn":
        """The same without the list of sources that ended an earlier answer, which nobody said."""
        said = self.content.partition(SOURCES)[0] if self.role == "assistant" else self.content
        return Turn(role=self.role, content=said)


class StreamOptions(BaseModel):
    """What else a stream is to tell."""

    include_usage: bool | None = Field(False, description="Send the usage in a chunk of its own, the last one.")


class CompletionBody(BaseModel):
    """OpenAI's request, with the fields that are honoured here and the chain's own `k`, `filters` and `summarize`.

    What would change the answer and is not honoured is refused by its name; anything else is ignored.
    """

    model_config = OPEN

    model: Annotated[str, Field(max_length=500, description="`fcc-rag`, or the loaded model's name to ask it without documents.")]
    messages: Annotated[list[Turn], Field(min_length=1, max_length=200)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="Lowered to the model's window.")
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(None, description="The older name of max_completion_tokens.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0 is greedy; the server's by default.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    k: Annotated[int, Field(ge=1, le=50)] | None = Field(None, description="fcc-rag only: passages to answer from, at most.")
    filters: Filters | None = Field(None, description="fcc-rag only: where to look.")
    summarize: Literal["auto", "always", "never"] | None = Field(None, description="fcc-rag only.")

    def sampling(self) -> dict[str, Any]:
        """How it wants to be answered, without what it leaves open."""
        given = self.model_dump(include={"temperature", "top_p", "seed", "stop"}, exclude_none=True)
        most = self.max_completion_tokens or self.max_tokens
        return given | ({"max_tokens": most} if most else {})

    def for_chain(self) -> dict[str, Any]:
        """The same for the chat chain. Raises ValidationError, for one if the last message is no question."""
        own = {name: getattr(self, name) for name in ONLY_RAG if getattr(self, name) is not None}
        request = ChatRequest(messages=[turn.without_sources().as_message() for turn in self.messages], **self.sampling(), **own)
        return request.model_dump(exclude_none=True)


class Reply(BaseModel):
    """What the model says; fcc-rag's ends with the sources it cites."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """The one answer."""

    index: Literal[0]
    message: Reply
    logprobs: None
    finish_reason: Literal["stop", "length"] = Field(description="`length` also for an answer that a shutdown cut off")


class Completion(BaseModel):
    """OpenAI's answer; with `sources` and `citations` (see /api/chat) if fcc-rag gave it."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Unix time in seconds")
    model: str
    choices: list[Choice]
    usage: Usage
    sources: list[Source] = []
    citations: list[Citation] = []


class Model(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "fcc-rag"


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]
