"""An HTTP/1.1 client engine behind `httpx.AsyncBaseTransport`.

A viewer asks for hundreds of frames at once and cancels half of them. httpx's own transport keeps
the pool slots of cancelled requests for ever (encode/httpcore #1093) and is half-duplex, so an
archive's early 413 is lost. This one is an `asyncio.Protocol` around httptools: cancellation at
any point closes the connection and gives its slot back, uploads and answers run side by side, and
back-pressure is the transport paused, with no queue in between.

What it does not do: HTTP/2, proxies, redirects, cookies, content decoding, 101 upgrades. The
figures behind it, and how to do without it, are in docs/engine.md.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import httptools
import httpx

from dicomweb_cors_proxy.http.chunked import ChunkedDecoder, ChunkedError
from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS
from dicomweb_cors_proxy.http.messages import SAFE_METHODS, Header
from dicomweb_cors_proxy.upstream.dialer import Dialer
from dicomweb_cors_proxy.upstream.resolver import Resolver, ResolveTimeout

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence

# RFC 9110 §9.2.1. Only these are sent twice when a kept-alive connection turns out to be dead.
REPEATABLE_METHODS = frozenset(method.encode("ascii") for method in SAFE_METHODS)

# Bytes of an answer held for a reader that is behind, before the archive is made to wait. One
# read of the event loop (256 KiB under uvloop) may come on top.
READ_HIGH_WATER = 64 * 1024

# Shorter pieces of a body are joined as they come: each bytes object has an overhead of 33 bytes.
SMALL_PIECE_BYTES = 1024

_END_OF_HEAD = b"\r\n\r\n"

MAX_HEADERS = 256
MAX_INTERIM_RESPONSES = 16

# Seconds. Shorter than the idle limits of the firewalls between hospital networks.
IDLE_EXPIRY = 30.0

# An older connection serves no further exchange, so that all connections soon lead to the current
# address of a name, although the server at a former address still accepts requests.
CONNECTION_MAX_AGE_SECONDS = 60.0


class ResolveTimedOut(httpx.ConnectTimeout):
    """The host name was not resolved within the connect timeout."""


class Origin(NamedTuple):
    """What connections are shared by (RFC 6454 §4)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Timeouts(NamedTuple):
    """Seconds, or None for no limit; the `timeout` extension of httpx.

    `read` also bounds the wait for an archive that stops taking the bytes of an upload.
    """

    connect: float | None
    read: float | None
    pool: float | None


class Request(NamedTuple):
    """What the archive is sent, byte for byte.

    Attributes:
        headers: all lines, Host and the body's framing (RFC 9112 §6) included.
        length: of the body in bytes, 0 for none; None: unknown, it is sent chunked.
    """

    origin: Origin
    method: bytes
    target: bytes
    headers: Sequence[Header]
    length: int | None = 0


class ResponseHead(NamedTuple):
    """Status line and header lines, as they came."""

    http_version: bytes
    status: int
    reason: bytes
    headers: list[Header]


class Answer:
    """The answer to one request, out of its bytes. Does no I/O.

    Framing (RFC 9112 §6.3) is read strictly: whoever guesses where one answer ends may hand out
    its rest as the next. Bytes after the end are dropped, and end the use of the connection.
    """

    def __init__(self, method: bytes, max_head_bytes: int) -> None:
        self._method = method
        self._max_head_bytes = max_head_bytes
        # None once the head is read.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._refusal: str | None = None
        self._reason = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._fed_bytes = 0  # to the parser, for the present head
        self._head_tail = b""  # the last bytes that were fed to the parser
        self._interim_responses = 0
        self._remaining: int | None = None  # of a Content-Length body, bytes
        self._decoder: ChunkedDecoder | None = None
        self._undecoded = b""
        self._decoded_to = 0  # position in `_undecoded`
        self._body: list[bytes | bytearray] = []
        self.buffered = 0  # bytes of the body that nobody has taken yet
        self.head: ResponseHead | None = None
        self.complete = False
        self.persistent = False  # may another request follow on the connection?

    def feed(self, data: bytes) -> None:
        """Take what the archive sent. A part of a chunked body may be left to `decode`.

        Raises:
            httpx.RemoteProtocolError: it is not an answer to the request.
        """
        at = 0
        if self._parser is not None:
            at = self._feed_head(data)
        if at == len(data):
            return
        if self.complete:
            self.persistent = False
        elif self._decoder is not None:
            if self._undecoded:
                data = self._undecoded[self._decoded_to :] + data
            self._undecoded = data
            self._decoded_to = at
            self.decode()
        else:
            if at:
                data = data[at:]
            if self._remaining is not None:
                if len(data) > self._remaining:
                    data = data[: self._remaining]
                    self.persistent = False
                self._remaining -= len(data)
                self.complete = self._remaining == 0
            self._add(data)

    @property
    def has_undecoded(self) -> bool:
        """Whether `decode` has something to do."""
        return self._undecoded != b""

    def decode(self) -> None:
        """Decode as much of a chunked body as one turn of the event loop has time for.

        Raises:
            httpx.RemoteProtocolError: the body is malformed.
        """
        decoder = self._decoder
        if decoder is None:
            return
        try:
            content, self._decoded_to = decoder.decode(self._undecoded, self._decoded_to)
        except ChunkedError as exc:
            raise httpx.RemoteProtocolError(f"malformed chunks: {exc}") from None
        if content:
            self._add(content)
        is_read = self._decoded_to == len(self._undecoded)
        if decoder.complete:
            self.complete = True
            self._decoder = None
            if not is_read:
                self.persistent = False
        if is_read or decoder.complete:
            self._undecoded = b""
            self._decoded_to = 0

    def feed_eof(self, *, cut: bool) -> None:
        """The archive will send nothing more; `cut` if only because its connection broke.

        Raises:
            httpx.RemoteProtocolError: the answer is not complete.
        """
        while self.has_undecoded:
            self.decode()
        self.persistent = False
        if self.complete:
            return
        if self.head is None:
            raise httpx.RemoteProtocolError("closed before an answer")
        if cut or self._decoder is not None or self._remaining is not None:
            raise httpx.RemoteProtocolError("closed in the middle of an answer")
        self.complete = True

    def take(self) -> bytes:
        """All of the body that is here and was not taken before."""
        body = self._body
        data = bytes(body[0]) if len(body) == 1 else b"".join(body)
        body.clear()
        self.buffered = 0
        return data

    def discard(self) -> None:
        """Let go of the body, and of the reference cycle with the parser."""
        self._body.clear()
        self._undecoded = b""
        self._decoder = self._parser = None

    def _feed_head(self, data: bytes) -> int:
        """Feed the parser up to the end of the head; return the position behind it.

        The parser would call back for every chunk of a body.
        """
        parser = self._parser
        at = 0
        while at < len(data) and parser is not None:
            end = self._end_of_head(data, at)
            part = data[at:end] if end - at < len(data) else data
            at = end
            self._fed_bytes += len(part)
            try:
                parser.feed_data(part)
            except httptools.HttpParserError as exc:
                reason = self._refusal or f"malformed answer: {exc}"
                # The parser's words may quote the archive's bytes, our own don't.
                raise httpx.RemoteProtocolError(reason) from (None if self._refusal else exc)
            if self.head is not None:
                parser = self._parser = None
            elif self._fed_bytes > self._max_head_bytes:
                raise httpx.RemoteProtocolError(self._too_long)
        return at

    def _end_of_head(self, data: bytes, start: int) -> int:
        """Return the position behind the end of the head, or that of `data` if it lacks the end."""
        if tail := self._head_tail:
            self._head_tail = b""
            end = (tail + data[:3]).find(_END_OF_HEAD)
            if end >= 0:
                return end + len(_END_OF_HEAD) - len(tail)
        end = data.find(_END_OF_HEAD, start)
        if end >= 0:
            return end + len(_END_OF_HEAD)
        self._head_tail = (tail + data[start:])[-3:]
        return len(data)

    def _add(self, data: bytes) -> None:
        body = self._body
        self.buffered += len(data)
        if len(data) >= SMALL_PIECE_BYTES or not body:
            body.append(data)
        elif isinstance(last := body[-1], bytearray) and len(last) < READ_HIGH_WATER:
            last += data
        else:
            body.append(bytearray(data))

    # httptools callbacks

    def on_status(self, reason: bytes) -> None:
        self._reason += reason
        self._count(len(reason))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value.rstrip(b" \t")))  # the parser strips the front only
        if len(self._headers) > MAX_HEADERS:
            self._refuse(f"more than {MAX_HEADERS} header lines")
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        parser = cast("httptools.HttpResponseParser", self._parser)  # it is what calls us
        status = parser.get_status_code()
        version = parser.get_http_version()
        if status < 100 or status == 101 or version not in ("1.0", "1.1"):
            self._refuse(f"status {status} of HTTP/{version}")
        if status < 200:
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                self._refuse(f"more than {MAX_INTERIM_RESPONSES} interim responses")
            return

        length, chunked, persistent = self._framing(version)
        self.head = ResponseHead(b"HTTP/" + version.encode(), status, self._reason, self._headers)
        self.persistent = persistent
        if self._method == b"HEAD" or status in (204, 304) or length == 0:
            self.complete = True  # whatever length a bodyless one announces
            if length or chunked:
                # An archive that sends that body nevertheless must not answer the next request.
                self.persistent = False
        elif length is None and not chunked:
            self.persistent = False  # ends when the archive closes
        elif chunked:
            self._decoder = ChunkedDecoder()
        self._remaining = length

    def on_body(self, _: bytes) -> None:
        self._refuse("a body in the head")

    def on_message_complete(self) -> None:
        if self.head is None:  # of an interim response
            self._headers = []
            self._reason = b""
            self._head_bytes = self._fed_bytes = 0

    def _framing(self, version: str) -> tuple[int | None, bool, bool]:
        """Content-Length, whether chunked, whether persistent; the parser has seen to digits."""
        length = None
        chunked = close = False
        persistent = version == "1.1"
        for name, value in self._headers:
            match name.lower():
                case b"content-length":
                    length = int(value)
                case b"transfer-encoding":
                    if value.lower() != b"chunked" or chunked or version == "1.0":
                        self._refuse("a Transfer-Encoding other than one `chunked`")
                    chunked = True
                case b"connection":
                    options = {option.strip() for option in value.lower().split(b",")}
                    close = close or b"close" in options
                    persistent = persistent or b"keep-alive" in options
        return length, chunked, persistent and not close

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._max_head_bytes:
            self._refuse(self._too_long)

    def _refuse(self, what: str) -> NoReturn:
        """Break off out of a callback."""
        self._refusal = what
        raise httpx.RemoteProtocolError(what)

    @property
    def _too_long(self) -> str:
        return f"a head of more than {self._max_head_bytes} bytes"


class Connection(asyncio.Protocol):
    """One connection to the archive. It serves one exchange at a time, from `begin` to `end`."""

    def __init__(self, pool: Pool, max_head_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._max_head_bytes = max_head_bytes
        self._transport: asyncio.Transport
        self._tls: ssl.SSLObject | None
        self._reading_paused = False
        self._writing_paused = False
        self._continuation: asyncio.Handle | None = None
        self._busy = False
        self._answer: Answer  # of the last exchange begun
        self._timeout: float | None = None
        self._error: Exception | None = None  # what the connection came to its end by
        self._event: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._upload: asyncio.Task[None]
        self._uploading = False
        self.heard = False  # a byte of the answer has come
        self.reused = False
        self.idle_since = 0.0  # loop time
        self.expires_at = self._loop.time() + CONNECTION_MAX_AGE_SECONDS

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._tls = transport.get_extra_info("ssl_object")
        if self._tls is not None:
            # uvloop drops what it has not decrypted yet when the archive closes: nothing more is
            # taken from the socket, not even its end, before that is handed over.
            self._transport.set_read_buffer_limits(1)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._busy:
            # Nothing was asked: whatever this is must not become the next request's answer.
            self._pool.drop(self)
            return
        self.heard = True
        answer = self._answer
        try:
            answer.feed(data)
        except httpx.RemoteProtocolError as exc:
            self._fail(exc)
            return
        self._make_use_of(answer)

    def _continue(self) -> None:
        self._continuation = None
        answer = self._answer
        try:
            answer.decode()
        except httpx.RemoteProtocolError as exc:
            self._fail(exc)
            return
        self._make_use_of(answer)

    def _make_use_of(self, answer: Answer) -> None:
        if self._uploading and answer.head is not None and answer.head.status >= 300:
            self._stop_upload()  # RFC 9112 §9.5: the archive doesn't want the rest
        if self._reading_paused or answer.buffered >= READ_HIGH_WATER or answer.has_undecoded:
            self._regulate(answer)
        self._wake()

    def _regulate(self, answer: Answer) -> None:
        """Read from the archive only while neither our reader nor the decoder is behind."""
        is_full = answer.buffered >= READ_HIGH_WATER
        if answer.has_undecoded and not is_full and self._continuation is None:
            # Tiny chunks take long to decode. The other connections get a turn in between.
            self._continuation = self._loop.call_soon(self._continue)
        pause = (is_full or answer.has_undecoded) and not answer.complete
        if pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def eof_received(self) -> None:
        if not self._busy:
            self._pool.drop(self)
            return
        try:
            self._answer.feed_eof(cut=ended_without_close_notify(self._tls))
        except httpx.RemoteProtocolError as exc:
            self._fail(exc)
        self._stop_upload()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.forget(self)
        if not self._busy:
            return
        if exc is not None and self._tls is None:
            self._receive_the_rest()
        if not self._answer.complete:
            self._fail(httpx.ReadError(f"connection lost: {exc!r}"))
        self._stop_upload()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _receive_the_rest(self) -> None:
        """Read an answer that came right before the reset which made our last write fail.

        An archive that refuses an upload and closes resets the connection; an event loop that
        notices at a write closes the socket without another look at what there is to read.
        """
        fileno = self._transport.get_extra_info("socket").fileno()
        with suppress(OSError):
            if data := os.read(fileno, READ_HIGH_WATER):
                self.data_received(data)

    # An exchange

    def begin(
        self,
        method: bytes,
        head: bytes,
        body: AsyncIterable[bytes] | None,
        length: int | None,
        timeout: float | None,
    ) -> None:
        """Send a request.

        Args:
            method: decides whether the answer has a body.
            head: request line and header lines.
            body: None for no body.
            length: of the body in bytes, None for chunked.
            timeout: seconds to wait for the archive to send, or to take, a byte.
        """
        self._busy = True
        self._timeout = timeout
        self._answer = Answer(method, self._max_head_bytes)
        self.heard = False
        if self._transport.is_closing():
            self._fail(httpx.RemoteProtocolError("closed before an answer"))
            return
        self._transport.write(head)
        if body is not None:
            self._uploading = True
            self._upload = self._loop.create_task(self._send(body, length))

    async def head(self) -> ResponseHead:
        """The answer's head, as soon as it is here, be the upload finished or not."""
        while (head := self._answer.head) is None:
            await self._wait()
        return head

    @property
    def answered(self) -> bool:
        """Whether all of the answer has come."""
        return self._answer.complete

    @property
    def finished(self) -> bool:
        """Whether all of the answer has come, and been read."""
        return self._answer.complete and not self._answer.buffered

    async def read(self) -> bytes:
        """The next bytes of the body; b"" at its end."""
        answer = self._answer
        while not answer.buffered:
            if answer.complete:
                return b""
            await self._wait()
        data = answer.take()
        if self._reading_paused:
            self._regulate(answer)
        return data

    def end(self) -> bool:
        """Finish the exchange; whether the connection can serve another one."""
        self._stop_upload()
        self._busy = False
        if self._continuation is not None:
            self._continuation.cancel()
            self._continuation = None
        answer = self._answer
        answer.discard()
        if answer.complete and answer.persistent and not self._transport.is_closing():
            return True
        self._error = None  # its traceback leads back here
        self.abort()
        return False

    def abort(self) -> None:
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()
        self.abort()

    async def _wait(self) -> None:
        """Wait for the next event; the clock stands still while an upload is under way."""
        if self._error is not None:
            raise self._error
        self._event = event = self._loop.create_future()
        timer = None
        if self._timeout is not None and not self._uploading:
            timer = self._loop.call_later(self._timeout, self._expire)
        try:
            await event
        finally:
            self._event = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._event is not None and not self._event.done():
            self._event.set_result(None)

    def _expire(self) -> None:
        if self._event is not None and not self._event.done():
            self._fail(httpx.ReadTimeout(f"nothing from the archive for {self._timeout:g} s"))

    # An upload

    async def _send(self, body: AsyncIterable[bytes], length: int | None) -> None:
        try:
            chunks = aiter(body)
            try:
                await self._send_chunks(chunks, length)
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        except Exception as exc:  # noqa: BLE001  (raised again to whoever waits for the answer)
            self._fail(exc)
        except asyncio.CancelledError:
            if self._uploading:  # by its source, not by `_stop_upload`
                self._fail(httpx.LocalProtocolError("the body broke off"))
            raise
        finally:
            self._uploading = False
            self._wake()

    async def _send_chunks(self, chunks: AsyncIterator[bytes], length: int | None) -> None:
        sent = 0
        async for chunk in chunks:
            if not chunk:
                continue  # it would end a chunked body
            sent += len(chunk)
            if length is None:
                self._transport.write(b"%x\r\n" % len(chunk))
                self._transport.write(chunk)
                self._transport.write(b"\r\n")
            elif sent > length:
                raise httpx.LocalProtocolError("the body is longer than its Content-Length")
            else:
                self._transport.write(chunk)
            if self._writing_paused:
                await self._drain()
        if length is None:
            self._transport.write(b"0\r\n\r\n")
        elif sent < length:
            raise httpx.LocalProtocolError("the body is shorter than its Content-Length")

    async def _drain(self) -> None:
        """Wait until the archive has taken most of what was written."""
        while self._writing_paused:
            pending = self._transport.get_write_buffer_size()
            self._drained = self._loop.create_future()
            try:
                async with asyncio.timeout(self._timeout):
                    await self._drained
            except TimeoutError:
                # It may be slow, and it may be waiting for us to read its answer.
                if pending == self._transport.get_write_buffer_size() and not self._reading_paused:
                    message = f"the archive took no byte for {self._timeout:g} s"
                    raise httpx.WriteTimeout(message) from None
            finally:
                self._drained = None

    def _stop_upload(self) -> None:
        if self._uploading:
            self._uploading = False
            # The archive would take another request for the rest of the body.
            self._answer.persistent = False
            self._upload.cancel()


def ended_without_close_notify(tls: ssl.SSLObject | None) -> bool:
    """Whether anyone on the way could have cut a TLS stream off here (RFC 9112 §9.8)."""
    try:
        return tls is not None and tls.read(1) != b""
    except ssl.SSLError:
        return True


class Pool:
    """The connections to one origin in one event loop: at most `limit`, the last used first.

    A slot stands for the right to hold a connection. It is taken before connecting, and every way
    out of an exchange gives it back or passes it to the longest waiting request.
    """

    def __init__(
        self,
        origin: Origin,
        limit: int,
        context: ssl.SSLContext | None,
        max_head_bytes: int,
        dialer: Dialer,
    ) -> None:
        self._origin = origin
        self._limit = limit
        self._context = context
        self._max_head_bytes = max_head_bytes
        self._dialer = dialer
        self.loop = asyncio.get_running_loop()
        self._in_use = 0
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.idle: OrderedDict[Connection, None] = OrderedDict()  # the last used last

    @property
    def in_use(self) -> int:
        return self._in_use

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    async def acquire(self, timeouts: Timeouts, *, fresh: bool) -> Connection:
        """A connection for one exchange, `fresh` for one that has served none.

        Raises:
            httpx.PoolTimeout, httpx.ConnectTimeout, httpx.ConnectError
        """
        if self._in_use < self._limit:
            self._in_use += 1
        else:
            await self._wait_for_slot(timeouts)
        while self.idle and not fresh:
            connection, _ = self.idle.popitem()
            if connection.expires_at <= self.loop.time():
                connection.abort()
                continue
            connection.reused = True
            return connection
        return await self._connect(timeouts)

    async def replace(self, connection: Connection, timeouts: Timeouts) -> Connection:
        """End the connection's exchange and open another connection in its slot.

        Raises:
            httpx.ConnectTimeout, httpx.ConnectError
        """
        connection.end()
        return await self._connect(timeouts)

    def release(self, connection: Connection) -> None:
        """End the connection's exchange."""
        if connection.end():
            now = self.loop.time()
            if self._closed or connection.expires_at <= now:
                connection.abort()
            else:
                self._keep(connection, now)
        self._give_slot_back()

    def forget(self, connection: Connection) -> None:
        self.idle.pop(connection, None)

    def drop(self, connection: Connection) -> None:
        self.forget(connection)
        connection.abort()

    def close(self) -> None:
        """Close what is idle, and what is in use as soon as it is not."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.idle):
            self.drop(connection)

    def _keep(self, connection: Connection, now: float) -> None:
        connection.idle_since = now
        self.idle[connection] = None
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(IDLE_EXPIRY, self._sweep)

    async def _wait_for_slot(self, timeouts: Timeouts) -> None:
        waiter = self.loop.create_future()
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout(timeouts.pool):
                await waiter
        except BaseException as exc:
            if waiter.done() and not waiter.cancelled():
                self._give_slot_back()  # it was ours already when we were told to stop
            if isinstance(exc, TimeoutError):
                message = f"all {self._limit} connections stayed busy for {timeouts.pool:g} s"
                raise httpx.PoolTimeout(message) from None
            raise
        finally:
            self._waiters.pop(waiter, None)

    def _give_slot_back(self) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
                return
        self._in_use -= 1

    async def _connect(self, timeouts: Timeouts) -> Connection:
        """Open a connection in a slot that was taken; the slot is given back if that fails."""
        if self._in_use + len(self.idle) > self._limit:
            self.drop(next(iter(self.idle)))
        try:
            return await self._open(timeouts.connect)
        except BaseException as exc:
            self._give_slot_back()
            if isinstance(exc, ResolveTimeout):
                raise ResolveTimedOut("the archive's name was not resolved in time") from None
            if isinstance(exc, TimeoutError):
                raise httpx.ConnectTimeout("no connection to the archive in time") from None
            if isinstance(exc, OSError):  # ssl.SSLError is one
                raise httpx.ConnectError(str(exc) or repr(exc)) from exc
            raise

    async def _open(self, seconds: float | None) -> Connection:
        deadline = None if seconds is None else self.loop.time() + seconds
        sock = await self._dialer.connect(deadline)
        opening = self._start(sock, deadline)
        if self._context is not None:
            opening = _to_its_end(self.loop.create_task(opening))
        return await opening

    async def _start(self, sock: socket.socket, deadline: float | None) -> Connection:
        """Start the protocol, and TLS if the origin needs it; the event loop closes the socket."""
        host = self._origin.host
        try:
            async with asyncio.timeout_at(deadline):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self, self._max_head_bytes),
                    sock=sock,
                    ssl=self._context,
                    # Without the dot of a name that is not to be completed (RFC 6066 §3).
                    server_hostname=host.rstrip(".") if self._context else None,
                )
        finally:
            if not isinstance(self.loop, asyncio.BaseEventLoop):
                # uvloop closes the descriptor itself. If the connection is lost before uvloop has
                # the socket object, that object would later close another connection's descriptor.
                sock.detach()
        return connection

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.loop.time()
        while self.idle:
            connection = next(iter(self.idle))
            expiry = connection.idle_since + IDLE_EXPIRY
            if expiry > now:
                self._sweeper = self.loop.call_at(expiry, self._sweep)
                return
            self.drop(connection)


async def _to_its_end(opening: asyncio.Task[Connection]) -> Connection:
    """Let a TLS handshake that nobody waits for any more end, and close its connection.

    uvloop keeps for a minute what a cancelled TLS handshake held, and may log a traceback.
    """
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unused)
        raise


def _close_unused(opening: asyncio.Task[Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()


class Response:
    """An answer whose head is here. Close it, and its connection serves the next request.

    Attributes:
        complete: whether what was read is all of the body.
        arrived: whether all of the body is here, so that one `read` brings all that is left of it.
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
        return self._connection is None or self._connection.answered

    async def read(self) -> bytes:
        """All of the body that is here, as soon as that is any; b"" at the end.

        Raises:
            httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError
        """
        if self._connection is None:
            raise httpx.StreamClosed  # what comes now is the answer to another request
        return await self._connection.read()

    async def aclose(self) -> None:
        """Give the connection back, or close it if bytes are missing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


class Stream(httpx.AsyncByteStream):
    """A response's body for httpx."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._response.read():
            yield data

    async def aclose(self) -> None:
        await self._response.aclose()


class Transport(httpx.AsyncBaseTransport):
    """Sends requests byte for byte as they are given.

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
        self.pools: dict[Origin, Pool] = {}
        self._resolver: Resolver | None = None
        self._closed = False

    async def send(
        self, request: Request, body: AsyncIterable[bytes] | None, timeouts: Timeouts
    ) -> Response:
        """Send a request; return when the answer's head is here, be all of `body` sent or not.

        Raises:
            httpx.PoolTimeout, httpx.ConnectTimeout, httpx.ConnectError: before anything was sent.
            httpx.ReadTimeout, httpx.WriteTimeout, httpx.ReadError, httpx.RemoteProtocolError:
                after. A safe method without a body was then tried a second time, on a new
                connection, if a kept-alive one closed before the first byte of an answer.
            httpx.LocalProtocolError: `body` is not as long as the request says.
        """
        origin, method, target, headers, length = request
        pool = self.pools.get(origin)
        if pool is None or pool.loop is not asyncio.get_running_loop():
            pool = self._open_pool(origin)
        lines = [b"%b: %b\r\n" % header for header in headers]
        head = b"".join((method, b" ", target, b" HTTP/1.1\r\n", *lines, b"\r\n"))

        # A write never travels on a connection that may have died unnoticed: it can't be repeated.
        fresh = body is not None or method not in REPEATABLE_METHODS
        connection = await pool.acquire(timeouts, fresh=fresh)
        while True:
            try:
                connection.begin(method, head, body, length, timeouts.read)
                answer = await connection.head()
            except (httpx.ReadError, httpx.RemoteProtocolError):
                if connection.heard or not connection.reused:
                    pool.release(connection)
                    raise
            except BaseException:
                pool.release(connection)
                raise
            else:
                return Response(answer, connection, pool)
            connection = await pool.replace(connection, timeouts)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Do the same with httpx's requests and responses.

        The `target` extension is the request target, `headers.raw` the header lines; none is added.
        A body needs a Content-Length or `Transfer-Encoding: chunked` among them; what is framed
        otherwise raises httpx.LocalProtocolError.
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
                Origin(url.scheme, host, url.port or DEFAULT_PORTS[url.scheme]),
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
            stream=Stream(response),
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
        """Close what is idle, and what is in use, or comes late, as soon as it is not."""
        self._closed = True
        for pool in self.pools.values():
            pool.close()

    def _open_pool(self, origin: Origin) -> Pool:
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
    raise httpx.LocalProtocolError("a request framed in no way or in two ways")
