"""An adapter for any httpx transport in place of our own client."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.upstream.interface import Request, Timeouts

__all__ = ["HTTPXUpstream"]


class HTTPXUpstream:
    """An upstream that sends requests by an `httpx.AsyncBaseTransport`; see `interface`.

    Args:
        transport: closed by `aclose`, after the responses in progress.
        connections: counts its connections by state; default: the responses in progress.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        connections: Callable[[], dict[str, int]] | None = None,
    ) -> None:
        self._transport = transport
        self._count = connections
        self._exchanges = 0
        self._closing = False

    async def send(
        self, request: Request, body: AsyncIterable[bytes] | None, timeouts: Timeouts
    ) -> _Response:
        self._exchanges += 1
        try:
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
        except BaseException:
            await self._end()
            raise
        return _Response(response, self._end)

    def connections(self) -> dict[str, int]:
        return self._count() if self._count else {"active": self._exchanges}

    async def aclose(self) -> None:
        self._closing = True
        await self._close_at_the_end()

    async def _end(self) -> None:
        self._exchanges -= 1
        await self._close_at_the_end()

    async def _close_at_the_end(self) -> None:
        if self._closing and not self._exchanges:
            await self._transport.aclose()


class _Stream(httpx.AsyncByteStream):
    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._body)


class _Response:
    complete = arrived = False  # known only at the end

    def __init__(self, response: httpx.Response, ended: Callable[[], Awaitable[None]]) -> None:
        self.status = response.status_code
        self.headers: list[Header] = response.headers.raw
        self._stream = cast("httpx.AsyncByteStream", response.stream)
        self._chunks = aiter(self._stream)
        self._ended = ended

    async def read(self) -> bytes:
        async for chunk in self._chunks:
            if chunk:
                return chunk
        return b""

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await self._ended()
