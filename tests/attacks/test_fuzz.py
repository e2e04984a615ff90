"""Both parsers under mutated bytes, in any split: never an exception that isn't ours, never another
reading than that of h11, which shares no code with them.

The examples are cases that were found, here or in the tables beside this file. The laws of matcher,
rewriter, Accept's repair, configuration and origins stand with those modules' own tests.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import h11
import httpx
import hypothesis
from hypothesis import example, given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from dicomweb_cors_proxy.http.extensions import REJECTION
from dicomweb_cors_proxy.server.acceptor import ClientConnections
from dicomweb_cors_proxy.server.connection import ClientConnection
from dicomweb_cors_proxy.server.head_cache import HeadCache
from dicomweb_cors_proxy.server.http2_head import HTTP2Heads
from dicomweb_cors_proxy.server.turns import Turns
from dicomweb_cors_proxy.upstream.response_parser import ResponseParser
from tests.support.sockets import settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.types import Receive, Scope, Send

MAX_HEAD = 4096

# Messages, nearly right


def choice(*each: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from(each)


lines = choice(
    b"Host: a",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 3",
    b"Content-Length: +5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: ,chunked",
    b"transfer-encoding:\tchunked\t",
    b"Connection: close",
    b"Connection: keep-alive",
    b"Connection: upgrade\r\nUpgrade: h2c",
    b"Expect: 100-continue",
    b"Origin: https://viewer.example",
    b"A: b",
    b"A:",
    b"A : b",
    b" folded",
    b": b",
)
bodies = choice(
    b"",
    b"hello",
    b"abc",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n",
    b"0005\r\nhello\r\n00\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
)


def messages(*first_lines: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda first, lines, body: b"\r\n".join([first, *lines, b"", body]),
        choice(*first_lines),
        st.lists(lines, max_size=4),
        bodies,
    )


snippets = choice(
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"0", b"5", b"\xff", b"\x0b", b""
)


@st.composite
def mutated(draw: st.DrawFn, messages: st.SearchStrategy[bytes], most: int) -> bytes:
    """Draw some messages in a row, with a few bytes replaced, dropped or added."""
    data = b"".join(draw(st.lists(messages, min_size=1, max_size=most)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(snippets) + data[at + draw(st.integers(0, 2)) :]
    return data


cuts = st.lists(st.integers(0, 400), max_size=8)


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[start:end] for start, end in pairwise(edges)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# The server's side


class Read(NamedTuple):
    """A request that was read to its end."""

    method: str
    target: bytes
    body: bytes


class Client(asyncio.Transport):
    """A client that takes whatever it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_paused = False
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_extra_info(self, name: str, default: object = None) -> None:
        """Tell nothing: there is no socket."""


@dataclass
class Application:
    """Reads requests to their ends, notes them, and answers without a body."""

    read: list[Read] = field(default_factory=list)
    methods: set[str] = field(default_factory=set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 400
        self.methods.add(scope["method"])
        if REJECTION not in scope["extensions"]:
            body, more = b"", True
            try:
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return
                    body += message["body"]
                    more = message["more_body"]
            except Exception:  # noqa: BLE001  (the body is malformed)
                pass
            else:
                status = 200
                query = scope["query_string"]
                target = scope["raw_path"] + (b"?" + query if query else b"")
                self.read.append(Read(scope["method"], target, body))
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


LIMITS = settings("http://archive.example", server={"max_header_bytes": MAX_HEAD}).server
ANSWERS = re.compile(rb"(?:HTTP/1\.1 (\d{3}) [ -~]*\r\n(?:[!-9;-~]+: [ -~]*\r\n)*\r\n)*")


async def serve(
    pieces: Sequence[bytes], known_heads: HeadCache | None = None
) -> tuple[list[Read], list[bytes], set[str]]:
    """The requests read out of these pieces, the statuses answered, and all methods seen."""
    application = Application()
    config = SimpleNamespace(
        loaded_app=application,
        limits=LIMITS,
        read_buffer=memoryview(bytearray(1)),
        turns=Turns(1),
        clients=ClientConnections(1),
        known_heads=HeadCache() if known_heads is None else known_heads,
        http2_heads=HTTP2Heads(LIMITS),
        running_streams=1,
        relays=set(),
    )
    client = Client()
    protocol = ClientConnection(cast("Any", config), ServerState(), {})
    protocol.connection_made(client)
    for piece in pieces:
        while client.is_paused and not client.closed:  # noqa: ASYNC110  (until it is read)
            await asyncio.sleep(0)
        if client.closed:
            break
        protocol.data_received(piece)
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    protocol.connection_lost(None)
    await asyncio.sleep(0)
    assert ANSWERS.fullmatch(client.sent), client.sent
    statuses = re.findall(rb"^HTTP/1\.1 (\d{3})", client.sent, re.MULTILINE)
    finals = [status for status in statuses if status != b"100"]
    return application.read, finals, application.methods


def as_h11_reads(data: bytes) -> list[Read]:
    """The requests that h11 reads."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(data)
    read: list[Read] = []
    head, body = None, b""
    try:
        while True:
            match event := server.next_event():
                case h11.Request():
                    head, body = event, b""
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    assert head is not None
                    read.append(Read(head.method.decode(), head.target, body))
                    server.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    server.send(h11.EndOfMessage())
                    if server.our_state is h11.MUST_CLOSE:
                        break
                    server.start_next_cycle()
                case _:
                    break
    except h11.ProtocolError:
        pass
    return read


KNOWN = {"CONNECT", "GET", "HEAD", "OPTIONS", "POST"}
requests = messages(
    b"GET /x HTTP/1.1",
    b"POST /x?y HTTP/1.1",
    b"HEAD /x HTTP/1.1",
    b"OPTIONS * HTTP/1.1",
    b"BREW /x HTTP/1.1",
    b"GET http://a/x HTTP/1.1",
    b"GET /x HTTP/1.0",
    b"CONNECT a:1 HTTP/1.1",
    b"GET  /x HTTP/1.1",
    b"",
)


@hypothesis.settings(deadline=None)
@given(mutated(requests, 4), cuts)
@example(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\t\r\n\r\n0\r\n\r\n", [])
@example(b"BREW /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello" * 3, [1, 40, 80])
@example(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" * 3, [60])
@example(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n" * 40, [])
def test_requests_are_read_alike_however_they_are_split(data: bytes, cuts: list[int]) -> None:
    read, statuses, methods = asyncio.run(serve([data]))
    for pieces in (split(data, cuts), bytewise(data)):
        again, answered, others = asyncio.run(serve(pieces))
        if methods | others <= KNOWN:
            assert (again, answered) == (read, statuses)
        else:  # 405 if the method is found in one piece at its beginning, else 400 and the end
            assert again[: len(read)] == read[: len(again)]


@hypothesis.settings(deadline=None)
@given(st.lists(mutated(requests, 1), min_size=1, max_size=4))
@example([b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"] * 2)
@example([b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n", b"\r\n\r\n"])
def test_heads_that_came_before_are_read_alike(messages: list[bytes]) -> None:
    known_heads = HeadCache()
    for message in messages:
        asyncio.run(serve([message], known_heads))
    read, statuses, methods = asyncio.run(serve(messages, known_heads))
    again, answered, others = asyncio.run(serve(bytewise(b"".join(messages))))
    if methods | others <= KNOWN:
        assert (again, answered) == (read, statuses)
    else:
        assert again[: len(read)] == read[: len(again)]


@hypothesis.settings(deadline=None)
@given(mutated(requests, 4))
@example(b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n")
@example(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello")
def test_requests_are_read_as_h11_reads_them(data: bytes) -> None:
    read, _, _ = asyncio.run(serve([data]))
    for ours, theirs in zip(read, as_h11_reads(data), strict=False):
        assert ours == theirs


# The engine's side


class Answered(NamedTuple):
    status: int
    body: bytes
    is_whole: bool


def receive(pieces: Iterable[bytes], method: bytes) -> Answered | None:
    """What the engine makes of these pieces, behind which the archive closes."""
    answer = ResponseParser(method, MAX_HEAD)
    try:
        for piece in pieces:
            answer.feed(piece)
        answer.feed_eof(cut=False)
    except httpx.RemoteProtocolError:
        pass
    return answer.head and Answered(answer.head.status, answer.take(), answer.complete)


def as_h11_receives(data: bytes, method: bytes) -> Answered | None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    status, body = None, b""
    try:
        while True:
            match event := client.next_event():
                case h11.Response():
                    status = event.status_code
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    assert status is not None
                    return Answered(status, body, is_whole=True)
                case h11.InformationalResponse():
                    pass
                case _:
                    break
    except h11.ProtocolError:
        pass
    return None if status is None else Answered(status, body, is_whole=False)


answers = messages(
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 206 Partial Content",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 304 Not Modified",
    b"HTTP/1.1 100 Continue",
    b"HTTP/1.1 103 Early Hints",
    b"HTTP/1.1 101 Switching Protocols",
    b"HTTP/1.0 200 OK",
    b"HTTP/1.1 200",
    b"HTTP/2.0 200 OK",
    b"",
)
methods = choice(b"GET", b"HEAD", b"POST")


@hypothesis.settings(deadline=None)
@given(mutated(answers, 3), cuts, methods)
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n\r\n", [43], b"GET")
@example(b"HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\nhello", [], b"GET")
def test_responses_are_read_alike_however_they_are_split(
    data: bytes, cuts: list[int], method: bytes
) -> None:
    whole = receive([data], method)
    for pieces in (split(data, cuts), bytewise(data)):
        assert receive(pieces, method) == whole


@hypothesis.settings(deadline=None)
@given(mutated(answers, 2), methods)
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n", b"GET")
def test_a_whole_response_is_the_one_that_h11_reads(data: bytes, method: bytes) -> None:
    ours, theirs = receive([data], method), as_h11_receives(data, method)
    if ours is not None and theirs is not None and ours.is_whole and theirs.is_whole:
        assert ours == theirs
