"""What an engine is asked and what it answers with. Knows nothing about how it is done.

A request is submitted with a callback and ends in every case with exactly one `Finished` or `Failed`, also when it was cancelled
while it waited.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from callers import Caller
from errors import FccRagError, InvalidRequest

COLDEST = 0.01  # a lower temperature is greedy: logits divided by it would overflow
FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request is sampled. `temperature` below 0.01 is greedy; `max_tokens` counts new tokens only."""

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise InvalidRequest, which names the field, for a value out of range."""
        if self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1")
        if not 0 <= self.temperature <= 2:
            raise InvalidRequest("temperature must be between 0 and 2")
        if not 0 < self.top_p <= 1:
            raise InvalidRequest("top_p must be above 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InvalidRequest("seed must be at least 0 and below 2**63")
        if not all(self.stop):
            raise InvalidRequest("a stop string must not be empty")

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has just become final."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request that did not fail; counts are in tokens. `stop` is the stop string that ended it, if one did."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    stop: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The end of a request that failed."""

    error: FccRagError


Event = Piece | Finished | Failed
Deliver = Callable[[Event], None]


@dataclass(eq=False, slots=True)
class Request:
    """A submitted request. `cancel()` may be called from any thread, any number of times; the end of its call does the same."""

    ids: list[int]
    sampling: Sampling
    deliver: Deliver
    caller: Caller = field(default_factory=Caller)
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set() or self.caller.over.is_set()
