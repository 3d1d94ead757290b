"""Turns token ids into text while they arrive. Knows nothing about where they come from."""

from typing import Any


class Detokenizer:
    """Yields text as soon as it is final.

    A byte-level token can hold half a character and a SentencePiece token drops its leading space when decoded alone, so each
    piece is decoded together with the tokens before it and only the new part is given out (the two-offset method of
    text-generation-inference).
    """

    def __init__(self, tokenizer: Any) -> None:
        """`tokenizer` must not be used by another thread meanwhile."""
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._prefix = 0  # tokens before this one are settled and no longer decoded
        self._read = 0  # tokens before this one have been given out

    def feed(self, token: int) -> str:
        """Add one token id; return the text that is now final, often a few characters, sometimes none."""
        self._ids.append(token)
        before, now = self._decode(self._read), self._decode(len(self._ids))
        if len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def flush(self) -> str:
        """Return what is left, even if it ends in an unfinished character."""
        rest = self._decode(len(self._ids))[len(self._decode(self._read)) :]
        self._prefix = self._read = len(self._ids)
        return rest

    def _decode(self, end: int) -> str:
        text = self._tokenizer.decode(self._ids[self._prefix : end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)
