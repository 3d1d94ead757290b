"""Finds stop strings in text that arrives in pieces. Knows nothing about tokens or models."""

from collections.abc import Sequence


class StopMatcher:
    """Passes text through until a stop string, holding back only what could still become one.

    The text passed through, plus `flush()` at the end, equals the whole text cut at the earliest place where any stop string
    starts; a stop string itself is never passed through.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """`stops` are the strings that end a generation; empty ones are refused with ValueError."""
        if not all(stops):
            raise ValueError("a stop string is empty")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None  # the stop string that ended the text

    def feed(self, text: str) -> str:
        """Return what is now certain to stand before any stop string; nothing once one was found."""
        if self.found is not None or not text:
            return ""
        window = self._held + text
        first, stop = self._first(window)
        # A shorter stop string may be complete while a longer one that starts before it is still open.
        certain = len(window) - self._open_suffix(window)
        if stop is not None and first <= certain:
            self.found = stop
            self._held = ""
            return window[:first]
        self._held = window[certain:]
        return window[:certain]

    def flush(self) -> str:
        """End the text: return what was held back, up to a stop string that it holds whole."""
        held, self._held = self._held, ""
        first, stop = self._first(held)
        if stop is not None:
            self.found = stop
            return held[:first]
        return held

    def _first(self, text: str) -> tuple[int, str | None]:
        """Where the earliest stop string starts, and which it is; the longest of those that start there."""
        starts = [(at, -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not starts:
            return len(text), None
        at, _, stop = min(starts)
        return at, stop

    def _open_suffix(self, window: str) -> int:
        """Length of the longest end of `window` that is a proper beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(window)), longest, -1):
                if window.endswith(stop[:size]):
                    longest = size
                    break
        return longest
