"""One client's connection that speaks HTTP/2 (RFC 9113): bytes, deadlines and close.

Frames go from here through http2_frames to http2_session, which knows their meaning. It calls
http2_streams for requests, and http2_output sends what the streams have.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dicomweb_cors_proxy.server import http2_frames as frames
from dicomweb_cors_proxy.server.base_connection import BaseConnection
from dicomweb_cors_proxy.server.http2_frames import (
    PREFACE,
    ConnectionFault,
    ErrorCode,
    FrameReader,
    Setting,
)
from dicomweb_cors_proxy.server.http2_output import Output
from dicomweb_cors_proxy.server.http2_session import HTTP2Session
from dicomweb_cors_proxy.server.http2_streams import MAX_STREAMS, Streams
from dicomweb_cors_proxy.server.http2_windows import WindowWatchdog
from dicomweb_cors_proxy.server.request_reader import REJECTED_HEAD_FACTOR
from dicomweb_cors_proxy.server.scopes import request_scope
from dicomweb_cors_proxy.server.socket_state import is_ready, unsent_bytes

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from starlette.types import Scope
    from uvicorn.server import ServerState

    from dicomweb_cors_proxy.server.base_connection import ConnectionConfig
    from dicomweb_cors_proxy.server.request_reader import Request

# Frames that are read before other connections get a turn.
FRAMES_PER_TURN: Final = 32

# Seconds to discard input before a close. The client sends WINDOW_UPDATE for the last responses, or
# has more requests on their way. A close with bytes unread is a reset, which would destroy these
# responses, or GOAWAY, before the client reads them (RFC 9112 §9.6 on HTTP/1.1).
LINGER_SECONDS: Final = 1.0


class HTTP2Connection(BaseConnection):
    """A client's connection that speaks HTTP/2.

    Attributes:
        output: what is sent to the client.
        running_streams: maximum number of requests that run at a time.
    """

    def __init__(
        self, config: ConnectionConfig, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._heads = config.http2_heads
        self.running_streams = config.running_streams
        self._preface = PREFACE  # the part of it that is still to come
        self._awaits_turn = False
        self._watched_block: int | None = None  # number of the block that has a deadline
        self._is_lingering = False  # after an error; all input is discarded

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        limits = self._limits
        head_bytes = limits.max_header_bytes + limits.max_target_bytes
        max_list_bytes = head_bytes + 32 * limits.max_headers  # as RFC 9113 §6.5.2 counts it
        self.output = Output(self.transport, self._loop, self)
        self.output.frame(
            frames.settings_frame(
                {
                    Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                    Setting.MAX_HEADER_LIST_SIZE: max_list_bytes,
                    Setting.NO_RFC7540_PRIORITIES: 1,
                }
            )
        )
        self._streams = Streams(self, self.output)
        self._session = HTTP2Session(
            self,
            self._heads,
            self._streams,
            self.output,
            max_list_bytes=max_list_bytes,
            clock=self._loop.time,
        )
        self._reader = FrameReader(self._session, REJECTED_HEAD_FACTOR * head_bytes)
        self._windows = WindowWatchdog(self._loop, limits.write_timeout, self)

    def eof_received(self) -> None:
        self._streams.drop_all()
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._windows.stop()
        self._streams.close()
        self.output.close()
        self._reader.close()
        super().connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._read_buffer

    def data_received(self, data: bytes) -> None:
        """Read the bytes that have arrived."""
        if self._is_lingering or self.transport.is_closing():
            return
        if self._preface:
            data = self._read_preface(data)
        if not data:
            return
        self._reader.add(data)
        if not self._awaits_turn:
            self._read()

    def _read_preface(self, data: bytes) -> bytes:
        """Return the bytes behind the preface, which may come in pieces (RFC 9113 §3.4)."""
        expected, self._preface = self._preface, self._preface[len(data) :]
        if not expected.startswith(data[: len(expected)]):
            self.fail(ConnectionFault(ErrorCode.PROTOCOL_ERROR, "The preface is wrong."))
            return b""
        if not self._preface:
            self._wait_for_request()
        return data[len(expected) :]

    def pause_writing(self) -> None:
        self.output.is_paused = True
        self._write_watchdog.start(self.transport)

    def resume_writing(self) -> None:
        if self.transport.is_closing():
            return
        self._write_watchdog.stop()
        self.output.resume()
        for stream in self._streams.open.values():
            stream.response.resume()

    # Reading

    def _read(self) -> None:
        try:
            has_more = self._reader.read(FRAMES_PER_TURN)
        except ConnectionFault as fault:
            self.fail(fault)
            return
        if self.transport.is_closing():
            return
        if has_more:
            self._awaits_turn = True
            self.transport.pause_reading()
            self._loop.call_soon(self._take_turn)
        self._watch_block()

    def _watch_block(self) -> None:
        """Give a header block that has begun a deadline, each block one of its own."""
        reader = self._reader
        if not reader.is_in_block:
            if self._watched_block is not None:
                self._watched_block = None
                self._deadline.clear()
                self._wait_for_request()
        elif self._watched_block != reader.blocks:
            self._watched_block = reader.blocks
            self._deadline.set(self._limits.header_timeout, self._head_is_late)

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if not (self.transport.is_closing() or self._is_lingering):
            self.transport.resume_reading()
            self._read()

    def _head_is_late(self) -> None:
        self.fail(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "A header block takes too long."))

    def _wait_for_request(self) -> None:
        """Close the connection after a while without a request."""
        if not self._streams.open and not self._reader.is_in_block:
            self._clients.idle(self)
            self._deadline.set(self._limits.keepalive_timeout, self._end)

    # Requests

    def on_request(self) -> None:
        """Note that a request begins."""
        self._deadline.clear()

    def request_scope(self, request: Request) -> Scope:
        """Return the ASGI scope of a request."""
        return request_scope(self._scope, request, self._app_state)

    def on_last_stream_ended(self) -> None:
        """Wait for another request, or close."""
        if self._streams.is_ending:
            self._loop.call_soon(self._close_if_done)
        else:
            self._wait_for_request()

    # Sending

    def on_data_sent(self, count: int) -> None:
        """Count the DATA frames that were just sent."""
        self._session.on_data_sent(count)

    def on_stream_sent(self, stream_id: int) -> None:
        """Go on after the last byte of a response was sent."""
        self._streams.on_stream_sent(stream_id)

    def on_window_shut(self) -> None:
        """Watch the windows from now on, because one of them is shut."""
        self._windows.start(self.output, self._streams)

    # Close

    def close(self) -> None:
        """Close as soon as the client has taken what is written."""
        if not self.transport.is_closing():
            self.output.flush(is_last=True)
            super().close()

    def close_if_idle(self) -> bool:
        """Close the connection if no stream is open; return whether it was closed."""
        if self._streams.open or self._reader.is_in_block:
            return False
        if self.transport.get_write_buffer_size() or is_ready(self.transport, "POLLIN"):
            return False
        self._session.end(ErrorCode.NO_ERROR)
        self._close_without_waiting()
        return True

    def _end(self) -> None:
        """Close an idle connection."""
        self._session.end(ErrorCode.NO_ERROR)
        self.close()

    def fail(self, fault: ConnectionFault) -> None:
        """Tell the client what is wrong, and end the connection."""
        self._is_lingering = True
        self._streams.drop_all()
        self._session.end(fault.code, fault.reason)
        self._linger(self.close)

    def _linger(self, close: Callable[[], object]) -> None:
        """Send what is left, discard all input for a while, and close."""
        self._is_lingering = True
        self.output.flush(is_last=True)
        self._deadline.set(LINGER_SECONDS, close)
        if self.transport.can_write_eof():
            with suppress(OSError):
                self.transport.write_eof()

    def _close_if_done(self) -> None:
        if not (self._streams.open or self._is_lingering or self.transport.is_closing()):
            self._linger(self._close_if_sent)

    def _close_if_sent(self) -> None:
        """Close, unless the client is still taking the last responses."""
        if self.transport.get_write_buffer_size() or unsent_bytes(self.transport):
            self._deadline.set(LINGER_SECONDS, self._close_if_sent)
        else:
            self._close_without_waiting()

    def shutdown(self) -> None:
        """Let the requests finish that have begun, tell the client so, and close."""
        if not (self._streams.is_ending or self.transport.is_closing()):
            self._session.end(ErrorCode.NO_ERROR)
            self._close_if_done()

    def refuse_waiting(self) -> None:
        """Refuse the requests that have not begun."""
        if not self.transport.is_closing():
            self._streams.refuse_waiting()
