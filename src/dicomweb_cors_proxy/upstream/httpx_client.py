"""httpx's own transport as a proxy needs it (`upstream.transport: httpx`).

Imported only where it is asked for: httpcore and h2 take 50 ms to load.
"""

from __future__ import annotations

import asyncio
import ssl
from contextvars import ContextVar
from functools import partial
from importlib.util import find_spec
from typing import Any

import httpcore
import httpx

from dicomweb_cors_proxy.upstream.connection import ended_without_close_notify
from dicomweb_cors_proxy.upstream.native import REPEATABLE_METHODS
from dicomweb_cors_proxy.upstream.pool import IDLE_EXPIRY

__all__ = ["HTTPXTransport"]


class HTTPXTransport(httpx.AsyncHTTPTransport):
    """A transport with HTTP/2, if h2 is installed and the archive accepts it in TLS.

    Args:
        max_connections: of all origins together, those in use and those kept open.
        ssl_context: for https origins; default: the system's certificate authorities.
    """

    def __init__(self, *, max_connections: int, ssl_context: ssl.SSLContext | None = None) -> None:
        context = ssl_context or ssl.create_default_context()
        # Set by default in Python 3.11.2 (Debian 12). OpenSSL then reports any end of the TCP
        # stream as a close_notify, so a response that was cut would pass for a complete one.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        super().__init__(verify=context)
        # httpx has no argument for a network backend.
        self._open_pool = partial(
            httpcore.AsyncConnectionPool,
            ssl_context=context,
            max_connections=max_connections,
            keepalive_expiry=IDLE_EXPIRY,
            http2=find_spec("h2") is not None,
            network_backend=_Backend(),
        )
        self._pool = self._open_pool()
        self._loop: asyncio.AbstractEventLoop | None = None  # of its connections
        self._asking: set[_Attempt] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; a safe one without a body again if a kept-alive connection was dead."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            self._loop = loop
            self._pool = self._open_pool()
        exchange = _Attempt(self._pool)
        try:
            return await self._send(request, exchange)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            has_body = not isinstance(request.stream, httpx.ByteStream)
            if has_body or request.method.encode() not in REPEATABLE_METHODS:
                raise
            if exchange.heard or not exchange.reused:
                raise
        # Whatever ended this connection may have ended the other idle ones.
        for connection in self._pool.connections:
            if connection.is_idle():
                await connection.aclose()
        return await self._send(request, _Attempt(self._pool))

    def connections(self) -> dict[str, int]:
        """Count the connections that serve a request or idle, and the requests that wait."""
        states = [connection.is_idle() for connection in self._pool.connections]
        return {
            "active": states.count(False),
            "idle": states.count(True),
            "waiting": sum(not exchange.begun for exchange in self._asking),
        }

    async def _send(self, request: httpx.Request, exchange: _Attempt) -> httpx.Response:
        self._asking.add(exchange)
        token = _current.set(exchange)
        try:
            response = await super().handle_async_request(request)
        finally:
            _current.reset(token)
            self._asking.discard(exchange)
        if _announces_what_it_lacks(request, response):
            # If the archive sends that body nevertheless, it must not become the next response.
            await response.extensions["network_stream"].aclose()
        return response


def _announces_what_it_lacks(request: httpx.Request, response: httpx.Response) -> bool:
    """Return whether an HTTP/1.1 response announces a body and has none (RFC 9112 §6.3)."""
    if response.extensions["http_version"] == b"HTTP/2":
        return False
    if request.method != "HEAD" and response.status_code not in (204, 304):
        return False
    length = response.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in response.headers


class _Attempt:
    """The progress of a request on the network."""

    begun = False  # a connection is opened for it, or has taken its first byte
    reused = False  # that connection had served another request before
    heard = False  # a byte of the response has come

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self.pool = pool


_current: ContextVar[_Attempt] = ContextVar("current")


class _Backend(httpcore.AnyIOBackend):
    """Connections that report to the exchange that uses them."""

    async def connect_tcp(self, *args: Any, **options: Any) -> httpcore.AsyncNetworkStream:  # noqa: ANN401
        _current.get().begun = True
        return _Stream(await super().connect_tcp(*args, **options))


class _Stream(httpcore.AsyncNetworkStream):
    """A network stream that reports to the exchange, with the signatures of httpcore."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._has_answered = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        data = await self._stream.read(max_bytes, timeout)
        if not data and ended_without_close_notify(self._stream.get_extra_info("ssl_object")):
            raise httpcore.ReadError("the connection ended without the end of TLS")
        if data:
            self._has_answered = True
            if (exchange := _current.get(None)) is not None:
                exchange.heard = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        exchange = _current.get(None)
        if exchange is not None and not exchange.begun:
            exchange.begun = True
            exchange.reused = self._has_answered
            if _has_surplus(exchange.pool, self):
                raise httpcore.RemoteProtocolError("bytes after the end of the previous response")
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> _Stream:
        return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        return self._stream.get_extra_info(info)


def _has_surplus(pool: httpcore.AsyncConnectionPool, stream: _Stream) -> bool:
    """Return whether bytes follow the last response; httpcore would read them as the next."""
    for connection in pool.connections:
        http11 = getattr(connection, "_connection", None)
        if getattr(http11, "_network_stream", None) is stream:
            parser = getattr(http11, "_h11_state", None)  # none in HTTP/2
            return parser is not None and bool(parser.trailing_data[0])
    return False
