"""A deadline that moves with every request and rarely passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["Deadline"]


class Deadline:
    """Calls back once its time has come, if it was neither moved nor cleared before.

    Setting and clearing it leave the event loop's timer where it is, unless that is too late: a
    timer that is made and cancelled for each request takes as long as parsing one.
    """

    __slots__ = ("_at", "_callback", "_loop", "_timer", "_timer_at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._at = 0.0
        self._callback: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def is_set(self) -> bool:
        return self._callback is not None

    def set(self, seconds: float, callback: Callable[[], object]) -> None:
        """Call `callback` in so many seconds, and nothing else that was to be called."""
        self._at = at = self._loop.time() + seconds
        self._callback = callback
        if self._timer is None or at < self._timer_at:
            self._arm(at)

    def clear(self) -> None:
        """Call nothing."""
        self._callback = None

    def close(self) -> None:
        """Call nothing any more, and let go of the timer."""
        self._callback = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        callback = self._callback
        if callback is None:
            return
        if self._loop.time() < self._at:
            self._arm(self._at)
        else:
            self._callback = None
            callback()
