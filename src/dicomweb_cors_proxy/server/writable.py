"""Tell a relay when its client has room for more of the response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Writable(asyncio.Event):
    """An event that is set while a client has room for more of its response.

    Attributes:
        listener: called each time the event is set again, in the next turn of the event loop.
    """

    listener: Callable[[], object] | None = None

    def set(self) -> None:
        if not self.is_set():
            super().set()
            if self.listener is not None:
                asyncio.get_running_loop().call_soon(self._notify)

    def _notify(self) -> None:
        if self.listener is not None and self.is_set():
            self.listener()
