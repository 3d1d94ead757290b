"""GET /api/status, /api/health and /api/health/live. Knows nothing but the questions it asks."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, RedirectResponse

from errors import FccRagError
from routes import errors

Check = Callable[[], Awaitable[None]]
HEALTHY = {"status": "ok"}


def router(describe: Callable[[], Awaitable[dict[str, Any]]], checks: Mapping[str, Check]) -> APIRouter:
    """The routes; `describe` returns the status, each of `checks` returns if its part works and raises FccRagError if not."""
    api = APIRouter(tags=["status"])

    @api.get("/api/status")
    async def status() -> dict[str, Any]:
        """What is loaded, what is indexed, what waits, since when."""
        return await describe()

    @api.get(
        "/api/health",
        responses={200: {"content": {"application/json": {"example": HEALTHY}}}, **errors.documented(503)},
    )
    async def health() -> JSONResponse:
        """200 when this process can serve; 503, with the failing part named, when it cannot."""
        for part, check in checks.items():
            try:
                await check()
            except FccRagError as exc:
                return JSONResponse(
                    errors.body(f"{part}_unavailable", str(exc)) | {"status": "failing", "part": part},
                    status_code=503,
                    headers={"Retry-After": str(exc.retry_after or 5)},
                )
        return JSONResponse(HEALTHY)

    @api.get("/api/health/live")
    async def live() -> dict[str, str]:
        """200 while the process lives."""
        return {"status": "alive"}

    @api.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/api/chat/playground/")

    return api
