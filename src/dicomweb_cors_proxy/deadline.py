"""Deadlines that move all the time and rarely pass."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Deadline", "WaitLimit"]


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
    def at(self) -> float | None:
        """Return the loop time at which it passes; None if it is not set."""
        return None if self._callback is None else self._at

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


class WaitLimit:
    """A time limit for each of many waits, as a context manager around one wait at a time.

    It does what `asyncio.timeout` does, in a tenth of the time: raises TimeoutError if the wait
    takes longer. One timer serves all waits.
    """

    __slots__ = ("_cancellations", "_deadline", "_is_over", "_seconds", "_task")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = Deadline(asyncio.get_running_loop())
        self._task: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._is_over = False

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None  # noqa: S101  (only a task can wait)
        self._cancellations = task.cancelling()
        self._deadline.set(self._seconds, self._cancel)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._deadline.clear()
        task, self._task = self._task, None
        if self._is_over and task is not None:
            self._is_over = False
            # If someone else cancels the task too, the cancellation goes on.
            is_ours = task.uncancel() <= self._cancellations
            if is_ours and exc_type is asyncio.CancelledError:
                raise TimeoutError from exc

    def close(self) -> None:
        """Drop the timer. No further wait may follow."""
        self._deadline.close()

    def _cancel(self) -> None:
        if self._task is not None:
            self._is_over = True
            self._task.cancel()
