"""The body of a request on its way to the archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from dicomweb_cors_proxy.http.extensions import BodyFlow

__all__ = ["Upload"]


class Upload:
    """A body that is written to a connection, at the pace at which the archive takes it.

    A body that can be pushed (`push_to`, see `http.extensions.PUSH_BODY`) needs no task. Any other
    one is iterated over in a task.

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
        self._sent = 0
        self._timeout = timeout
        self._is_paused = False
        self._is_reading_paused = is_reading_paused
        self._on_end = on_end
        self._is_stopped = False
        # Some versions of asyncio never pause the protocol in `writelines` (CVE-2024-12254).
        self._writes_together = type(transport).__module__.startswith("uvloop")
        self._loop = asyncio.get_running_loop()
        self._stall_timer: asyncio.TimerHandle | None = None
        self._flow: BodyFlow | None = None  # of a body that is pushed
        self._task: asyncio.Task[None] | None = None  # for any other body
        self._may_go_on: asyncio.Future[None] | None = None  # awaited in the task

    def start(self, body: AsyncIterable[bytes]) -> None:
        """Send `body`."""
        push_to = getattr(body, "push_to", None)
        self._flow = None if push_to is None else push_to(self)
        if self._flow is None:
            self._task = self._loop.create_task(self._run(body))
        elif not self._is_paused:
            self._flow.resume()

    def stop(self) -> None:
        """Stop; the rest of the body is not sent."""
        self._is_stopped = True
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()
        if self._flow is not None:
            self._flow.stop()

    # Back-pressure

    def pause(self) -> None:
        """Stop writing until `resume`."""
        self._is_paused = True
        if self._flow is not None:
            self._flow.pause()
        self._watch_archive()

    def resume(self) -> None:
        """Continue to write."""
        self._is_paused = False
        self._stop_timer()
        if self._flow is not None:
            self._flow.resume()
        self._wake()

    def _wake(self) -> None:
        if self._may_go_on is not None and not self._may_go_on.done():
            self._may_go_on.set_result(None)

    def _watch_archive(self) -> None:
        """Fail if the archive takes no byte until the timeout."""
        if self._timeout is not None:
            pending = self._transport.get_write_buffer_size()
            self._stall_timer = self._loop.call_later(self._timeout, self._check, pending)

    def _check(self, pending: int) -> None:
        is_stalled = pending == self._transport.get_write_buffer_size()
        if is_stalled and not self._is_reading_paused():
            error = httpx.WriteTimeout(f"the archive took no byte for {self._timeout:g} s")
            self.stop()
            self._on_end(error)
        else:
            self._watch_archive()

    def _stop_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    # A body that is pushed: a BodyReceiver

    def take_part(self, part: bytes) -> None:
        """Write a part of the body."""
        try:
            self._write(part)
        except httpx.LocalProtocolError as error:
            self.stop()
            self._on_end(error)

    def end_body(self) -> None:
        """Write the end of the body."""
        try:
            self._write_end()
        except httpx.LocalProtocolError as error:
            self.fail_body(error)
        else:
            self._on_end(None)

    def fail_body(self, error: Exception) -> None:
        """Note that the rest of the body does not come."""
        self._stop_timer()
        self._on_end(error)

    # Any other body

    async def _run(self, body: AsyncIterable[bytes]) -> None:
        try:
            chunks = aiter(body)
            try:
                async for chunk in chunks:
                    self._write(chunk)
                    # A closed connection takes everything, and a body that never waits would keep
                    # the event loop from noticing. `stop` follows then.
                    while self._is_paused or self._transport.is_closing():
                        await self._resumed()
                self._write_end()
            finally:
                self._stop_timer()
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

    async def _resumed(self) -> None:
        self._may_go_on = self._loop.create_future()
        try:
            await self._may_go_on
        finally:
            self._may_go_on = None

    # Framing

    def _write(self, part: bytes) -> None:
        if not part:
            return  # it would end a chunked body
        self._sent += len(part)
        if self._length is None:
            self._write_chunk(part)
        elif self._sent > self._length:
            raise httpx.LocalProtocolError("the body is longer than its Content-Length")
        else:
            self._transport.write(part)

    def _write_chunk(self, chunk: bytes) -> None:
        """Write a chunk with its size by one system call; otherwise each line is a packet."""
        parts = (b"%x\r\n" % len(chunk), chunk, b"\r\n")
        if self._writes_together:
            self._transport.writelines(parts)
        else:
            self._transport.write(b"".join(parts))

    def _write_end(self) -> None:
        if self._length is None:
            self._transport.write(b"0\r\n\r\n")
        elif self._sent < self._length:
            raise httpx.LocalProtocolError("the body is shorter than its Content-Length")
