"""What drives the client engine from outside: requests, bodies fed by hand, a clock turned by
hand."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import httpx

from dicomweb_cors_proxy.deadline import Deadline
from dicomweb_cors_proxy.upstream.dialer import Dialer
from dicomweb_cors_proxy.upstream.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.upstream.native import NativeTransport

CHUNKED = (b"Transfer-Encoding", b"chunked")


class PluggedDialer(Dialer):
    """A dialer whose sockets lead nowhere, for tests that play the event loop."""

    def __init__(self) -> None:
        super().__init__(Resolver(), "archive", 80)

    async def connect(self, deadline: float | None) -> socket.socket:  # noqa: ARG002
        unconnected = socket.socket()
        unconnected.close()
        return unconnected


class Answered(NamedTuple):
    status: int
    headers: list[Header]
    body: bytes


class Source(httpx.AsyncByteStream):
    """A request body. It goes on until it is given None; an exception is raised."""

    def __init__(self, *chunks: bytes | BaseException | None) -> None:
        self._chunks: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self.put(*chunks)
        self.pulled = 0
        self.ended = asyncio.Event()

    def put(self, *chunks: bytes | BaseException | None) -> None:
        for chunk in chunks:
            self._chunks.put_nowait(chunk)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._chunks.get()) is not None:
                if isinstance(chunk, BaseException):
                    raise chunk
                self.pulled += 1
                yield chunk
        finally:
            self.ended.set()


def request(
    url: str,
    method: str = "GET",
    *headers: Header,
    body: httpx.AsyncByteStream | None = None,
    target: bytes = b"/pacs/studies",
    **timeout: float | None,
) -> httpx.Request:
    return httpx.Request(
        method,
        url,
        headers=[(b"Host", b"archive"), *headers],
        stream=body or httpx.ByteStream(b""),
        extensions={"target": target, "timeout": timeout},
    )


def body_of(response: httpx.Response) -> httpx.AsyncByteStream:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return response.stream


async def ask(transport: NativeTransport, request: httpx.Request) -> Answered:
    """The whole response, and the connection given back."""
    response = await transport.handle_async_request(request)
    stream = body_of(response)
    try:
        body = b"".join([data async for data in stream])
    finally:
        await stream.aclose()
    return Answered(response.status_code, response.headers.raw, body)


async def turns(count: int) -> None:
    """Let the event loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (what sockets do sets no event)
        await asyncio.sleep(0)


@dataclass(eq=False)
class Timer:
    when: float
    callback: Callable[..., object]
    args: Sequence[Any]
    clock: Clock

    def cancel(self) -> None:
        self.clock.timers.discard(self)

    def run(self) -> None:
        if self in self.clock.timers:
            self.cancel()
            self.callback(*self.args)


@dataclass
class Clock:
    """The running loop's clock while the block lasts; it goes only when it is told to."""

    now: float = 1000.0
    timers: set[Timer] = field(default_factory=set)

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Timer:
        timer = Timer(when, callback, args, self)
        self.timers.add(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        return self.call_at(self.now + delay, callback, *args)

    @property
    def armed(self) -> list[float]:
        """Seconds to go. A `Deadline` counts by its own time: its timer may ring too early."""
        times = []
        for timer in self.timers:
            owner = getattr(timer.callback, "__self__", None)
            when = owner.at if isinstance(owner, Deadline) else timer.when
            if when is not None:
                times.append(round(when - self.now, 6))
        return sorted(times)

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in sorted(self.timers, key=lambda timer: timer.when):
            if timer.when <= self.now:
                timer.run()
        await turns(5)

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for name in ("time", "call_at", "call_later"):
            setattr(self._loop, name, getattr(self, name))
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("time", "call_at", "call_later"):
            delattr(self._loop, name)
        # Others run in this loop, and wait on.
        for timer in list(self.timers):
            self._loop.call_later(max(0.0, timer.when - self.now), timer.run)
