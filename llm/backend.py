"""What runs a model in steps, as the engine sees it. One thread, the engine's, makes and calls a backend; none is thread-safe."""

from dataclasses import dataclass
from typing import Literal, Protocol

from errors import EngineError, FccRagError
from llm.requests import Sampling


class BackendLost(EngineError):
    """The backend is gone, and with it all requests that ran; a new one has to be opened."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a step brought for one request: its new tokens, and how it ended if it did.

    The token that ends an answer is among `tokens`. After an `end` or an `error` the backend knows the request no more.
    """

    key: int
    tokens: tuple[int, ...]
    end: Literal["stop", "length"] | None = None
    error: FccRagError | None = None


class Backend(Protocol):
    """A continuous batch: requests join and leave between steps, and prompts are read in bounded chunks.

    `slots` is how many requests run together at most, `capacity` how many tokens of keys and values are kept for all of them
    (and for prefixes that may come again), `block` how many tokens share one unit of that memory. `preempts` tells whether a
    request that finds no room while it decodes is put back by the backend; where it is not, room for all its tokens must be
    kept free from the start.
    """

    slots: int
    capacity: int
    block: int
    preempts: bool

    def add(self, key: int, ids: list[int], sampling: Sampling, max_new_tokens: int) -> None:
        """Let a request join; stop strings are the engine's business. Raises FccRagError if this one cannot be run."""

    def step(self) -> list[Output]:
        """Move all requests by one step, or return after a second without any; an exception means that all are lost."""

    def check(self) -> None:
        """Raise BackendLost if it can run nothing more; asked while nothing runs."""

    def cancel(self, key: int) -> None:
        """Drop a request and free its slot; no output for it follows. Raises BackendLost."""

    def close(self) -> None:
        """Free the memory; nothing is called afterwards."""
