"""Whose call is being served: set where a request comes in, read where the order of requests is decided. Knows neither."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The host that called and which of its calls it is; both empty outside of a server."""

    host: str = ""
    call: str = ""


NOBODY = Caller()
current: ContextVar[Caller] = ContextVar("caller", default=NOBODY)
