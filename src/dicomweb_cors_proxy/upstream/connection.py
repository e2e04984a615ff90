"""One connection to the archive, which serves one exchange at a time."""

from __future__ import annotations

import asyncio
import os
import ssl
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, cast

import httpx

from dicomweb_cors_proxy.upstream.exchange_events import ExchangeEvents
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
        self._events = ExchangeEvents(self._loop, self._fail)
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
        self._process(self._parser.feed, data)

    def _continue(self) -> None:
        self._continuation = None
        self._process(self._parser.decode)

    def _process(self, parse: Callable[..., None], *data: bytes) -> None:
        """Parse a part of the response, and tell the listener."""
        parser = self._parser
        try:
            parse(*data)
        except httpx.RemoteProtocolError as exc:
            self._fail(exc)
            return
        if self._upload is not None and parser.head is not None and parser.head.status >= 300:
            self._stop_upload()  # the archive does not want the rest (RFC 9112 §9.5)
        self._events.wake()
        # The listener may have ended the exchange, and begun another one.
        is_same = parser is self._parser and self._state is State.ACTIVE
        if is_same and (
            self._reading_paused or parser.buffered >= READ_HIGH_WATER or parser.has_undecoded
        ):
            self._regulate(parser)

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
        self._events.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._events.close()
        if self._state is not State.ACTIVE:
            self._close_unused()
            return
        if exc is not None and self._tls is None and (rest := unread_bytes(self._transport)):
            self.data_received(rest)
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

    def notify(self, listener: Callable[[], None]) -> None:
        """Call `listener` once, at the next event of the exchange.

        Events are: bytes of the response have arrived, the upload has ended, the exchange has
        failed. The time for the archive to send starts now. It does not run during an upload.
        """
        self._events.notify(listener, self._timeout if self._upload is None else None)

    @property
    def error(self) -> Exception | None:
        """Return why the exchange has failed; None if it has not."""
        return self._events.error

    @property
    def received_head(self) -> ResponseHead | None:
        """Return the response's head, None until it has arrived."""
        return self._parser.head

    async def head(self) -> ResponseHead:
        """Return the response's head once it has arrived, whether the upload is finished or not."""
        while (head := self._parser.head) is None:
            await self._wait()
        return head

    def take(self) -> bytes:
        """Return all of the body that has arrived and was not taken yet; b"" if there is none."""
        parser = self._parser
        if not parser.buffered:
            return b""
        data = parser.take()
        if self._reading_paused:
            self._regulate(parser)
        return data

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
        while not (data := self.take()):
            if self._parser.complete:
                return b""
            await self._wait()
        return data

    def end(self) -> bool:
        """Finish the exchange. Return whether the connection can serve another one."""
        self._events.ignore()
        self._stop_upload()
        if self._continuation is not None:
            self._continuation.cancel()
            self._continuation = None
        parser = self._parser
        parser.discard()
        if parser.complete and parser.persistent and not self._transport.is_closing():
            if self._reading_paused:  # for the decoder, until it found the end just now
                self._regulate(parser)
            self._state = State.IDLE
            self.reused = True
            return True
        self._events.error = None  # its traceback refers to this connection
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
        if self._events.error is None:
            self._events.error = error
        self._events.wake()
        self._transport.abort()

    async def _wait(self) -> None:
        await self._events.wait(self._timeout if self._upload is None else None)

    # An upload

    def _upload_ended(self, error: Exception | None) -> None:
        self._upload = None
        if error is None:
            self._events.wake()
        else:
            self._fail(error)

    def _stop_upload(self) -> None:
        if (upload := self._upload) is not None:
            self._upload = None
            # The archive would read the next request as the rest of the body.
            self._parser.persistent = False
            upload.stop()


def unread_bytes(transport: asyncio.Transport) -> bytes:
    """Return what arrived right before the reset that made our last write fail.

    An archive that rejects an upload and closes resets the connection. An event loop that notices
    it at a write closes the socket without reading the response, if that has arrived.
    """
    with suppress(OSError):
        return os.read(transport.get_extra_info("socket").fileno(), READ_HIGH_WATER)
    return b""


def ended_without_close_notify(tls: ssl.SSLObject | None) -> bool:
    """Return whether a TLS stream ended without a close_notify, so was cut (RFC 9112 §9.8)."""
    try:
        return tls is not None and tls.read(1) != b""
    except ssl.SSLError:
        return True
