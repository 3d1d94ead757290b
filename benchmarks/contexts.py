"""Retrieval-sized prompts, made of the sample notes. Knows nothing about servers.

A context is a shuffle of the notes' paragraphs, cut to length. Each begins with a number of its own, so that two of them share
nothing but the system line; a seed gives the same ones again.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jinja2
from tokenizers import Tokenizer

SAMPLES = Path(__file__).parent.parent / "samples"
SYSTEM = "You are a careful assistant for radio regulations. Answer at length, from the passages alone."
QUESTIONS = (
    "Explain in detail, in several paragraphs, what these passages say about: {topic}.",
    "Write a long summary of all the rules above, paragraph by paragraph, and begin with: {topic}.",
    "List every limit, frequency and deadline in the passages, with an explanation of each. Start with: {topic}.",
)


@dataclass(frozen=True)
class Prompt:
    """`text` is what the model's chat template makes of `messages`; `tokens` counts it."""

    messages: list[dict[str, str]]
    text: str
    tokens: int


class Book:
    """The notes, and the tokenizer and chat template of the model that is to read them."""

    def __init__(self, model: Path, *, tokens: int) -> None:
        """`model` is a folder with tokenizer.json and chat_template.jinja; `tokens` the length of a prompt, about."""
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._tokens = tokens
        self._template = jinja2.Environment(autoescape=False).from_string(_chat_template(model))  # noqa: S701 -- plain text
        notes = [path.read_text(encoding="utf-8") for path in sorted(SAMPLES.glob("*.md"))]
        self._paragraphs = [paragraph for note in notes for paragraph in _paragraphs(note)]
        self._topics = [line.removeprefix("# ") for note in notes for line in note.splitlines() if line.startswith("# ")]

    def own(self, seed: str, count: int) -> list[Prompt]:
        """Prompts with a context each."""
        rng = random.Random(seed)  # noqa: S311 -- nothing secret
        return [self._prompt(self._context(rng), question) for question in self._questions(rng, count)]

    def shared(self, seed: str, count: int) -> list[Prompt]:
        """Prompts with one context and different questions at its end."""
        rng = random.Random(seed)  # noqa: S311 -- nothing secret
        context = self._context(rng)
        return [self._prompt(context, question) for question in self._questions(rng, count)]

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without any the tokenizer would add."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def count(self, text: str) -> int:
        return len(self.ids(text))

    def _questions(self, rng: random.Random, count: int) -> Iterator[str]:
        every = [question.format(topic=topic) for question in QUESTIONS for topic in self._topics]
        rng.shuffle(every)
        return (every[i % len(every)] for i in range(count))

    def _context(self, rng: random.Random) -> str:
        paragraphs = rng.sample(self._paragraphs, len(self._paragraphs))
        text = f"File {rng.getrandbits(40):010x}.\n\n" + "\n\n".join(paragraphs)
        room = self._tokens - self._prompt("", next(self._questions(rng, 1))).tokens
        kept = self.ids(text)[:room]
        return str(self._tokenizer.decode(kept, skip_special_tokens=False))

    def _prompt(self, context: str, question: str) -> Prompt:
        user = f"{context}\n\n{question}"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
        text = self._template.render(messages=messages, add_generation_prompt=True)
        return Prompt(messages, text, self.count(text))


def _paragraphs(note: str) -> list[str]:
    body = note.split("---", 2)[2]
    return [block.strip() for block in body.split("\n\n") if block.strip() and not block.strip().startswith("#")]


def _chat_template(model: Path) -> str:
    if (file := model / "chat_template.jinja").is_file():
        return file.read_text(encoding="utf-8")
    return str(json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"])
