"""A request while it runs: its tokens as text, cut at stop strings, passed on to its caller. Knows neither queue nor backend."""

import time
from typing import Any

from llm.detokenize import Detokenizer
from llm.requests import Event, Finished, FinishReason, Piece, Request
from llm.stops import StopMatcher

GATHER = 0.05  # seconds between the pieces of an answer; on its way to a reader each costs a millisecond of what the model needs


class Running:
    """A request that runs: its tokens as text, cut at stop strings."""

    def __init__(self, request: Request, key: int, tokenizer: Any) -> None:
        self.request = request
        self.key = key
        self.reserved = 0  # tokens of keys and values
        self.tokens: list[int] = []  # generated
        self.since = time.monotonic()
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(request.sampling.stop)
        self._text = ""  # final, and not passed on yet
        self._passed = 0.0  # when something was, by the monotonic clock

    @property
    def count(self) -> int:
        return len(self.tokens)

    @property
    def held(self) -> int:
        """Tokens of keys and values to count for it: those kept free, or those it has taken."""
        return max(self.reserved, len(self.request.ids) + self.count)

    @property
    def stopped(self) -> bool:
        return self._matcher.found is not None

    def feed(self, tokens: tuple[int, ...]) -> str:
        """The text that has become final; nothing after a stop string."""
        text = ""
        for token in tokens:
            self.tokens.append(token)
            text += self._matcher.feed(self._detokenizer.feed(token))
            if self.stopped:
                break
        return text

    def flush(self) -> str:
        return self._matcher.feed(self._detokenizer.flush()) + self._matcher.flush()

    def finished(self, end: str | None) -> Finished:
        reason: FinishReason = "stop" if self.stopped or end == "stop" else "length"
        return Finished(reason, len(self.request.ids), self.count, self._matcher.found)

    def pass_on(self, text: str, *, last: bool = False) -> None:
        """Pass text on, with what was gathered since the last piece if that is long enough ago; at the end in any case."""
        self._text += text
        now = time.monotonic()
        if self._text and (last or now - self._passed >= GATHER) and not self.request.cancelled:
            text, self._text, self._passed = self._text, "", now
            deliver_to(self.request, Piece(text))


def deliver_to(request: Request, event: Event) -> None:
    try:
        request.deliver(event)
    except Exception:  # noqa: BLE001 -- most often the caller's event loop is closed: nobody is left to tell
        request.cancel()
