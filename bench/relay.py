"""A TCP relay that keeps every byte for a while, as a long line does.

    python -m bench.relay PORT TARGET_PORT MILLISECONDS

The delay is that of one direction; opening a connection takes none.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Final, cast

import uvloop

WINDOW: Final = 16 << 20  # bytes on the line, more than any connection here needs


class End(asyncio.Protocol):
    """One end of the line: what comes in here goes out at the `other`."""

    other: End

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._line: deque[tuple[float, bytes]] = deque()  # b"" is the end
        self._on_line = 0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is of no class of asyncio

    def data_received(self, data: bytes) -> None:
        self._line.append((self._loop.time() + self._delay, data))
        self._on_line += len(data)
        if self._on_line > WINDOW and self._transport:
            self._transport.pause_reading()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._line.append((self._loop.time() + self._delay, b""))
        self._wait()

    def _wait(self) -> None:
        """Look again when what is first in line is due. uvloop's timers count in milliseconds."""
        if self._line and not self._waiting:
            self._waiting = True
            self._loop.call_later(max(0.0, self._line[0][0] - self._loop.time()), self.pump)

    def pump(self) -> None:
        """Hand over what is due."""
        self._waiting = False
        out = self.other._transport  # noqa: SLF001
        if out is None:  # not connected yet
            return
        due = self._loop.time() + 0.0005
        while self._line and self._line[0][0] <= due:
            _, data = self._line.popleft()
            self._on_line -= len(data)
            if data:
                out.write(data)
            else:
                out.close()
        if self._on_line <= WINDOW and self._transport and not self._transport.is_closing():
            self._transport.resume_reading()
        self._wait()


class Entrance(End):
    """The end at which connections come in."""

    def __init__(self, delay: float, target: int) -> None:
        super().__init__(delay)
        self._target = target
        self.other = End(delay)
        self.other.other = self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await self._loop.create_connection(lambda: self.other, "127.0.0.1", self._target)
        except OSError:
            if self._transport:
                self._transport.abort()
        else:
            self.pump()


async def _serve(port: int, target: int, milliseconds: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Entrance(milliseconds / 1000, target), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(*map(int, sys.argv[1:])))
