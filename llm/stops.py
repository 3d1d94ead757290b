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
        self.found = False

    def feed(self, text: str) -> str:
        """Return what is now certain to stand before any stop string; nothing once one was found."""
        if self.found or not text:
            return ""
        window = self._held + text
        starts = [at for stop in self._stops if (at := window.find(stop)) >= 0]
        # A shorter stop string may be complete while a longer one that starts before it is still open.
        certain = len(window) - self._open_suffix(window)
        if starts and min(starts) <= certain:
            self.found = True
            self._held = ""
            return window[: min(starts)]
        self._held = window[certain:]
        return window[:certain]

    def flush(self) -> str:
        """End the text: return what was held back, up to a stop string that it holds whole."""
        held, self._held = self._held, ""
        starts = [at for stop in self._stops if (at := held.find(stop)) >= 0]
        if starts:
            self.found = True
            return held[: min(starts)]
        return held

    def _open_suffix(self, window: str) -> int:
        """Length of the longest end of `window` that is a proper beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(window)), longest, -1):
                if window.endswith(stop[:size]):
                    longest = size
                    break
        return longest
