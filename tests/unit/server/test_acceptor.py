"""Client connections from accept on: their limit, keepalive, and a lack of descriptors."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import ssl
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import uvloop

from dicomweb_cors_proxy.operations import descriptors
from dicomweb_cors_proxy.operations.descriptors import descriptor_warning
from dicomweb_cors_proxy.server import acceptor as server_acceptor
from dicomweb_cors_proxy.server import base_connection
from dicomweb_cors_proxy.server.acceptor import Acceptor, ClientConnections
from tests.support.certificates import Pair
from tests.support.servers import LOOPBACK
from tests.support.sockets import Head, Proxy, Wire, answer, archive, proxy, request, settings
from tests.support.upstream import turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Start = Callable[..., AbstractAsyncContextManager["Front"]]

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}

SECONDS = 10.0  # until a test is stuck
MOMENT = 0.2  # seconds in which a connection that need not wait is served
HEALTH = request("GET", "/healthz")
PREFLIGHT = request("OPTIONS", "/dicom-web/studies", "Access-Control-Request-Method: GET")


class Front:
    """A proxy whose archive holds each request until it is released."""

    def __init__(self, p: Proxy, tls: ssl.SSLContext | None) -> None:
        self.proxy = p
        self.held = asyncio.Queue[None]()
        self.released = asyncio.Event()
        self._tls = tls
        self._wires: list[Wire] = []

    async def connect(self) -> Wire:
        wire = Wire(*await asyncio.open_connection(LOOPBACK, self.proxy.port, ssl=self._tls))
        self._wires.append(wire)
        return wire

    async def close(self) -> None:
        for wire in self._wires:
            if not wire.writer.is_closing():  # Python 3.11.2 fails to abort TLS twice
                wire.writer.transport.abort()
            async with wire:
                pass

    async def ask(self) -> Wire:
        """Open a connection that is idle after one request."""
        wire = await self.connect()
        assert await status(wire, HEALTH) == 200
        return wire

    async def hold(self) -> Wire:
        """Open a connection whose request is in progress until `released`."""
        wire = await self.connect()
        await wire.send(request())
        await self.held.get()
        return wire


async def status(wire: Wire, raw: bytes = b"") -> int:
    """Send a request and read its response."""
    await wire.send(raw)
    head = await wire.head()
    if head.status != 204:
        await wire.body(head)
    return head.status


async def is_waiting(asked: asyncio.Task[object]) -> bool:
    """Return whether nothing comes of a task for a moment."""
    done, _ = await asyncio.wait([asked], timeout=MOMENT)
    return not done


@pytest.fixture(params=["plain", "tls"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Start a proxy with further settings under `server`."""
    pair, context = {}, None
    if request.param == "tls":
        pair = Pair(tmp_path).server
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    @asynccontextmanager
    async def started(**limits: float) -> AsyncIterator[Front]:
        async def handle(wire: Wire, _: Head) -> None:
            front.held.put_nowait(None)
            await front.released.wait()
            await wire.send(answer(b"hello"))

        async with (
            asyncio.timeout(SECONDS),
            archive(handle) as a,
            proxy(settings(a.url, server=pair | limits)) as p,
        ):
            front = Front(p, context)
            try:
                yield front
            finally:
                await front.close()
                front.released.set()

    return started


# The limit


async def test_a_connection_beyond_the_limit_closes_the_longest_idle(start: Start) -> None:
    async with start(max_connections=2) as front:
        first, second = await front.ask(), await front.ask()
        assert await status(first, HEALTH) == 200  # so the second is idle for longer
        third = await front.ask()
        assert await second.closed()
        assert await status(first, PREFLIGHT) == 204
        assert await status(third, PREFLIGHT) == 204
        assert len(front.proxy.server.config.clients) == 2


async def test_the_limit_is_logged_once_a_second(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    caplog.set_level(logging.WARNING)
    async with start(max_connections=1) as front:
        began = loop.time()
        for _ in range(20):
            await front.ask()
        seconds = loop.time() - began
    lines = [record for record in caplog.messages if "server.max_connections" in record]
    assert 1 <= len(lines) <= 1 + seconds
    assert "longest idle" in lines[0]


async def test_new_connections_wait_while_none_is_idle(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with start(max_connections=2) as front:
        first, second = await front.hold(), await front.hold()
        thirds = [asyncio.create_task(front.ask()) for _ in range(3)]
        assert await is_waiting(thirds[0])
        assert len(front.proxy.server.config.clients) == 2
        front.released.set()
        assert await status(first) == 200
        assert await status(second) == 200
        await asyncio.gather(*thirds)
    assert "No client is idle" in caplog.text


async def test_a_rush_of_clients_stays_within_the_limit(start: Start) -> None:
    arrived = 0

    async def search(front: Front) -> int:
        nonlocal arrived
        wire = await front.hold()
        arrived += 1
        return await status(wire)

    async with start(max_connections=3) as front:
        rush = [asyncio.create_task(search(front)) for _ in range(10)]
        assert await is_waiting(rush[0])
        assert arrived <= 3
        assert len(front.proxy.server.config.clients) == 3
        front.released.set()
        assert await asyncio.gather(*rush) == [200] * 10


async def test_a_client_without_a_request_is_idle_after_a_while(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_connection, "FIRST_REQUEST_SECONDS", 2 * MOMENT)
    async with start(max_connections=1) as front:
        silent = await front.connect()
        waiting = asyncio.create_task(front.ask())
        assert await is_waiting(waiting)
        await waiting
        assert await silent.closed()


async def test_a_connection_that_ended_is_freed_without_a_garbage_collection(
    start: Start,
) -> None:
    async with start() as front:
        await front.ask()
        (connection,) = front.proxy.server.server_state.connections
        ended = weakref.ref(connection)
        del connection
        gc.collect()
        gc.disable()
        try:
            await front.close()
            while ended() is not None:  # noqa: ASYNC110  (no event tells)
                await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def test_an_open_connection_is_served_at_the_limit(start: Start) -> None:
    async with start(max_connections=2) as front:
        first, _ = await front.ask(), await front.hold()
        # A request in progress, so that the connection is not idle when the third arrives.
        await first.send(request())
        await front.held.get()
        third = asyncio.create_task(front.ask())
        assert await is_waiting(third)
        front.released.set()
        assert await status(first) == 200
        assert await status(first, PREFLIGHT + HEALTH[:-2]) == 204  # not idle: a head has begun
        assert await status(first, HEALTH[-2:]) == 200
        await third


async def test_a_lingering_connection_is_closed_for_a_new_one(start: Start) -> None:
    async with start(max_connections=1) as front:
        first = await front.connect()
        refused = request("POST", "/nowhere", "Content-Length: 1000000")
        assert await status(first, refused) == 404
        await front.ask()
        assert await first.closed()


async def test_a_client_that_left_makes_room(start: Start) -> None:
    async with start(max_connections=1) as front:
        held = await front.hold()
        waiting = asyncio.create_task(front.ask())
        assert await is_waiting(waiting)
        held.reset()
        await waiting


async def test_a_shutdown_waits_for_no_connection_beyond_the_limit(start: Start) -> None:
    async with start(max_connections=1, shutdown_timeout=SECONDS) as front:
        held = await front.hold()
        waiting = asyncio.create_task(front.ask())
        assert await is_waiting(waiting)
        front.proxy.server.should_exit = True
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await waiting
        front.released.set()
        assert await status(held) == 200


# TLS handshakes


async def test_a_handshake_counts_and_is_late_like_a_head(tmp_path: Path) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello"))

    limits = {"max_connections": 2, "header_timeout": 3 * MOMENT}
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with (
        asyncio.timeout(SECONDS),
        archive(handle) as a,
        proxy(settings(a.url, server=Pair(tmp_path).server | limits)) as p,
        await p.connect() as first,
        await p.connect() as second,
    ):
        front = Front(p, context)
        third = asyncio.create_task(front.ask())
        assert await is_waiting(third)
        assert len(p.server.config.clients) == 2
        assert await first.closed()
        assert await second.closed()
        await third
        await front.close()


async def test_a_handshake_that_fails_stops_counting(start: Start) -> None:
    async with start(max_connections=1) as front:
        async with await front.proxy.connect() as wire:
            await wire.send(b"GET neither TLS nor HTTP\r\n\r\n")
            await wire.reader.read()
        await front.ask()
        assert len(front.proxy.server.config.clients) == 1


async def test_a_shutdown_waits_for_no_handshake(tmp_path: Path) -> None:
    limits = {"header_timeout": 1000.0, "shutdown_timeout": 1000.0}
    configuration = settings("http://127.0.0.1:9/pacs", server=Pair(tmp_path).server | limits)
    async with asyncio.timeout(SECONDS), proxy(configuration) as p, await p.connect() as wire:
        while not len(p.server.config.clients):  # noqa: ASYNC110  (no event tells)
            await asyncio.sleep(0)
        p.server.should_exit = True
        assert await wire.closed()


# Keepalive


async def test_accepted_connections_have_keepalive(start: Start) -> None:
    async with start() as front:
        await front.ask()
        (connection,) = front.proxy.server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# Failures of accept


class Client:
    """A client connection without a network."""

    def __init__(self, *, is_idle: bool = True) -> None:
        self.is_idle = is_idle
        self.is_closed = False

    def close_if_idle(self) -> bool:
        self.is_closed = self.is_idle
        return self.is_idle


async def test_close_longest_idle_passes_over_busy_clients() -> None:
    clients = ClientConnections(limit=3)
    busy, first, second = Client(is_idle=False), Client(), Client()
    for client in (busy, second, first, second):
        clients.opened(client)
        clients.idle(client)
    assert clients.close_longest_idle()
    assert (busy.is_closed, first.is_closed, second.is_closed) == (False, True, False)
    clients.closed(first)  # as its protocol says later
    assert len(clients) == 2
    clients.closed(second)
    assert not clients.close_longest_idle()
    assert len(clients) == 1


FAILURES = {
    errno.EMFILE: "ulimit -n",
    errno.ENFILE: "fs.file-max",
    errno.ENOBUFS: "No buffer space",
    errno.ECONNABORTED: None,
}


@pytest.mark.parametrize(("number", "word"), FAILURES.items())
async def test_a_failure_of_accept_is_logged_and_outlasted(
    number: int,
    word: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    accept, attempts = server_acceptor._accept, 0  # noqa: SLF001
    idle = Client()
    clients = ClientConnections(limit=10)
    clients.opened(idle)
    clients.idle(idle)
    served = asyncio.Event()

    async def fail_twice(*arguments: object) -> socket.socket:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError(number, "fails")
        return await accept(*arguments)  # type: ignore[arg-type]

    async def connect(sock: socket.socket) -> None:
        sock.close()
        served.set()

    monkeypatch.setattr(server_acceptor, "_accept", fail_twice)
    async with asyncio.timeout(SECONDS):
        with (
            socket.create_server((LOOPBACK, 0)) as listener,
            socket.create_connection(listener.getsockname()),
        ):
            acceptor = Acceptor(clients, connect, is_slow=False)
            acceptor.listen(listener)
            await served.wait()
            await acceptor.close()
    assert len(caplog.messages) == (word is not None)
    assert (word or "") in caplog.text
    assert idle.is_closed == (word is not None)


@pytest.mark.parametrize("iterations", range(5))
async def test_a_client_that_connects_while_accepting_ends_is_not_lost(
    iterations: int, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[socket.socket] = []

    async def connect(sock: socket.socket) -> None:
        served.append(sock)

    acceptor = Acceptor(ClientConnections(limit=10), connect, is_slow=False)
    with socket.create_server((LOOPBACK, 0)) as listener:
        acceptor.listen(listener)
        await turns(3)  # it waits for a client
        with socket.create_connection(listener.getsockname()) as client:
            await turns(iterations)
            await acceptor.close()
            (accepted,) = served or [listener.accept()[0]]
            with accepted:
                assert accepted.getpeername() == client.getsockname()
    assert caplog.messages == []


async def test_clients_are_accepted_in_a_loop_that_watches_no_sockets() -> None:
    class ProactorLoop:
        """The part of Windows' event loop that differs."""

        sock_accept = staticmethod(asyncio.get_running_loop().sock_accept)

        def add_reader(self, *_: object) -> None:
            raise NotImplementedError

    loop = cast("asyncio.AbstractEventLoop", ProactorLoop())
    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(server_acceptor._accept(loop, listener))  # noqa: SLF001
        await turns(3)
        with socket.create_connection(listener.getsockname()) as client, await accepting as sock:
            assert sock.getpeername() == client.getsockname()


@pytest.mark.parametrize(("limit", "word"), [(2149, "need 2150"), (2150, None), (None, None)])
def test_descriptor_warning(
    limit: int | None, word: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "descriptor_limit", lambda: limit)
    warning = descriptor_warning(settings("http://127.0.0.1:9/pacs"))
    assert (warning is None) == (word is None)
    assert (word or "") in (warning or "")
