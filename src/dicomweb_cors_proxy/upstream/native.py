"""An HTTP/1.1 client engine behind `httpx.AsyncBaseTransport`.

A viewer asks for hundreds of frames at once and cancels half of them. httpx's own transport keeps
the pool slots of cancelled requests for ever (encode/httpcore #1093) and is half-duplex, so an
archive's early 413 is lost. This engine is an `asyncio.Protocol` around httptools. Cancellation
at any point closes the connection and frees its slot. Uploads and responses run side by side, and
back-pressure pauses the transport, with no queue in between.

The engine does not support HTTP/2, proxies, redirects, cookies, content decoding or 101 upgrades.
Figures, and how to switch it off, are in docs/engine.md.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, cast

import httpx

from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS
from dicomweb_cors_proxy.http.messages import SAFE_METHODS, Header
from dicomweb_cors_proxy.upstream.dialer import Dialer
from dicomweb_cors_proxy.upstream.interface import Endpoint, Request, ResponseHead, Timeouts
from dicomweb_cors_proxy.upstream.pool import Pool
from dicomweb_cors_proxy.upstream.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable

    from dicomweb_cors_proxy.upstream.connection import Connection

# RFC 9110 §9.2.1. Only these are sent twice when a kept-alive connection turns out to be dead.
REPEATABLE_METHODS = frozenset(method.encode("ascii") for method in SAFE_METHODS)


class Response:
    """A response whose head has arrived. Its connection serves another request once it is closed.

    Attributes:
        complete: whether all of the body was read.
        arrived: whether all of the body has arrived, so that one `read` returns the rest.
    """

    __slots__ = ("_connection", "_pool", "head", "headers", "status")

    def __init__(self, head: ResponseHead, connection: Connection, pool: Pool) -> None:
        self.head = head
        self.status = head.status
        self.headers = head.headers
        self._connection: Connection | None = connection
        self._pool = pool

    @property
    def complete(self) -> bool:
        return self._connection is None or self._connection.finished

    @property
    def arrived(self) -> bool:
        return self._connection is None or self._connection.arrived

    async def read(self) -> bytes:
        """Return all of the body that has arrived, at least one byte; b"" at the end.

        Raises:
            httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError
        """
        if self._connection is None:
            raise httpx.StreamClosed  # the bytes from now on belong to another response
        return await self._connection.read()

    async def aclose(self) -> None:
        """Give the connection back, or close it if bytes are missing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


class SentRequest:
    """A request without a body that was sent, and its response, for a caller that does not await.

    The caller looks what has arrived, and has `notify` call back for more.
    """

    __slots__ = ("_connection", "_pool")

    def __init__(self, connection: Connection, pool: Pool) -> None:
        self._connection = connection
        self._pool = pool

    @property
    def head(self) -> ResponseHead | None:
        """Return the response's head, None until it has arrived."""
        return self._connection.received_head

    @property
    def error(self) -> Exception | None:
        """Return why the exchange has failed, as `httpx.HTTPError`; None if it has not."""
        return self._connection.error

    @property
    def was_unheard(self) -> bool:
        """Return whether the connection may have been dead before the request was sent."""
        return self._connection.reused and not self._connection.heard

    @property
    def arrived(self) -> bool:
        """Return whether all of the response has arrived."""
        return self._connection.arrived

    @property
    def finished(self) -> bool:
        """Return whether all of the response has arrived and was taken."""
        return self._connection.finished

    def take(self) -> bytes:
        """Return all of the body that has arrived and was not taken yet; b"" if there is none."""
        return self._connection.take()

    def notify(self, listener: Callable[[], None]) -> None:
        """Call `listener` once, at the next event; the time for the archive to send starts now."""
        self._connection.notify(listener)

    def close(self) -> None:
        """Give the connection back, or close it if bytes are missing."""
        self._pool.release(self._connection)


class ResponseStream(httpx.AsyncByteStream):
    """A response's body for httpx."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._response.read():
            yield data

    async def aclose(self) -> None:
        await self._response.aclose()


class NativeTransport(httpx.AsyncBaseTransport):
    """A transport that sends requests byte for byte as they are given.

    Args:
        max_connections: per origin, those in use and those kept open together.
        ssl_context: for https origins; default: the system's certificate authorities.
        max_head_bytes: of a response's head.
    """

    def __init__(
        self,
        *,
        max_connections: int = 100,
        ssl_context: ssl.SSLContext | None = None,
        max_head_bytes: int = 65536,
    ) -> None:
        self._max_connections = max_connections
        self._ssl_context = ssl_context
        self._max_head_bytes = max_head_bytes
        self.pools: dict[Endpoint, Pool] = {}
        self._resolver: Resolver | None = None
        self._closed = False

    async def send(
        self, request: Request, body: AsyncIterable[bytes] | None, timeouts: Timeouts
    ) -> Response:
        """Send a request; return once the response's head has arrived, even before `body` is sent.

        Raises:
            httpx.PoolTimeout, httpx.ConnectTimeout, httpx.ConnectError: before anything was sent.
            httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError:
                after. If a kept-alive connection closed before the first byte of a response,
                a safe method without a body was sent again on a new one.
            httpx.LocalProtocolError: `body` is not as long as the request says.
        """
        origin, method, target, headers, length = request
        pool = self._pool(origin) or self._open_pool(origin)
        head = _head_bytes(method, target, headers)
        # A write cannot be repeated, so it is not sent on a connection that may be dead.
        fresh = body is not None or method not in REPEATABLE_METHODS
        connection = await pool.acquire(timeouts, fresh=fresh)
        while True:
            try:
                connection.begin(method, head, body, length, timeouts.read)
                response_head = await connection.head()
            except (httpx.ReadError, httpx.RemoteProtocolError):
                if connection.heard or not connection.reused:
                    pool.release(connection)
                    raise
            except BaseException:
                pool.release(connection)
                raise
            else:
                return Response(response_head, connection, pool)
            connection = await pool.replace(connection, timeouts)

    def try_send(self, request: Request, timeouts: Timeouts) -> SentRequest | None:
        """Send a request without a body, if a connection is open for it; otherwise return None."""
        origin, method, target, headers, _ = request
        pool = self._pool(origin)
        if pool is None or (connection := pool.acquire_idle()) is None:
            return None
        head = _head_bytes(method, target, headers)
        connection.begin(method, head, None, 0, timeouts.read)
        if connection.error is not None:  # it has closed meanwhile
            pool.release(connection)
            return None
        return SentRequest(connection, pool)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request of httpx and return a response of httpx.

        The `target` extension is the request target, `headers.raw` the header lines; none is added.
        A body needs a Content-Length or `Transfer-Encoding: chunked` among them; any other framing
        raises httpx.LocalProtocolError.
        """
        url = request.url
        host = url.raw_host.decode("ascii")  # an internationalized name as DNS and TLS have it
        headers = request.headers.raw
        limits = request.extensions.get("timeout", {})
        length = _length(headers)
        stream = request.stream
        if length != 0 and not isinstance(stream, httpx.AsyncByteStream):
            raise httpx.LocalProtocolError("the body is not an asynchronous stream")
        response = await self.send(
            Request(
                Endpoint(url.scheme, host, url.port or DEFAULT_PORTS[url.scheme]),
                request.method.encode("ascii"),
                request.extensions.get("target", url.raw_path),
                headers,
                length,
            ),
            None if length == 0 else cast("httpx.AsyncByteStream", stream),
            Timeouts(limits.get("connect"), limits.get("read"), limits.get("pool")),
        )
        head = response.head
        return httpx.Response(
            head.status,
            headers=head.headers,
            stream=ResponseStream(response),
            extensions={"http_version": head.http_version, "reason_phrase": head.reason},
        )

    def connections(self) -> dict[str, int]:
        """Count the connections that serve a request or idle, and the requests that wait."""
        pools = list(self.pools.values())
        return {
            "active": sum(pool.in_use for pool in pools),
            "idle": sum(len(pool.idle) for pool in pools),
            "waiting": sum(pool.waiting for pool in pools),
        }

    async def aclose(self) -> None:
        """Close idle connections now, and the others once their exchange ends."""
        self._closed = True
        for pool in self.pools.values():
            pool.close()

    def _pool(self, origin: Endpoint) -> Pool | None:
        """Return the origin's pool, None if the running event loop has none yet."""
        pool = self.pools.get(origin)
        return pool if pool is not None and pool.loop is asyncio.get_running_loop() else None

    def _open_pool(self, origin: Endpoint) -> Pool:
        context = None
        if origin.scheme == "https":
            context = self._ssl_context or ssl.create_default_context()
        if self._resolver is None or self._resolver.loop is not asyncio.get_running_loop():
            self._resolver = Resolver()
        dialer = Dialer(self._resolver, origin.host, origin.port)
        pool = Pool(origin, self._max_connections, context, self._max_head_bytes, dialer)
        if self._closed:
            pool.close()
        if (former := self.pools.get(origin)) is not None and not former.loop.is_closed():
            former.loop.call_soon_threadsafe(former.close)
        self.pools[origin] = pool
        return pool


def _head_bytes(method: bytes, target: bytes, headers: Iterable[Header]) -> bytes:
    lines = [b"%b: %b\r\n" % header for header in headers]
    return b"".join((method, b" ", target, b" HTTP/1.1\r\n", *lines, b"\r\n"))


def _length(headers: Iterable[Header]) -> int | None:
    """Return the length in bytes of the body that a request announces, None for chunked."""
    announced = [
        (name.lower(), value)
        for name, value in headers
        if name.lower() in (b"content-length", b"transfer-encoding")
    ]
    match announced:
        case []:
            return 0
        case [(b"transfer-encoding", b"chunked")]:
            return None
        case [(b"content-length", value)] if value.isdigit():
            return int(value)
    raise httpx.LocalProtocolError(
        "the request needs either one Content-Length or one Transfer-Encoding: chunked"
    )
