"""The reader of requests, without a connection or an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.server.head_cache import HeadCache
from dicomweb_cors_proxy.server.request_reader import RequestReader
from tests.support.sockets import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dicomweb_cors_proxy.server.request_reader import Request

LIMITS = settings("http://archive.example", server={"max_header_bytes": 4096}).server

HEAD = b"GET /x HTTP/1.1\r\nHost: a\r\nOrigin: https://viewer.example\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
UPGRADE = b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"


class Receiver:
    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.problems: list[HTTPProblem] = []

    def on_request(self, request: Request) -> None:
        self.requests.append(request)

    def on_reject(self, request: Request, problem: HTTPProblem) -> None:
        self.requests.append(request)
        self.problems.append(problem)


def read(pieces: Iterable[bytes]) -> tuple[RequestReader, Receiver]:
    receiver = Receiver()
    reader = RequestReader(LIMITS, HeadCache(), receiver)
    for piece in pieces:
        reader.received.add(piece)
        if not receiver.requests:
            reader.read_head()
    return reader, receiver


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize(
    ("head", "method"), [(HEAD, "GET"), (b"BREW" + HEAD[3:], "BREW"), (UPGRADE, "GET")]
)
@pytest.mark.parametrize("split", [bytewise, whole])
def test_reader_reads_a_head_whose_body_is_empty(
    head: bytes, method: str, split: Callable[[bytes], list[bytes]]
) -> None:
    reader, receiver = read(split(head))
    assert [request.method for request in receiver.requests] == [method]
    assert not receiver.problems
    assert reader.is_idle


def test_reader_keeps_later_requests_unread() -> None:
    reader, receiver = read([HEAD * 3])
    assert len(receiver.requests) == 1
    assert reader.received.data[reader.received.at :] == HEAD * 2
    for _ in range(2):
        reader.read_head()
    assert len(receiver.requests) == 3
    assert not reader.received.data


def test_reader_reads_a_body_only_when_asked() -> None:
    reader, _ = read([POST, b"he", b"llo" + HEAD])
    assert reader.body.more
    assert reader.body.may_be_whole()
    assert reader.body.read() == b"hello"
    assert reader.is_idle
    assert reader.received.data[reader.received.at :] == HEAD


def test_reader_rejects_the_malformed_chunk_of_a_body_once() -> None:
    reader, _ = read([POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked"), b"no"])
    with pytest.raises(HTTPProblem):
        reader.body.read()
    assert reader.received.is_stopped
    assert reader.body.read() == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (HEAD[:-2] + b"bad\r\n\r\n", 400),
        (HEAD.replace(b"/x", b"/" + b"x" * LIMITS.max_target_bytes), 414),
        (HEAD[:-2] + b"X: " + b"x" * 5000 + b"\r\n\r\n", 431),
    ],
)
def test_reader_rejects_a_head_with_its_origin(head: bytes, status: int) -> None:
    _, receiver = read([head])
    assert [problem.status for problem in receiver.problems] == [status]
    assert (b"origin", b"https://viewer.example") in receiver.requests[0].headers


def test_reader_rejects_a_late_head_without_lines_of_the_last_one() -> None:
    reader, receiver = read([HEAD])
    reader.received.add(b"GE")
    reader.read_head()
    assert reader.is_in_head
    reader.reject_head(HTTPProblem(408, "late"))
    assert receiver.problems[0].status == 408
    assert receiver.requests[1].headers == []


def test_reader_reports_no_earlier_request_for_malformed_bytes() -> None:
    reader, receiver = read([HEAD])
    reader.received.add(b"\0\0\r\n\r\n")
    reader.read_head()
    assert [problem.status for problem in receiver.problems] == [400]
    assert receiver.requests[1].headers == []
