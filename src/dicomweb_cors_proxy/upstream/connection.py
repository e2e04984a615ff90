"""One connection to the archive, which serves one exchange at a time."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

import httpx

from dicomweb_cors_proxy.upstream.response_parser import READ_HIGH_WATER, ResponseParser

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator

    from dicomweb_cors_proxy.upstream.interface import ResponseHead

# Seconds after which a connection serves no further exchange. All connections soon lead to the
# current address of a name, although a server at a former address still accepts requests.
CONNECTION_MAX_AGE_SECONDS = 60.0


class ConnectionOwner(Protocol):
    """The pool of a connection, which is told when the connection ends by itself."""

    def drop(self, connection: Connection) -> None: ...

    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One connection to the archive. It serves one exchange at a time, from `begin` to `end`."""

    def __init__(self, pool: ConnectionOwner, max_head_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._max_head_bytes = max_head_bytes
        self._transport: asyncio.Transport
        self._tls: ssl.SSLObject | None
        self._reading_paused = False
        self._writing_paused = False
        self._continuation: asyncio.Handle | None = None
        self._busy = False
        self._answer: ResponseParser  # of the last exchange begun
        self._timeout: float | None = None
        self._error: Exception | None = None  # what the connection came to its end by
        self._event: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._upload: asyncio.Task[None]
        self._uploading = False
        self.heard = False  # a byte of the response has arrived
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

    def _make_use_of(self, answer: ResponseParser) -> None:
        if self._uploading and answer.head is not None and answer.head.status >= 300:
            self._stop_upload()  # RFC 9112 §9.5: the archive doesn't want the rest
        if self._reading_paused or answer.buffered >= READ_HIGH_WATER or answer.has_undecoded:
            self._regulate(answer)
        self._wake()

    def _regulate(self, answer: ResponseParser) -> None:
        """Pause the archive while the reader of the body or the decoder is behind."""
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
        """Send a request.

        Args:
            method: decides whether the response has a body.
            head: request line and header lines.
            body: None for no body.
            length: of the body in bytes, None for chunked.
            timeout: seconds to wait for the archive to send, or to take, a byte.
        """
        self._busy = True
        self._timeout = timeout
        self._answer = ResponseParser(method, self._max_head_bytes)
        self.heard = False
        if self._transport.is_closing():
            self._fail(httpx.RemoteProtocolError("closed before a response"))
            return
        self._transport.write(head)
        if body is not None:
            self._uploading = True
            self._upload = self._loop.create_task(self._send(body, length))

    async def head(self) -> ResponseHead:
        """Return the response's head once it has arrived, whether the upload is finished or not."""
        while (head := self._answer.head) is None:
            await self._wait()
        return head

    @property
    def answered(self) -> bool:
        """Return whether all of the response has arrived."""
        return self._answer.complete

    @property
    def finished(self) -> bool:
        """Return whether all of the response has arrived and was read."""
        return self._answer.complete and not self._answer.buffered

    async def read(self) -> bytes:
        """Return the next bytes of the body; b"" at its end."""
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
                # It may be slow, and it may be waiting for us to read its response.
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
    """Return whether a TLS stream ended without a close_notify, so was cut (RFC 9112 §9.8)."""
    try:
        return tls is not None and tls.read(1) != b""
    except ssl.SSLError:
        return True
