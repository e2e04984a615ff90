"""The body of a request on its way to the archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable

__all__ = ["Upload"]


class Upload:
    """A body that a task writes to a connection, at the pace at which the archive takes it.

    Args:
        transport: of the connection.
        length: of the body in bytes, None for chunked.
        timeout: seconds to wait for the archive to take a byte.
        is_reading_paused: returns whether the archive may be waiting for us to read its response.
        on_end: called at the end with the failure or None; not after `stop`, unless cleaning up
            the body fails.
    """

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        *,
        length: int | None,
        timeout: float | None,
        is_reading_paused: Callable[[], bool],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self._transport = transport
        self._length = length
        self._timeout = timeout
        self._is_paused = False
        self._is_reading_paused = is_reading_paused
        self._on_end = on_end
        self._is_stopped = False
        self._drained: asyncio.Future[None] | None = None
        # Some versions of asyncio never pause the protocol in `writelines` (CVE-2024-12254).
        self._writes_together = type(transport).__module__.startswith("uvloop")
        self._task: asyncio.Task[None]

    def start(self, body: AsyncIterable[bytes]) -> None:
        """Send `body` in a task."""
        self._task = asyncio.get_running_loop().create_task(self._run(body))

    def stop(self) -> None:
        """Cancel the task; the rest of the body is not sent."""
        self._is_stopped = True
        self._task.cancel()

    def pause(self) -> None:
        """Stop writing until `resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Continue to write."""
        self._is_paused = False
        self._wake()

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def _run(self, body: AsyncIterable[bytes]) -> None:
        try:
            chunks = aiter(body)
            try:
                await self._send(chunks)
            finally:
                if isinstance(chunks, AsyncGenerator):
                    await chunks.aclose()
        except Exception as exc:  # noqa: BLE001  (raised again to the caller that awaits a response)
            self._on_end(exc)
        except asyncio.CancelledError:
            if not self._is_stopped:  # cancelled by its source
                self._on_end(httpx.LocalProtocolError("the body broke off"))
            raise
        else:
            self._on_end(None)

    async def _send(self, chunks: AsyncIterator[bytes]) -> None:
        length = self._length
        sent = 0
        async for chunk in chunks:
            if not chunk:
                continue  # it would end a chunked body
            sent += len(chunk)
            if length is None:
                self._write_chunk(chunk)
            elif sent > length:
                raise httpx.LocalProtocolError("the body is longer than its Content-Length")
            else:
                self._transport.write(chunk)
            if self._is_paused:
                await self._drain()
        if length is None:
            self._transport.write(b"0\r\n\r\n")
        elif sent < length:
            raise httpx.LocalProtocolError("the body is shorter than its Content-Length")

    def _write_chunk(self, chunk: bytes) -> None:
        """Write a chunk with its size by one system call; otherwise each line is a packet."""
        parts = (b"%x\r\n" % len(chunk), chunk, b"\r\n")
        if self._writes_together:
            self._transport.writelines(parts)
        else:
            self._transport.write(b"".join(parts))

    async def _drain(self) -> None:
        """Wait until the archive has taken most of what was written."""
        loop = asyncio.get_running_loop()
        while self._is_paused:
            pending = self._transport.get_write_buffer_size()
            self._drained = loop.create_future()
            timer = None
            if self._timeout is not None:  # asyncio.timeout takes several times as long
                timer = loop.call_later(self._timeout, self._wake)
            try:
                await self._drained
            finally:
                self._drained = None
                if timer is not None:
                    timer.cancel()
            if self._is_paused and pending == self._transport.get_write_buffer_size():
                if self._is_reading_paused():
                    continue
                raise httpx.WriteTimeout(f"the archive took no byte for {self._timeout:g} s")
