"""Who may wait for the model: so many in all, fewer of one host, and whoever was let in before it asked. Knows no engine."""

import math
from collections.abc import Callable, Sequence

from callers import NOBODY, Caller
from errors import QueueFull

SHARE = 0.75  # of the queue, for the requests of one host


class Admission:
    """A line of `limit` places. A call that was let in keeps one until it asks, and may always have one request waiting.

    So of many callers who come at the same instant those who cannot be served are refused at once, and none in the midst of its
    answer. Not to be called by two threads at a time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._calls: dict[Caller, bool] = {}  # that were let in and are not over, and whether they have asked

    def enter(self, caller: Caller, waiting: Sequence[Caller], *, asks: bool, retry_after: Callable[[int], int]) -> None:
        """Let a call in, which `asks` now or later; `waiting` are those whose requests wait, one for each request.

        Raises QueueFull with the seconds that `retry_after` gives for so many in line.
        """
        self._calls = {call: asked for call, asked in self._calls.items() if not call.over.is_set()}
        if caller not in self._calls or caller in waiting:
            coming = [call for call, asked in self._calls.items() if not asked and call != caller]
            self._check(caller, [*waiting, *coming], retry_after)
        if caller != NOBODY:
            self._calls[caller] = asks or self._calls.get(caller, False)

    def _check(self, caller: Caller, line: Sequence[Caller], retry_after: Callable[[int], int]) -> None:
        if len(line) >= self.limit:
            raise QueueFull(f"{len(line)} requests are waiting already", retry_after=retry_after(len(line)))
        own = sum(call.host == caller.host for call in line)
        if caller.host and own >= math.ceil(SHARE * self.limit):
            raise QueueFull(f"{own} requests of yours are waiting already", retry_after=retry_after(len(line)))
