"""The client's side of one request: its body, then its disconnect."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from dicomweb_cors_proxy.deadline import Deadline, WaitLimit
from dicomweb_cors_proxy.http.extensions import ON_DISCONNECT, PUSH_BODY
from dicomweb_cors_proxy.http.limits import body_too_large
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.proxy.context import CONTEXT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from types import TracebackType

    from starlette.types import Receive, Scope

    from dicomweb_cors_proxy.http.extensions import BodyFlow, BodyReceiver
    from dicomweb_cors_proxy.proxy.context import RequestContext
    from dicomweb_cors_proxy.proxy.limits import Limits


class ClientDisconnected(Exception):  # noqa: N818  (an event, not an error)
    """A client disconnected before its response was complete."""


class ClientStream:
    """The client's side of one request: its body, then its disconnect.

    As a context manager it cancels the block when the client disconnects, and with it the
    archive's request.
    """

    def __init__(self, scope: Scope, receive: Receive, limits: Limits, *, has_body: bool) -> None:
        self.has_body = has_body
        self._scope = scope
        self._receive = receive
        self._limits = limits
        self._task: asyncio.Task[None]
        self._watcher: asyncio.Task[None] | None = None
        self._disconnected = False
        self._over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (asyncio runs ASGI applications in tasks)
        self._task = task
        # Our own server calls back when the client disconnects. Under other servers a task waits on
        # receive(), which adds about 10 % to a search.
        tell = self._scope.get("extensions", {}).get(ON_DISCONNECT)
        if tell is not None:
            tell(self._on_disconnect)
        elif not self.has_body:
            self.watch()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._over = True
        self.stop_watching()
        if isinstance(exc, asyncio.CancelledError) and self._disconnected:
            return self._task.uncancel() == 0
        return isinstance(exc, ClientDisconnected)

    def stop_watching(self) -> None:
        """Stop watching: after the last message of a response every server reports a disconnect."""
        if self._watcher is not None:
            self._over = True
            self._watcher.cancel()

    @property
    def request_body(self) -> ClientBody | None:
        """Return the body of the request for the upstream; None if it has none."""
        if not self.has_body:
            return None
        return ClientBody(self, self._scope.get("extensions", {}).get(PUSH_BODY))

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the request's body. Raise `HTTPProblem` 408 or 413, or `ClientDisconnected`."""
        timeout = self._limits.body_timeout
        wait_limit = WaitLimit(timeout)
        try:
            while True:
                try:
                    with wait_limit:
                        message = await self._receive()
                except TimeoutError:
                    raise body_stalled(timeout) from None
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                chunk = message.get("body", b"")
                self.count(chunk)
                if chunk:
                    yield chunk
                if not message.get("more_body", False):
                    return
        finally:
            wait_limit.close()
            self.watch()

    def count(self, part: bytes) -> None:
        """Count a part of the body. Raise `HTTPProblem` 413 if the body becomes too long."""
        context: RequestContext = self._scope[CONTEXT]
        context.record.bytes_in += len(part)
        limit = self._limits.max_body_bytes
        if limit is not None and context.record.bytes_in > limit:
            raise body_too_large(limit)

    @property
    def body_timeout(self) -> float:
        return self._limits.body_timeout

    def watch(self) -> None:
        """Drop what still comes of the body, and wait for the disconnect."""
        if not self._over:
            self._watcher = asyncio.create_task(self._wait_for_disconnect())

    async def _wait_for_disconnect(self) -> None:
        # The rest of the body is dropped, because the archive responded without it.
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_disconnect()

    def _on_disconnect(self) -> None:
        if not (self._over or self._disconnected):
            self._disconnected = True
            self._task.cancel()


class ClientBody:
    """The body of a client's request: to be iterated over, or pushed to a receiver.

    Args:
        stream: of the client.
        push: what our own server pushes a body with; None under another server.
    """

    def __init__(
        self, stream: ClientStream, push: Callable[[BodyReceiver], BodyFlow] | None
    ) -> None:
        self._stream = stream
        self._push = push

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._stream.body()

    def push_to(self, receiver: BodyReceiver) -> BodyFlow | None:
        """Push the body to `receiver`, from `BodyFlow.resume` on; None if the server cannot."""
        return None if self._push is None else LimitedPush(self._stream, self._push, receiver)


class LimitedPush:
    """A body on its way from the server to its receiver, within the limits of size and time.

    To the server it is the receiver, and to the receiver it is the flow.
    """

    def __init__(
        self,
        stream: ClientStream,
        push: Callable[[BodyReceiver], BodyFlow],
        receiver: BodyReceiver,
    ) -> None:
        self._stream = stream
        self._receiver = receiver
        self._seconds = stream.body_timeout
        self._deadline = Deadline(asyncio.get_running_loop())
        self._flow = push(self)

    # For the server

    def take_part(self, part: bytes) -> None:
        """Count a part and pass it on; the time for the next one begins."""
        try:
            self._stream.count(part)
        except HTTPProblem as problem:
            self._break_off(problem)
            return
        self._deadline.set(self._seconds, self._on_stall)
        self._receiver.take_part(part)

    def end_body(self) -> None:
        """Pass the end on."""
        self._deadline.close()
        self._receiver.end_body()

    def fail_body(self, error: Exception) -> None:
        """Pass a failure on."""
        self._deadline.close()
        self._receiver.fail_body(error)

    # For the receiver

    def pause(self) -> None:
        """Push nothing until `resume`; the client is not to blame for the time."""
        self._deadline.clear()
        self._flow.pause()

    def resume(self) -> None:
        """Begin to push, or go on."""
        self._deadline.set(self._seconds, self._on_stall)
        self._flow.resume()

    def stop(self) -> None:
        """Push nothing any more, and drop what still comes."""
        self._deadline.close()
        self._flow.stop()
        self._stream.watch()

    def _on_stall(self) -> None:
        self._break_off(body_stalled(self._seconds))

    def _break_off(self, problem: HTTPProblem) -> None:
        self._deadline.close()
        self._flow.stop()
        self._receiver.fail_body(problem)
        self._stream.watch()


def body_stalled(seconds: float) -> HTTPProblem:
    """Return the 408 for a client that has stopped sending."""
    return HTTPProblem(
        408,
        f"No byte of the request's body arrived for {seconds:g} s (server.body_timeout). "
        "Try again.",
        [(b"connection", b"close")],
    )
