"""LangChain's messages as the turns a chat template or a service takes, and an answer's last chunk. Knows no model."""

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

from errors import InvalidRequest

ROLES = {"human": "user", "ai": "assistant", "system": "system"}


def turns(messages: list[BaseMessage]) -> list[dict[str, str]]:
    """Each message as `{"role", "content"}`. Raises InvalidRequest for kinds the models here do not know."""
    return [{"role": _role(message), "content": message.text} for message in messages]


def last(reason: str, prompt_tokens: int, completion_tokens: int, text: str = "") -> ChatGenerationChunk:
    """The chunk that ends an answer: why, and what it took."""
    usage = UsageMetadata(
        input_tokens=prompt_tokens, output_tokens=completion_tokens, total_tokens=prompt_tokens + completion_tokens
    )
    metadata = {"finish_reason": reason}
    message = AIMessageChunk(content=text, usage_metadata=usage, response_metadata=metadata, chunk_position="last")
    return ChatGenerationChunk(message=message, generation_info=metadata)


def _role(message: BaseMessage) -> str:
    if (role := ROLES.get(message.type.removesuffix("MessageChunk").lower())) is None:
        raise InvalidRequest(f"messages of type {message.type} are not supported; use user, assistant or system")
    return role
