"""Connections to an archive: opened, shared, kept, found dead, given up."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import ssl
import threading
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme
import uvloop
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from dicomweb_cors_proxy.upstream.connection import CONNECTION_MAX_AGE_SECONDS, Connection
from dicomweb_cors_proxy.upstream.dialer import Dialer
from dicomweb_cors_proxy.upstream.interface import Endpoint, Timeouts
from dicomweb_cors_proxy.upstream.native import NativeTransport
from dicomweb_cors_proxy.upstream.pool import IDLE_EXPIRY, Pool
from tests.support.servers import free_port, serving, silence
from tests.support.sockets import answer, archive
from tests.support.upstream import (
    CHUNKED,
    Clock,
    PluggedDialer,
    Source,
    ask,
    body_of,
    request,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from tests.support.sockets import Archive, Head, Wire

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

LIMIT = 3


@pytest.fixture
async def transport() -> AsyncIterator[NativeTransport]:
    transport = NativeTransport(max_connections=LIMIT)
    yield transport
    for pool in transport.pools.values():
        assert pool.in_use == 0
    await transport.aclose()


def pool_of(transport: NativeTransport) -> Pool:
    [pool] = transport.pools.values()
    return pool


async def hello(wire: Wire, head: Head) -> None:
    """An archive that reads all and answers all."""
    if {b"content-length", b"transfer-encoding"} & {name.lower() for name, _ in head.headers}:
        await wire.body(head)
    await wire.send(answer(b"" if head.first_line.startswith(b"HEAD") else b"hello", length=5))


@asynccontextmanager
async def rude(greeting: bytes) -> AsyncIterator[str]:
    """Host and port of a server that closes every connection with `greeting`."""

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
        yield "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        await turns(10)


# Opening


class DialledError(OSError):
    """Raised where a connection would be opened."""


@pytest.mark.parametrize(
    ("url", "host", "port", "server_hostname"),
    [
        ("http://archive.example", "archive.example", 80, None),
        ("https://archive.example", "archive.example", 443, "archive.example"),
        ("http://archive.example:8042", "archive.example", 8042, None),
        ("https://[::1]:8443", "::1", 8443, "::1"),
        ("https://b\xfccher.example", "xn--bcher-kva.example", 443, "xn--bcher-kva.example"),
    ],
)
async def test_what_is_dialled(
    url: str, host: str, port: int, server_hostname: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[object] = []

    async def connect(dialer: Dialer, _: float | None) -> socket.socket:
        dialled.extend([dialer.host, dialer.port])
        return socket.socket()

    async def create_connection(_: object, *, sock: socket.socket, **options: object) -> None:
        sock.close()
        dialled.extend([options["server_hostname"], options["ssl"] is not None])
        raise DialledError

    monkeypatch.setattr(Dialer, "connect", connect)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    transport = NativeTransport()
    with pytest.raises(httpx.ConnectError, match="Dialled"):
        await ask(transport, request(url))
    assert dialled == [host, port, server_hostname, url.startswith("https")]
    assert pool_of(transport).in_use == 0


async def test_small_writes_are_not_delayed(transport: NativeTransport) -> None:
    """Nagle's algorithm and delayed acknowledgements would add 40 ms to an upload."""
    async with archive(hello) as upstream:
        await ask(transport, request(upstream.url))
        [connection] = pool_of(transport).idle
        sock = connection._transport.get_extra_info("socket")  # noqa: SLF001
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("lost", ["at once", "later"])
async def test_a_descriptor_is_closed_once(
    authority: trustme.CA, tls: bool, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second close would hit whatever has got the same number since."""
    opened: list[socket.socket] = []
    connect = Dialer.connect
    made = Connection.connection_made

    async def keep(dialer: Dialer, deadline: float | None) -> socket.socket:
        opened.append(await connect(dialer, deadline))
        return opened[-1]

    def lose(connection: Connection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        connection.abort()

    monkeypatch.setattr(Dialer, "connect", keep)
    if lost == "at once":
        monkeypatch.setattr(Connection, "connection_made", lose)
    transport = trusting(authority)
    async with archive(hello, tls=server_context(authority) if tls else None) as upstream:
        with suppress(httpx.HTTPError):
            await ask(transport, request(upstream.url))
        await transport.aclose()
        await until(lambda: opened[0].fileno() == -1)


@pytest.mark.parametrize("tls", [False, True])
async def test_ipv6(authority: trustme.CA, tls: bool) -> None:
    transport = trusting(authority)
    server = server_context(authority, "::1") if tls else None
    async with archive(hello, tls=server, host="::1") as upstream:
        assert (await ask(transport, request(upstream.url))).body == b"hello"
    await transport.aclose()


async def test_origins_share_no_connections(transport: NativeTransport) -> None:
    async with archive(hello) as one, archive(hello) as other:
        for upstream in (one, other, one, other):
            await ask(transport, request(upstream.url))
        assert len(one.connections) == len(other.connections) == 1


async def test_a_refused_connection(transport: NativeTransport) -> None:
    with pytest.raises(httpx.ConnectError):
        await ask(transport, request(f"http://127.0.0.1:{free_port()}", connect=60))


async def test_the_connect_timeout_includes_the_tls_handshake(transport: NativeTransport) -> None:
    with silence() as url, Clock() as clock:
        asking = asyncio.create_task(
            ask(transport, request(url.replace("http:", "https:"), connect=5))
        )
        await until(lambda: 5 in clock.armed)
        await turns(20)
        assert not asking.done()
        await clock.advance(5)
        with pytest.raises(httpx.ConnectTimeout):
            await asking


async def test_a_connect_timeout_of_the_operating_system(
    transport: NativeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sock_connect(*_: object) -> None:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    with pytest.raises(httpx.ConnectTimeout):
        await ask(transport, request("http://127.0.0.1:1"))


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def trusting(*authorities: trustme.CA) -> NativeTransport:
    context = ssl.create_default_context()
    for authority in authorities:
        authority.configure_trust(context)
    return NativeTransport(ssl_context=context)


async def test_tls(authority: trustme.CA) -> None:
    body = random.Random(1).randbytes(3_000_000)

    async def handle(wire: Wire, head: Head) -> None:
        received = await wire.body(head)
        await wire.send(answer(received[::-1]))

    async with archive(handle, tls=server_context(authority)) as upstream:
        transport = trusting(authority)
        chunks = [body[at : at + 70_000] for at in range(0, len(body), 70_000)]
        for _ in range(2):
            source = Source(*chunks, None)
            answered = await ask(transport, request(upstream.url, "POST", CHUNKED, body=source))
            assert answered.body == body[::-1]
        await transport.aclose()


async def test_an_archive_that_closes_behind_its_response(authority: trustme.CA) -> None:
    """As nginx does after keepalive_requests; the response includes what is decrypted later."""
    body = bytes(600_000)

    class Archive(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.connection.shutdown(socket.SHUT_WR)
            closed.set()

        def log_message(self, *_: object) -> None: ...

    closed = threading.Event()
    transport = trusting(authority)
    with serving(Archive, server_context(authority)) as port:
        response = await transport.handle_async_request(request(f"https://127.0.0.1:{port}"))
        await asyncio.to_thread(closed.wait)
        await turns(10)
        stream = body_of(response)
        assert b"".join([data async for data in stream]) == body
        await stream.aclose()
    await transport.aclose()


@pytest.mark.parametrize("trusted", ["another authority", "the system's authorities"])
async def test_an_authority_we_do_not_trust(authority: trustme.CA, trusted: str) -> None:
    transport = trusting(trustme.CA()) if trusted == "another authority" else NativeTransport()
    async with archive(hello, tls=server_context(authority)) as upstream:
        with pytest.raises(httpx.ConnectError) as raised:
            await ask(transport, request(upstream.url))
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)
    assert pool_of(transport).in_use == 0


async def test_a_certificate_of_another_name(authority: trustme.CA) -> None:
    transport = trusting(authority)
    async with archive(hello, tls=server_context(authority, "archive.example")) as upstream:
        with pytest.raises(httpx.ConnectError, match="certificate is not valid for") as raised:
            await ask(transport, request(upstream.url))
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)


@pytest.mark.parametrize("greeting", [b"220 mail.example ESMTP\r\n", b""])
async def test_tls_with_an_archive_that_speaks_none(authority: trustme.CA, greeting: bytes) -> None:
    async with rude(greeting) as host:
        with pytest.raises(httpx.ConnectError, match=r"\w") as raised:
            await ask(trusting(authority), request(f"https://{host}"))
    assert isinstance(raised.value.__cause__, ssl.SSLError if greeting else ConnectionError)


@pytest.mark.parametrize("shown", [True, False])
async def test_a_client_certificate(authority: trustme.CA, shown: bool) -> None:
    server = server_context(authority)
    server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    if shown:
        authority.issue_cert("proxy.example").configure_cert(client)
    transport = NativeTransport(ssl_context=client)
    async with archive(hello, tls=server) as upstream:
        asking = ask(transport, request(upstream.url))
        if shown:
            assert (await asking).body == b"hello"
        else:
            with pytest.raises((httpx.NetworkError, httpx.RemoteProtocolError)):
                await asking
        assert pool_of(transport).in_use == 0
        await transport.aclose()


async def test_a_name_that_ends_with_a_dot(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not to be completed, and is the same to TLS (RFC 6066 §3)."""

    async def connect(dialer: Dialer, _: float | None) -> socket.socket:
        asked.append(dialer.host)
        return socket.socket()

    async def create_connection(_: object, *, sock: socket.socket, **options: object) -> None:
        sock.close()
        asked.append(options["server_hostname"])
        raise OSError

    asked: list[object] = []
    monkeypatch.setattr(Dialer, "connect", connect)
    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create_connection)
    with pytest.raises(httpx.ConnectError):
        await ask(trusting(authority), request("https://archive.example."))
    assert asked == ["archive.example.", "archive.example"]


@pytest.mark.parametrize("length", [b"Content-Length: 5", b"X: until it closes"])
@pytest.mark.parametrize("notified", [True, False])
async def test_the_end_of_tls_without_a_close_notify_is_a_cut(
    authority: trustme.CA, length: bytes, notified: bool
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n%b\r\n\r\nhello" % length)
        if notified:
            wire.writer.close()
        else:
            await turns(5)
            wire.end_without_close_notify()
        await wire.closed()

    transport = trusting(authority)
    async with archive(handle, tls=server_context(authority)) as upstream:
        asking = ask(transport, request(upstream.url))
        if notified or length.startswith(b"Content"):
            assert (await asking).body == b"hello"
        else:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await asking
        await transport.aclose()


async def test_a_reset_under_tls_is_a_read_error(authority: trustme.CA) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        wire.reset()

    transport = trusting(authority)
    async with archive(handle, tls=server_context(authority)) as upstream:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await ask(transport, request(upstream.url))


# Keeping


class Recorder:
    """An archive that notes on which connection each request came."""

    def __init__(self, handle: Callable[[Wire, Head], Awaitable[None]] = hello) -> None:
        self._handle = handle
        self._wires: list[Wire] = []
        self.log: list[tuple[str, int]] = []

    async def __call__(self, wire: Wire, head: Head) -> None:
        if wire not in self._wires:
            self._wires.append(wire)
        method, target, _ = head.first_line.decode().split(" ")
        self.log.append((f"{method} {target[-1]}", self._wires.index(wire)))
        await self._handle(wire, head)


def numbered(
    upstream: Archive, number: int, method: str = "GET", pool: float | None = None
) -> httpx.Request:
    return request(upstream.url, method, target=b"/%d" % number, pool=pool)


async def test_the_last_used_connection_is_used_first(transport: NativeTransport) -> None:
    recorder = Recorder()
    async with archive(recorder) as upstream:
        two = [await transport.handle_async_request(numbered(upstream, n)) for n in (0, 1)]
        for response in two:
            assert await response.aread() == b"hello"
        for number in (2, 3):
            await ask(transport, numbered(upstream, number))
    assert recorder.log == [("GET 0", 0), ("GET 1", 1), ("GET 2", 1), ("GET 3", 1)]


@pytest.mark.parametrize("missing", [0, 1])
async def test_a_response_closed_unread_costs_its_connection_if_bytes_are_missing(
    missing: int, transport: NativeTransport
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", length=5 + missing))

    async with archive(handle) as upstream:
        response = await transport.handle_async_request(request(upstream.url))
        await response.aclose()
        assert len(pool_of(transport).idle) == 1 - missing
        if missing:
            await until(upstream.connections[0].writer.is_closing)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "REPORT"])
async def test_a_write_travels_on_a_connection_of_its_own(
    method: str, transport: NativeTransport
) -> None:
    recorder = Recorder()
    async with archive(recorder) as upstream:
        await ask(transport, numbered(upstream, 0))
        await ask(transport, numbered(upstream, 1, method))
        await ask(transport, numbered(upstream, 2))
    assert recorder.log == [("GET 0", 0), (f"{method} 1", 1), ("GET 2", 1)]


async def test_a_get_with_a_body_travels_on_a_connection_of_its_own(
    transport: NativeTransport,
) -> None:
    recorder = Recorder()
    async with archive(recorder) as upstream:
        await ask(transport, numbered(upstream, 0))
        outgoing = request(upstream.url, "GET", CHUNKED, body=Source(b"x", None), target=b"/1")
        await ask(transport, outgoing)
    assert recorder.log == [("GET 0", 0), ("GET 1", 1)]


async def test_a_new_connection_at_the_limit_costs_the_oldest_idle_one(
    transport: NativeTransport,
) -> None:
    async with archive(hello) as upstream:
        responses = [
            await transport.handle_async_request(numbered(upstream, n)) for n in range(LIMIT)
        ]
        for response in responses:
            await response.aread()
        oldest, *others = pool_of(transport).idle
        await ask(transport, numbered(upstream, 9, "POST"))
        await until(upstream.connections[0].writer.is_closing)
        assert oldest not in pool_of(transport).idle
        assert [*pool_of(transport).idle][:-1] == others


@pytest.mark.parametrize("how", ["closes", "resets", "speaks"])
async def test_what_an_idle_connection_does_ends_it(how: str, transport: NativeTransport) -> None:
    async with archive(hello) as upstream:
        await ask(transport, numbered(upstream, 0))
        [wire] = upstream.connections
        if how == "closes":
            wire.writer.close()
        elif how == "resets":
            wire.reset()
        else:
            wire.writer.write(answer(b"forged"))
        await until(lambda: not pool_of(transport).idle)
        assert (await ask(transport, numbered(upstream, 1))).body == b"hello"
    assert len(upstream.requests) == len(upstream.connections) == 2


def once(then: Callable[[Wire], Awaitable[None]]) -> Callable[[Wire, Head], Awaitable[None]]:
    """Answer the first request of a connection, and `then` the second."""
    greeted: set[Wire] = set()

    async def handle(wire: Wire, head: Head) -> None:
        if wire in greeted:
            await then(wire)
        else:
            greeted.add(wire)
            await hello(wire, head)

    return handle


async def close(wire: Wire) -> None:
    wire.writer.close()


async def reset(wire: Wire) -> None:
    wire.reset()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("how", [close, reset])
async def test_a_stale_connection_is_replaced_once(
    how: Callable[[Wire], Awaitable[None]], method: str, transport: NativeTransport
) -> None:
    recorder = Recorder(once(how))
    async with archive(recorder) as upstream:
        for number, each in enumerate(("GET", method)):
            assert (await ask(transport, numbered(upstream, number, each))).status == 200
    assert recorder.log == [("GET 0", 0), (f"{method} 1", 0), (f"{method} 1", 1)]


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", b"200 OK"), ("GET", b"204 No Content"), ("GET", b"304 Not Modified")],
)
@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
async def test_what_comes_late_is_no_other_requests_response(
    method: str, status: bytes, framing: bytes, transport: NativeTransport
) -> None:
    """Some archives send the body that such a response announces, and not in one go."""

    async def handle(wire: Wire, head: Head) -> None:
        if b" /0 " in head.first_line:
            await wire.send(b"HTTP/1.1 %b\r\n%b\r\n\r\n" % (status, framing))
            await wire.head()  # of the next request, if it comes here
            await wire.send(answer(b"forged"))
        else:
            await hello(wire, head)

    async with archive(handle) as upstream:
        await ask(transport, numbered(upstream, 0, method))
        assert (await ask(transport, numbered(upstream, 1))).body == b"hello"


async def test_a_stale_connection_is_replaced_only_once(transport: NativeTransport) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        if len(upstream.requests) > 1:
            wire.writer.close()
        else:
            await hello(wire, head)

    async with archive(handle) as upstream:
        await ask(transport, request(upstream.url))
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(transport, request(upstream.url))
    assert (len(upstream.requests), len(upstream.connections)) == (3, 2)


async def test_a_stale_connection_is_not_replaced_after_a_byte(transport: NativeTransport) -> None:
    async def say_h(wire: Wire) -> None:
        await wire.send(b"H")
        wire.writer.close()

    async with archive(once(say_h)) as upstream:
        await ask(transport, request(upstream.url))
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(transport, request(upstream.url))
    assert len(upstream.requests) == 2


async def test_a_timeout_is_not_repeated(transport: NativeTransport) -> None:
    async def hang(wire: Wire) -> None:
        await wire.closed()

    async with archive(once(hang)) as upstream:
        await ask(transport, request(upstream.url))
        with Clock() as clock:
            asking = asyncio.create_task(ask(transport, request(upstream.url, read=60)))
            await until(lambda: clock.armed == [60])
            await clock.advance(60)
            with pytest.raises(httpx.ReadTimeout):
                await asking
    assert len(upstream.requests) == 2


async def test_a_write_is_never_repeated(transport: NativeTransport) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        if head.first_line.startswith(b"POST"):
            await wire.body(head)
            wire.writer.close()
        else:
            await hello(wire, head)

    async with archive(handle) as upstream:
        await ask(transport, request(upstream.url))
        body = Source(b"x", None)
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(transport, request(upstream.url, "POST", CHUNKED, body=body))
    assert len(upstream.requests) == 2


async def test_a_connection_that_dies_as_it_is_taken_is_replaced(
    transport: NativeTransport,
) -> None:
    async with archive(hello) as upstream:
        await ask(transport, request(upstream.url))
        [connection] = pool_of(transport).idle
        connection.abort()  # and nobody has been told yet
        assert (await ask(transport, request(upstream.url))).body == b"hello"
    assert len(upstream.requests) == 2


async def test_a_new_connection_that_is_dead_at_once_is_an_error(
    transport: NativeTransport,
) -> None:
    async with rude(b"") as host:
        with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
            await ask(transport, request(f"http://{host}"))


async def test_a_replacement_does_not_queue_again() -> None:
    transport = NativeTransport(max_connections=1)
    proceed = asyncio.Event()

    async def close_later(wire: Wire) -> None:
        await proceed.wait()
        wire.writer.close()

    recorder = Recorder(once(close_later))
    async with archive(recorder) as upstream:
        await ask(transport, numbered(upstream, 0))
        asking = [asyncio.create_task(ask(transport, numbered(upstream, n))) for n in (1, 2)]
        await until(lambda: len(recorder.log) == 2)
        proceed.set()
        await asyncio.gather(*asking)
        assert [what for what, _ in recorder.log][:3] == ["GET 0", "GET 1", "GET 1"]
        assert pool_of(transport).in_use == 0
        await transport.aclose()


async def test_a_replacement_that_cannot_be_opened_gives_its_slot_back(
    transport: NativeTransport,
) -> None:
    async with archive(once(close)) as upstream:
        await ask(transport, request(upstream.url))
        with pytest.MonkeyPatch.context() as patch:

            async def sock_connect(*_: object) -> None:
                raise ConnectionRefusedError

            patch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
            with pytest.raises(httpx.ConnectError, match="Refused"):
                await ask(transport, request(upstream.url))


# Expiry and closing


async def test_an_idle_connection_expires(transport: NativeTransport) -> None:
    with Clock() as clock:
        async with archive(hello) as upstream:
            two = [await transport.handle_async_request(numbered(upstream, n)) for n in (0, 1)]
            await two[0].aread()
            await clock.advance(10)
            await two[1].aread()
            old, young = pool_of(transport).idle
            await clock.advance(IDLE_EXPIRY - 11)
            assert [*pool_of(transport).idle] == [old, young]
            await clock.advance(1)
            assert [*pool_of(transport).idle] == [young]
            assert clock.armed == [10]
            await until(upstream.connections[0].writer.is_closing)
            await ask(transport, numbered(upstream, 2))  # starts anew
            await clock.advance(IDLE_EXPIRY - 1)
            assert [*pool_of(transport).idle] == [young]
            await clock.advance(1)
            await until(upstream.connections[1].writer.is_closing)
            assert (len(pool_of(transport).idle), clock.armed) == (0, [])
            await ask(transport, numbered(upstream, 3))
            assert clock.armed == [IDLE_EXPIRY]
            assert len(upstream.connections) == 3


@pytest.mark.parametrize("at_the_end", ["busy", "idle"])
async def test_a_connection_of_maximum_age_serves_no_further_request(
    at_the_end: str, transport: NativeTransport
) -> None:
    """It would lead to a server that the name no longer stands for."""
    recorder = Recorder()
    with Clock() as clock:
        async with archive(recorder) as upstream:
            for number in range(3):
                await ask(transport, numbered(upstream, number))
                await clock.advance(IDLE_EXPIRY - 5)
            await ask(transport, numbered(upstream, 3))
            assert recorder.log[-2:] == [("GET 2", 0), ("GET 3", 1)]

            await clock.advance(CONNECTION_MAX_AGE_SECONDS - IDLE_EXPIRY - 1)
            response = await transport.handle_async_request(numbered(upstream, 4))
            if at_the_end == "busy":
                await clock.advance(IDLE_EXPIRY + 1)
            assert await response.aread() == b"hello"
            await response.aclose()
            assert len(pool_of(transport).idle) == (at_the_end == "idle")
            await clock.advance(IDLE_EXPIRY - 5)
            await ask(transport, numbered(upstream, 5))
            assert recorder.log[-2:] == [("GET 4", 1), ("GET 5", 2 if at_the_end == "busy" else 1)]


async def test_closing(transport: NativeTransport) -> None:
    async with archive(hello) as upstream:
        with Clock() as clock:
            idle, busy = [
                await transport.handle_async_request(numbered(upstream, n)) for n in (0, 1)
            ]
            await idle.aread()
            await transport.aclose()
            assert clock.armed == []
            await until(upstream.connections[0].writer.is_closing)
            assert await busy.aread() == b"hello"
            await until(upstream.connections[1].writer.is_closing)
            assert (len(pool_of(transport).idle), clock.armed) == (0, [])


async def test_a_request_that_comes_after_the_end_is_answered_and_holds_nothing(
    transport: NativeTransport,
) -> None:
    async with archive(hello) as upstream:
        await transport.aclose()
        assert (await ask(transport, numbered(upstream, 0))).body == b"hello"
        assert transport.connections() == {"active": 0, "idle": 0, "waiting": 0}
        await until(upstream.connections[0].writer.is_closing)


# Sharing


async def test_the_limit_is_kept(transport: NativeTransport) -> None:
    busy = most = 0

    async def handle(wire: Wire, head: Head) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await turns(10)
        busy -= 1
        await hello(wire, head)

    async with archive(handle) as upstream:
        methods = ["GET", "POST"] * 15
        answers = await asyncio.gather(
            *(ask(transport, request(upstream.url, method)) for method in methods)
        )
    assert {answered.body for answered in answers} == {b"hello"}
    assert most == LIMIT


async def test_who_waits_longest_is_next() -> None:
    transport = NativeTransport(max_connections=1)
    recorder = Recorder()
    async with archive(recorder) as upstream:
        holding = await transport.handle_async_request(numbered(upstream, 0))
        asking = [asyncio.create_task(ask(transport, numbered(upstream, n))) for n in range(1, 6)]
        await turns(3)
        asking[1].cancel()
        await turns(3)
        assert transport.connections()["waiting"] == 4
        await holding.aread()
        await asyncio.gather(*asking, return_exceptions=True)
        assert recorder.log == [(f"GET {number}", 0) for number in (0, 1, 3, 4, 5)]
        await transport.aclose()


async def test_the_pool_timeout(transport: NativeTransport) -> None:
    async with archive(hello) as upstream:
        holding = [
            await transport.handle_async_request(numbered(upstream, n)) for n in range(LIMIT)
        ]
        with Clock() as clock:
            waiting = [
                asyncio.create_task(ask(transport, numbered(upstream, 9, pool=pool)))
                for pool in (10, 20)
            ]
            await until(lambda: clock.armed == [10, 20])
            await clock.advance(10)
            with pytest.raises(httpx.PoolTimeout, match="3 connections stayed busy for 10 s"):
                await waiting[0]
            await holding.pop().aread()
            assert (await waiting[1]).body == b"hello"
            assert clock.armed == [IDLE_EXPIRY]
        for response in holding:
            await response.aread()
        assert (pool_of(transport).in_use, len(pool_of(transport).idle)) == (0, LIMIT)


async def test_connections_are_counted(transport: NativeTransport) -> None:
    async with archive(hello) as one, archive(hello) as other:
        assert transport.connections() == {"active": 0, "idle": 0, "waiting": 0}
        await ask(transport, request(other.url))
        holding = [await transport.handle_async_request(numbered(one, n)) for n in range(LIMIT)]
        waiting = asyncio.create_task(ask(transport, numbered(one, 9)))
        await turns(3)
        assert transport.connections() == {"active": LIMIT, "idle": 1, "waiting": 1}
        for response in holding:
            await response.aread()
        await waiting
        assert transport.connections() == {"active": 0, "idle": LIMIT + 1, "waiting": 0}


@pytest.mark.parametrize("stopped", ["cancelled", "timed out"])
async def test_a_slot_given_to_one_that_stops_goes_to_the_next(stopped: str) -> None:
    transport = NativeTransport(max_connections=1)
    async with archive(hello) as upstream:
        with Clock() as clock:
            holding = await transport.handle_async_request(numbered(upstream, 0))
            first, second = (
                asyncio.create_task(ask(transport, numbered(upstream, n, pool=10 * n)))
                for n in (1, 2)
            )
            await until(lambda: clock.armed == [10, 20])
            await holding.aclose()  # the slot is the first's, who has not run yet
            if stopped == "cancelled":
                first.cancel()
            else:
                await clock.advance(10)
            with pytest.raises((asyncio.CancelledError, httpx.PoolTimeout)):
                await first
            assert (await second).body == b"hello"
        assert pool_of(transport).in_use == 0
        await transport.aclose()


async def test_a_slot_whose_connection_failed_goes_to_the_next() -> None:
    transport = NativeTransport(max_connections=1)
    url = f"http://127.0.0.1:{free_port()}"
    outcomes = await asyncio.gather(
        *(ask(transport, request(url, pool=60)) for _ in range(5)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [httpx.ConnectError] * 5
    assert pool_of(transport).in_use == 0


# Cancellation


async def drip(wire: Wire, head: Head) -> None:
    """Read and answer in small steps, so that there is much to be cancelled in."""
    if head.get(b"transfer-encoding"):
        while await wire.chunk():
            await turns(1)
    await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(3):
        await turns(1)
        await wire.send(b"5\r\nhello\r\n")
    await wire.send(b"0\r\n\r\n")


async def trickle(transport: NativeTransport, upstream: Archive) -> None:
    class Drops(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(3):
                await turns(2)
                yield b"x" * 100_000

    await ask(transport, request(upstream.url, "POST", CHUNKED, body=Drops()))


async def fetch(transport: NativeTransport, upstream: Archive) -> None:
    await ask(transport, request(upstream.url))


@pytest.mark.parametrize("exchange", [fetch, trickle])
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_cancellation_at_every_turn(
    exchange: Callable[[NativeTransport, Archive], Coroutine[Any, Any, None]],
    queued: bool,
    tls: bool,
    authority: trustme.CA,
) -> None:
    client = ssl.create_default_context()
    authority.configure_trust(client)
    transport = NativeTransport(max_connections=1, ssl_context=client)
    server = server_context(authority) if tls else None
    async with archive(drip, tls=server) as upstream:
        await ask(transport, request(upstream.url))
        tasks = len(asyncio.all_tasks())
        turn = 0
        finished = False
        while not finished:
            ahead = asyncio.create_task(fetch(transport, upstream)) if queued else None
            cancelled = asyncio.create_task(exchange(transport, upstream))
            await turns(turn)
            finished = cancelled.done()
            cancelled.cancel()
            with suppress(asyncio.CancelledError):
                await cancelled
            if ahead:
                await ahead
            assert pool_of(transport).in_use == 0
            turn += 1
        assert turn > 5
        await ask(transport, request(upstream.url))
        await transport.aclose()
        await until(lambda: len(asyncio.all_tasks()) <= tasks)


def alive() -> int:
    """Connections that something still holds, an event loop's timer for one."""
    gc.collect()
    return sum(isinstance(held, Connection) for held in gc.get_objects())


async def test_a_cancelled_handshake_holds_nothing(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    held = alive()
    transport = trusting(authority)
    async with archive(hello, tls=server_context(authority)) as upstream:
        tasks = len(asyncio.all_tasks())
        for turn in range(20):
            asking = asyncio.create_task(ask(transport, request(upstream.url)))
            await turns(turn)
            asking.cancel()
            await asyncio.wait([asking])
            await transport.aclose()
            await until(lambda: len(asyncio.all_tasks()) <= tasks)
            del asking  # its exception holds the frames, and so the connection
    await turns(5)
    assert alive() <= held
    assert caplog.text == ""


async def test_200_cancels_on_a_pool_of_3(transport: NativeTransport) -> None:
    chance = random.Random(7)
    async with archive(drip) as upstream:
        await ask(transport, request(upstream.url))
        running: list[asyncio.Task[None]] = []
        cancelled: list[asyncio.Task[None]] = []
        for _ in range(200):
            exchange = chance.choice([fetch, trickle])
            running.append(asyncio.create_task(exchange(transport, upstream)))
            await turns(chance.randrange(8))
            cancelled.append(running.pop(chance.randrange(len(running))))
            cancelled[-1].cancel()
        await asyncio.gather(*cancelled, *running, return_exceptions=True)
        pool = pool_of(transport)
        assert pool.in_use == 0
        assert len(pool.idle) <= LIMIT

        three = [await transport.handle_async_request(request(upstream.url)) for _ in range(3)]
        assert pool.in_use == LIMIT
        for response in three:
            assert await response.aread() == b"hello" * 3
            await response.aclose()
        assert pool.in_use == 0


# A model


class Wired(asyncio.Transport):
    """An open connection, without a socket."""

    def __init__(self, world: PoolMachine, protocol: Connection) -> None:
        gone = socket.socket()
        gone.close()
        super().__init__({"socket": gone})
        self._world = world
        self.protocol = protocol
        self._closing = False
        world.open.append(self)
        protocol.connection_made(self)

    def write(self, data: object) -> None: ...

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._world.open.remove(self)
            self._world.loop.call_soon(self.protocol.connection_lost, exc)


class PoolMachine(RuleBasedStateMachine):
    """What may happen to a pool, in any order, with or without a turn of the loop in between."""

    @initialize(limit=st.integers(1, 3), warm=st.booleans())
    def start(self, limit: int, warm: bool) -> None:
        self.limit = limit
        self.loop = asyncio.new_event_loop()
        self.loop.create_connection = self.connect  # type: ignore[assignment,method-assign]
        self.asking: list[asyncio.Task[Connection]] = []  # in the order in which they came
        self.dialling: dict[asyncio.Task[Any], asyncio.Future[None]] = {}
        self.fate = "connects"
        self.held: list[Connection] = []
        self.open: list[Wired] = []
        self.clock = Clock()

        async def make() -> Pool:
            self.clock.__enter__()
            origin = Endpoint("http", "archive", 80)
            return Pool(origin, limit, None, 65536, PluggedDialer())

        self.pool = self.loop.run_until_complete(make())
        if warm:
            self.acquire(limit, fresh=False, timeout=None, fate="connects", settles=True)
            self.finish()

    async def connect(
        self, factory: Callable[[], Connection], *_: object, **__: object
    ) -> tuple[Wired, Connection]:
        task = asyncio.current_task()
        assert task is not None
        if self.fate == "refuses":
            raise ConnectionRefusedError
        if self.fate == "hangs":
            self.dialling[task] = self.loop.create_future()
            try:
                await self.dialling[task]
            finally:
                del self.dialling[task]
        wired = Wired(self, factory())
        return wired, wired.protocol

    @rule(
        count=st.integers(1, 3),
        fresh=st.booleans(),
        timeout=st.sampled_from([None, 10]),
        fate=st.sampled_from(["connects", "connects", "connects", "hangs", "refuses"]),
        settles=st.booleans(),
    )
    def acquire(
        self, count: int, fresh: bool, timeout: float | None, fate: str, settles: bool
    ) -> None:
        self.fate = fate
        for _ in range(count):
            acquiring = self.pool.acquire(Timeouts(None, None, timeout), fresh=fresh)
            self.asking.append(self.loop.create_task(acquiring))
        if settles:
            self.settle()

    @precondition(lambda self: self.dialling)
    @rule(data=st.data(), refused=st.booleans())
    def pick_up(self, data: st.DataObject, refused: bool) -> None:
        dialled = data.draw(st.sampled_from([*self.dialling.values()]))
        if dialled.done():
            return
        if refused:
            dialled.set_exception(ConnectionRefusedError())
        else:
            dialled.set_result(None)

    @precondition(lambda self: self.asking)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.asking)).cancel()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), whole=st.booleans(), settles=st.booleans())
    def release(self, data: st.DataObject, whole: bool, settles: bool) -> None:
        connection = self.give_up(data)
        if whole:
            connection.data_received(answer(b"hello"))
        alive = any(wired.protocol is connection for wired in self.open)
        young = self.clock.now < connection.expires_at
        self.pool.release(connection)
        assert (connection in self.pool.idle) == (whole and alive and young)
        if settles:
            self.settle()

    @precondition(lambda self: self.held)
    @rule()
    def finish(self) -> None:
        for connection in self.held:
            connection.data_received(answer(b"hello"))
            self.pool.release(connection)
        self.held.clear()
        self.settle()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        replacing = self.pool.replace(self.give_up(data), Timeouts(None, None, None))
        self.asking.insert(0, self.loop.create_task(replacing))
        self.settle()

    def give_up(self, data: st.DataObject) -> Connection:
        return self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), how=st.sampled_from(["reset", "eof", "speak"]))
    def die(self, data: st.DataObject, how: str) -> None:
        wired = data.draw(st.sampled_from(self.open))
        if how == "eof":
            wired.protocol.eof_received()
            assert wired.protocol not in self.pool.idle
        elif how == "speak" and wired.protocol in self.pool.idle:
            wired.protocol.data_received(answer(b"unasked"))
        wired.lose(ConnectionResetError() if how == "reset" else None)

    @rule(seconds=st.sampled_from([0, 5, IDLE_EXPIRY - 5, IDLE_EXPIRY]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(self.clock.advance(seconds))
        self.settle()

    def settle(self) -> None:
        self.loop.run_until_complete(turns(5 + 5 * len(self.asking)))
        for task in [task for task in self.asking if task.done()]:
            self.asking.remove(task)
            if not task.cancelled() and task.exception() is None:
                connection = task.result()
                assert connection not in self.held
                connection.begin(b"GET", b"", None, None, None)
                self.held.append(connection)
        self.check_slots()
        self.check_connections()

    def check_slots(self) -> None:
        served = [task for task in self.asking if task in self.dialling]
        assert self.pool.in_use == len(self.held) + len(served) <= self.limit
        assert served == self.asking or self.pool.in_use == self.limit
        assert served == self.asking[: len(served)]  # who waits came after who is served

    def check_connections(self) -> None:
        idle = set(self.pool.idle)
        assert not idle & set(self.held)
        assert idle <= {wired.protocol for wired in self.open} <= idle | set(self.held)
        assert len(self.open) + len(self.dialling) <= self.limit
        assert not idle or min(self.clock.armed) <= IDLE_EXPIRY

    def teardown(self) -> None:
        try:
            self.settle()
            for task in self.asking:
                task.cancel()
            for connection in self.held:
                self.pool.release(connection)
            self.held.clear()
            self.pool.close()
            self.settle()
            assert (self.pool.in_use, self.open, self.clock.armed) == (0, [], [])
        finally:
            self.loop.close()


TestPool = PoolMachine.TestCase
TestPool.settings = settings(stateful_step_count=50)
