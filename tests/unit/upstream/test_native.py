"""One exchange with an archive: bytes out, bytes in, time, and what goes wrong between them."""

from __future__ import annotations

import asyncio
import gc
import re
import select
import socket
import tracemalloc
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import httpx
import pytest
import uvloop

from dicomweb_cors_proxy.http.chunked import MAX_CHUNKS_PER_CALL
from dicomweb_cors_proxy.upstream.connection import Connection
from dicomweb_cors_proxy.upstream.native import NativeTransport
from dicomweb_cors_proxy.upstream.pool import IDLE_EXPIRY
from dicomweb_cors_proxy.upstream.response_parser import (
    MAX_HEADERS,
    MAX_INTERIM_RESPONSES,
    READ_HIGH_WATER,
    ResponseParser,
)
from tests.support.sockets import answer, archive
from tests.support.upstream import (
    CHUNKED,
    Clock,
    Source,
    ask,
    body_of,
    request,
    turns,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.upstream.interface import ResponseHead
    from tests.support.sockets import Head, Wire

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

MAX_HEAD = 4096


@pytest.fixture
async def transport() -> AsyncIterator[NativeTransport]:
    transport = NativeTransport(max_connections=3, max_head_bytes=MAX_HEAD)
    yield transport
    assert [pool.in_use for pool in transport.pools.values() if pool.in_use] == []
    await transport.aclose()


def head(*lines: bytes, status: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"\r\n".join([status, *lines, b"", b""])


# A response's bytes, and what is made of them


@dataclass(frozen=True)
class Good:
    script: bytes
    body: bytes = b""
    persistent: bool = True
    _: Any = None
    status: int = 200
    method: str = "GET"
    closes: bool = False  # it takes the archive's closing to end it
    headers: list[Header] | None = None


FIVE = b"Content-Length: 5"
CHUNKS = b"5\r\nhello\r\n1;name=value\r\n \r\nA\r\n0123456789\r\n"

GOOD = {
    "a length": Good(head(FIVE) + b"hello", b"hello"),
    "a length of nothing": Good(head(b"Content-Length: 0")),
    "a length of binary": Good(head(FIVE) + b"\r\n\0\r\n", b"\r\n\0\r\n"),
    "a length with space around it": Good(head(b"Content-Length: \t 5 \t") + b"hello", b"hello"),
    "chunked": Good(
        head(b"Transfer-Encoding: chunked") + CHUNKS + b"0\r\n\r\n", b"hello 0123456789"
    ),
    "chunked, with blanks behind the sizes": Good(
        head(b"Transfer-Encoding: chunked") + b"5  \r\nhello\r\n0 \r\n\r\n", b"hello"
    ),
    "chunked, with blanks around an extension": Good(
        head(b"Transfer-Encoding: chunked") + b"5 ; a = b\r\nhello\r\n0\r\n\r\n", b"hello"
    ),
    "chunked, in capitals": Good(head(b"TRANSFER-ENCODING: Chunked") + b"0\r\n\r\n"),
    "chunked, with trailers": Good(
        head(b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nT: 1\r\nETag: x\r\n\r\n",
        b"x",
        headers=[(b"Transfer-Encoding", b"chunked")],
    ),
    "until it closes": Good(head() + b"hello", b"hello", persistent=False, closes=True),
    "until it closes, empty": Good(head(), persistent=False, closes=True),
    "until it closes, despite keep-alive": Good(
        head(b"Connection: keep-alive") + b"hello", b"hello", persistent=False, closes=True
    ),
    "close": Good(head(FIVE, b"Connection: close") + b"hello", b"hello", persistent=False),
    "close in a list": Good(
        head(b"Content-Length: 0", b"Connection: x, Close ,y"), persistent=False
    ),
    "close before keep-alive": Good(
        head(b"Content-Length: 0", b"Connection: close", b"Connection: keep-alive"),
        persistent=False,
    ),
    "close after keep-alive": Good(
        head(b"Content-Length: 0", b"Connection: keep-alive", b"Connection: close"),
        persistent=False,
    ),
    "HTTP/1.0": Good(head(FIVE, status=b"HTTP/1.0 200 OK") + b"hello", b"hello", persistent=False),
    "HTTP/1.0 with keep-alive": Good(
        head(FIVE, b"Connection: Keep-Alive", status=b"HTTP/1.0 200 OK") + b"hello", b"hello"
    ),
    "HTTP/1.0 until it closes": Good(
        head(status=b"HTTP/1.0 200 OK") + b"x", b"x", persistent=False, closes=True
    ),
    # An archive that sends what it announces answers the next request with it.
    "HEAD": Good(head(FIVE), method="HEAD", persistent=False),
    "HEAD, chunked": Good(head(b"Transfer-Encoding: chunked"), method="HEAD", persistent=False),
    "HEAD of nothing": Good(head(b"Content-Length: 0"), method="HEAD"),
    "HEAD without a length": Good(head(), method="HEAD"),
    "204": Good(head(status=b"HTTP/1.1 204 No Content"), status=204),
    "204 with a length": Good(
        head(FIVE, status=b"HTTP/1.1 204 No Content"), status=204, persistent=False
    ),
    "304": Good(head(status=b"HTTP/1.1 304 Not Modified"), status=304),
    "304 with a length": Good(
        head(FIVE, status=b"HTTP/1.1 304 Not Modified"), status=304, persistent=False
    ),
    "206": Good(head(FIVE, status=b"HTTP/1.1 206 Partial") + b"hello", b"hello", status=206),
    "a status nobody knows": Good(head(b"Content-Length: 0", status=b"HTTP/1.1 999 x"), status=999),
    "no reason": Good(head(b"Content-Length: 0", status=b"HTTP/1.1 200")),
    "interim": Good(
        head(b"Link: </early>", status=b"HTTP/1.1 103 Early Hints")
        + head(status=b"HTTP/1.1 100 Continue")
        + head(FIVE)
        + b"hello",
        b"hello",
        headers=[(b"Content-Length", b"5")],
    ),
    "as many interim as allowed": Good(
        head(status=b"HTTP/1.1 102 x") * MAX_INTERIM_RESPONSES + head(b"Content-Length: 0")
    ),
    "headers as they came": Good(
        head(b"x-B: 1", b"X-a:2", b"x-b:  \xe9\xff=, ", b"X-Empty:", b"content-length: 0"),
        headers=[
            (b"x-B", b"1"),
            (b"X-a", b"2"),
            (b"x-b", b"\xe9\xff=,"),
            (b"X-Empty", b""),
            (b"content-length", b"0"),
        ],
    ),
    "as many header lines as allowed": Good(
        head(*[b"x:y"] * (MAX_HEADERS - 1), b"Content-Length: 0")
    ),
}

# After the end of a response. The response stands, the connection does not.
SURPLUS = {
    "a length": Good(head(FIVE) + b"hello!", b"hello"),
    "no length": Good(head(b"Content-Length: 0") + b"x"),
    "a length, and close by an old name": Good(
        head(FIVE, b"Proxy-Connection: close") + b"hello!", b"hello"
    ),
    "chunked": Good(head(b"Transfer-Encoding: chunked") + b"0\r\n\r\nx"),
    "HEAD": Good(head(FIVE) + b"hello", method="HEAD"),
    "204": Good(head(FIVE, status=b"HTTP/1.1 204 x") + b"hello", status=204),
    "304": Good(head(FIVE, status=b"HTTP/1.1 304 x") + b"hello", status=304),
    "another answer": Good(
        head(FIVE) + b"hello" + head(b"Content-Length: 0", b"X: forged"), b"hello"
    ),
    "another answer that is refused": Good(head(FIVE) + b"hello" + head(*[b"x:y"] * 300), b"hello"),
    "another answer to HEAD": Good(head(FIVE) + head(FIVE), method="HEAD"),
}

BAD = {
    "nothing": (b"", "closed before a response"),
    "half a head": (b"HTTP/1.1 200 OK\r\nContent-", "closed before a response"),
    "interim alone": (head(status=b"HTTP/1.1 100 Continue"), "closed before a response"),
    "garbage": (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
    "TLS": (b"\x15\x03\x01\x00\x02\x02\x16", "not HTTP"),
    "HTTP/0.9": (b"<html>hello</html>", "not HTTP"),
    "said to be HTTP/0.9": (head(status=b"HTTP/0.9 200 OK"), "status 200 of HTTP/0.9"),
    "HTTP/2": (head(status=b"HTTP/2.0 200 OK"), "status 200 of HTTP/2.0"),
    "a status of two digits": (head(status=b"HTTP/1.1 20 OK"), "its status line is malformed"),
    "a status below 100": (head(status=b"HTTP/1.1 099 x"), "status 99 of"),
    "lengths that differ": (head(FIVE, b"Content-Length: 6") + b"hello", "Content-Length twice"),
    "a length twice": (head(FIVE, FIVE) + b"hello", "Content-Length twice"),
    "a length twice in a line": (
        head(b"Content-Length: 5, 5") + b"hello",
        "its Content-Length is not a number",
    ),
    "a length with a sign": (
        head(b"Content-Length: +5") + b"hello",
        "its Content-Length is not a number",
    ),
    "a hexadecimal length": (
        head(b"Content-Length: 0x5") + b"hello",
        "its Content-Length is not a number",
    ),
    "an empty length": (head(b"Content-Length:") + b"hello", "its Content-Length is not a number"),
    "a length beyond 64 bits": (
        head(b"Content-Length: 99999999999999999999"),
        "its Content-Length is not a number",
    ),
    "a length, then chunked": (
        head(FIVE, b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        "both Content-Length and",
    ),
    "chunked, then a length": (
        head(b"Transfer-Encoding: chunked", FIVE) + b"0\r\n\r\n",
        "both Content-Length and",
    ),
    "chunked twice": (
        head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
        "Transfer-Encoding twice",
    ),
    "gzip, chunked": (
        head(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
        "names another coding than chunked",
    ),
    "gzip": (head(b"Transfer-Encoding: gzip") + b"x", "names another coding than chunked"),
    "nearly chunked": (
        head(b"Transfer-Encoding: xchunked") + b"x",
        "names another coding than chunked",
    ),
    "HTTP/1.0, chunked": (
        head(b"Transfer-Encoding: chunked", status=b"HTTP/1.0 200 OK") + b"0\r\n\r\n",
        "which HTTP/1.0 lacks",
    ),
    "a bare LF after the status": (
        b"HTTP/1.1 200 OK\nX: y\r\n\r\n",
        "its status line ends with LF alone",
    ),
    "a bare LF after a header": (
        b"HTTP/1.1 200 OK\r\nX: y\nZ: 1\r\n\r\n",
        "the header X ends with LF alone",
    ),
    "a bare LF at the end": (b"HTTP/1.1 200 OK\r\nX: y\r\n\n", "its head ends with LF alone"),
    "a bare CR": (head(b"X: a\rb"), "the header X has a CR"),
    "obs-fold": (head(b"X: a", b" b"), "the header X is folded"),
    "a space before the first header": (head(b" X: a"), "its status line is folded"),
    "a space before the colon": (head(b"X : a"), "before the colon of the header X"),
    "NUL": (head(b"X: a\0b"), "the header X has a control"),
    "a control byte": (head(b"X: a\x01b"), "the header X has a control"),
    "DEL": (head(b"X: a\x7fb"), "the header X has a control"),
    "a control byte in a name": (head(b"X\0: a"), "a character that is not allowed"),
    "no name": (head(b": a"), "a header has no name"),
    "a blank in a name": (head(b"Doe Jane: a"), "in the name of a header"),
    "a blank before the colon of a name that may be a patient's": (
        head(b"1.2.840 : a"),
        "before the colon of a header",
    ),
    "a folded line in an interim response": (
        head(b"Link: a", b"\tb", status=b"HTTP/1.1 103 x"),
        "the header Link is folded",
    ),
    "a length twice after an interim response": (
        head(b"Content-Length: 0", status=b"HTTP/1.1 103 x") + head(FIVE, FIVE),
        "Content-Length twice",
    ),
    "an empty transfer coding": (head(b"Transfer-Encoding:"), "its Transfer-Encoding is empty"),
    "a name with parentheses": (head(b"X(A): b"), "a character that is not allowed"),
    "a version of letters": (head(status=b"HTTP/x 200 OK"), "its status line is malformed"),
    "no colon": (head(b"hello"), "a header has no colon"),
    "101": (head(status=b"HTTP/1.1 101 Switching Protocols"), "status 101 of"),
    "101 with Upgrade": (
        head(b"Connection: upgrade", b"Upgrade: websocket", status=b"HTTP/1.1 101 x"),
        "status 101 of",
    ),
    "too many interim": (
        head(status=b"HTTP/1.1 102 x") * (MAX_INTERIM_RESPONSES + 1),
        "interim responses",
    ),
    "too many header lines": (head(*[b"x:y"] * (MAX_HEADERS + 1)), "header lines"),
    "a long value": (head(b"X: " + b"y" * MAX_HEAD), f"more than {MAX_HEAD} bytes"),
    "a long name": (head(b"x" * MAX_HEAD + b": y"), f"more than {MAX_HEAD} bytes"),
    "a long reason": (
        head(status=b"HTTP/1.1 200 " + b"y" * (MAX_HEAD + 1)),
        f"than {MAX_HEAD} bytes",
    ),
    "long all together": (
        head(*[b"X: " + b"y" * 200] * 25),
        f"more than {MAX_HEAD} bytes",
    ),
    "a line without an end": (b"HTTP/1.1 200 OK\r\nX: " + b"y" * MAX_HEAD, "more than"),
    "a cut length": (head(FIVE) + b"hell", "in the middle"),
    "no byte of a length": (head(FIVE), "in the middle"),
    "a cut chunk": (head(b"Transfer-Encoding: chunked") + b"5\r\nhell", "in the middle"),
    "no last chunk": (head(b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n", "in the middle"),
    "a cut last chunk": (head(b"Transfer-Encoding: chunked") + b"0\r\n", "in the middle"),
    "a chunk longer than it says": (
        head(b"Transfer-Encoding: chunked") + b"5\r\nhello!\r\n0\r\n\r\n",
        "the size of a chunk is malformed",
    ),
    "a chunk's size with a sign": (
        head(b"Transfer-Encoding: chunked") + b"-5\r\nhello\r\n0\r\n\r\n",
        "the size of a chunk is malformed",
    ),
    "a chunk's size beyond 64 bits": (
        head(b"Transfer-Encoding: chunked") + b"f" * 17 + b"\r\n",
        "the size of a chunk is malformed",
    ),
    "a bare LF after a chunk's size": (
        head(b"Transfer-Encoding: chunked") + b"5\nhello\r\n0\r\n\r\n",
        "the size of a chunk is malformed",
    ),
}

ENDLESS = {
    "a head": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "empty lines": (b"", b"\r\n"),
    "chunk extension": (head(b"Transfer-Encoding: chunked") + b"1;", b"x"),
    "trailer": (head(b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX: ", b"y"),
    "trailers": (head(b"Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\n", b"X: y\r\n"),
}


class Parsed(NamedTuple):
    head: ResponseHead | None
    body: bytes
    persistent: bool
    error: str | None


def parse(pieces: Iterable[bytes], method: str = "GET", *, closes: bool = True) -> Parsed:
    """What an `ResponseParser` makes of `pieces`."""
    answer = ResponseParser(method.encode(), MAX_HEAD)
    error = None
    persistent = False
    try:
        for piece in pieces:
            answer.feed(piece)
            while answer.has_undecoded:
                answer.decode()
        persistent = answer.persistent
        if closes:
            answer.feed_eof(cut=False)
    except httpx.RemoteProtocolError as exc:
        error = str(exc)
    assert (error is None) == answer.complete
    return Parsed(answer.head, answer.take(), persistent, error)


def splits(script: bytes) -> Iterator[list[bytes]]:
    """Every way to cut it in two (long ones: some of them), and byte by byte."""
    step = 1 + len(script) // 500
    for at in range(1, len(script), step):
        yield [script[:at], script[at:]]
    yield [script[at : at + 1] for at in range(len(script))]


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
def test_a_good_response_is_the_same_however_it_is_split(good: Good) -> None:
    whole = parse([good.script], good.method, closes=good.closes)
    assert whole.error is None
    assert whole.head is not None
    assert (whole.head.status, whole.body) == (good.status, good.body)
    assert whole.persistent == good.persistent
    if good.headers is not None:
        assert whole.head.headers == good.headers
    for pieces in splits(good.script):
        assert parse(pieces, good.method, closes=good.closes) == whole


@pytest.mark.parametrize("good", SURPLUS.values(), ids=SURPLUS)
def test_bytes_after_the_end_are_dropped_however_they_are_split(good: Good) -> None:
    for pieces in ([good.script], *splits(good.script)):
        parsed = parse(pieces, good.method, closes=False)
        assert parsed.head is not None
        assert parsed[1:] == (good.body, False, None)
        assert b"X" not in dict(parsed.head.headers)


@pytest.mark.parametrize(("script", "error"), BAD.values(), ids=BAD)
def test_a_bad_response_is_refused_however_it_is_split(script: bytes, error: str) -> None:
    whole = parse([script])
    assert whole.error is not None
    assert error in whole.error
    for pieces in splits(script):
        parsed = parse(pieces)
        assert parsed.error is not None
        assert parsed.head == whole.head
        # What came in the same read as the fault may be lost.
        assert parsed.body.startswith(whole.body)


@pytest.mark.parametrize(("start", "more"), ENDLESS.values(), ids=ENDLESS)
def test_what_never_ends_is_refused_in_time(start: bytes, more: bytes) -> None:
    answer = ResponseParser(b"GET", MAX_HEAD)
    answer.feed(start)
    for _ in range((MAX_HEAD - len(start)) // len(more)):
        answer.feed(more)
    with pytest.raises(httpx.RemoteProtocolError, match=f"more than {MAX_HEAD} bytes|too long"):
        answer.feed(more * MAX_HEAD * 2)


def test_the_limit_on_a_head_starts_anew_with_each() -> None:
    interim = head(b"X: " + b"y" * (MAX_HEAD - 100), status=b"HTTP/1.1 103 Early Hints")
    script = interim * 3 + interim.replace(b"103", b"204")
    for pieces in ([script], [script[at : at + 1000] for at in range(0, len(script), 1000)]):
        assert parse(pieces, closes=False).error is None


def test_small_chunks_are_handed_on_together() -> None:
    answer = ResponseParser(b"GET", MAX_HEAD)
    count = MAX_CHUNKS_PER_CALL
    answer.feed(head(b"Transfer-Encoding: chunked") + b"1\r\na\r\n" * count)
    assert (answer.buffered, answer.take()) == (count, b"a" * count)
    assert (answer.buffered, answer.take()) == (0, b"")


@pytest.mark.parametrize(
    ("framing", "piece"),
    [(b"Transfer-Encoding: chunked", b"2\r\nab\r\n"), (b"Content-Length: 1000000", b"ab")],
    ids=["chunks", "reads"],
)
def test_a_body_in_tiny_pieces_takes_little_more_memory_than_its_content(
    framing: bytes, piece: bytes
) -> None:
    answer = ResponseParser(b"GET", MAX_HEAD)
    answer.feed(head(framing))
    tracemalloc.start()
    try:
        while answer.buffered < READ_HIGH_WATER:
            answer.feed(piece)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.5 * READ_HIGH_WATER
    assert answer.take() == b"ab" * (READ_HIGH_WATER // 2)


def test_a_body_of_small_and_large_pieces_keeps_its_order() -> None:
    answer = ResponseParser(b"GET", MAX_HEAD)
    answer.feed(head())
    pieces = [bytes([number]) * (1 + number * 37 % 3000) for number in range(200)]
    for piece in pieces:
        answer.feed(piece)
    taken = answer.take()
    assert type(taken) is bytes
    assert taken == b"".join(pieces)


def test_a_response_that_was_given_up_is_freed_at_once() -> None:
    answer = ResponseParser(b"GET", MAX_HEAD)
    answer.feed(head(b"Transfer-Encoding: chunked") + b"5\r\nhe")
    reference = weakref.ref(answer)
    gc.disable()
    try:
        answer.discard()
        del answer
        assert reference() is None
    finally:
        gc.enable()


# The same over sockets


def script(pieces: Iterable[bytes], *, closes: bool) -> Callable[[Wire, Head], Any]:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(*pieces)
        if closes:
            wire.writer.close()

    return handle


@pytest.mark.parametrize("good", GOOD.values(), ids=GOOD)
async def test_good_responses_arrive(good: Good, transport: NativeTransport) -> None:
    pieces = (good.script[at : at + 7] for at in range(0, len(good.script), 7))
    async with archive(script(list(pieces), closes=good.closes)) as upstream:
        for _ in range(2):
            answered = await ask(transport, request(upstream.url, good.method))
            assert (answered.status, answered.body) == (good.status, good.body)
            if good.headers is not None:
                assert answered.headers == good.headers
    assert len(upstream.connections) == (1 if good.persistent else 2)


@pytest.mark.parametrize("good", SURPLUS.values(), ids=SURPLUS)
async def test_a_connection_with_bytes_after_the_end_is_not_used_again(
    good: Good, transport: NativeTransport
) -> None:
    async with archive(script([good.script], closes=False)) as upstream:
        for _ in range(2):
            answered = await ask(transport, request(upstream.url, good.method))
            assert (answered.status, answered.body) == (good.status, good.body)
    assert len(upstream.connections) == 2


@pytest.mark.parametrize(("script_", "error"), BAD.values(), ids=BAD)
async def test_bad_responses_are_refused(
    script_: bytes, error: str, transport: NativeTransport
) -> None:
    closed = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(script_)
        if "closed" in error or "middle" in error:
            wire.writer.close()
        await wire.closed()
        closed.set()

    async with archive(handle) as upstream:
        with pytest.raises(httpx.RemoteProtocolError, match=re.escape(error)):
            await ask(transport, request(upstream.url))
        await closed.wait()


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 2", head(FIVE) + b"he", head() + b"he"])
async def test_a_reset_is_a_read_error(sent: bytes, transport: NativeTransport) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(sent)
        wire.reset()

    async with archive(handle) as upstream:
        with pytest.raises(httpx.ReadError, match="connection lost"):
            await ask(transport, request(upstream.url))


async def test_what_came_before_the_cut_is_delivered(transport: NativeTransport) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(head(FIVE) + b"he")
        wire.reset()

    async with archive(handle) as upstream:
        response = await transport.handle_async_request(request(upstream.url))
        body = aiter(body_of(response))
        assert await anext(body) == b"he"
        with pytest.raises(httpx.ReadError):
            await anext(body)
        await response.aclose()


async def test_version_and_reason_are_told(transport: NativeTransport) -> None:
    said = head(status=b"HTTP/1.1 100 Continue")
    said += head(b"Content-Length: 0", status=b"HTTP/1.0 202 Tr\xe8s bien")
    async with archive(script([said], closes=True)) as upstream:
        response = await transport.handle_async_request(request(upstream.url))
        await response.aclose()
    assert response.extensions == {"http_version": b"HTTP/1.0", "reason_phrase": b"Tr\xe8s bien"}


async def test_a_response_streams_before_the_archive_has_finished(
    transport: NativeTransport,
) -> None:
    proceed = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(head(b"Content-Length: 10"))
        await proceed.wait()
        proceed.clear()
        await wire.send(b"first")
        await proceed.wait()
        await wire.send(b"-last")

    async with archive(handle) as upstream:
        response = await transport.handle_async_request(request(upstream.url))
        proceed.set()
        body = aiter(body_of(response))
        assert await anext(body) == b"first"
        proceed.set()
        assert await anext(body) == b"-last"
        with pytest.raises(StopAsyncIteration):
            await anext(body)
        await response.aclose()


async def test_a_body_is_closed_with_its_exchange(transport: NativeTransport) -> None:
    async with archive(script([answer(b"hello")], closes=False)) as upstream:
        response = await transport.handle_async_request(request(upstream.url))
        body = body_of(response)
        await body.aclose()
        await body.aclose()
        other = await transport.handle_async_request(request(upstream.url))
        with pytest.raises(httpx.StreamClosed):
            await anext(aiter(body))
        assert len(upstream.connections) == 1
        assert transport.pools.popitem()[1].in_use == 1
        await other.aclose()


# A request's bytes


async def test_a_request_goes_out_byte_for_byte(transport: NativeTransport) -> None:
    lines = [(b"x-B", b"1"), (b"aCCEPT", b'a/b; c="d", \xe9\xff'), (b"X-b", b"2"), (b"X-E", b"")]
    target = b"/pacs//studies?PatientName=M%C3%BCller%2F^*&x=%2e%2E#"

    async with archive(script([answer()], closes=False)) as upstream:
        await ask(transport, request(upstream.url, "OPTIONS", *lines, target=target))
    assert upstream.requests[0].raw == (
        b"OPTIONS " + target + b" HTTP/1.1\r\nHost: archive\r\n"
        b'x-B: 1\r\naCCEPT: a/b; c="d", \xe9\xff\r\nX-b: 2\r\nX-E: \r\n\r\n'
    )


async def test_the_target_is_by_default_that_of_the_url(transport: NativeTransport) -> None:
    async with archive(script([answer()], closes=False)) as upstream:
        await ask(transport, httpx.Request("GET", upstream.url + "/a%2Fb?c=%20", headers={}))
    assert upstream.requests[0].first_line == b"GET /pacs/a%2Fb?c=%20 HTTP/1.1"


class Upload(NamedTuple):
    announced: Header
    chunks: list[bytes]
    sent: bytes


@pytest.mark.parametrize(
    "upload",
    [
        Upload((b"Content-Length", b"6"), [b"abc", b"", b"def"], b"abcdef"),
        Upload(
            CHUNKED, [b"abc", b"", b"d" * 26], b"3\r\nabc\r\n1a\r\n%b\r\n0\r\n\r\n" % (b"d" * 26)
        ),
        Upload(CHUNKED, [], b"0\r\n\r\n"),
        Upload((b"Content-Length", b"0"), [], b""),
        Upload((b"content-length", b"00"), [], b""),
    ],
    ids=["a length", "chunked", "chunked, empty", "nothing", "nothing, at length"],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_an_upload_goes_out_framed_as_announced(
    upload: Upload, method: str, transport: NativeTransport
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        assert await wire.reader.readexactly(len(upload.sent)) == upload.sent
        await wire.send(answer())
        assert await wire.closed()

    async with archive(handle) as upstream:
        body = Source(*upload.chunks, None)
        outgoing = request(upstream.url, method, upload.announced, body=body)
        assert (await ask(transport, outgoing)).status == 200
        assert body.ended.is_set() == bool(upload.sent)  # nobody asks for what is not announced
        assert transport.connections()["idle"] == 1
        await transport.aclose()


@pytest.mark.parametrize(
    ("chunks", "received", "error"),
    [
        ([b"abc", None], b"abc", "shorter"),
        ([None], b"", "shorter"),
        ([b"abc", b"defg", None], b"abc", "longer"),
    ],
)
async def test_a_body_of_another_length_than_announced_cuts_the_request(
    chunks: list[bytes | None], received: bytes, error: str, transport: NativeTransport
) -> None:
    seen = asyncio.get_running_loop().create_future()

    async def handle(wire: Wire, _: Head) -> None:
        seen.set_result(await wire.reader.read())

    async with archive(handle) as upstream:
        body = Source(*chunks)
        outgoing = request(upstream.url, "POST", (b"Content-Length", b"6"), body=body)
        with pytest.raises(httpx.LocalProtocolError, match=error):
            await ask(transport, outgoing)
        assert received.startswith(await seen)
        assert body.ended.is_set()


@pytest.mark.parametrize(
    "framing",
    [
        [(b"Content-Length", b"5"), CHUNKED],
        [(b"Content-Length", b"5"), (b"Content-Length", b"5")],
        [(b"Content-Length", b"+5")],
        [(b"Content-Length", b"5, 5")],
        [(b"Transfer-Encoding", b"gzip, chunked")],
        [CHUNKED, CHUNKED],
    ],
    ids=repr,
)
async def test_a_request_framed_ambiguously_is_not_sent(framing: list[Header]) -> None:
    transport = NativeTransport()
    with pytest.raises(httpx.LocalProtocolError, match="either one Content-Length"):
        await ask(transport, request("http://127.0.0.1:1", "POST", *framing, body=Source(b"hello")))
    assert not transport.pools


async def test_a_body_must_be_asynchronous() -> None:
    outgoing = httpx.Request("POST", "http://127.0.0.1:1", content=iter([b"x"]))
    with pytest.raises(httpx.LocalProtocolError, match="asynchronous"):
        await NativeTransport().handle_async_request(outgoing)


async def test_any_iterator_can_be_a_body(transport: NativeTransport) -> None:
    class Once(httpx.AsyncByteStream):
        chunks = [b"abc"]  # noqa: RUF012

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            if not self.chunks:
                raise StopAsyncIteration
            return self.chunks.pop()

    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(await wire.body(head)))

    async with archive(handle) as upstream:
        answered = await ask(transport, request(upstream.url, "POST", CHUNKED, body=Once()))
    assert answered.body == b"abc"


# Both at once


async def test_an_upload_streams_before_its_source_has_finished(transport: NativeTransport) -> None:
    arrived = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        assert await wire.chunk() == b"first"
        arrived.set()
        assert await wire.chunk() == b"last"
        assert await wire.chunk() == b""
        await wire.send(answer())

    async with archive(handle) as upstream:
        body = Source(b"first")
        asking = asyncio.create_task(
            ask(transport, request(upstream.url, "POST", CHUNKED, body=body))
        )
        await arrived.wait()
        body.put(b"last", None)
        assert (await asking).status == 200


async def test_a_2xx_response_and_its_upload_run_side_by_side(transport: NativeTransport) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(head(b"Transfer-Encoding: chunked", b"Connection: close"))
        while chunk := await wire.chunk():
            await wire.send(b"%x\r\n%b\r\n" % (len(chunk), chunk.upper()))
        await wire.send(b"0\r\n\r\n")

    async with archive(handle) as upstream:
        body = Source()
        response = await transport.handle_async_request(
            request(upstream.url, "POST", CHUNKED, body=body)
        )
        echo = aiter(body_of(response))
        for chunk in (b"one", b"two"):
            body.put(chunk)
            assert await anext(echo) == chunk.upper()
        body.put(None)
        with pytest.raises(StopAsyncIteration):
            await anext(echo)
        await response.aclose()


@pytest.mark.parametrize("status", [b"413 Too Large", b"401 Unauthorized", b"302 Found"])
@pytest.mark.parametrize("then", ["closes", "reads on", "resets"])
async def test_an_early_refusal_arrives_and_stops_the_upload(
    status: bytes, then: str, transport: NativeTransport
) -> None:
    stopped = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.chunk()
        await wire.send(answer(b"no", status=status))
        if then == "closes":
            wire.writer.close()
        elif then == "resets":
            await body.ended.wait()
            wire.reset()
        await wire.reader.read()
        stopped.set()

    async with archive(handle) as upstream:
        body = Source(b"x" * 1000)
        outgoing = request(upstream.url, "POST", CHUNKED, body=body)
        response = await transport.handle_async_request(outgoing)
        assert response.status_code == int(status[:3])
        await body.ended.wait()
        pulled = body.pulled
        body.put(b"more", b"more")
        assert await response.aread() == b"no"
        await response.aclose()
        await stopped.wait()
        assert body.pulled == pulled


async def test_a_response_that_is_complete_ends_its_upload(transport: NativeTransport) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"thanks"))
        with pytest.raises(asyncio.IncompleteReadError):
            await wire.chunk()

    async with archive(handle) as upstream:
        body = Source()
        answered = await ask(transport, request(upstream.url, "POST", CHUNKED, body=body))
        assert answered.body == b"thanks"
        await body.ended.wait()


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("resets", [True, False])
async def test_an_archive_that_closes_stops_the_upload(
    complete: bool, resets: bool, transport: NativeTransport
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", length=5 if complete else 6))
        await turns(10)
        if resets:
            wire.reset()
        wire.writer.close()

    async with archive(handle) as upstream:
        body = Source()
        response = await transport.handle_async_request(
            request(upstream.url, "POST", CHUNKED, body=body)
        )
        await body.ended.wait()  # while nobody has read the response
        if complete:
            assert await response.aread() == b"hello"
        else:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                await response.aread()
        await response.aclose()


async def test_an_archive_that_closes_its_side_stops_an_upload_that_it_does_not_read(
    transport: NativeTransport,
) -> None:
    with Stalling() as upstream:
        body = Source(b"x" * 50_000_000)
        outgoing = request(upstream.url, "POST", CHUNKED, body=body)
        asking = asyncio.create_task(transport.handle_async_request(outgoing))
        with await upstream.accept() as peer:
            peer.sendall(answer(b"hello"))
            response = await asking
            assert not body.ended.is_set()
            peer.shutdown(socket.SHUT_WR)
            await body.ended.wait()
            assert await response.aread() == b"hello"
            await response.aclose()


@pytest.mark.parametrize("lost", ["reset", "closed"])
async def test_a_connection_lost_after_its_response_is_not_kept(
    lost: str, transport: NativeTransport
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello"))
        await proceed.wait()
        if lost == "reset":
            wire.reset()
        wire.writer.close()

    proceed = asyncio.Event()
    async with archive(handle) as upstream:
        response = await transport.handle_async_request(request(upstream.url))
        proceed.set()
        await turns(20)
        assert await response.aread() == b"hello"
        [pool] = transport.pools.values()
        assert (pool.in_use, len(pool.idle)) == (0, 0)


@pytest.mark.parametrize("size", [100, 1_000_000])
async def test_a_refusal_right_before_a_reset_is_not_lost_to_the_next_write(
    size: int, transport: NativeTransport
) -> None:
    """The refusal is in our kernel when the write fails, and the event loop has yet to look."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    class Racing(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            with listener.accept()[0] as peer:
                yield b"first"
                await turns(5)
                assert peer.recv(10)
                peer.sendall(answer(b"no", status=b"413 Too Large"))
            for _ in range(10):  # what was not read makes the close a reset
                yield b"x" * size
            await asyncio.Event().wait()

    with listener:
        answered = await ask(
            transport, request(f"http://127.0.0.1:{port}", "POST", CHUNKED, body=Racing())
        )
    assert (answered.status, answered.body) == (413, b"no")


@pytest.mark.parametrize("failure", [ValueError("stalled"), TimeoutError("408")])
async def test_what_the_source_raises_is_raised(
    failure: Exception, transport: NativeTransport
) -> None:
    cut = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        assert await wire.chunk() == b"first"
        assert await wire.closed()
        cut.set()

    async with archive(handle) as upstream:
        body = Source(b"first")
        asking = asyncio.create_task(
            ask(transport, request(upstream.url, "POST", CHUNKED, body=body))
        )
        await until(lambda: body.pulled)
        body.put(failure)
        with pytest.raises(type(failure)) as raised:
            await asking
        assert raised.value is failure
        await cut.wait()


async def test_a_source_that_fails_in_mid_response_cuts_it(transport: NativeTransport) -> None:
    async with archive(script([head(FIVE) + b"he"], closes=False)) as upstream:
        body = Source()
        response = await transport.handle_async_request(
            request(upstream.url, "POST", CHUNKED, body=body)
        )
        body.put(ValueError("stalled"))
        with pytest.raises(ValueError, match="stalled"):
            await response.aread()
        await response.aclose()


async def test_a_source_that_was_cancelled_is_no_whole_body(transport: NativeTransport) -> None:
    async with archive(script([], closes=False)) as upstream:
        body = Source(b"first", asyncio.CancelledError())
        with pytest.raises(httpx.LocalProtocolError, match="broke off"):
            await ask(transport, request(upstream.url, "POST", CHUNKED, body=body))


async def test_a_source_that_cannot_be_read_is_no_body(transport: NativeTransport) -> None:
    class Broken(httpx.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            raise ValueError("read twice")

    async with archive(script([], closes=False)) as upstream:
        with pytest.raises(ValueError, match="read twice"):
            await ask(transport, request(upstream.url, "POST", CHUNKED, body=Broken()))


# Back-pressure


def can_be_read(sock: socket.socket) -> bool:
    return bool(select.select([sock], [], [], 0)[0])


class Stalling:
    """A listener whose one connection is used without an event loop's buffers."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    async def accept(self) -> socket.socket:
        """The connection, once a byte of the request is there."""
        await until(lambda: can_be_read(self.listener))
        peer, _ = self.listener.accept()
        peer.setblocking(False)
        await until(lambda: can_be_read(peer))
        return peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()


async def moved(step: Callable[[], int]) -> int:
    """Bytes that `step` moves until nothing has moved for a hundred turns of the loop."""
    total = stalled = 0
    while stalled < 100:
        try:
            size = step()
        except BlockingIOError:
            size = 0
        total += size
        stalled = 0 if size else stalled + 1
        await asyncio.sleep(0)
    return total


async def receive(peer: socket.socket, size: int) -> None:
    while size:
        with suppress(BlockingIOError):
            size -= len(peer.recv(min(size, 65536)))
        await asyncio.sleep(0)


@pytest.mark.parametrize("framing", [b"Content-Length: 100000000", b"X: until it closes"])
async def test_the_archive_waits_while_nobody_reads(
    framing: bytes, transport: NativeTransport
) -> None:
    block = b"x" * 65536
    with Stalling() as upstream:
        asking = asyncio.create_task(transport.handle_async_request(request(upstream.url)))
        with await upstream.accept() as peer:
            peer.sendall(head(framing))
            response = await asking
            body = aiter(body_of(response))
            sent = await moved(lambda: peer.send(block))
            assert sent < 50_000_000  # what the kernel holds, and little else
            held = await anext(body)
            assert READ_HIGH_WATER <= len(held) < 2_000_000

            received = len(held)
            while received < sent:
                received += len(await anext(body))
            assert await moved(lambda: peer.send(block)) > 0
            await response.aclose()


async def test_a_source_is_not_pulled_while_the_archive_does_not_read(
    transport: NativeTransport,
) -> None:
    pulled = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 65536
            yield b"x" * 65536

    with Stalling() as upstream:
        outgoing = httpx.Request("POST", upstream.url, headers=[CHUNKED], content=endless())
        asking = asyncio.create_task(ask(transport, outgoing))
        with await upstream.accept() as peer:
            seen = 0

            def progress() -> int:
                nonlocal seen
                before, seen = seen, pulled
                return seen - before

            assert 0 < await moved(progress) < 50_000_000
            await receive(peer, pulled)
            await until(progress)
        with pytest.raises(httpx.ReadError):
            await asking


# Time


async def test_the_read_timeout_counts_from_the_last_byte(transport: NativeTransport) -> None:
    proceed = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        for sign_of_life in (head(status=b"HTTP/1.1 102 Processing"), b"HTTP/1.1 200 OK\r\n"):
            await proceed.wait()
            proceed.clear()
            await wire.send(sign_of_life)
        assert await wire.closed()

    async with archive(handle) as upstream:
        with Clock() as clock:
            asking = asyncio.create_task(ask(transport, request(upstream.url, read=60)))
            for _ in range(2):
                await until(lambda: clock.armed == [60])
                await clock.advance(59)
                proceed.set()
            await until(lambda: clock.armed == [60])
            await clock.advance(59)
            assert not asking.done()
            await clock.advance(1)
            with pytest.raises(httpx.ReadTimeout, match="60 s"):
                await asking
            assert clock.armed == []


async def test_the_read_timeout_covers_the_body_but_not_a_reader_that_holds_back(
    transport: NativeTransport,
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(head(FIVE) + b"he")
        assert await wire.closed()

    async with archive(handle) as upstream:
        with Clock() as clock:
            response = await transport.handle_async_request(request(upstream.url, read=60))
            body = aiter(body_of(response))
            await clock.advance(1000)
            assert await anext(body) == b"he"
            await clock.advance(1000)
            assert clock.armed == []
            reading = asyncio.ensure_future(anext(body))
            await until(lambda: clock.armed)
            await clock.advance(60)
            with pytest.raises(httpx.ReadTimeout):
                await reading
            await response.aclose()


async def test_the_read_timeout_waits_for_the_upload(transport: NativeTransport) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.body(head)
        assert await wire.closed()

    async with archive(handle) as upstream:
        with Clock() as clock:
            body = Source(b"first")
            outgoing = request(upstream.url, "POST", CHUNKED, body=body, read=60)
            asking = asyncio.create_task(ask(transport, outgoing))
            await until(lambda: body.pulled)
            await clock.advance(1000)
            assert (clock.armed, asking.done()) == ([], False)
            body.put(None)
            await until(lambda: clock.armed == [60])
            await clock.advance(60)
            with pytest.raises(httpx.ReadTimeout):
                await asking


async def test_the_read_timeout_runs_again_when_a_refusal_stops_the_upload(
    transport: NativeTransport,
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(head(FIVE, status=b"HTTP/1.1 413 Too Large"))
        await wire.closed()

    async with archive(handle) as upstream:
        with Clock() as clock:
            outgoing = request(upstream.url, "POST", CHUNKED, body=Source(), read=60)
            asking = asyncio.create_task(ask(transport, outgoing))
            await until(lambda: clock.armed == [60])
            await clock.advance(60)
            with pytest.raises(httpx.ReadTimeout):
                await asking


class Wired(asyncio.Transport):
    """A transport that a test plays the event loop for."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.reading = True
        self.aborted = False
        self.connection = Connection(lambda _: None, MAX_HEAD)
        self.connection.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


TINY = b"2\r\nab\r\n"


async def test_tiny_chunks_leave_other_connections_their_turn_and_the_archive_waiting() -> None:
    wired = Wired()
    connection = wired.connection
    connection.begin(b"GET", b"", None, None, None)
    connection.data_received(head(b"Transfer-Encoding: chunked"))
    answer = connection._parser  # noqa: SLF001
    assert wired.reading

    connection.data_received(TINY * 40_000 + b"0\r\n\r\n")
    before = 0
    while answer.buffered < READ_HIGH_WATER:
        assert not wired.reading
        assert answer.buffered - before <= 2 * MAX_CHUNKS_PER_CALL
        before = answer.buffered
        await turns(1)
    await turns(5)
    assert answer.buffered < READ_HIGH_WATER + 2 * MAX_CHUNKS_PER_CALL

    body = b""
    while data := await connection.read():
        body += data
    assert body == b"ab" * 40_000
    assert wired.reading
    assert connection.end()


@pytest.mark.parametrize("ending", ["end", "cut", "malformed"])
async def test_what_is_left_of_tiny_chunks_at_the_end_of_the_connection_is_decoded(
    ending: str,
) -> None:
    wired = Wired()
    connection = wired.connection
    connection.begin(b"GET", b"", None, None, None)
    last = {"end": b"0\r\n\r\n", "cut": b"", "malformed": b"x"}[ending]
    connection.data_received(head(b"Transfer-Encoding: chunked") + TINY * 10_000 + last)
    connection.eof_received()
    if ending == "end":
        assert await connection.read() == b"ab" * 10_000
        assert await connection.read() == b""
    else:
        # What was decoded together with the fault is lost.
        assert (b"ab" * 10_000).startswith(await connection.read())
        with pytest.raises(httpx.RemoteProtocolError):
            await connection.read()
    assert not connection.end()


async def test_tiny_chunks_that_nobody_wants_any_more_are_not_decoded() -> None:
    wired = Wired()
    connection = wired.connection
    connection.begin(b"GET", b"", None, None, None)
    connection.data_received(head(b"Transfer-Encoding: chunked") + TINY * 10_000)
    answer = connection._parser  # noqa: SLF001
    assert not connection.end()
    await turns(5)
    assert not answer.has_undecoded
    assert wired.aborted


async def test_a_byte_in_time_beats_the_timeout_of_the_same_turn() -> None:
    connection = Wired().connection
    with Clock() as clock:
        connection.begin(b"GET", b"", None, None, 60)
        waiting = asyncio.create_task(connection.head())
        await until(lambda: clock.armed == [60])
        connection.data_received(answer())
        await clock.advance(60)
        assert (await waiting).status == 200
        assert (await connection.read(), connection.end()) == (b"", True)
        assert clock.armed == []


async def test_the_read_timeout_is_also_that_of_an_archive_that_takes_nothing(
    transport: NativeTransport,
) -> None:
    with Stalling() as upstream, Clock() as clock:
        body = Source(b"x" * 50_000_000)
        outgoing = request(upstream.url, "POST", CHUNKED, body=body, read=60)
        asking = asyncio.create_task(ask(transport, outgoing))
        with await upstream.accept():
            await until(lambda: clock.armed == [60])
            await turns(100)
            await clock.advance(59)
            assert not asking.done()
            await clock.advance(61)
            with pytest.raises(httpx.WriteTimeout, match="60 s"):
                await asking
            assert clock.armed == []


async def test_an_upload_goes_on_where_the_archive_has_taken_the_head() -> None:
    wired = Wired()
    wired.connection.pause_writing()
    wired.connection.resume_writing()
    wired.connection.begin(b"POST", b"a long head", Source(b"x", None), None, 60)
    await turns(5)
    assert wired.written == b"a long head1\r\nx\r\n0\r\n\r\n"


async def test_a_slow_upload_is_no_timeout() -> None:
    wired = Wired()
    connection = wired.connection
    with Clock() as clock:
        wired.unsent = 1000
        connection.pause_writing()
        connection.begin(b"POST", b"", Source(b"x"), None, 60)
        for slowly in range(3):
            wired.unsent = 900 - slowly
            await until(lambda: clock.armed == [60])
            wired.unsent -= 1
            await clock.advance(60)
            assert not wired.aborted
        connection.data_received(head(b"Content-Length: 1000000") + b"x" * READ_HIGH_WATER)
        assert not wired.reading
        for _ in range(3):  # the archive may be waiting for us to read
            await until(lambda: clock.armed == [60])
            await clock.advance(60)
            assert not wired.aborted
        assert len(await connection.read()) == READ_HIGH_WATER
        await clock.advance(60)
        assert wired.aborted
        with pytest.raises(httpx.WriteTimeout):
            await connection.read()


async def test_without_timeouts_no_timer_is_armed(transport: NativeTransport) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.body(head)
        await wire.send(answer(b"hello"))

    async with archive(handle) as upstream:
        with Clock() as clock:
            body = Source(b"x" * 1_000_000, None)
            outgoing = request(upstream.url, "POST", CHUNKED, (b"Connection", b"close"), body=body)
            response = await transport.handle_async_request(outgoing)
            assert await response.aread() == b"hello"
            await response.aclose()
            assert clock.armed == [IDLE_EXPIRY]
