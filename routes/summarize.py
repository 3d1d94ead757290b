"""POST /api/summarize. Knows nothing about how a summary is made."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from chains.schema import SummarizeRequest
from routes import errors

EXAMPLES = {
    "a section": {"value": {"citation": "47 CFR 15.247"}},
    "a text": {"value": {"text": "A device that ... must ..."}},
    "a file": {"value": {"source": "samples/15.247-power.md"}},
}


class Summary(BaseModel):
    """A summary of all that was asked for."""

    summary: str


def router(chain: Runnable[Any, str]) -> APIRouter:
    """The route on a chain from SummarizeRequest to text."""
    api = APIRouter(tags=["summarize"])

    @api.post("/api/summarize", responses=errors.documented(404, 413, 422, 429, 503))
    async def summarize(request: Annotated[SummarizeRequest, Body(openapi_examples=EXAMPLES)]) -> Summary:
        """Summarise a text, an indexed section or an indexed file, by map-reduce if it is long."""
        return Summary(summary=await chain.ainvoke(request.model_dump(exclude_none=True)))

    return api
