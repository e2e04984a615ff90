"""Check the archive once `serve` has started, beside the requests that it serves."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.observability.records import traceback_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dicomweb_cors_proxy.app import Application
    from dicomweb_cors_proxy.proxy.archive_check import Verdict

__all__ = ["Turn", "check_archive"]

logger = logging.getLogger(__name__)


class Turn:
    """A pipe by which the supervisor has one of its workers do something, once."""

    def __init__(self) -> None:
        self._taking, self._giving = os.pipe()
        os.set_blocking(self._taking, False)

    def give(self) -> None:
        """Let one of the workers that wait go on."""
        os.write(self._giving, b"\0")

    async def taken(self) -> None:
        """Wait until it is this worker's turn."""
        loop = asyncio.get_running_loop()
        mine = asyncio.Event()

        def take() -> None:
            try:
                os.read(self._taking, 1)
            except BlockingIOError:  # another worker was faster
                return
            mine.set()

        loop.add_reader(self._taking, take)
        try:
            await mine.wait()
        finally:
            loop.remove_reader(self._taking)


async def check_archive(app: Application, tell: Callable[[Sequence[Verdict]], None]) -> None:
    """Check the archive and tell the result; no failure of this ends the process."""
    try:
        verdicts = await app.check_archive()
    except Exception as error:  # noqa: BLE001
        logger.error("the archive was not checked: %s", traceback_summary(error))  # noqa: TRY400
    else:
        tell(verdicts)
