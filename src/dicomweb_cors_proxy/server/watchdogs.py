"""Timers that find a client that has stalled or disconnected, and abort its connection."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.server.socket_state import is_ready, unsent_bytes

if TYPE_CHECKING:
    import asyncio

    from dicomweb_cors_proxy.deadline import Deadline

# Seconds between checks for a disconnected client while reading is paused.
DISCONNECT_POLL_SECONDS = 0.25

# Seconds for a client at shutdown to send its end of TLS, which is optional, or to end an upload
# that has its response.
TLS_CLOSE_GRACE_SECONDS = 0.25


class WriteWatchdog:
    """A timer that aborts a connection once its client has taken no byte for some seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport) -> None:
        """Watch from now on."""
        self._check(transport, -1, stalled=False)

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, transport: asyncio.Transport, last_size: int, *, stalled: bool) -> None:
        self.stop()
        size = transport.get_write_buffer_size() + unsent_bytes(transport)
        if stalled and size == last_size:
            transport.abort()
            return
        check = partial(self._check, transport, size, stalled=size == last_size)
        self._timer = self._loop.call_later(self._seconds / 2, check)


class ReadPause:
    """The switch that pauses reading. In a pause, it aborts a connection whose client disconnects.

    The event loop does not see the client disconnect while reading is paused.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_paused = False
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def set(self, transport: asyncio.Transport, *, is_paused: bool) -> None:
        """Pause or resume reading, whichever is not the case yet."""
        self.is_paused = is_paused
        if is_paused:
            transport.pause_reading()
            self._timer = self._loop.call_later(DISCONNECT_POLL_SECONDS, self._check, transport)
        else:
            transport.resume_reading()
            self.stop()

    def stop(self) -> None:
        """Stop checking for a disconnected client."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, transport: asyncio.Transport) -> None:
        if is_ready(transport, "POLLRDHUP"):  # even if there are bytes to read
            transport.abort()
        else:
            self._timer = self._loop.call_later(DISCONNECT_POLL_SECONDS, self._check, transport)


def abort_when_sent(transport: asyncio.Transport, deadline: Deadline) -> None:
    """Abort a connection as soon as all bytes are sent, those below TLS included.

    No buffer's size shows bytes queued below TLS. If the socket is writable at two checks and
    nothing was written between them, there are none.
    """
    check = partial(_check_sent, transport, deadline, had_room=False)
    deadline.set(TLS_CLOSE_GRACE_SECONDS, check)


def _check_sent(transport: asyncio.Transport, deadline: Deadline, *, had_room: bool) -> None:
    has_room = is_ready(transport, "POLLOUT")
    if has_room and had_room:
        transport.abort()
    else:
        check = partial(_check_sent, transport, deadline, had_room=has_room)
        deadline.set(TLS_CLOSE_GRACE_SECONDS, check)
