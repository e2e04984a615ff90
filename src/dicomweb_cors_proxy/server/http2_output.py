"""The sending side of an HTTP/2 connection: header blocks, windows, and whose turn it is."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, Protocol

from dicomweb_cors_proxy.server import http2_frames as frames
from dicomweb_cors_proxy.server.hpack import HeaderEncoder
from dicomweb_cors_proxy.server.http2_frames import (
    MAX_WINDOW,
    ConnectionFault,
    ErrorCode,
    Setting,
    StreamFault,
)

if TYPE_CHECKING:
    import asyncio

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.server.http2_queue import ResponseQueue

# The windows of connection and streams until the client sets others (RFC 9113 §6.9.2).
INITIAL_WINDOW: Final = 65535

# Bytes of bodies handed to the transport at a time. A new stream that is more urgent waits for as
# much at most, and what the system buffers.
WRITE_BYTES: Final = 128 * 1024

# Bytes that a stream may send before others of the same urgency that wait longer.
QUANTUM_BYTES: Final = 1024 * 1024


class OutputOwner(Protocol):
    """The connection that an output belongs to."""

    def on_data_sent(self, count: int) -> None:
        """Count the DATA frames that were just sent."""

    def on_stream_sent(self, stream_id: int) -> None:
        """Go on after the last byte of a response was sent."""

    def on_window_shut(self) -> None:
        """Watch the windows from now on, because one of them is shut."""


class Output:
    """The frames that wait to be sent to one client.

    Control frames and header blocks go first. Bodies follow by urgency. Among equally urgent ones
    the first request is first, so its image is complete first (RFC 9218 §10). A body of more than
    `QUANTUM_BYTES` then lets the others go before it.

    Attributes:
        is_paused: True while the transport has too many unsent bytes.
        initial_window: window of new streams.
        window: bytes of bodies that the client takes on the connection.
        window_shut_at: time at which `window` shut while bytes were waiting for it.
    """

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, owner: OutputOwner
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._owner = owner
        self._encoder = HeaderEncoder()
        self._frames: list[bytes | memoryview] = []
        self._is_scheduled = False
        self._room = WRITE_BYTES  # for bodies, in this turn
        self._max_frame_bytes = frames.MAX_FRAME_BYTES
        # Responses with something to send, the next one first: urgency, turn, id.
        self._ready: list[tuple[int, int, int, ResponseQueue]] = []
        self._last_turn = 0
        self.is_paused = False
        self.initial_window = INITIAL_WINDOW
        self.window = INITIAL_WINDOW
        self.window_shut_at: float | None = None

    def close(self) -> None:
        """Drop everything that waits, and break the reference cycles."""
        self._frames.clear()
        self._ready.clear()
        del self._owner

    # Frames to send

    def frame(self, data: bytes) -> None:
        """Send a control frame."""
        self._frames.append(data)
        self._schedule()

    def head(self, stream_id: int, lines: list[Header], *, ends: bool) -> None:
        """Send the head of a response."""
        block = self._encoder.encode(lines)
        self._frames.append(
            frames.header_frames(stream_id, block, self._max_frame_bytes, ends=ends)
        )
        self._schedule()

    def enqueue(self, queue: ResponseQueue) -> None:
        """Send what waits there, when it is its turn."""
        if not queue.is_enqueued:
            queue.is_enqueued = True
            heapq.heappush(self._ready, (queue.urgency, queue.turn, queue.id, queue))
        self._schedule()

    def set_urgency(self, queue: ResponseQueue, urgency: int) -> None:
        """Give a stream another place among those that wait (RFC 9218 §7)."""
        if urgency != queue.urgency:
            queue.urgency = urgency
            if queue.is_enqueued:
                others = [entry for entry in self._ready if entry[3] is not queue]
                self._ready = [*others, (urgency, queue.turn, queue.id, queue)]
                heapq.heapify(self._ready)

    def send_whole(self, queue: ResponseQueue, body: bytes) -> bool:
        """Send a short body at once, behind its head, if no other waits. Return whether it is.

        Most responses take this way, which spares them the queue.
        """
        size = len(body)
        if (
            self._ready
            or self.is_paused
            or size > min(self._max_frame_bytes, self.window, queue.window, self._room)
        ):
            return False
        self.window -= size
        self._room -= size
        self._frames += (
            frames.frame_head(size, frames.DATA, frames.END_STREAM, queue.id),
            body,
        )
        self._schedule()
        self._owner.on_data_sent(1)
        return True

    # The client's windows and settings

    def resume(self) -> None:
        """Go on, because the transport has room."""
        self.is_paused = False
        if self._ready or self._frames:
            self._schedule()

    def add_window(self, increment: int) -> None:
        """Widen the window of the connection. Raise `ConnectionFault` if it is too wide."""
        self.window += increment
        if self.window > MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "The window is too wide.")
        self.window_shut_at = None
        if self._ready:
            self._schedule()

    def add_stream_window(self, queue: ResponseQueue, increment: int) -> None:
        """Widen the window of a stream. Raise `StreamFault` if it is too wide."""
        queue.window += increment
        if queue.window > MAX_WINDOW:
            raise StreamFault(queue.id, ErrorCode.FLOW_CONTROL_ERROR)
        if queue.window > 0:
            queue.window_shut_at = None
            if queue.has_output:
                self.enqueue(queue)

    def apply(self, settings: list[tuple[int, int]], queues: list[ResponseQueue]) -> None:
        """Apply the client's settings, and acknowledge them.

        Raises:
            ConnectionFault: A value is not allowed (RFC 9113 §6.5.2).
        """
        for setting, value in settings:
            if setting == Setting.HEADER_TABLE_SIZE:
                self._encoder.set_max_table_bytes(value)
            elif setting == Setting.INITIAL_WINDOW_SIZE:
                self._set_initial_window(value, queues)
            elif setting == Setting.MAX_FRAME_SIZE:
                if not frames.MAX_FRAME_BYTES <= value < 2**24:
                    raise ConnectionFault(
                        ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range."
                    )
                self._max_frame_bytes = min(value, WRITE_BYTES)
            elif setting == Setting.ENABLE_PUSH and value > 1:
                raise ConnectionFault(
                    ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1."
                )
        self.frame(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _set_initial_window(self, value: int, queues: list[ResponseQueue]) -> None:
        if value > MAX_WINDOW:
            raise ConnectionFault(
                ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large."
            )
        change = value - self.initial_window
        self.initial_window = value
        for queue in queues:
            try:
                self.add_stream_window(queue, change)
            except StreamFault:
                raise ConnectionFault(
                    ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is too large."
                ) from None

    # Sending

    def _schedule(self) -> None:
        """Send in the next turn of the event loop, so that many frames take one system call."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self, *, is_last: bool = False) -> None:
        """Hand to the transport what may be sent.

        A transport with too many unsent bytes gets no more, except the last ones. Otherwise the
        responses to PING would look as if the client took bytes (server.write_timeout).
        """
        self._is_scheduled = False
        self._room = WRITE_BYTES
        if self._transport.is_closing() or (self.is_paused and not is_last):
            return
        batch, self._frames = self._frames, []
        if self._ready and not self.is_paused:
            self._add_bodies(batch)
        if batch:
            self._transport.write(b"".join(batch))
        # Anything left is for the next turn, unless it waits for the client.
        if self._ready and not self.is_paused and self.window > 0:
            self._schedule()

    def _add_bodies(self, batch: list[bytes | memoryview]) -> None:
        ready = self._ready
        room = min(WRITE_BYTES, self.window)
        count = 0
        while ready:
            queue = ready[0][3]
            if not queue.has_output:  # it was reset
                self._leave_queue(queue)
                continue
            if queue.sent_bytes >= QUANTUM_BYTES:
                self._pass_turn(queue)
                continue
            limit = min(room, queue.window, QUANTUM_BYTES - queue.sent_bytes)
            if queue.waiting_bytes and limit <= 0:
                if room <= 0:
                    break
                self._leave_queue(queue)
                self._note_shut(queue)
                continue
            before = len(batch)
            sent = queue.take_frames(batch, limit, self._max_frame_bytes)
            count += (len(batch) - before + 1) // 2
            room -= sent
            self.window -= sent
            if not queue.has_output:
                self._leave_queue(queue)
                if queue.is_complete:
                    self._owner.on_stream_sent(queue.id)
        if self.window <= 0 and ready and self.window_shut_at is None:
            self.window_shut_at = self._loop.time()
            self._owner.on_window_shut()
        self._owner.on_data_sent(count)

    def _leave_queue(self, queue: ResponseQueue) -> None:
        heapq.heappop(self._ready)
        queue.is_enqueued = False

    def _pass_turn(self, queue: ResponseQueue) -> None:
        """Let those that wait go first."""
        self._last_turn = max(self._last_turn, *(turn for _, turn, _, _ in self._ready)) + 1
        queue.turn = self._last_turn
        queue.sent_bytes = 0
        heapq.heapreplace(self._ready, (queue.urgency, queue.turn, queue.id, queue))

    def _note_shut(self, queue: ResponseQueue) -> None:
        if queue.window_shut_at is None:
            queue.window_shut_at = self._loop.time()
            self._owner.on_window_shut()
