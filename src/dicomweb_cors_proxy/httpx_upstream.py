"""Any transport of httpx in the place of our own engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from dicomweb_cors_proxy.transport import Header, Request, Timeouts

__all__ = ["HTTPXUpstream"]


class HTTPXUpstream:
    """Carries requests by an `httpx.AsyncBaseTransport`; see `proxy.Upstream`."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(
        self, request: Request, body: AsyncIterable[bytes] | None, timeouts: Timeouts
    ) -> _Response:
        response = await self._transport.handle_async_request(
            httpx.Request(
                request.method.decode("ascii"),
                str(request.origin),
                headers=list(request.headers),
                stream=httpx.ByteStream(b"") if body is None else _Stream(body),
                extensions={
                    "target": request.target,
                    "timeout": {
                        "connect": timeouts.connect,
                        "read": timeouts.read,
                        "write": timeouts.read,
                        "pool": timeouts.pool,
                    },
                },
            )
        )
        return _Response(response)

    def connections(self) -> dict[str, int]:
        return {}

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Stream(httpx.AsyncByteStream):
    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._body)


class _Response:
    complete = False  # known only at the end

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers: list[Header] = response.headers.raw
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._chunks = aiter(self._stream)

    async def read(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    async def aclose(self) -> None:
        await self._stream.aclose()
