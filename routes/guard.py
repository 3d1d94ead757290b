"""What stands before every route: a limit on bodies, the end of work nobody waits for, one line when a start fails."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import callers
from errors import EngineError, FccRagError
from routes import errors

log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware. LangServe runs an abandoned /invoke to its end; here a caller who has gone takes the work along."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: Callable[[], int], draining: Callable[[], bool] = lambda: False) -> None:
        """`max_body_bytes` is asked at each request, since settings are read when the server starts.

        While `draining`, no new work is taken: calls that have begun are finished.
        """
        self._app = app
        self._draining = draining
        self._max_body_bytes = max_body_bytes
        self._calls = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "\0" in scope["path"]:  # no file system takes it, and LangServe asks one
            await errors.answer(scope, HTTPException(404))(scope, receive, send)
            return
        if self._draining() and scope["method"] == "POST":
            await errors.answer(scope, EngineError("the server is shutting down"))(scope, receive, send)
            return
        limit = self._max_body_bytes()
        content = await _read(receive, limit)
        if content is None:
            refusal = HTTPException(413, f"the body is larger than {limit} bytes (MAX_BODY_MB)")
            await errors.answer(scope, refusal)(scope, receive, send)
            return
        call = _Call(content, receive, send)
        host = scope["client"][0] if scope.get("client") else ""
        caller = callers.Caller(host, str(next(self._calls)))
        callers.current.set(caller)
        work = asyncio.create_task(self._run(scope, call))
        watch = asyncio.create_task(call.watch())
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not call.answered and not work.done():
                log.info("the caller has gone: %s %s", scope["method"], scope["path"])
                caller.over.set()
                work.cancel()
            await asyncio.wait({work})
        finally:
            caller.over.set()
            watch.cancel()
            work.cancel()
        if not work.cancelled():
            work.result()

    async def _run(self, scope: Scope, call: "_Call") -> None:
        await self._app(scope, call.receive, call.send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a start that fails for a reason we know with its one line, where Starlette would send a traceback."""
        failed: list[Message] = []

        async def hold(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, hold)
        except FccRagError as exc:
            await send({"type": "lifespan.startup.failed", "message": f"fcc-rag cannot start: {exc}"})
        except BaseException:
            for message in failed:
                await send(message)
            raise


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None if it is larger than `limit` bytes."""
    content = bytearray()
    while (message := await receive())["type"] == "http.request":
        content += message.get("body", b"")
        if len(content) > limit:
            return None
        if not message.get("more_body", False):
            break
    return bytes(content)


class _Call:
    """One request's body, and whether its caller still listens."""

    def __init__(self, content: bytes, receive: Receive, send: Send) -> None:
        self.answered = False
        self._gone = asyncio.Event()
        self._body: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        if self._body:
            return self._body.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.answered = True
        await self._send(message)

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
