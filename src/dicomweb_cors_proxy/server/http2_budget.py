"""Budgets for what a client may cause without asking for anything (RFC 9113 §10.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.server.http2_frames import ConnectionFault, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

# Frames without effect at once, and for each second: SETTINGS, PING, PRIORITY, empty DATA,
# WINDOW_UPDATE. Each DATA frame that we send earns the client two, for its WINDOW_UPDATEs.
IDLE_FRAMES: Final = 1000
IDLE_FRAMES_PER_SECOND: Final = 200.0
EARNED_PER_DATA_FRAME: Final = 2

# Streams reset before their end, by the client (CVE-2023-44487) or by us for an error of the
# client (CVE-2025-8671). A viewer that scrolls cancels at most as many as it may have open.
RESETS: Final = 500
RESETS_PER_SECOND: Final = 100.0


class Budget:
    """A number of events that is refilled over time.

    Args:
        size: events at once.
        per_second: events that come back each second.
        name: the events, for the reason of GOAWAY.
        clock: returns seconds.
    """

    __slots__ = ("_at", "_clock", "_left", "_name", "_per_second", "_size")

    def __init__(self, size: int, per_second: float, name: str, clock: Callable[[], float]) -> None:
        self._size = size
        self._left = float(size)
        self._per_second = per_second
        self._name = name
        self._clock = clock
        self._at = clock()

    def earn(self, events: int) -> None:
        """Allow more events."""
        self._left = min(self._left + events, self._size)

    def spend(self) -> None:
        """Count an event. Raise `ConnectionFault` if there are too many."""
        self._left -= 1
        if self._left < 0:
            now = self._clock()
            self._left = min(self._left + (now - self._at) * self._per_second, self._size)
            self._at = now
            if self._left < 0:
                raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"Too many {self._name}.")


def frames_without_effect(clock: Callable[[], float]) -> Budget:
    """Return the budget of a connection for frames without effect."""
    return Budget(IDLE_FRAMES, IDLE_FRAMES_PER_SECOND, "frames without effect", clock)


def streams_ended_early(clock: Callable[[], float]) -> Budget:
    """Return the budget of a connection for streams that end early."""
    return Budget(RESETS, RESETS_PER_SECOND, "streams end early", clock)
