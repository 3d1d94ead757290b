"""OpenAI's face on a scripted model: an app, one call of it, and a client of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import uvicorn
from conftest import free_port
from fakes import ListRetriever, ScriptedModel, until
from fastapi import FastAPI
from langchain_core.documents import Document

from chains import chat as chat_chain
from routes import errors
from routes import openai as face
from routes.guard import Guard

PASSAGE = Document("The limit is 1 watt.", metadata={"citation": "47 CFR 15.247(b)(3)", "source": "x.md", "score": 0.9})


def asked(model: str = "scripted", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "What is the limit?"}]} | fields


def app_of(model: ScriptedModel, *, window: int = 4000) -> FastAPI:
    app = FastAPI()
    errors.install(app)
    app.add_middleware(Guard, max_body_bytes=lambda: 1_000_000)
    retriever = ListRetriever(documents=[PASSAGE])
    chain = chat_chain.build(retriever, model, window=window, max_tokens=100, temperature=0, k=4, summary_threshold=10_000)
    app.include_router(face.router(chain, model, name="scripted", window=window, max_tokens=100, temperature=0.5))
    return app


async def post(app: FastAPI, body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await http.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})


@contextlib.asynccontextmanager
async def listening(model: ScriptedModel) -> AsyncIterator[openai.AsyncOpenAI]:
    """The client of a server on this loop that answers with `model`."""
    port = free_port()
    uvicorn_server = uvicorn.Server(uvicorn.Config(app_of(model), port=port, log_level="warning", lifespan="off", ws="none"))
    serving = asyncio.create_task(uvicorn_server.serve())
    await until(lambda: uvicorn_server.started)
    try:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as opened:
            yield opened
    finally:
        uvicorn_server.should_exit = True
        await serving
