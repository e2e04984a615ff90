"""What one writes first: Starlette, its CORSMiddleware, httpx, StreamingResponse.

ARCHIVE=http://127.0.0.1:8042 ORIGIN=http://localhost:3000 uvicorn bench.naive:app
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import StreamingResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

HOP_BY_HOP: Final = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "host"}

client: Final = httpx.AsyncClient(
    base_url=os.environ["ARCHIVE"],
    timeout=60,
    trust_env=False,
    limits=httpx.Limits(max_connections=100, max_keepalive_connections=100),
)


async def forward(request: Request) -> StreamingResponse:
    """Ask the archive the same, and pass on what it says."""
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    answer = await client.send(
        client.build_request(
            request.method,
            httpx.URL(path=request.url.path, query=request.url.query.encode() or None),
            headers=[(n, v) for n, v in request.headers.items() if n not in HOP_BY_HOP],
            content=request.stream() if has_body else None,
        ),
        stream=True,
    )
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        headers={n: v for n, v in answer.headers.items() if n not in HOP_BY_HOP},
        background=BackgroundTask(answer.aclose),
    )


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Close the client's connections at the end."""
    async with client:
        yield


app = Starlette(
    routes=[Route("/{path:path}", forward, methods=["GET", "HEAD", "POST", "OPTIONS"])],
    middleware=[
        Middleware(
            CORSMiddleware,
            allow_origins=[os.environ["ORIGIN"]],
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["accept", "authorization", "content-type", "range"],
            expose_headers=["content-length", "content-range", "etag", "link", "location"],
            max_age=7200,
        )
    ],
    lifespan=lifespan,
)
