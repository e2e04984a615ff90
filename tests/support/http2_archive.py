"""The archive behind the tests of HTTP/2 attacks, and the targets that it tells apart."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tests.support.attacks import PATIENCE
from tests.support.http2_frames import FRAME_BYTES
from tests.support.sockets import answer

if TYPE_CHECKING:
    from tests.support.sockets import Head, Wire

STUDIES: Final = b"/dicom-web/studies"
HOLD: Final = STUDIES + b"?hold"  # the archive does not respond
ENDLESS: Final = STUDIES + b"?endless"  # the response has no end
STUCK: Final = STUDIES + b"?stuck"  # the archive reads nothing of the body


class Script:
    """An archive that responds as the query says; `left` counts the connections that ended."""

    def __init__(self) -> None:
        self.left = 0
        self.news = asyncio.Event()

    async def __call__(self, wire: Wire, asked: Head) -> None:
        match asked.first_line.split()[1].partition(b"?")[2]:
            case b"hold":
                await wire.closed()
                self._count()
            case b"endless":
                with suppress(ConnectionError):
                    await wire.send(answer(length=2**40))
                    while True:
                        await wire.send(bytes(FRAME_BYTES))
                self._count()
                raise ConnectionError
            case b"stuck":
                transport = wire.writer.transport
                assert isinstance(transport, asyncio.Transport)
                transport.pause_reading()
                await asyncio.Event().wait()
            case _:
                if asked.get(b"content-length") or asked.get(b"transfer-encoding"):
                    await wire.body(asked)
                await wire.send(answer(b"hello"))

    def _count(self) -> None:
        self.left += 1
        self.news.set()

    async def until_left(self, number: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.left < number:
                self.news.clear()
                await self.news.wait()
