"""One connection to the archive, which serves one exchange at a time."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

import httpx

from dicomweb_cors_proxy.upstream.response_parser import READ_HIGH_WATER, ResponseParser
from dicomweb_cors_proxy.upstream.upload import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from dicomweb_cors_proxy.upstream.interface import ResponseHead

# Seconds after which a connection serves no further exchange. All connections soon lead to the
# current address of a name, although a server at a former address still accepts requests.
CONNECTION_MAX_AGE_SECONDS = 60.0


class State(Enum):
    """The state of a connection with regard to exchanges."""

    NEW = auto()  # has served no exchange
    IDLE = auto()  # has served an exchange, and can serve another one
    ACTIVE = auto()  # from `begin` to `end`, even if the connection is lost meanwhile
    CLOSED = auto()  # serves no further exchange


class Connection(asyncio.Protocol):
    """One connection to the archive. It serves one exchange at a time, from `begin` to `end`.

    Args:
        on_unusable: called once if the connection ends while it serves no exchange.
        max_head_bytes: maximum size of a response's head.

    Attributes:
        heard: whether a byte of the response has arrived.
        reused: whether the connection had served another exchange before this one.
        idle_since: loop time at which the pool took it back.
        expires_at: loop time after which it serves no further exchange.
    """

    def __init__(self, on_unusable: Callable[[Connection], None], max_head_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_unusable = on_unusable
        self._max_head_bytes = max_head_bytes
        self._transport: asyncio.Transport
        self._tls: ssl.SSLObject | None
        self._reading_paused = False
        self._writing_paused = False
        self._continuation: asyncio.Handle | None = None
        self._state = State.NEW
        self._parser: ResponseParser  # of the last exchange begun
        self._timeout: float | None = None
        self._error: Exception | None = None  # why the connection ended
        self._event: asyncio.Future[None] | None = None
        self._upload: Upload | None = None  # while it runs
        self.heard = False
        self.reused = False
        self.idle_since = 0.0
        self.expires_at = self._loop.time() + CONNECTION_MAX_AGE_SECONDS

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._tls = transport.get_extra_info("ssl_object")
        if self._tls is not None:
            # When the archive closes, uvloop drops bytes that it has not decrypted yet. With this
            # limit it reads no more from the socket, not even the end, before it delivers them.
            self._transport.set_read_buffer_limits(1)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if self._state is not State.ACTIVE:
            # No request was sent, so these bytes must not become the next request's response.
            self._close_unused()
            return
        self.heard = True
        parser = self._parser
        try:
            parser.feed(data)
        except httpx.RemoteProtocolError as exc:
            self._fail(exc)
            return
        self._process(parser)

    def _continue(self) -> None:
        self._continuation = None
        parser = self._parser
        try:
            parser.decode()
        except httpx.RemoteProtocolError as exc:
            self._fail(exc)
            return
        self._process(parser)

    def _process(self, parser: ResponseParser) -> None:
        if self._upload is not None and parser.head is not None and parser.head.status >= 300:
            self._stop_upload()  # the archive does not want the rest (RFC 9112 §9.5)
        if self._reading_paused or parser.buffered >= READ_HIGH_WATER or parser.has_undecoded:
            self._regulate(parser)
        self._wake()

    def _regulate(self, parser: ResponseParser) -> None:
        """Pause the archive while the reader of the body or the decoder is behind."""
        is_full = parser.buffered >= READ_HIGH_WATER
        if parser.has_undecoded and not is_full and self._continuation is None:
            # Tiny chunks take long to decode. The other connections get a turn in between.
            self._continuation = self._loop.call_soon(self._continue)
        pause = (is_full or parser.has_undecoded) and not parser.complete
        if pause != self._reading_paused:
            self._reading_paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def eof_received(self) -> None:
        if self._state is not State.ACTIVE:
            self._close_unused()
            return
        try:
            self._parser.feed_eof(cut=ended_without_close_notify(self._tls))
        except httpx.RemoteProtocolError as exc:
            self._fail(exc)
        self._stop_upload()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._state is not State.ACTIVE:
            self._close_unused()
            return
        if exc is not None and self._tls is None:
            self._receive_the_rest()
        if not self._parser.complete:
            self._fail(httpx.ReadError(f"connection lost: {exc!r}"))
        self._stop_upload()

    def pause_writing(self) -> None:
        self._writing_paused = True
        if self._upload is not None:
            self._upload.pause()

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._upload is not None:
            self._upload.resume()

    def _receive_the_rest(self) -> None:
        """Read a response that arrived right before the reset that made our last write fail.

        An archive that rejects an upload and closes resets the connection. An event loop that
        notices it at a write closes the socket without reading what has arrived.
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
        """Send a request. If the connection has closed meanwhile, the exchange fails.

        Args:
            method: decides whether the response has a body.
            head: request line and header lines.
            body: None for no body.
            length: of the body in bytes, None for chunked.
            timeout: seconds to wait for the archive to send, or to take, a byte.
        """
        self._state = State.ACTIVE
        self._timeout = timeout
        self._parser = ResponseParser(method, self._max_head_bytes)
        self.heard = False
        if self._transport.is_closing():
            self._fail(httpx.RemoteProtocolError("closed before a response"))
            return
        self._transport.write(head)
        if body is not None:
            self._upload = Upload(
                self._transport,
                length=length,
                timeout=timeout,
                is_reading_paused=lambda: self._reading_paused,
                on_end=self._upload_ended,
            )
            if self._writing_paused:
                self._upload.pause()
            self._upload.start(body)

    async def head(self) -> ResponseHead:
        """Return the response's head once it has arrived, whether the upload is finished or not."""
        while (head := self._parser.head) is None:
            await self._wait()
        return head

    @property
    def arrived(self) -> bool:
        """Return whether all of the response has arrived."""
        return self._parser.complete

    @property
    def finished(self) -> bool:
        """Return whether all of the response has arrived and was read."""
        return self._parser.complete and not self._parser.buffered

    async def read(self) -> bytes:
        """Return the next bytes of the body; b"" at its end."""
        parser = self._parser
        while not parser.buffered:
            if parser.complete:
                return b""
            await self._wait()
        data = parser.take()
        if self._reading_paused:
            self._regulate(parser)
        return data

    def end(self) -> bool:
        """Finish the exchange. Return whether the connection can serve another one."""
        self._stop_upload()
        if self._continuation is not None:
            self._continuation.cancel()
            self._continuation = None
        parser = self._parser
        parser.discard()
        if parser.complete and parser.persistent and not self._transport.is_closing():
            self._state = State.IDLE
            self.reused = True
            return True
        self._error = None  # its traceback refers to this connection
        self.abort()
        return False

    def abort(self) -> None:
        """Close the connection at once."""
        self._state = State.CLOSED
        self._transport.abort()

    def _close_unused(self) -> None:
        if self._state is not State.CLOSED:
            self.abort()
            self._on_unusable(self)

    def _fail(self, error: Exception) -> None:
        """Close the connection; the exchange lasts until `end`."""
        if self._error is None:
            self._error = error
        self._wake()
        self._transport.abort()

    async def _wait(self) -> None:
        """Wait for the next event; the timeout does not run during an upload."""
        if self._error is not None:
            raise self._error
        self._event = event = self._loop.create_future()
        timer = None
        if self._timeout is not None and self._upload is None:
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

    def _upload_ended(self, error: Exception | None) -> None:
        self._upload = None
        if error is None:
            self._wake()
        else:
            self._fail(error)

    def _stop_upload(self) -> None:
        if (upload := self._upload) is not None:
            self._upload = None
            # The archive would read the next request as the rest of the body.
            self._parser.persistent = False
            upload.stop()


def ended_without_close_notify(tls: ssl.SSLObject | None) -> bool:
    """Return whether a TLS stream ended without a close_notify, so was cut (RFC 9112 §9.8)."""
    try:
        return tls is not None and tls.read(1) != b""
    except ssl.SSLError:
        return True
