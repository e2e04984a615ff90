"""A queue for small pieces of work, so that many of them don't hold up the event loop."""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """A queue of waiters; each iteration of the event loop resumes a few of them.

    Args:
        per_iteration: maximum number of waiters resumed in one iteration.
    """

    def __init__(self, per_iteration: int) -> None:
        self._per_iteration = per_iteration
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for all who came before, and for at least one iteration."""
        await self.take()

    def take(self) -> asyncio.Future[None]:
        """Return a future that is done after all who came before, and at least one iteration."""
        loop = asyncio.get_running_loop()
        if not self._waiters:
            loop.call_soon(self._resume, loop)
        waiter = loop.create_future()
        self._waiters.append(waiter)
        return waiter

    def _resume(self, loop: asyncio.AbstractEventLoop) -> None:
        resumed = 0
        while self._waiters and resumed < self._per_iteration:
            waiter = self._waiters.popleft()
            if not waiter.done():  # it may be cancelled
                waiter.set_result(None)
                resumed += 1
        if self._waiters:
            loop.call_soon(self._resume, loop)
