"""Wait for the next event of an exchange with the archive, by a callback or by awaiting."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import httpx

from dicomweb_cors_proxy.deadline import Deadline

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["ExchangeEvents"]


class ExchangeEvents:
    """The events of the exchanges on one connection: each wait is for the next one.

    Args:
        loop: of the connection.
        on_late: called with `httpx.ReadTimeout` if none came in time.

    Attributes:
        error: why the exchange has failed; every wait then ends.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_late: Callable[[httpx.ReadTimeout], None]
    ) -> None:
        self._loop = loop
        self._on_late = on_late
        self._deadline = Deadline(loop)
        self._seconds = 0.0
        self._listener: Callable[[], None] | None = None
        self.error: Exception | None = None

    def notify(self, listener: Callable[[], None], seconds: float | None) -> None:
        """Call `listener` once, at the next event; `on_late` if it takes longer than `seconds`.

        No event follows a failure, so the caller looks at `error` before.
        """
        self._listener = listener
        if seconds is not None:
            self._seconds = seconds
            self._deadline.set(seconds, self._expire)

    def ignore(self) -> None:
        """Do not call the listener."""
        self._listener = None
        self._deadline.clear()

    def wake(self) -> None:
        """Tell the listener that there was an event."""
        listener = self._listener
        if listener is not None:
            self.ignore()
            listener()

    async def wait(self, seconds: float | None) -> None:
        """Wait for the next event. Raise `error` if the exchange has failed before."""
        if self.error is not None:
            raise self.error
        event = self._loop.create_future()
        self.notify(partial(_set, event), seconds)
        try:
            await event
        finally:
            self.ignore()

    def close(self) -> None:
        """Drop the timer, because the connection is lost."""
        self._deadline.close()

    def _expire(self) -> None:
        self._on_late(httpx.ReadTimeout(f"nothing from the archive for {self._seconds:g} s"))


def _set(event: asyncio.Future[None]) -> None:
    if not event.done():
        event.set_result(None)
