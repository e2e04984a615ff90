"""The server's side of HTTP/1.1, over real sockets, in uvloop as `serve` and in asyncio's own."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import ssl
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import httpx
import pytest
import pytest_asyncio
import trustme
import uvloop

from dicomweb_cors_proxy.http.replies import ResponseAborted
from dicomweb_cors_proxy.server import connection as server_connection
from dicomweb_cors_proxy.server import exchange, socket_state, watchdogs
from dicomweb_cors_proxy.server.listening import bind
from tests.support.sockets import (
    ORIGIN,
    Archive,
    Head,
    Proxy,
    Wire,
    answer,
    archive,
    create_server,
    proxy,
    request,
    settings,
)
from tests.support.upstream import Clock, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from starlette.types import Message, Receive, Scope, Send

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}

pytestmark = pytest.mark.asyncio(loop_scope="module")

READ_WRITE = {"mode": "read-write"}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
MIB = 2**20


class Front(NamedTuple):
    """A proxy, and the archive behind it."""

    proxy: Proxy
    archive: Archive


async def echo(wire: Wire, head: Head) -> None:
    """Answer with the request's body."""
    has_body = head.get(b"transfer-encoding") or head.get(b"content-length")
    await wire.send(answer(await wire.body(head) if has_body else b"hello"))


@asynccontextmanager
async def standing(**server: object) -> AsyncIterator[Front]:
    async with archive(echo) as a, proxy(settings(a.url, access=READ_WRITE, server=server)) as p:
        yield Front(p, a)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everyday() -> AsyncIterator[Front]:
    async with standing() as standing_front:
        yield standing_front


LIMITS = {"max_headers": 6, "max_header_bytes": 300, "max_target_bytes": 100}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow() -> AsyncIterator[Front]:
    async with standing(**LIMITS) as standing_front:
        yield standing_front


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient() -> AsyncIterator[Front]:
    async with standing(header_timeout=0.2, keepalive_timeout=0.2) as standing_front:
        yield standing_front


@pytest.fixture
def front(everyday: Front) -> Front:
    """One that many tests share; the archive's requests are the test's own."""
    everyday.archive.requests.clear()
    return everyday


def lines(*each: bytes) -> bytes:
    return b"\r\n".join([*each, b"", b""])


def chunks(*each: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in each)


async def told(wire: Wire, head: Head) -> str:
    """The detail of a refusal, which is checked to be one that a page can read."""
    assert head.get(b"content-type") == b"application/problem+json"
    problem = json.loads(await wire.body(head))
    assert problem["status"] == head.status
    return str(problem["detail"])


# Heads that are refused

TARGET = b"GET /dicom-web/studies HTTP/1.1"
HOST = b"Host: proxy.example"
FROM_VIEWER = b"Origin: " + ORIGIN

MALFORMED = {
    "a bare LF": lines(TARGET, FROM_VIEWER, HOST, b"A: b\nC: d"),
    "a folded line": lines(TARGET, FROM_VIEWER, HOST, b"A: b", b" c"),
    "NUL in a value": lines(TARGET, FROM_VIEWER, HOST, b"A: b\0"),
    "CR in a value": lines(TARGET, FROM_VIEWER, HOST, b"A: b\rc"),
    "a control character in a value": lines(TARGET, FROM_VIEWER, HOST, b"A: \x01"),
    "a space before the colon": lines(TARGET, FROM_VIEWER, HOST, b"A : b"),
    "no name": lines(TARGET, FROM_VIEWER, HOST, b": b"),
    "no colon": lines(TARGET, FROM_VIEWER, HOST, b"A"),
    "a space first": lines(TARGET, FROM_VIEWER, HOST, b" A: b"),
    "length and chunks": lines(
        TARGET, FROM_VIEWER, HOST, b"Content-Length: 1", b"Transfer-Encoding: chunked"
    ),
    "chunks and length": lines(
        TARGET, FROM_VIEWER, HOST, b"Transfer-Encoding: chunked", b"Content-Length: 1"
    ),
    "two lengths": lines(TARGET, FROM_VIEWER, HOST, b"Content-Length: 1", b"Content-Length: 1"),
    "a list of lengths": lines(TARGET, FROM_VIEWER, HOST, b"Content-Length: 1, 1"),
    "a signed length": lines(TARGET, FROM_VIEWER, HOST, b"Content-Length: +1"),
    "a negative length": lines(TARGET, FROM_VIEWER, HOST, b"Content-Length: -1"),
    "an empty length": lines(TARGET, FROM_VIEWER, HOST, b"Content-Length:"),
    "a length past 2**64": lines(
        TARGET, FROM_VIEWER, HOST, b"Content-Length: 99999999999999999999"
    ),
    "an unknown coding": lines(TARGET, FROM_VIEWER, HOST, b"Transfer-Encoding: gzip"),
    "a coding before chunked": lines(
        TARGET, FROM_VIEWER, HOST, b"Transfer-Encoding: gzip, chunked"
    ),
    "a coding in a line of its own": lines(
        TARGET, FROM_VIEWER, HOST, b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"
    ),
    "a coding after chunked": lines(TARGET, FROM_VIEWER, HOST, b"Transfer-Encoding: chunked, gzip"),
    "chunked twice": lines(TARGET, FROM_VIEWER, HOST, b"Transfer-Encoding: chunked, chunked"),
    "chunks in HTTP/1.0": lines(
        TARGET[:-1] + b"0", FROM_VIEWER, HOST, b"Transfer-Encoding: chunked"
    ),
    "HTTP/0.9 with a head": lines(b"GET /dicom-web/studies", FROM_VIEWER, HOST),
    "HTTP/2.0": lines(b"GET /dicom-web/studies HTTP/2.0", FROM_VIEWER, HOST),
    "HTTP/1.2": lines(b"GET /dicom-web/studies HTTP/1.2", FROM_VIEWER, HOST),
    "a space in the target": lines(b"GET /dicom-web/stu dies HTTP/1.1", FROM_VIEWER, HOST),
    "a control character in the target": lines(b"GET /\x01 HTTP/1.1", FROM_VIEWER, HOST),
    "a byte in the target that is not ASCII": lines(b"GET /\xe9 HTTP/1.1", FROM_VIEWER, HOST),
    "a target without a slash": lines(b"GET studies HTTP/1.1", FROM_VIEWER, HOST),
    "no target": lines(b"GET HTTP/1.1", FROM_VIEWER, HOST),
    "an endless method": lines(b"M" * 100 + b" /dicom-web/studies HTTP/1.1", FROM_VIEWER, HOST),
    "nothing behind Origin": lines(TARGET, HOST, FROM_VIEWER, b"A : b"),
    "Origin behind it": lines(TARGET, b"A : b", HOST, FROM_VIEWER),
    "empty lines in front": b"\r\n\r\n" + lines(TARGET, b"A : b", FROM_VIEWER),
}

# Nothing is known of these but that they are none.
ILLEGIBLE = {
    "HTTP/2's preface behind a space": b" PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "bare LFs": TARGET + b"\n" + HOST + b"\n\n",
    "two Origins": lines(TARGET, b"A : b", FROM_VIEWER, FROM_VIEWER),
}


@pytest.mark.parametrize(
    ("raw", "origin"),
    [pytest.param(raw, ORIGIN, id=name) for name, raw in MALFORMED.items()]
    + [pytest.param(raw, None, id=name) for name, raw in ILLEGIBLE.items()],
)
async def test_a_malformed_head_is_a_400(front: Front, raw: bytes, origin: bytes | None) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(raw)
        head = await wire.head()
        assert head.status == 400
        assert head.get(b"access-control-allow-origin") == origin
        assert head.get(b"connection") == b"close"
        await told(wire, head)
        assert await wire.closed()
    assert front.archive.requests == []


WRONG = {
    "no Host": lines(TARGET, FROM_VIEWER),
    "two Hosts": lines(TARGET, FROM_VIEWER, HOST, HOST),
    "a malformed Host": lines(TARGET, FROM_VIEWER, b"Host: a b"),
    "OPTIONS *": lines(b"OPTIONS * HTTP/1.1", FROM_VIEWER, HOST),
    "another host in the target": lines(
        b"GET http://other.example/dicom-web/studies HTTP/1.1", FROM_VIEWER, HOST
    ),
}


@pytest.mark.parametrize("raw", WRONG.values(), ids=WRONG)
async def test_a_head_that_can_be_read_costs_no_connection(front: Front, raw: bytes) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(raw, request())
        head = await wire.head()
        assert head.status == 400
        assert head.get(b"access-control-allow-origin") == ORIGIN
        await told(wire, head)
        assert await wire.body(await wire.head()) == b"hello"
    assert len(front.archive.requests) == 1


async def test_a_malformed_head_of_an_operational_endpoint_is_refused_too(front: Front) -> None:
    head, _ = await front.proxy.ask(lines(b"GET /healthz HTTP/1.1", HOST, b"A: b", b" c"))
    assert head.status == 400


def head_of(size: int, *, headers: int, target: int, origin_last: bool) -> bytes:
    """A head with so many bytes and lines, and so long a target."""
    path = b"/dicom-web/studies?".ljust(target, b"x")
    fields = [HOST, FROM_VIEWER][:: -1 if not origin_last else 1]
    fields[1:1] = [b"X-%d: y" % number for number in range(headers - 3)]
    padding = size - sum(len(field) + 2 for field in fields) - len(b"X-Pad: \r\n")
    fields.insert(1, b"X-Pad: " + b"z" * padding)
    return lines(b"GET " + path + b" HTTP/1.1", *fields)


@pytest.mark.parametrize("origin_last", [False, True], ids=["origin first", "origin last"])
@pytest.mark.parametrize(
    ("over", "status", "setting"),
    [
        ({}, 200, None),
        ({"size": 1}, 431, "server.max_header_bytes"),
        ({"headers": 1}, 431, "server.max_headers"),
        ({"target": 1}, 414, "server.max_target_bytes"),
        ({"size": 1000}, 431, "server.max_header_bytes"),
        ({"headers": 10}, 431, "server.max_headers"),
        ({"target": 1000}, 414, "server.max_target_bytes"),
        ({"size": 1, "headers": 1, "target": 1}, 414, "server.max_target_bytes"),
    ],
)
async def test_limits_of_a_head(
    narrow: Front, over: dict[str, int], status: int, setting: str | None, *, origin_last: bool
) -> None:
    narrow.archive.requests.clear()
    raw = head_of(
        300 + over.get("size", 0),
        headers=6 + over.get("headers", 0),
        target=100 + over.get("target", 0),
        origin_last=origin_last,
    )
    async with await narrow.proxy.connect() as wire:
        await wire.send(raw)
        head = await wire.head()
        assert head.status == status
        assert head.get(b"access-control-allow-origin") == ORIGIN
        if setting:
            assert setting in await told(wire, head)
            assert await wire.closed()
    assert len(narrow.archive.requests) == (status == 200)


@pytest.mark.parametrize("origin", [True, False])
async def test_an_endless_head_is_not_read_to_its_end(narrow: Front, *, origin: bool) -> None:
    async with await narrow.proxy.connect() as wire:
        await wire.send(lines(TARGET, HOST, *[FROM_VIEWER] * origin)[:-2])
        with suppress(ConnectionError):
            for number in range(10_000):
                await wire.send(b"X-%d: y\r\n" % number)
        head = await wire.head()
        assert head.status == 431
        assert head.get(b"access-control-allow-origin") == (ORIGIN if origin else None)
        assert "server.max_headers" in await told(wire, head)
        assert await wire.closed()


@pytest.mark.parametrize(
    "method", ["TRACE", "TRACK", "PATCH", "PROPFIND", "QUERY", "get", "GETS", "!"]
)
async def test_a_method_that_the_resource_does_not_know_is_a_405(front: Front, method: str) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(request(method, body=b"body") + request())
        head = await wire.head()
        assert head.status == 405
        assert head.get(b"allow") == b"GET, HEAD, POST, PUT, OPTIONS"
        assert head.get(b"access-control-allow-origin") == ORIGIN
        await told(wire, head)
        assert await wire.body(await wire.head()) == b"hello"
    assert len(front.archive.requests) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 7])
async def test_an_unknown_method_is_a_405_however_it_arrives(front: Front, size: int) -> None:
    asked = request("BREW", "/dicom-web/studies")
    async with await front.proxy.connect() as wire:
        for at in range(0, 3 * size, size):
            await wire.send(asked[at : at + size])
            await front.proxy.ask(request("GET", "/healthz"))  # it arrives alone
        await wire.send(asked[3 * size :] + asked + request())
        for _ in range(2):
            head = await wire.head()
            assert head.status == 405
            await told(wire, head)
        assert await wire.body(await wire.head()) == b"hello"


@pytest.mark.parametrize("method", ["PATCH", "FOO"])
async def test_a_malformed_head_of_any_method_has_cors(front: Front, method: str) -> None:
    raw = request(method, "/dicom-web/studies")[:-2] + b"bad header\r\n\r\n"
    head, _ = await front.proxy.ask(raw)
    assert (head.status, head.get(b"access-control-allow-origin")) == (400, ORIGIN)


async def test_connect_is_a_405(front: Front) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(request("CONNECT", "archive.example:443") + b"the tunnel")
        head = await wire.head()
        assert head.status == 405
        assert head.get(b"access-control-allow-origin") == ORIGIN
        assert head.get(b"allow")
        await told(wire, head)
        assert await wire.closed()
    assert front.archive.requests == []


async def test_absolute_form(front: Front) -> None:
    target = "http://proxy.example/dicom-web/studies?PatientID=1"
    head, body = await front.proxy.ask(request("GET", target))
    assert (head.status, body) == (200, b"hello")
    (asked,) = front.archive.requests
    assert asked.first_line == b"GET /pacs/studies?PatientID=1 HTTP/1.1"


async def test_whitespace_around_a_value_is_no_part_of_it(front: Front) -> None:
    head, _ = await front.proxy.ask(
        lines(TARGET, HOST, b"Origin: \t " + ORIGIN + b" \t", b"A:  b  ")
    )
    assert head.get(b"access-control-allow-origin") == ORIGIN
    (asked,) = front.archive.requests
    assert asked.get(b"a") == b"b"


# Framing


async def test_an_upload_in_chunks_with_trailers(front: Front) -> None:
    upload = request("POST", "/dicom-web/studies", "Transfer-Encoding: chunked")
    async with await front.proxy.connect() as wire:
        await wire.send(
            upload + chunks(b"first", b"last") + b"0;ext=1\r\nX-Trailer: a\r\nX-Other: b\r\n\r\n",
            request(),
        )
        assert await wire.body(await wire.head()) == b"firstlast"
        assert await wire.body(await wire.head()) == b"hello"
    assert len(front.archive.requests) == 2
    for asked in front.archive.requests:
        assert asked.get(b"x-trailer") is asked.get(b"x-other") is None


MALFORMED_CHUNKS = {
    "no size": b"\r\n",
    "no hexadecimal": b"xyz\r\nbody\r\n",
    "a signed size": b"-4\r\nbody\r\n",
    "a prefix": b"0x4\r\nbody\r\n",
    "a size past 2**64": b"fffffffffffffffff\r\nbody\r\n",
    "a bare LF": b"4\nbody\r\n",
    "a bare LF behind": b"4\r\nbody\n",
    "too long": b"4\r\nbody too long\r\n",
    "a malformed trailer": b"0\r\nno trailer\r\n\r\n",
    "an endless trailer": b"0\r\nX-Trailer: " + b"a" * 70_000,
    "endless trailers": b"0\r\n" + b"X-Trailer: a\r\n" * 6_000,
    "an endless extension": b"4;" + b"a" * 70_000,
}


@pytest.mark.parametrize("malformed", MALFORMED_CHUNKS.values(), ids=MALFORMED_CHUNKS)
async def test_malformed_chunks_are_a_400_and_cut_the_archives_request(malformed: bytes) -> None:
    arrived = asyncio.Event()
    cut = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        assert await wire.chunk() == b"first"
        arrived.set()
        try:
            while await wire.chunk():
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            cut.set()

    async with archive(handle) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        async with await p.connect() as wire:
            upload = request("POST", "/dicom-web/studies", "Transfer-Encoding: chunked")
            await wire.send(upload + chunks(b"first"))
            await arrived.wait()
            await wire.send(malformed)
            head = await wire.head()
            assert head.status == 400
            assert head.get(b"access-control-allow-origin") == ORIGIN
            await told(wire, head)
            assert await wire.closed()
        await cut.wait()
        assert len(a.requests) == 1


@pytest.mark.native_only("httpx reads no answer before the upload has ended")
async def test_malformed_chunks_behind_the_responses_head_cut_it() -> None:
    cut = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"half", length=8))
        await cut.wait()

    async with (
        archive(handle) as a,
        proxy(settings(a.url, access=READ_WRITE)) as p,
        await p.connect() as wire,
    ):
        upload = request("POST", "/dicom-web/studies", "Transfer-Encoding: chunked")
        await wire.send(upload + chunks(b"first"))
        head = await wire.head()
        assert await wire.reader.readexactly(4) == b"half"
        await wire.send(b"malformed\r\n")
        assert (head.status, await wire.closed()) == (200, True)
        cut.set()


@pytest.mark.parametrize(
    ("method", "status"),
    [("HEAD", b"200 OK"), ("GET", b"304 Not Modified"), ("GET", b"204 No Content")],
)
async def test_a_response_without_a_body_keeps_the_connection(method: str, status: bytes) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        if head.get(b"a") == b"b":
            await wire.send(answer(b"hello"))
        else:
            await wire.send(answer(status=status, length=None if status[:3] == b"204" else 1000))

    async with (
        archive(handle) as a,
        proxy(settings(a.url, rewrite_urls=False)) as p,
        await p.connect() as wire,
    ):
        await wire.send(request(method))
        head = await wire.head()
        assert head.first_line == b"HTTP/1.1 " + status
        assert head.get(b"content-length") == (None if head.status == 204 else b"1000")
        assert head.get(b"connection") is head.get(b"transfer-encoding") is None
        await wire.send(request("GET", "/dicom-web/studies", "A: b"))
        assert await wire.body(await wire.head()) == b"hello"


async def test_http_1_0_gets_no_chunks() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(CHUNKED + chunks(b"first", b"last") + b"0\r\n\r\n")

    async with archive(handle) as a, proxy(settings(a.url)) as p, await p.connect() as wire:
        await wire.send(lines(TARGET[:-1] + b"0", HOST, FROM_VIEWER, b"Connection: keep-alive"))
        head = await wire.head()
        assert head.get(b"transfer-encoding") is head.get(b"content-length") is None
        assert head.get(b"connection") == b"close"
        assert await wire.reader.read() == b"firstlast"


async def test_one_date_and_one_server(front: Front) -> None:
    head, _ = await front.proxy.ask(request())
    assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", head.get(b"date") or b"")
    assert head.get(b"server") == b"dicomweb-cors-proxy"


async def test_the_archives_date_and_server_stay() -> None:
    own = (b"Date: Thu, 01 Jan 1970 00:00:00 GMT", b"Server: an archive")

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"", *own))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(request())
        assert head.get(b"date") == b"Thu, 01 Jan 1970 00:00:00 GMT"
        assert head.get(b"server") == b"an archive"


# Applications


@asynccontextmanager
async def serving(
    app: Callable[[Receive, Send], Awaitable[None]], **limits: object
) -> AsyncIterator[Proxy]:
    """Serve another application than ours."""

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await app(receive, send)
            return
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})

    (listener,) = bind("127.0.0.1", 0)
    server = create_server(asgi, settings("http://archive.example", server=limits).server)
    running = asyncio.create_task(server.serve([listener]))
    await server.ready.wait()
    try:
        yield Proxy(server, listener.getsockname()[1])
    finally:
        server.should_exit = True
        await running


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes = b"", *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


EIGHT = (b"content-length", b"8")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [start(200)],
        [start(200), body(b"half", more=True)],
        [start(200, EIGHT), body(b"half", more=True)],
        [start(200, EIGHT), body(b"half")],
        [start(200, EIGHT), body(b"half", more=True), body(b"too long")],
    ],
    ids=["nothing", "head", "chunked", "length", "too short", "too long"],
)
@pytest.mark.parametrize("failure", [None, ResponseAborted, ValueError("SECRET")])
async def test_what_an_application_leaves_unfinished_is_cut(
    messages: list[Message], failure: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(_: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        if failure is not None:
            raise failure

    async with serving(app) as p, await p.connect() as wire:
        await wire.send(request())
        with pytest.raises(asyncio.IncompleteReadError):
            await wire.body(await wire.head())
    assert "SECRET" not in caplog.text
    bugs = [message for message in caplog.messages if message.startswith("bug: ValueError < app")]
    assert len(bugs) == isinstance(failure, ValueError)


async def test_an_application_after_its_response() -> None:
    async def app(receive: Receive, send: Send) -> None:
        for message in (start(299), body(more=True), body(b"whole", more=True), body()):
            await send(message)
        await send(body(b"more"))
        assert (await receive())["type"] == "http.disconnect"

    async with serving(app) as p, await p.connect() as wire:
        for _ in range(2):
            await wire.send(request())
            head = await wire.head()
            assert head.first_line == b"HTTP/1.1 299 "
            assert await wire.body(head) == b"whole"


async def test_an_application_may_close() -> None:
    async def app(_: Receive, send: Send) -> None:
        await send(start(200, EIGHT, (b"connection", b"close")))
        await send(body(b"the last"))

    async with serving(app) as p, await p.connect() as wire:
        await wire.send(request())
        head = await wire.head()
        assert head.get(b"connection") == b"close"
        assert await wire.body(head) == b"the last"
        assert await wire.closed()


# Upgrade and Expect

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        (request("GET", "/dicom-web/studies", *H2C), b"hello"),
        (request("POST", "/dicom-web/studies", *H2C, body=b"an upload"), b"an upload"),
        (
            request("POST", "/dicom-web/studies", *H2C, "Transfer-Encoding: chunked")
            + chunks(b"an upload")
            + b"0\r\n\r\n",
            b"an upload",
        ),
    ],
    ids=["no body", "length", "chunked"],
)
async def test_upgrade_is_ignored(front: Front, asked: bytes, body: bytes) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(asked + asked, request())
        for expected in (body, body, b"hello"):
            head = await wire.head()
            assert (head.status, await wire.body(head)) == (200, expected)
    assert len(front.archive.requests) == 3
    for sent in front.archive.requests:
        assert (
            sent.get(b"upgrade") is sent.get(b"connection") is sent.get(b"http2-settings") is None
        )


async def test_a_refused_upgrade_with_a_body(narrow: Front) -> None:
    narrow.archive.requests.clear()
    async with await narrow.proxy.connect() as wire:
        await wire.send(request("POST", "/dicom-web/studies", *H2C, "A: b", body=b"an upload"))
        head = await wire.head()
        assert head.status == 431
        await told(wire, head)
        assert await wire.closed()
    assert narrow.archive.requests == []


EXPECT = "Expect: 100-continue"


async def test_100_is_sent_when_the_body_is_wanted(front: Front) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(request("POST", "/dicom-web/studies", EXPECT, "Content-Length: 4"))
        assert (await wire.head()).first_line == b"HTTP/1.1 100 Continue"
        await wire.send(b"body")
        assert await wire.body(await wire.head()) == b"body"
    (asked,) = front.archive.requests
    assert asked.get(b"expect") is None


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("POST", "/nowhere", EXPECT, "Content-Length: 4"), 404),
        (request("PATCH", "/dicom-web/studies", EXPECT, "Content-Length: 4"), 405),
        (request("GET", "/dicom-web/studies", EXPECT), 200),
        (request("POST", "/dicom-web/studies", EXPECT, body=b"body"), 200),
        (
            request("POST", "/dicom-web/studies", EXPECT, body=b"body").replace(b"1.1\r", b"1.0\r"),
            200,
        ),
    ],
    ids=["404", "405", "no body", "the body is there", "HTTP/1.0"],
)
async def test_100_is_not_sent_without_need(front: Front, raw: bytes, status: int) -> None:
    head, _ = await front.proxy.ask(raw)
    assert head.status == status


# Connections


async def test_a_connection_serves_request_after_request(front: Front) -> None:
    async with await front.proxy.connect() as wire:
        for _ in range(3):
            await wire.send(request())
            assert await wire.body(await wire.head()) == b"hello"
        await wire.send(request("GET", "/dicom-web/studies", "Connection: close"))
        head = await wire.head()
        assert head.get(b"connection") == b"close"
        assert await wire.body(head) == b"hello"
        assert await wire.closed()


async def test_a_head_that_came_before_closes_again(front: Front) -> None:
    for _ in range(3):
        async with await front.proxy.connect() as wire:
            await wire.send(request("GET", "/dicom-web/studies", "Connection: close", "A: again"))
            head = await wire.head()
            assert head.get(b"connection") == b"close"
            assert await wire.body(head) == b"hello"
            assert await wire.closed()


async def test_nothing_is_read_behind_a_last_request(front: Front) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(request("GET", "/dicom-web/studies", "Connection: close") + request())
        assert await wire.body(await wire.head()) == b"hello"
        assert await wire.closed()
    assert len(front.archive.requests) == 1


@pytest.mark.parametrize("framing", [f"Content-Length: {16 * MIB}", "Transfer-Encoding: chunked"])
async def test_who_is_refused_in_the_middle_of_an_upload_gets_the_response(
    front: Front, framing: str
) -> None:
    async with await front.proxy.connect() as wire:
        await wire.send(request("POST", "/nowhere", framing))
        for _ in range(16):
            piece = bytes(MIB)
            await wire.send(piece if "Length" in framing else chunks(piece))
        head = await wire.head()
        assert head.status == 404
        assert head.get(b"connection") == b"close"
        await told(wire, head)
        assert await wire.closed()
    assert front.archive.requests == []


class Gate:
    """An archive that answers `?first` only when it is told to."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self.cut = asyncio.Event()

    async def __call__(self, wire: Wire, head: Head) -> None:
        name = head.first_line.split()[1].partition(b"?")[2]
        if name == b"first":
            self.reached.set()
            leaving = asyncio.create_task(wire.closed())
            opening = asyncio.create_task(self.opened.wait())
            await asyncio.wait({leaving, opening}, return_when=asyncio.FIRST_COMPLETED)
            opening.cancel()
            if leaving.done():
                self.cut.set()
                return
            leaving.cancel()
            await asyncio.wait({leaving})
        await wire.send(answer(name))


def named(name: str) -> bytes:
    return request("GET", f"/dicom-web/studies?{name}")


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    gate = Gate()
    async with archive(gate) as a, proxy(settings(a.url)) as p, await p.connect() as wire:
        names = ["first", *map(str, range(30))]
        await wire.send(b"".join(map(named, names)) + request("POST") + named("last"))
        await gate.reached.wait()
        assert len(a.requests) == 1
        gate.opened.set()
        for name in names:
            assert await wire.body(await wire.head()) == name.encode()
        head = await wire.head()
        assert head.status == 405
        await told(wire, head)
        assert await wire.body(await wire.head()) == b"last"


async def test_no_pipelined_request_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    most = pending = 0

    class Counted(exchange.Exchange):
        def __init__(self, *args: Any, **rest: Any) -> None:  # noqa: ANN401
            nonlocal most, pending
            super().__init__(*args, **rest)
            pending += 1
            most = max(most, pending)

        def send_body(self, body: bytes, *, more: bool) -> None:
            nonlocal pending
            pending -= not more
            super().send_body(body, more=more)

    monkeypatch.setattr(server_connection, "Exchange", Counted)
    gate = Gate()
    many = 1000
    async with archive(gate) as a, proxy(settings(a.url)) as p, await p.connect() as wire:
        sending = asyncio.create_task(wire.send(named("first") + request("POST") * many))
        await gate.reached.wait()
        gate.opened.set()
        assert await wire.body(await wire.head()) == b"first"
        for _ in range(many):
            head = await wire.head()
            assert head.status == 405
            await told(wire, head)
        await sending
    assert most == 1


async def test_a_flood_of_refusals_leaves_others_their_turn(front: Front) -> None:
    many, most = 2_000, 50 * server_connection.REQUESTS_PER_TURN
    answered = 0

    async def read(flood: Wire) -> None:
        nonlocal answered
        while answered < many:
            await told(flood, await flood.head())
            answered += 1

    async with await front.proxy.connect() as flood, await front.proxy.connect() as wire:
        sending = asyncio.create_task(flood.send(request("PATCH") * many))
        reading = asyncio.create_task(read(flood))
        while not answered:  # noqa: ASYNC110  (until the flood is there)
            await asyncio.sleep(0)
        for _ in range(2):
            before = answered
            await wire.send(request())
            assert await wire.body(await wire.head()) == b"hello"
            assert answered - before < most
        assert answered < many
        await asyncio.gather(sending, reading)


@pytest.mark.parametrize("garbage", [b"\0\r\n\r\n", lines(TARGET, HOST, b"A : b")])
async def test_a_refusal_stands_in_line_behind_a_running_response(garbage: bytes) -> None:
    gate = Gate()
    async with archive(gate) as a, proxy(settings(a.url)) as p, await p.connect() as wire:
        await wire.send(named("first") + garbage + named("never"))
        await gate.reached.wait()
        gate.opened.set()
        assert await wire.body(await wire.head()) == b"first"
        head = await wire.head()
        assert head.status == 400
        await told(wire, head)
        assert await wire.closed()
        assert len(a.requests) == 1


@pytest.mark.parametrize("behind", [0, 1, 30])
async def test_a_client_that_leaves_a_pipeline_cancels_the_running_request(behind: int) -> None:
    gate = Gate()
    async with archive(gate) as a, proxy(settings(a.url)) as p:
        async with await p.connect() as wire:
            await wire.send(named("first") + named("never") * behind)
            await gate.reached.wait()
        await gate.cut.wait()
        assert len(a.requests) == 1


class Stuck(httpx.AsyncBaseTransport):
    """An archive that takes nothing of an upload."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
        self.reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError


@pytest.mark.parametrize("size", [1, server_connection.UNASKED_READ_BYTES])
@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
async def test_a_client_that_leaves_an_upload_which_nobody_takes(size: int, *, reset: bool) -> None:
    stuck = Stuck()
    configuration = settings("http://127.0.0.1:9", access=READ_WRITE)
    async with proxy(configuration, transport=stuck) as p, await p.connect() as wire:
        await wire.send(request("POST", "/dicom-web/studies", f"Content-Length: {2 * MIB}"))
        await wire.send(bytes(size))
        await stuck.reached.wait()
        if reset:
            wire.reset()
        else:
            wire.writer.close()
        async with asyncio.timeout(1):
            await stuck.cancelled.wait()


# Deadlines


async def test_who_sends_nothing_is_left(impatient: Front) -> None:
    async with await impatient.proxy.connect() as wire:
        assert await wire.closed()


@pytest.mark.parametrize(
    ("part", "origin"),
    [
        (b"G", None),
        (b"GET /dicom-web/studies HTTP/1.1\r\nOrigin: ", None),
        (lines(TARGET, FROM_VIEWER, HOST)[:-2], ORIGIN),
        (lines(TARGET, HOST, FROM_VIEWER)[:-2], ORIGIN),
        (lines(TARGET, HOST, FROM_VIEWER)[:-4], None),
    ],
)
async def test_a_head_that_does_not_end_is_a_408(
    impatient: Front, part: bytes, origin: bytes | None
) -> None:
    async with await impatient.proxy.connect() as wire:
        await wire.send(part)
        head = await wire.head()
        assert head.status == 408
        assert head.get(b"access-control-allow-origin") == origin
        assert "server.header_timeout" in await told(wire, head)
        assert await wire.closed()


async def test_the_origin_of_a_head_in_pieces_is_found(impatient: Front) -> None:
    async with await impatient.proxy.connect() as wire:
        await wire.send(request())
        assert await wire.body(await wire.head()) == b"hello"
        for piece in (TARGET + b"\r\n" + HOST, b"\r\nOri", b"gin: " + ORIGIN, b"\r\n"):
            await wire.send(piece)
            await turns(10)
        head = await wire.head()
        assert (head.status, head.get(b"access-control-allow-origin")) == (408, ORIGIN)


@pytest.mark.parametrize("before", [request(), request("POST", "/dicom-web/studies", body=b"b")])
async def test_a_refused_head_has_no_other_heads_origin(impatient: Front, before: bytes) -> None:
    async with await impatient.proxy.connect() as wire:
        await wire.send(before + lines(TARGET, b"A : b", HOST))
        await wire.body(await wire.head())
        head = await wire.head()
        assert (head.status, head.get(b"access-control-allow-origin")) == (400, None)


async def test_a_head_in_drops_is_a_408(impatient: Front) -> None:
    async with await impatient.proxy.connect() as wire:
        answered = asyncio.create_task(wire.head())
        await wire.send(lines(TARGET, HOST)[:-2])
        while not answered.done():
            await wire.send(b"A: b\r\n")
            await asyncio.wait({answered}, timeout=0.02)
        assert (await answered).status == 408


async def test_an_idle_connection_is_closed_without_a_word(impatient: Front) -> None:
    async with await impatient.proxy.connect() as wire:
        await wire.send(request())
        assert await wire.body(await wire.head()) == b"hello"
        assert await wire.closed()


async def test_empty_lines_keep_no_connection(impatient: Front) -> None:
    async with await impatient.proxy.connect() as wire:
        await wire.send(request())
        assert await wire.body(await wire.head()) == b"hello"
        closed = asyncio.create_task(wire.closed())
        with suppress(ConnectionError):
            while not closed.done():
                await wire.send(b"\r\n")
                await asyncio.wait({closed}, timeout=0.02)
        assert await closed


async def test_a_late_head_that_is_over_a_limit_is_told_of_the_limit() -> None:
    async with standing(header_timeout=0.2, **LIMITS) as (p, _), await p.connect() as wire:
        await wire.send(lines(TARGET, HOST, *[b"A: b"] * 10)[:-2])
        head = await wire.head()
        assert head.status == 431
        assert "server.max_headers" in await told(wire, head)


async def test_a_late_second_head_is_a_408(impatient: Front) -> None:
    async with await impatient.proxy.connect() as wire:
        await wire.send(request() + request()[:-2])
        assert await wire.body(await wire.head()) == b"hello"
        assert (await wire.head()).status == 408


async def test_a_late_head_is_answered_behind_the_running_response() -> None:
    gate = Gate()
    async with (
        archive(gate) as a,
        proxy(settings(a.url, server={"header_timeout": 0.1})) as p,
        await p.connect() as wire,
    ):
        await wire.send(named("first") + named("late")[:-2])
        await gate.reached.wait()
        answered = asyncio.create_task(wire.head())
        assert not (await asyncio.wait({answered}, timeout=0.3))[0]
        gate.opened.set()
        assert await wire.body(await answered) == b"first"
        assert (await wire.head()).status == 408
        assert len(a.requests) == 1


async def test_a_head_that_we_keep_waiting_is_not_late() -> None:
    gate = Gate()
    async with (
        archive(gate) as a,
        proxy(settings(a.url, server={"header_timeout": 0.1})) as p,
        await p.connect() as wire,
    ):
        await wire.send(named("first") + named("next") * 20 + named("last")[:-2])
        await gate.reached.wait()
        answered = asyncio.create_task(wire.head())
        await wire.send(b"\r\n")
        assert not (await asyncio.wait({answered}, timeout=0.3))[0]
        gate.opened.set()
        assert await wire.body(await answered) == b"first"
        for name in [b"next"] * 20 + [b"last"]:
            assert await wire.body(await wire.head()) == name


async def test_who_takes_no_byte_is_left() -> None:
    left = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        try:
            await wire.send(answer(length=2**40))
            while True:
                await wire.send(bytes(MIB))
        except ConnectionError:
            left.set()

    async with (
        archive(handle) as a,
        proxy(settings(a.url, server={"write_timeout": 0.2})) as p,
        await p.connect() as wire,
    ):
        await wire.send(request())
        await left.wait()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await wire.body(await wire.head())


async def test_who_takes_bytes_slowly_is_served() -> None:
    async def app(_: Receive, send: Send) -> None:
        await send(start(200))
        for _number in range(32):
            await send(body(bytes(MIB), more=True))
        await send(body())

    async with serving(app, write_timeout=0.2) as p, await p.connect() as wire:
        await wire.send(request())
        head = await wire.head()
        for _ in range(12):
            assert len(await wire.chunk()) == MIB
            await asyncio.sleep(0.05)
        assert len(await wire.body(head)) == 20 * MIB


async def test_who_takes_what_the_system_has_is_served() -> None:
    """It has megabytes, of which no transport tells."""

    async def app(_: Receive, send: Send) -> None:
        await send(start(200))
        await send(body(bytes(16 * MIB)))

    loop = asyncio.get_running_loop()
    async with serving(app, write_timeout=10) as p:
        with socket.socket() as client, Clock() as clock:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", p.port))
            await loop.sock_sendall(client, request())
            await until(lambda: p.server.server_state.connections)
            connection = cast(
                "server_connection.ClientConnection", next(iter(p.server.server_state.connections))
            )
            await until(lambda: not connection.writable.is_set())
            for _ in range(8):
                left = 32768
                while left:
                    left -= len(await loop.sock_recv(client, left))
                await clock.advance(5)
            assert not connection.transport.is_closing()
            for _ in range(4):
                await clock.advance(5)
            assert connection.transport.is_closing()


@pytest.mark.parametrize("connection", [b"close", b"keep-alive"])
async def test_a_response_that_nobody_takes_is_not_kept(connection: bytes) -> None:
    async def app(_: Receive, send: Send) -> None:
        await send(start(200, (b"connection", connection)))
        await send(body(bytes(64 * MIB)))

    async with serving(app, write_timeout=0.2) as p, await p.connect() as wire:
        await wire.send(request())
        head = await wire.head()
        while p.server.server_state.connections:  # noqa: ASYNC110  (no event tells)
            await asyncio.sleep(0.02)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await wire.body(head)


async def test_a_response_that_is_written_is_delivered_at_the_end() -> None:
    written = asyncio.Event()

    async def app(_: Receive, send: Send) -> None:
        await send(start(200))
        await send(body(bytes(64 * MIB)))
        written.set()

    async with serving(app) as p, await p.connect() as wire:
        await wire.send(request())
        await written.wait()
        p.server.should_exit = True
        assert len(await wire.body(await wire.head())) == 64 * MIB
        assert await wire.closed()


async def test_what_is_still_below_tls_at_the_end_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No buffer's size tells of it."""
    monkeypatch.setattr(watchdogs, "TLS_CLOSE_GRACE_SECONDS", 0.01)
    authority = trustme.CA()
    file = tmp_path / "pair.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(file)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    answered = asyncio.Event()
    chunks_sent = 0

    async def app(_: Receive, send: Send) -> None:
        nonlocal chunks_sent
        connection = cast(
            "server_connection.ClientConnection", next(iter(p.server.server_state.connections))
        )
        await send(start(200))
        queued = -1
        while queued != (queued := socket_state.unsent_bytes(connection.transport)):
            for _number in range(4 if queued else 64):
                await send(body(bytes(4096), more=True))
                chunks_sent += 1
            await turns(2)
        await send(body())
        assert connection.transport.get_write_buffer_size() == 0
        answered.set()

    async with serving(app, tls_cert_file=str(file), tls_key_file=str(file)) as p:
        client = socket.create_connection(("127.0.0.1", p.port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        reader, writer = await asyncio.open_connection(
            sock=client, ssl=trust, server_hostname="127.0.0.1", limit=4096
        )
        wire = Wire(reader, writer)
        await wire.send(request())
        await answered.wait()
        (connection,) = p.server.server_state.connections
        p.server.should_exit = True
        await until(connection.transport.is_closing)
        await asyncio.sleep(5 * watchdogs.TLS_CLOSE_GRACE_SECONDS)
        assert len(await wire.body(await wire.head())) == 4096 * chunks_sent
        writer.close()


async def test_who_has_its_refusal_holds_the_end_up_no_longer_than_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watchdogs, "TLS_CLOSE_GRACE_SECONDS", 0.01)
    async with standing(max_body_bytes=1, shutdown_timeout=30) as front:
        wire = await front.proxy.connect()
        await wire.send(request("POST", "/dicom-web/studies", "Content-Length: 9"))
        assert (await wire.head()).status == 413
        (connection,) = front.proxy.server.server_state.connections
        front.proxy.server.should_exit = True
        async with asyncio.timeout(5):
            await until(lambda: not front.proxy.server.server_state.connections)
        assert connection.transport.is_closing()
        wire.writer.close()


async def test_a_handshake_is_late_like_a_head(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    file = tmp_path / "pair.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(file)
    tls = {"tls_cert_file": str(file), "tls_key_file": str(file)}
    async with standing(header_timeout=0.2, **tls) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.proxy.port)
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()


async def test_no_other_clients_request_makes_a_malformed_one_good(front: Front) -> None:
    smuggling = b"GET /dicom-web/studies HTTP/1.1\r\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n"
    for sent, status in (
        (smuggling, 400),
        (b"\r\n" + smuggling[smuggling.index(b"GET /secret") :], 404),
        (smuggling, 400),
    ):
        assert (await front.proxy.ask(sent))[0].status == status


async def cut(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"half", length=8))
    wire.writer.close()


async def close(wire: Wire, _: Head) -> None:
    wire.writer.close()


async def stay_silent(wire: Wire, _: Head) -> None:
    await wire.closed()


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("target", ["/dicom-web/studies", "/nothing"])
@pytest.mark.parametrize("handle", [echo, cut, close, stay_silent])
async def test_a_connection_leaves_nothing_for_the_collector(
    handle: Callable[[Wire, Head], Awaitable[None]], target: str, *, warm: bool
) -> None:
    """With TLS one holds half a megabyte, and the collector seldom comes by."""

    def left() -> int:
        return sum(
            isinstance(each, (server_connection.ClientConnection, exchange.Exchange))
            for each in gc.get_objects()
        )

    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(archive(handle))
        impatient = settings(a.url, upstream={"url": a.url, "read_timeout": 0.05})
        p = await stack.enter_async_context(proxy(impatient, warm=warm))
        # What exists by now is not looked at: in a long run that is most of the objects.
        gc.freeze()
        stack.callback(gc.unfreeze)
        gc.disable()
        stack.callback(gc.enable)
        for _ in range(5):
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await p.ask(request("GET", target))
        await until(lambda: left() == 0)
