"""Heartbeats of worker processes, in memory that they share with their supervisor."""

from __future__ import annotations

import mmap
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEARTBEAT_SECONDS", "Heartbeats"]

HEARTBEAT_SECONDS: Final = 1.0


class Heartbeats:
    """A counter for each worker, which the worker's event loop increments.

    The counters are in shared memory, because a pipe fills up while the supervisor does not run,
    and the worker would then wait for it.

    Args:
        slots: how many workers there are.
        clock: seconds, of the supervisor.
    """

    def __init__(self, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # One byte each, so no counter is read while it is half written.
        self._counters = mmap.mmap(-1, slots)
        self._seen = bytearray(slots)
        self._silences = [0.0] * slots
        self._looked_at = clock()

    def beat(self, slot: int) -> None:
        """Increment a worker's counter. This is called in the worker."""
        self._counters[slot] = (self._counters[slot] + 1) % 256

    def restart(self, slot: int) -> None:
        """Measure a worker's silence from now on."""
        self._silences[slot] = 0.0

    def look(self) -> None:
        """See which counters changed. Call this at least once per heartbeat.

        While the machine is suspended or busy, the supervisor does not run, and its workers may not
        run either. So a look counts for one heartbeat at most, however late it comes.
        """
        now = self._clock()
        elapsed = now - self._looked_at
        if elapsed < HEARTBEAT_SECONDS:
            return
        self._looked_at = now
        for slot, counter in enumerate(self._counters[:]):
            if counter != self._seen[slot]:
                self._seen[slot] = counter
                self._silences[slot] = 0.0
            else:
                self._silences[slot] += HEARTBEAT_SECONDS

    def silence(self, slot: int) -> float:
        """Return the seconds for which a worker's counter has not changed, as far as they count."""
        return self._silences[slot]
