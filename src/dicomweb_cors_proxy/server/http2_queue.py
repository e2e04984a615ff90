"""The part of one HTTP/2 response that waits to be sent."""

from __future__ import annotations

from collections import deque
from typing import Final

from dicomweb_cors_proxy.server.http2_frames import DATA, END_STREAM, frame_head
from dicomweb_cors_proxy.server.writable import Writable

# Bytes of a response to buffer before the application has to wait, and at which it goes on.
HIGH_WATER_BYTES: Final = 64 * 1024
LOW_WATER_BYTES: Final = 32 * 1024


class ResponseQueue:
    """The bytes of one response's body that wait for their turn and for the client's windows.

    Attributes:
        id: of the stream.
        urgency: place among others, 0 being the first.
        turn: place among those of one urgency.
        window: bytes that the client takes.
        window_shut_at: time at which `window` shut while bytes were waiting for it.
        waiting_bytes: bytes that wait.
        sent_bytes: bytes sent in this turn.
        is_enqueued: True while it waits for its turn to send.
        is_complete: True once nothing is going to be added.
        has_ended: True once END_STREAM is sent, or the stream is reset.
        writable: set unless the application has to wait.
    """

    is_enqueued = False
    is_complete = False
    has_ended = False
    sent_bytes = 0
    waiting_bytes = 0
    window_shut_at: float | None = None

    def __init__(self, stream_id: int, urgency: int, window: int, *, is_paused: bool) -> None:
        self.id = self.turn = stream_id
        self.urgency = urgency
        self.window = window
        self.writable = Writable()
        if not is_paused:
            self.writable.set()
        self._parts: deque[bytes | memoryview] = deque()

    @property
    def has_output(self) -> bool:
        """Return whether there is something to send."""
        return bool(self.waiting_bytes) or (self.is_complete and not self.has_ended)

    def add(self, body: bytes) -> None:
        """Append a part of the body."""
        self._parts.append(body)
        self.waiting_bytes += len(body)
        if self.waiting_bytes > HIGH_WATER_BYTES:
            self.writable.clear()

    def take_frames(self, batch: list[bytes | memoryview], room: int, most: int) -> int:
        """Append DATA frames of at most `most` bytes, `room` bytes in all; return how many bytes.

        Without any bytes that wait, append an empty one that ends the stream.
        """
        parts = self._parts
        size = 0
        while parts and size < room:
            part = parts.popleft()
            count = len(part)
            if count > most or count > room - size:
                part = memoryview(part)
                count = min(most, room - size)
                parts.appendleft(part[count:])
                part = part[:count]
            batch.append(frame_head(count, DATA, self._flags(), self.id))
            batch.append(part)
            size += count
        if not (size or parts):
            batch.append(frame_head(0, DATA, self._flags(), self.id))
        self.waiting_bytes -= size
        self.sent_bytes += size
        self.window -= size
        if self.waiting_bytes <= LOW_WATER_BYTES:
            self.writable.set()
        return size

    def _flags(self) -> int:
        if self._parts or not self.is_complete:
            return 0
        self.has_ended = True
        return END_STREAM

    def resume(self) -> None:
        """Let the application go on, unless too much waits."""
        if self.waiting_bytes <= HIGH_WATER_BYTES:
            self.writable.set()

    def close(self) -> None:
        """Drop everything that waits."""
        self.has_ended = True
        self._parts.clear()
        self.waiting_bytes = 0
        self.writable.set()
