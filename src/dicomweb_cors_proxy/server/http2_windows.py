"""A timer that ends the HTTP/2 streams whose client shuts their windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dicomweb_cors_proxy.server.http2_frames import ConnectionFault, ErrorCode

if TYPE_CHECKING:
    import asyncio

    from dicomweb_cors_proxy.server.http2_output import Output
    from dicomweb_cors_proxy.server.http2_streams import Streams

# Checks of the windows in the time that a window may stay shut.
CHECKS_PER_TIMEOUT = 4


class WatchdogOwner(Protocol):
    """The connection that is watched."""

    def fail(self, fault: ConnectionFault) -> None:
        """End the connection."""


class WindowWatchdog:
    """A timer that runs while windows are shut and bytes wait for them.

    A client that shuts a window takes no bytes, as one that does not read its socket. A response
    that waits for it holds a connection to the archive.

    Args:
        loop: the event loop.
        seconds: the time that a window may stay shut (server.write_timeout).
        owner: the connection, which fails if its own window stays shut.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, owner: WatchdogOwner
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._owner = owner
        self._timer: asyncio.TimerHandle | None = None

    def start(self, output: Output, streams: Streams) -> None:
        """Watch from now on."""
        if self._timer is None:
            seconds = self._seconds / CHECKS_PER_TIMEOUT
            self._timer = self._loop.call_later(seconds, self._check, output, streams)

    def stop(self) -> None:
        """Stop watching."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, output: Output, streams: Streams) -> None:
        self._timer = None
        latest = self._loop.time() - self._seconds
        shut_at = output.window_shut_at
        if shut_at is not None and shut_at <= latest:
            self._owner.fail(
                ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "The window was shut for too long.")
            )
            return
        is_any_shut = shut_at is not None
        for stream in list(streams.open.values()):
            shut_at = stream.response.window_shut_at
            if shut_at is not None:
                if shut_at <= latest:
                    streams.reset(stream, ErrorCode.CANCEL)
                else:
                    is_any_shut = True
        if is_any_shut:
            self.start(output, streams)
