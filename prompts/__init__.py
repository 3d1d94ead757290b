"""The prompt texts, as Markdown files, and how to load one. Knows nothing about models.

A file holds one heading of the first level for each message (`# system`, `# user`, `# assistant`; `# history` is where earlier
turns go), with the message's text below it and `{variables}` in it.
"""

import re
from functools import cache
from pathlib import Path

from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

FOLDER = Path(__file__).parent
ROLES = {"system": "system", "user": "human", "assistant": "ai"}


@cache
def load(name: str) -> ChatPromptTemplate:
    """The prompt in `prompts/<name>.md`.

    Raises FileNotFoundError, and ValueError for a heading that is no role or text that stands under none.
    """
    messages: list[tuple[str, str] | MessagesPlaceholder] = []
    before, *sections = re.split(r"^# (.*)$", text_of(name), flags=re.MULTILINE)
    if before.strip() or not sections:
        raise ValueError(f"prompts/{name}.md: a prompt starts with the heading of a role")
    for role, text in zip(sections[::2], sections[1::2], strict=True):
        if role == "history":
            messages.append(MessagesPlaceholder("history"))
        elif role in ROLES:
            messages.append((ROLES[role], text.strip()))
        else:
            raise ValueError(f"prompts/{name}.md: {role} is no role")
    return ChatPromptTemplate.from_messages(messages)


def text_of(name: str) -> str:
    """The file as it stands, for texts that are no prompts, such as the refusal."""
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")
