"""Whose call is served: set where a request comes in, read where work is done for it. Knows neither."""

import threading
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """The host that called and which of its calls it is, both empty outside of a server; `over` is set when the call is.

    What still works for a call that is over works for nobody. Whoever works asks, since it cannot rely on being told: a stream
    left in the middle of sending is closed by LangServe only when its generators are collected as garbage, seconds later.
    """

    host: str = ""
    call: str = ""
    over: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)


NOBODY = Caller()
current: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
