"""Listening, TLS, signals and the end."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import trustme
import uvloop

from dicomweb_cors_proxy.server.listening import bind
from tests.support.servers import LOOPBACK, free_port
from tests.support.sockets import (
    Archive,
    Head,
    Proxy,
    Wire,
    answer,
    archive,
    proxy,
    request,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HTTP_1_0 = request().replace(b"HTTP/1.1", b"HTTP/1.0")


# Listening


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "::", "0.0.0.0"])
def test_bind(host: str) -> None:
    port = free_port()
    listeners = bind(host, port)
    try:
        reached = {"::": ["::1", "127.0.0.1"], "0.0.0.0": ["127.0.0.1"]}.get(host, [host])
        for address in reached:
            socket.create_connection((address, port)).close()
    finally:
        for listener in listeners:
            listener.close()


def test_bind_to_any_free_port() -> None:
    (listener,) = bind("::", 0)
    with listener:
        assert listener.getsockname()[1]


def test_bind_queues_a_rush_of_clients() -> None:
    (listener,) = bind("127.0.0.1", 0)
    with listener, ExitStack() as clients:
        address = listener.getsockname()
        for _ in range(300):
            clients.enter_context(socket.create_connection(address, timeout=10))


def test_bind_is_all_or_nothing() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as refused:
            bind("::", port)
        assert refused.value.errno == errno.EADDRINUSE
        bind("::1", port)[0].close()  # given back


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_bind_passes_over_what_this_machine_has_not_got(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "192.0.2.1", LOOPBACK)
    (listener,) = bind("localhost", 0)
    with listener:
        assert listener.getsockname()[0] == LOOPBACK


def test_bind_needs_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "192.0.2.1")
    with pytest.raises(OSError, match="assign"):
        bind("viewer.example", 0)


# The end


class Gate:
    """An archive that sends the first half of its response, and waits."""

    def __init__(self, half: bytes, rest: bytes) -> None:
        self.half = half
        self.rest = rest
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, wire: Wire, _: Head) -> None:
        await wire.send(self.half)
        self.reached.set()
        await self.opened.wait()
        await wire.send(self.rest)


@asynccontextmanager
async def running(gate: Gate, **server: object) -> AsyncIterator[tuple[Proxy, Archive]]:
    async with archive(gate) as a, proxy(settings(a.url, server=server)) as p:
        yield p, a


async def refused(p: Proxy) -> None:
    """Wait until nobody listens."""
    while True:
        try:
            async with await p.connect() as wire:
                await wire.closed()
        except ConnectionRefusedError:
            return


async def test_running_responses_finish_and_idle_connections_close() -> None:
    gate = Gate(CHUNKED + b"5\r\nfirst\r\n", b"4\r\nlast\r\n0\r\n\r\n")
    async with running(gate) as (p, _), await p.connect() as idle, await p.connect() as wire:
        await wire.send(request())
        head = await wire.head()
        assert await wire.chunk() == b"first"
        p.server.should_exit = True
        assert await idle.closed()
        await refused(p)
        gate.opened.set()
        assert head.status == 200
        assert await wire.chunk() == b"last"
        assert await wire.chunk() == b""
        assert await wire.closed()


async def test_a_response_that_begins_late_says_that_it_is_the_last() -> None:
    gate = Gate(b"", answer(b"hello"))
    async with running(gate) as (p, _), await p.connect() as wire:
        await wire.send(request())
        await gate.reached.wait()
        p.server.should_exit = True
        await refused(p)
        gate.opened.set()
        head = await wire.head()
        assert head.get(b"connection") == b"close"
        assert await wire.body(head) == b"hello"
        assert await wire.closed()


async def test_a_head_that_has_begun_is_answered() -> None:
    gate = Gate(b"", answer(b"hello"))
    gate.opened.set()
    async with running(gate) as (p, _), await p.connect() as wire, await p.connect() as idle:
        await wire.send(request()[:-2])
        await idle.send(b"")
        p.server.should_exit = True
        assert await idle.closed()
        await wire.send(b"\r\n")
        head = await wire.head()
        assert head.get(b"connection") == b"close"
        assert await wire.body(head) == b"hello"


@pytest.mark.parametrize(
    ("asked", "half", "read"),
    [
        (request(), CHUNKED + b"4\r\nhalf\r\n", Wire.chunk),
        (request(), answer(b"half", length=8), lambda wire: wire.reader.readexactly(4)),
        (HTTP_1_0, b"HTTP/1.1 200 OK\r\n\r\nhalf", lambda wire: wire.reader.read(4)),
    ],
    ids=["chunked", "length", "HTTP/1.0"],
)
async def test_responses_that_outlast_the_timeout_are_cut(
    asked: bytes, half: bytes, read: Callable[[Wire], Awaitable[bytes]]
) -> None:
    gate = Gate(half, b"")
    async with running(gate, shutdown_timeout=0.2) as (p, _), await p.connect() as wire:
        await wire.send(asked)
        await wire.head()
        assert await read(wire) == b"half"
        p.server.should_exit = True
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await read(wire)


async def test_requests_without_a_response_by_the_timeout_are_told_so() -> None:
    gate = Gate(b"", b"")
    async with running(gate, shutdown_timeout=0.2) as (p, _), await p.connect() as wire:
        await wire.send(request())
        await gate.reached.wait()
        p.server.should_exit = True
        head = await wire.head()
        assert (head.status, head.get(b"connection")) == (503, b"close")
        assert b"The proxy is shutting down" in await wire.body(head)
        assert await wire.closed()


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def pair(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The settings of a server with a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("localhost", LOOPBACK)
    files = {"tls_cert_file": folder / "cert.pem", "tls_key_file": folder / "key.pem"}
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(files["tls_cert_file"]), append=number > 0)
    certificate.private_key_pem.write_to_path(str(files["tls_key_file"]))
    return files


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def connect(p: Proxy, trust: ssl.SSLContext) -> Wire:
    return Wire(*await asyncio.open_connection(LOOPBACK, p.port, ssl=trust))


async def test_tls(pair: dict[str, Path], trust: ssl.SSLContext) -> None:
    gate = Gate(answer(b"hello"), b"")
    async with running(gate, **pair) as (p, a), await connect(p, trust) as wire:
        assert wire.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await wire.send(request())
        assert await wire.body(await wire.head()) == b"hello"
        assert a.requests[0].get(b"x-forwarded-proto") == b"https"


async def test_a_tls_client_that_is_refused_in_the_middle_of_an_upload_gets_the_response(
    pair: dict[str, Path], trust: ssl.SSLContext
) -> None:
    gate = Gate(b"", b"")
    async with running(gate, **pair) as (p, a), await connect(p, trust) as wire:
        await wire.send(request("POST", "/nowhere", "Content-Length: 16777216"))
        await wire.send(bytes(2**24))
        head = await wire.head()
        assert head.status == 404
        assert head.get(b"connection") == b"close"
        await wire.body(head)
        assert a.requests == []


async def test_a_tls_client_that_does_not_listen_holds_no_end(
    pair: dict[str, Path], trust: ssl.SSLContext
) -> None:
    gate = Gate(answer(b"hello"), b"")
    async with asyncio.timeout(10):
        async with running(gate, **pair) as (p, _):
            wire = await connect(p, trust)
            await wire.send(request())
            assert await wire.body(await wire.head()) == b"hello"
            cast("asyncio.Transport", wire.writer.transport).pause_reading()
    wire.writer.transport.abort()


async def test_a_tls_client_that_takes_no_byte_is_left(
    pair: dict[str, Path], trust: ssl.SSLContext
) -> None:
    left = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        try:
            await wire.send(answer(length=2**40))
            while True:
                await wire.send(bytes(2**20))
        except ConnectionError:
            left.set()

    async with (
        archive(handle) as a,
        proxy(settings(a.url, server=pair | {"write_timeout": 0.2})) as p,
    ):
        wire = await connect(p, trust)
        await wire.send(request())
        await left.wait()
        wire.writer.transport.abort()
