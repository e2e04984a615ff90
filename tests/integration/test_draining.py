"""The end of `serve`: /readyz shows it first, then the listener, then the responses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager, contextmanager
from io import FileIO
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.processes import Child
from tests.support.proxy import Proxy, fronting
from tests.support.sockets import ORIGIN, Head, Wire, archive, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

VIEWER = ORIGIN.decode()

pytestmark = pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])


class Half:
    """A `serve` that has sent half of a response; the rest comes after `go_on`."""

    def __init__(self, proxy: Proxy, client: Wire, go_on: asyncio.Event) -> None:
        self.proxy = proxy
        self.client = client
        self.go_on = go_on

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(self.proxy.child.pid, number)

    async def status(self, path: str) -> int | None:
        """On a new connection; None if nobody listens."""
        async with httpx.AsyncClient(trust_env=False) as client:
            try:
                return (await client.get(self.proxy.root + path)).status_code
            except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
                return None

    async def until(self, path: str, status: int | None) -> None:
        async with asyncio.timeout(30):
            while await self.status(path) != status:
                pass

    async def ended(self) -> int:
        return await asyncio.to_thread(self.proxy.child.wait)


@asynccontextmanager
async def half(serve: Callable[..., Proxy], workers: int, **server: object) -> AsyncIterator[Half]:
    go_on = asyncio.Event()

    async def handle(wire: Wire, head: Head) -> None:
        if head.first_line.startswith(b"OPTIONS"):
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
        await go_on.wait()
        await wire.send(b"4\r\nrest\r\n0\r\n\r\n")

    async with archive(handle) as there:
        settings = fronting(there.url, VIEWER) | {"server": {"workers": workers, **server}}
        proxy = await asyncio.to_thread(serve, settings)
        host, port = proxy.root.removeprefix("http://").split(":")
        async with Wire(*await asyncio.open_connection(host, int(port))) as client:
            await client.send(request())
            await client.head()
            assert await client.chunk() == b"half"
            try:
                yield Half(proxy, client, go_on)
            finally:
                go_on.set()


async def test_first_readyz_then_the_listener_then_the_responses(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with half(serve, workers, drain_delay=3600) as running:
        assert await running.status("/readyz") == 200
        running.signal()
        await running.until("/readyz", 503)
        assert await running.status("/healthz") == 200
        assert await running.status("/nowhere") == 404  # requests are still answered
        running.signal()  # hurry
        await running.until("/healthz", None)
        running.go_on.set()
        assert await running.client.chunk() == b"rest"
        assert await running.client.chunk() == b""
        assert await running.ended() == 0


async def test_the_delay_ends(serve: Callable[..., Proxy], workers: int) -> None:
    async with half(serve, workers, drain_delay=0.3) as running:
        running.signal()
        await running.until("/healthz", None)
        running.go_on.set()
        assert await running.client.chunk() == b"rest"
        assert await running.client.chunk() == b""
        assert await running.ended() == 0
    assert "requests are taken for another 0.3 s" in running.proxy.child.output


async def test_each_further_signal_ends_what_is_waited_for(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with half(serve, workers, drain_delay=3600, shutdown_timeout=3600) as running:
        running.signal()
        await running.until("/readyz", 503)
        running.signal(signal.SIGINT)
        await running.until("/healthz", None)
        running.signal()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await running.client.chunk()
        assert await running.ended() == 0


async def test_responses_that_take_longer_are_cut(
    serve: Callable[..., Proxy], workers: int
) -> None:
    async with half(serve, workers, shutdown_timeout=0.2) as running:
        running.signal()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await running.client.chunk()
        assert await running.ended() == 0
    assert "cancelled after 0.2 s (server.shutdown_timeout)" in running.proxy.child.output
    assert "Traceback" not in running.proxy.child.output


async def test_who_still_waits_for_the_archive_reads_a_503(
    serve: Callable[..., Proxy], workers: int
) -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def handle(_: Wire, __: Head) -> None:
        asked.set()
        await never.wait()

    async with archive(handle) as there:
        server = {"workers": workers, "shutdown_timeout": 0.2}
        settings = fronting(there.url, VIEWER) | {"server": server}
        proxy = await asyncio.to_thread(serve, settings)
        host, port = proxy.root.removeprefix("http://").split(":")
        async with Wire(*await asyncio.open_connection(host, int(port))) as client:
            await client.send(request())
            await asked.wait()
            os.kill(proxy.child.pid, signal.SIGTERM)
            head = await client.head()
            problem = json.loads(await client.body(head))
            assert await client.closed()
        assert await asyncio.to_thread(proxy.child.wait) == 0
    assert head.status == problem["status"] == 503
    assert head.get(b"retry-after") == b"1"
    assert head.get(b"access-control-allow-origin") == ORIGIN


# Make standard input the controlling terminal. A program keeps an ignored signal ignored, and
# these tests may themselves run under nohup.
IN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.Handlers[sys.argv[1]])
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def in_a_terminal(workers: int, *, hangup: str = "SIG_DFL") -> Iterator[tuple[Child, FileIO]]:
    """A `serve` whose controlling terminal is ours, and our end of it.

    `hangup` is what the program that starts it has set for SIGHUP; nohup sets `SIG_IGN`.
    """
    command = [sys.executable, "-c", IN_TERMINAL, hangup]
    command += [sys.executable, "-m", "dicomweb_cors_proxy", "serve"]
    flags = ["--upstream", "http://127.0.0.1:9/a", "--allow-origin", VIEWER, "--port", "0"]
    ours, its = os.openpty()
    with (
        FileIO(ours, "r+") as terminal,
        Child([*command, *flags, "--workers", str(workers)], stdin=its) as child,
    ):
        os.close(its)
        child.wait_for(r"\bat  ")
        yield child, terminal
        assert child.wait() == 0
        assert child.is_silent
    assert "Traceback" not in child.output


def test_ctrl_c(workers: int) -> None:
    """It goes to all processes of the terminal, but no worker is to take it for a second one."""
    with in_a_terminal(workers) as (_, terminal):
        terminal.write(b"\x03")


def test_a_terminal_that_is_closed(workers: int) -> None:
    """Its SIGHUP is no wish for a reload."""
    with in_a_terminal(workers) as (child, terminal):
        terminal.close()
    assert "read again" not in child.output


def test_under_nohup_a_terminal_that_is_closed_stops_nothing(workers: int) -> None:
    with in_a_terminal(workers, hangup="SIG_IGN") as (child, terminal):
        terminal.close()
        child.wait_for("read again")
        os.kill(child.pid, signal.SIGTERM)


def test_a_hangup_in_a_terminal_stops(workers: int) -> None:
    with in_a_terminal(workers) as (child, _):
        os.kill(child.pid, signal.SIGHUP)
    assert "read again" not in child.output
