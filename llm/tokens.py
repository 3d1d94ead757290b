"""A model's tokenizer and chat template for many threads at once. Knows nothing about weights or how text is generated."""

import threading
from typing import Any

from errors import InvalidRequest

TURN_MARKS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")  # Llama 2 marks turns in plain text; other models have special tokens


class Tokens:
    """Counts, encodes and renders; `decode` is for one thread alone."""

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` is a transformers tokenizer, which nobody else may change afterwards."""
        self.tokenizer = tokenizer
        self._lock = threading.Lock()
        # With truncation and padding off for good nothing is ever set on it again, and reading is thread-safe.
        self._fast = getattr(tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_truncation()
            self._fast.no_padding()
        self._marks = [*TURN_MARKS, *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any the tokenizer would add by itself."""
        if self._fast is not None:
            return list(self._fast.encode(text, add_special_tokens=False).ids)
        with self._lock:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def render(self, messages: list[dict[str, str]]) -> str:
        """Messages as the prompt text the model was tuned on, by its own chat template, BOS included.

        What marks a turn is made inert where a message's own text holds it: no document or user can speak in another role.
        Raises InvalidRequest where the template does not take these messages (Llama-2's wants the roles to alternate).
        """
        from jinja2.exceptions import TemplateError

        inert = [message | {"content": self._inert(message["content"])} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(inert, tokenize=False, add_generation_prompt=True)
        except TemplateError as exc:
            raise InvalidRequest(f"the model's chat template refuses these messages: {exc}") from exc
        return str(text)

    def _inert(self, text: str) -> str:
        for mark in self._marks:
            text = text.replace(mark, f"{mark[0]} {mark[1:]}")
        return text
