"""Hostile archives: what an archive sends can harm neither the proxy nor whoever asks next.

Each row is the bytes that answer one request, once on the path that rewrites URLs and once on the
one that passes bytes on, and what comes of it: a problem (502), a `whole` answer or a `cut` one.
The next request on the client's connection, and one on whatever connection to the archive is left,
get their own responses.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, cast

import pytest
import pytest_asyncio

from tests.support.attacks import PATIENCE, Front, standing
from tests.support.memory import Memory, measured
from tests.support.sockets import ORIGIN, Head, Wire, answer, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEARCH = "/dicom-web/studies"
FRAME = "/dicom-web/studies/1/series/2/instances/3/frames/1"
JSON = b"Content-Type: application/dicom+json"
CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"
MIB = 2**20


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, JSON, *lines, b"", b""])


def hello(*lines: bytes) -> bytes:
    return head(*lines) + b"hello"


class Row(NamedTuple):
    sent: bytes
    outcome: str
    source: str

    @property
    def is_ended(self) -> bool:
        """Whether the response is whole while the archive stays, with what it said too much."""
        return self.outcome.endswith("whole") and (FIVE in self.sent or CHUNKED in self.sent)


FIVE = b"Content-Length: 5"
FORGED = answer(b"forged", b"Access-Control-Allow-Origin: *")
ROWS = {
    # No response
    "nothing": Row(b"", "502", "closed at once"),
    "garbage": Row(b"SSH-2.0-OpenSSH_9.2\r\n", "502", "not HTTP"),
    "HTTP/0.9": Row(b"<html>hello</html>", "502", "RFC 9112 has none"),
    "HTTP/2.0": Row(head(FIVE, status=b"HTTP/2.0 200 OK") + b"hello", "502", "RFC 9112 §2.3"),
    "ICY": Row(head(status=b"ICY 200 OK") + b"hello", "502", "the parser knows it"),
    "half a head": Row(head()[:-2], "502", "cut"),
    "an endless line": Row(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000, "502", "64 KB are enough"),
    "an endless reason": Row(b"HTTP/1.1 200 " + b"y" * 200_000, "502", "64 KB are enough"),
    "endless lines": Row(head(*[b"X: y"] * 10_000), "502", "Go CVE-2023-24534"),
    "endless interim answers": Row(head(status=b"HTTP/1.1 103 x") * 1000, "502", "16 are enough"),
    "an interim answer with a body": Row(
        head(FIVE, status=b"HTTP/1.1 100 x") + b"hello" + hello(FIVE), "502", "RFC 9110 §15.2"
    ),
    "101": Row(head(b"Upgrade: x", status=b"HTTP/1.1 101 x"), "502", "Egorov 2019, WebSocket"),
    "status 099": Row(head(FIVE, status=b"HTTP/1.1 099 x"), "502", "RFC 9110 §15"),
    "status 600": Row(head(FIVE, status=b"HTTP/1.1 600 x") + b"hello", "502", "RFC 9110 §15"),
    "status 2000": Row(head(FIVE, status=b"HTTP/1.1 2000 x"), "502", "RFC 9112 §4"),
    # Two framings, or none that is clear
    "length and chunks": Row(head(FIVE, CHUNKED) + END, "502", "RFC 9112 §6.3"),
    "chunks and length": Row(head(CHUNKED, FIVE) + END, "502", "RFC 9112 §6.3"),
    "two lengths": Row(hello(FIVE, b"Content-Length: 6"), "502", "RFC 9112 §6.3"),
    "equal lengths": Row(hello(FIVE, FIVE), "502", "RFC 9110 §8.6 allows both"),
    "a signed length": Row(hello(b"Content-Length: +5"), "502", "hyper CVE-2021-32715"),
    "a negative length": Row(hello(b"Content-Length: -5"), "502", "Mongoose CVE-2023-34188"),
    "an empty length": Row(hello(b"Content-Length:"), "502", "HAProxy CVE-2023-40225"),
    "gzip, chunked": Row(head(b"Transfer-Encoding: gzip, chunked") + END, "502", "not read here"),
    "xchunked": Row(hello(b"Transfer-Encoding: xchunked"), "502", "Go CVE-2022-1705"),
    "chunked twice": Row(head(CHUNKED, CHUNKED) + END, "502", "Tornado GHSA-753j-mpmx-qq6g"),
    # Lengths that are wrong
    "too short": Row(head(b"Content-Length: 9") + b"hello", "200 cut", "not the whole image"),
    "too long": Row(hello(FIVE) + b" and more", "200 whole", "response queue poisoning"),
    "no last chunk": Row(head(CHUNKED) + b"5\r\nhello\r\n", "200 cut", "Caddy passes it as whole"),
    "half a chunk": Row(head(CHUNKED) + b"9\r\nhello", "200 cut", "not the whole image"),
    "a chunk too long": Row(head(CHUNKED) + b"5\r\nhelloXX" + END, "200 cut", "h11 CVE-2025-43859"),
    "a chunk line with LF": Row(head(CHUNKED) + b"5\nhello\r\n" + END, "200 cut", "CVE-2025-22871"),
    "a huge chunk": Row(
        head(CHUNKED) + b"fffffffffffffffff\r\nhello", "200 cut", "nginx CVE-2013-2028"
    ),
    "an endless extension": Row(
        head(CHUNKED) + b"5;" + b"x" * 200_000, "200 cut", "Go CVE-2023-39326"
    ),
    "endless trailers": Row(
        head(CHUNKED) + b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 50_000, "200 cut", "no byte of use"
    ),
    "until it closes": Row(hello(), "200 whole", "nobody can tell a cut here"),
    "padded sizes": Row(
        head(CHUNKED) + b"5  \r\nhello\r\n0 \r\n\r\n", "200 whole", "nginx and HAProxy read it"
    ),
    "blanks before an extension": Row(
        head(CHUNKED) + b"5 ; a = b\r\nhello\r\n" + END, "200 whole", "RFC 9112 §7.1.1"
    ),
    # Responses in a response
    "two answers": Row(hello(FIVE) + FORGED, "200 whole", "response queue poisoning"),
    "an answer behind chunks": Row(
        head(CHUNKED) + b"5\r\nhello\r\n" + END + FORGED, "200 whole", "response queue poisoning"
    ),
    "an answer behind a 204": Row(
        head(status=b"HTTP/1.1 204 x") + FORGED, "204 whole", "response queue poisoning"
    ),
    "an answer behind a 304": Row(
        head(FIVE, status=b"HTTP/1.1 304 x") + FORGED, "304 whole", "response queue poisoning"
    ),
    # Splitting
    "a bare LF": Row(hello(b"X: y\nSet-Cookie: a=b", FIVE), "502", "CVE-2017-7658 and others"),
    "a bare CR": Row(hello(b"X: y\rSet-Cookie: a=b", FIVE), "502", "llhttp CVE-2023-30589"),
    "NUL": Row(hello(b"X: y\0", FIVE), "502", "Envoy CVE-2019-9900"),
    "a fold": Row(hello(b"X: y\r\n Set-Cookie: a=b", FIVE), "502", "RFC 9112 §5.2"),
    "a space before the colon": Row(hello(b"X : y", FIVE), "502", "RFC 9112 §5.1"),
    "no name": Row(hello(b": y", FIVE), "502", "HAProxy CVE-2023-25725"),
    # What is not the archive's to say
    "CORS for everyone": Row(
        hello(FIVE, b"Access-Control-Allow-Origin: *", b"Access-Control-Allow-Credentials: true"),
        "200 whole",
        "stripped",
    ),
    "Connection that drops CORS": Row(
        hello(FIVE, b"Connection: Access-Control-Allow-Origin, Vary"), "200 whole", "Davison 2019"
    ),
    "Connection that drops the length": Row(
        hello(FIVE, b"Connection: Content-Length"), "200 whole", "Davison 2019"
    ),
    "an Upgrade that nobody asked for": Row(
        hello(FIVE, b"Upgrade: h2c", b"Connection: upgrade"), "200 whole", "curl, 2018"
    ),
    "an Alt-Svc": Row(hello(FIVE, b"Alt-Svc: clear"), "200 whole", "passes: RFC 7838"),
}


# What h11, below httpx, reads otherwise, and why that is no 502 there.
LAX = {
    "HTTP/2.0": "h11 takes any version of one digit and one for 1.1",
    "endless lines": "h11 bounds the bytes of a head, not its lines",
    "length and chunks": "h11 lets chunks win, which RFC 9112 leaves open",
    "chunks and length": "h11 lets chunks win, which RFC 9112 leaves open",
    "equal lengths": "h11 takes equal ones for one, as RFC 9110 allows",
    "a bare LF": "h11 ends a line there, as RFC 9112 allows",
    "blanks before an extension": "h11 takes none",
    "a fold": "h11 makes one line of it, as RFC 9112 allows",
}


class Hostile:
    """An archive that sends what `?row` names, and closes; and else says what it was asked."""

    async def __call__(self, wire: Wire, asked: Head) -> None:
        target = asked.first_line.split()[1].decode()
        row = ROWS.get(target.partition("?")[2].replace("_", " "))
        if row is None:
            await wire.send(answer(target.encode()))
            return
        with suppress(ConnectionError):
            await wire.send(row.sent)
        if not row.is_ended:
            wire.writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    upstream = {"max_connections": 1, "read_timeout": 5}
    async with standing(tmp_path_factory.mktemp("serve"), Hostile(), upstream=upstream) as front:
        yield front


@pytest.mark.parametrize("path", [SEARCH, FRAME], ids=["rewritten", "passed on"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.native_only(LAX[name])] if name in LAX else [])
        for name in ROWS
    ],
)
async def test_what_an_archive_sends_is_its_response_or_none(
    front: Front, name: str, path: str
) -> None:
    query = name.replace(" ", "_")
    async with asyncio.timeout(PATIENCE), await front.connect() as wire:
        await wire.send(request("GET", f"{path}?{query}"))
        head = await wire.head()
        body, ending = b"", "whole"
        try:
            if head.status not in (204, 304):
                body = await wire.body(head)
        except asyncio.IncompleteReadError:
            ending = "cut"
        outcome = "502" if head.status == 502 else f"{head.status} {ending}"
        assert outcome == ROWS[name].outcome
        assert head.get(b"access-control-allow-origin") == ORIGIN
        assert head.get(b"access-control-allow-credentials") is None
        assert head.get(b"set-cookie") is None
        assert b"Origin" in (head.get(b"vary") or b"")
        if outcome == "200 whole":
            assert body == b"hello"
        if ending == "whole":
            await wire.send(request("GET", f"{path}?next"))
            assert await wire.body(await wire.head()) == f"/pacs{path[10:]}?next".encode()
    assert (await front.ask(request("GET", f"{path}?other")))[
        1
    ] == f"/pacs{path[10:]}?other".encode()


# Bombs on the path that rewrites: as much as one likes goes through, and nothing is held.

TOTAL = 24 * MIB
HELD = 12 * MIB
XML = b"Content-Type: application/dicom+xml"
MULTIPART = b'Content-Type: multipart/related; type="application/dicom+xml"; boundary=b'
URL = b"http://archive.example/pacs/"


class Bomb(NamedTuple):
    content_type: bytes
    start: bytes
    more: bytes
    lines: tuple[bytes, ...] = ()


BOMBS = {
    "plain": Bomb(JSON, b"[", b'{"00100010":{"vr":"PN"}},'),
    "an endless string": Bomb(JSON, b'"', b"x"),
    "an endless key": Bomb(JSON, b'{"00081190', b"0"),
    "nested arrays": Bomb(JSON, b"", b"["),
    "nested objects": Bomb(JSON, b"", b'{"a":'),
    "white space": Bomb(JSON, b'{"BulkDataURI"', b" "),
    "white space in front of a URL": Bomb(JSON, b"", b'{"BulkDataURI":' + b" " * 5000 + b'"http'),
    "escapes": Bomb(JSON, b'"', b"\\u0068"),
    "backslashes": Bomb(JSON, b'"', b"\\"),
    "quotes": Bomb(JSON, b"", b'"'),
    "URLs that end in nothing": Bomb(JSON, b"", b'"BulkDataURI":"' + URL[:-1]),
    "URLs in no position": Bomb(JSON, b'["', URL),
    "beginnings of URLs": Bomb(JSON, b'["', b'"http'),
    "values before the value": Bomb(JSON, b'{"00081190":{"vr":"UR","Value":[', b'"x",'),
    "an endless tag": Bomb(XML, b"<BulkData", b" a='b'"),
    "an endless attribute": Bomb(XML, b"<BulkData uri='", b"x"),
    "angles": Bomb(XML, b"", b"<"),
    "character references": Bomb(XML, b"<BulkData uri='", b"&#x68;"),
    "an endless reference": Bomb(XML, b"<BulkData uri='&#", b"0"),
    "entities": Bomb(XML, b'<!DOCTYPE l [<!ENTITY l "', b"&l;&l;"),
    "comments": Bomb(XML, b"", b"<!--%b-->" % (b"x" * 50)),
    "an endless comment": Bomb(XML, b"<!--", b"-"),
    "CDATA": Bomb(XML, b"", b"<![CDATA[%b]]>" % (b"x" * 50)),
    "parts": Bomb(MULTIPART, b"", b"\r\n--b\r\n\r\n" + b"x" * 50),
    "an endless part's head": Bomb(MULTIPART, b"--b\r\n", b"X: y\r\n"),
    "nearly boundaries": Bomb(MULTIPART, b"", b"\n--"),
    "line breaks": Bomb(MULTIPART, b"--b\r\n\r\n", b"\n"),
    "compressed": Bomb(JSON, b"\x1f\x8b\x08", b"\0", (b"Content-Encoding: gzip",)),
}


class Bombing:
    """An archive that sends the bomb that `?row` names, and counts how it is."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    async def __call__(self, wire: Wire, asked: Head) -> None:
        name = asked.first_line.split()[1].decode().partition("?")[2]
        if (bomb := BOMBS.get(name.replace("_", " "))) is None:
            await wire.send(answer(b"hello"))
            return
        piece = bomb.more * (MIB // 4 // len(bomb.more))
        digest = hashlib.sha256(bomb.start)
        await wire.send(
            b"\r\n".join([b"HTTP/1.1 200 OK", bomb.content_type, *bomb.lines, b"", bomb.start])
        )
        for _ in range(TOTAL // len(piece)):
            digest.update(piece)
            await wire.send(piece)
        self.digests[name] = digest.hexdigest()
        wire.writer.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bombing() -> Bombing:
    return Bombing()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bombed(
    tmp_path_factory: pytest.TempPathFactory, bombing: Bombing
) -> AsyncIterator[Front]:
    async with standing(tmp_path_factory.mktemp("serve"), bombing) as front:
        for path in (SEARCH, FRAME):
            await front.ask(request("GET", path))
        yield front


@measured
@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_goes_through(bombed: Front, bombing: Bombing, name: str) -> None:
    memory = Memory(bombed.process.child.pid)
    query = name.replace(" ", "_")
    _, body = await bombed.ask(request("GET", f"{SEARCH}?{query}"), patience=60)
    assert hashlib.sha256(body).hexdigest() == bombing.digests[query]
    assert memory.growth < HELD


# Tiny chunks: a buffer of content, and what one read brought, are all that a response may hold.

READERS = 20
HELD_BY_EACH = 512 * 1024
TINY = b"2\r\nab\r\n" * 9000


class Tiny:
    """An archive that answers in chunks of two bytes, until nobody takes any more."""

    def __init__(self) -> None:
        self.stuck = 0

    async def __call__(self, wire: Wire, asked: Head) -> None:
        if b"frames" not in asked.first_line:
            await wire.send(answer(b"hello"))
            return
        await wire.send(head(CHUNKED))
        try:
            while True:
                wire.writer.write(TINY)
                async with asyncio.timeout(1):
                    await wire.writer.drain()
        except TimeoutError:
            self.stuck += 1
        await wire.closed()


@measured
@pytest.mark.native_only("h11 makes an object of each chunk")
async def test_tiny_chunks_take_bounded_memory(tmp_path: Path) -> None:
    tiny = Tiny()
    async with standing(tmp_path, tiny, upstream={"max_connections": READERS}) as front:
        await front.ask(request("GET", SEARCH))
        memory = Memory(front.process.child.pid)
        wires = [await front.connect() for _ in range(READERS)]
        try:
            for wire in wires:
                cast("asyncio.Transport", wire.writer.transport).pause_reading()
                await wire.send(request("GET", FRAME))
            while tiny.stuck < READERS:  # noqa: ASYNC110  (no event tells)
                await asyncio.sleep(0.05)
            assert memory.growth < READERS * HELD_BY_EACH
        finally:
            for wire in wires:
                wire.writer.transport.abort()
            await front.ask(request("GET", SEARCH))
