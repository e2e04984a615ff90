"""An HTTP/1.1 client engine behind `httpx.AsyncBaseTransport`.

A viewer asks for hundreds of frames at once and cancels half of them. httpx's own transport keeps
the pool slots of cancelled requests for ever (encode/httpcore #1093) and is half-duplex, so an
archive's early 413 is lost. This one is an `asyncio.Protocol` around httptools: cancellation at
any point closes the connection and gives its slot back, uploads and answers run side by side, and
back-pressure is the transport paused, with no queue in between.

What it does not do: HTTP/2, proxies, redirects, cookies, content decoding, 101 upgrades.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import httptools
import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

Header = tuple[bytes, bytes]

DEFAULT_PORTS = {"http": 80, "https": 443}

# RFC 9110 §9.2.1. Only these are sent twice when a kept-alive connection turns out to be dead.
SAFE_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})

# Bytes of an answer held for a reader that is behind, before the archive is made to wait. One
# read of the event loop (256 KiB under uvloop) may come on top.
READ_HIGH_WATER = 64 * 1024

MAX_HEADERS = 256
MAX_INTERIM_RESPONSES = 16

# Seconds. Shorter than the idle limits of the firewalls between hospital networks.
IDLE_EXPIRY = 30.0


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


class Timeouts(NamedTuple):
    """Seconds, or None for no limit; the `timeout` extension of httpx.

    `read` also bounds the wait for an archive that stops taking the bytes of an upload.
    """

    connect: float | None
    read: float | None
    pool: float | None


class ResponseHead(NamedTuple):
    http_version: bytes
    status: int
    reason: bytes
    headers: list[Header]


class Connection(asyncio.Protocol):
    """One connection to the archive. It serves one exchange at a time, from `begin` to `end`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool, max_head_bytes: int) -> None:
        self._loop = loop
        self._pool = pool
        self._max_head_bytes = max_head_bytes
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None
        self._busy = False
        self.reused = False
        self.idle_since = 0.0  # loop time
        self._reset(b"GET")

    def _reset(self, method: bytes) -> None:
        self._method = method
        self._reason = b""
        self._headers: list[Header] = []
        self._header_bytes = 0
        self._unparsed_head_bytes = 0
        self._interim_responses = 0
        self._head: ResponseHead | None = None
        self._remaining: int | None = None  # of a Content-Length body, bytes
        self._bypass = False  # body bytes no longer go through the parser
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._persistent = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._upload: asyncio.Task[None] | None = None
        self._uploading = False
        self.heard = False  # a byte of the answer has come

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        if not self._busy:
            # Nothing was asked: whatever this is must not become the next request's answer.
            self.abort()
            return
        self.heard = True
        if self._bypass:
            self._body_received(data)
            return
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            if self._complete:
                self._persistent = False  # bytes after the end of a good answer
            else:
                self._fail(self._error or httpx.RemoteProtocolError(f"malformed answer: {exc}"))
            return
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("101 without having been asked to upgrade"))
            return
        if self._head is None:
            self._unparsed_head_bytes += len(data)
            if self._unparsed_head_bytes > self._max_head_bytes:
                self._fail(httpx.RemoteProtocolError(self._head_too_long))
        elif self._remaining and not self._complete:
            self._bypass = True
            self._parser = None

    def eof_received(self) -> None:
        self._closed(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed(exc)
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            self._persistent = False

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            return  # a trailer field: RFC 9110 §6.5.1 lets a recipient drop it
        self._headers.append((name, value))
        self._header_bytes += len(name) + len(value) + 4
        if len(self._headers) > MAX_HEADERS:
            self._refuse(f"more than {MAX_HEADERS} header lines")
        if self._header_bytes > self._max_head_bytes:
            self._refuse(self._head_too_long)

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        parser = self._parser
        assert parser is not None  # noqa: S101  (it is what calls us)
        status = parser.get_status_code()
        version = parser.get_http_version()
        if 100 <= status < 200:
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                self._refuse(f"more than {MAX_INTERIM_RESPONSES} interim responses")
            return
        if status < 100 or version not in ("1.0", "1.1"):
            self._refuse(f"status {status} of HTTP/{version}")

        chunked = close = False
        persistent = version == "1.1"
        for name, value in self._headers:
            match name.lower():
                case b"content-length":
                    self._remaining = int(value)
                case b"transfer-encoding":
                    if value.strip().lower() != b"chunked" or chunked or version == "1.0":
                        self._refuse("a Transfer-Encoding other than one `chunked`")
                    chunked = True
                case b"connection":
                    options = {option.strip() for option in value.lower().split(b",")}
                    close = close or b"close" in options
                    persistent = persistent or b"keep-alive" in options
        self._persistent = persistent and not close
        self._head = ResponseHead(
            b"HTTP/" + version.encode(), status, self._reason, self._headers
        )
        if self._method == b"HEAD" or status in (204, 304):
            # The parser can't know of HEAD and would wait for the announced body.
            self._remaining = None
            self._parser = None
            self._finish()
        elif self._remaining == 0:
            self._finish()
        elif self._remaining is None and not chunked:
            self._persistent = False  # ends when the archive closes
        if self._uploading and (status >= 400 or close):
            # The archive has made up its mind: RFC 9112 §9.5 says to stop sending.
            self._stop_upload()
        self._wake()

    def on_body(self, data: bytes) -> None:
        self._body_received(data)

    def on_message_complete(self) -> None:
        if self._head is not None:
            if not self._complete:
                self._finish()
        else:  # of an interim response
            self._headers = []
            self._reason = b""
            self._header_bytes = 0

    # The answer's bytes

    def _body_received(self, data: bytes) -> None:
        if self._complete:
            self._persistent = False
            return
        if self._remaining is not None:
            if len(data) > self._remaining:
                data = data[: self._remaining]
                self._persistent = False
            self._remaining -= len(data)
        self._chunks.append(data)
        self._buffered += len(data)
        if self._remaining == 0:
            self._finish()
        elif self._buffered >= READ_HIGH_WATER and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def _finish(self) -> None:
        self._complete = True
        self._wake()

    def _closed(self, exc: Exception | None) -> None:
        self._persistent = False
        if not self._busy:
            self._pool.forget(self)
        elif self._complete or self._error is not None:
            pass
        elif exc is not None:
            self._fail(httpx.ReadError(f"connection lost: {type(exc).__name__}"))
        elif self._head is None:
            self._fail(httpx.RemoteProtocolError("closed before an answer"))
        elif self._remaining is not None or self._is_chunked:
            self._fail(httpx.RemoteProtocolError("closed in the middle of an answer"))
        else:
            self._finish()

    @property
    def _is_chunked(self) -> bool:
        return any(name.lower() == b"transfer-encoding" for name, _ in self._headers)

    @property
    def _head_too_long(self) -> str:
        return f"a head of more than {self._max_head_bytes} bytes"

    def _refuse(self, what: str) -> NoReturn:
        """Break off out of a parser callback."""
        self._error = httpx.RemoteProtocolError(what)
        raise self._error

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._wake()
        self.abort()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def _wait(self, timeout: float | None) -> None:
        """Wait for the next event; the clock stands still while an upload is under way."""
        self._reader = reader = self._loop.create_future()
        timer = None
        if timeout is not None and not self._uploading:
            timer = self._loop.call_later(timeout, self._expire, timeout)
        try:
            await reader
        finally:
            self._reader = None
            if timer is not None:
                timer.cancel()

    def _expire(self, timeout: float) -> None:
        self._fail(httpx.ReadTimeout(f"nothing from the archive for {timeout:g} s"))

    # An exchange

    def begin(
        self,
        method: bytes,
        head: bytes,
        body: AsyncIterable[bytes] | None,
        length: int | None,
        timeout: float | None,
    ) -> None:
        """Send a request. `length` is the body's size in bytes, None for chunked."""
        self._reset(method)
        self._busy = True
        if self._transport.is_closing():
            self._fail(httpx.RemoteProtocolError("closed before an answer"))
            return
        self._transport.write(head)
        if body is not None:
            self._uploading = True
            self._upload = self._loop.create_task(self._send(body, length, timeout))

    async def _send(
        self, body: AsyncIterable[bytes], length: int | None, timeout: float | None
    ) -> None:
        sent = 0
        write = self._transport.write
        chunks = aiter(body)
        try:
            async for chunk in chunks:
                if not chunk:
                    continue
                sent += len(chunk)
                if length is None:
                    write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                elif sent > length:
                    raise httpx.LocalProtocolError("the body is longer than its Content-Length")
                else:
                    write(chunk)
                if self._writing_paused:
                    await self._drain(timeout)
                if self._error is not None:
                    return
            if length is None:
                write(b"0\r\n\r\n")
            elif sent < length:
                raise httpx.LocalProtocolError("the body is shorter than its Content-Length")
        except Exception as exc:  # noqa: BLE001  (raised again to whoever waits for the answer)
            if self._error is None:
                self._fail(exc)
        finally:
            self._uploading = False
            self._wake()
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    async def _drain(self, timeout: float | None) -> None:
        self._drained = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._drained
        except TimeoutError:
            raise httpx.WriteTimeout(f"the archive took no byte for {timeout:g} s") from None
        finally:
            self._drained = None

    def _stop_upload(self) -> None:
        self._persistent = False
        self._uploading = False
        if self._upload is not None:
            self._upload.cancel()

    async def head(self, timeout: float | None) -> ResponseHead:
        """The answer's head, as soon as it is here, be the upload finished or not."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._wait(timeout)
        return self._head

    async def read(self, timeout: float | None) -> bytes:
        """The next bytes of the body; b"" at its end."""
        while not self._chunks:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait(timeout)
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        if self._reading_paused and self._buffered < READ_HIGH_WATER:
            self._reading_paused = False
            self._transport.resume_reading()
        return chunk

    def end(self) -> bool:
        """Finish the exchange; whether the connection can serve another one."""
        if self._uploading:
            self._stop_upload()
        self._busy = False
        self._chunks.clear()
        if self._complete and self._persistent and not self._transport.is_closing():
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
            return True
        self.abort()
        return False

    def abort(self) -> None:
        self._transport.abort()


class Pool:
    """The connections to one origin: at most `limit`, the last used first.

    A slot stands for the right to hold a connection. It is taken before connecting, and every way
    out of an exchange gives it back or passes it to the longest waiting request.
    """

    def __init__(
        self, origin: Origin, limit: int, context: ssl.SSLContext | None, max_head_bytes: int
    ) -> None:
        self._origin = origin
        self._limit = limit
        self._context = context
        self._max_head_bytes = max_head_bytes
        self._loop = asyncio.get_running_loop()
        self._in_use = 0
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        # Insertion-ordered: the last entry is the one used last.
        self.idle: dict[Connection, None] = {}

    @property
    def in_use(self) -> int:
        return self._in_use

    async def acquire(self, timeouts: Timeouts, *, fresh: bool) -> Connection:
        """A connection for one exchange, `fresh` for one that has served none.

        Raises:
            httpx.PoolTimeout, httpx.ConnectTimeout, httpx.ConnectError
        """
        await self._take_slot(timeouts.pool)
        try:
            if self.idle and not fresh:
                connection, _ = self.idle.popitem()
                connection.reused = True
                return connection
            if self._in_use + len(self.idle) > self._limit:
                oldest = next(iter(self.idle))
                self.forget(oldest)
                oldest.abort()
            return await self._connect(timeouts.connect)
        except BaseException:
            self._give_slot_back()
            raise

    def release(self, connection: Connection) -> None:
        """End the connection's exchange."""
        if connection.end():
            connection.idle_since = self._loop.time()
            self.idle[connection] = None
            if self._sweeper is None:
                self._sweeper = self._loop.call_later(IDLE_EXPIRY, self._sweep)
        self._give_slot_back()

    def forget(self, connection: Connection) -> None:
        self.idle.pop(connection, None)

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self.idle:
            self.idle.popitem()[0].abort()

    async def _take_slot(self, timeout: float | None) -> None:
        if self._in_use < self._limit:
            self._in_use += 1
            return
        waiter = self._loop.create_future()
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except BaseException as exc:
            if waiter.done() and not waiter.cancelled():
                self._give_slot_back()  # it was ours already when we were told to stop
            if isinstance(exc, TimeoutError):
                message = f"all {self._limit} connections stayed busy for {timeout:g} s"
                raise httpx.PoolTimeout(message) from None
            raise
        finally:
            self._waiters.pop(waiter, None)

    def _give_slot_back(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
                return
        self._in_use -= 1

    async def _connect(self, timeout: float | None) -> Connection:
        origin = self._origin
        try:
            async with asyncio.timeout(timeout):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._loop, self, self._max_head_bytes),
                    origin.host,
                    origin.port,
                    ssl=self._context,
                    server_hostname=origin.host if self._context else None,
                )
        except TimeoutError:
            raise httpx.ConnectTimeout(f"no connection within {timeout:g} s") from None
        except OSError as exc:  # ssl.SSLError is one
            raise httpx.ConnectError(str(exc)) from exc
        return connection

    def _sweep(self) -> None:
        self._sweeper = None
        oldest_allowed = self._loop.time() - IDLE_EXPIRY
        while self.idle:
            connection = next(iter(self.idle))
            if connection.idle_since > oldest_allowed:
                self._sweeper = self._loop.call_at(
                    connection.idle_since + IDLE_EXPIRY, self._sweep
                )
                return
            self.forget(connection)
            connection.abort()


class Body(httpx.AsyncByteStream):
    """An answer's body. `aclose` gives the connection back, or closes it if bytes are missing."""

    def __init__(self, connection: Connection, pool: Pool, timeout: float | None) -> None:
        self._connection = connection
        self._pool = pool
        self._timeout = timeout
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while chunk := await self._connection.read(self._timeout):
            yield chunk

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._pool.release(self._connection)


class Transport(httpx.AsyncBaseTransport):
    """Sends requests byte for byte as they are given.

    The request's `target` extension is the request target, `headers.raw` the header lines; none is
    added. A body needs a Content-Length or `Transfer-Encoding: chunked` among them.

    Args:
        max_connections: per origin, those in use and those kept open together.
        ssl_context: for https origins; default: the system's certificate authorities.
        max_head_bytes: of an answer's head.
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
        self._pools: dict[Origin, Pool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; return when the answer's head is here.

        Raises:
            httpx.PoolTimeout, httpx.ConnectTimeout, httpx.ConnectError: before anything was sent.
            httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError:
                after. A safe method without a body was then tried a second time, on a new
                connection, if a kept-alive one closed before the first byte of an answer.
        """
        url = request.url
        method = request.method.encode("ascii")
        target = request.extensions.get("target", url.raw_path)
        limits = request.extensions.get("timeout", {})
        timeouts = Timeouts(limits.get("connect"), limits.get("read"), limits.get("pool"))
        headers = request.headers.raw
        body, length = self._framing(request, headers)
        head = b"".join(
            [
                b"%b %b HTTP/1.1\r\n" % (method, target),
                *[b"%b: %b\r\n" % header for header in headers],
                b"\r\n",
            ]
        )
        pool = self._pool(url)

        # A write never travels on a connection that may have died unnoticed: it can't be repeated.
        fresh = method not in SAFE_METHODS or body is not None
        while True:
            connection = await pool.acquire(timeouts, fresh=fresh)
            try:
                connection.begin(method, head, body, length, timeouts.read)
                answer = await connection.head(timeouts.read)
                break
            except (httpx.ReadError, httpx.RemoteProtocolError):
                pool.release(connection)
                if connection.heard or not connection.reused:
                    raise
                fresh = True
            except BaseException:
                pool.release(connection)
                raise
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=Body(connection, pool, timeouts.read),
            extensions={"http_version": answer.http_version, "reason_phrase": answer.reason},
        )

    async def aclose(self) -> None:
        for pool in self._pools.values():
            pool.close()

    def _pool(self, url: httpx.URL) -> Pool:
        origin = Origin(url.scheme, url.host, url.port or DEFAULT_PORTS[url.scheme])
        pool = self._pools.get(origin)
        if pool is None:
            context = None
            if origin.scheme == "https":
                context = self._ssl_context or ssl.create_default_context()
            pool = Pool(origin, self._max_connections, context, self._max_head_bytes)
            self._pools[origin] = pool
        return pool

    @staticmethod
    def _framing(
        request: httpx.Request, headers: list[Header]
    ) -> tuple[AsyncIterable[bytes] | None, int | None]:
        for name, value in headers:
            lower = name.lower()
            length = int(value) if lower == b"content-length" else None
            if length or lower == b"transfer-encoding":
                if not isinstance(request.stream, httpx.AsyncByteStream):
                    raise httpx.LocalProtocolError("the body is not an asynchronous stream")
                return request.stream, length
        return None, None
