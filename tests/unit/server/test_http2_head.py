"""Heads of HTTP/2 requests: valid ones, malformed ones, and those that are rejected."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from dicomweb_cors_proxy.server.http2_head import HTTP2Head, HTTP2Heads, MalformedHead, urgency_of

LIMITS = cast("Any", SimpleNamespace(max_header_bytes=1000, max_target_bytes=100, max_headers=10))
BASE = {
    b":method": b"GET",
    b":scheme": b"https",
    b":authority": b"pacs.example",
    b":path": b"/dicom-web/studies",
}


def lines(*headers: tuple[bytes, bytes], **changes: bytes | None) -> list[tuple[bytes, bytes]]:
    """A head with these pseudo-headers changed, or left out, and these headers."""
    pseudo = BASE | {b":" + name.encode(): value for name, value in changes.items()}
    return [*((name, value) for name, value in pseudo.items() if value is not None), *headers]


def read(head: list[tuple[bytes, bytes]]) -> HTTP2Head:
    heads = HTTP2Heads(LIMITS)
    first = heads.read(head)
    again = heads.read(head)  # from the cache
    assert first._replace(problem=None) == again._replace(problem=None)
    assert str(first.problem) == str(again.problem)
    return first


def test_a_head_becomes_a_request() -> None:
    head = read(lines((b"origin", b"https://v.example"), (b"priority", b"u=1, i")))
    assert (head.method, head.target, head.problem) == ("GET", b"/dicom-web/studies", None)
    assert head.headers == (
        (b"host", b"pacs.example"),
        (b"origin", b"https://v.example"),
        (b"priority", b"u=1, i"),
    )
    assert (head.length, head.expects_continue, head.urgency) == (None, False, 1)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"host", b"PACS.example")], [(b"host", b"pacs.example")]),
        ([(b"te", b"trailers")], [(b"host", b"pacs.example"), (b"te", b"trailers")]),
        (
            [(b"cookie", b"a=1"), (b"accept", b"*/*"), (b"cookie", b"b=2")],
            [(b"host", b"pacs.example"), (b"accept", b"*/*"), (b"cookie", b"a=1; b=2")],
        ),
        ([(b"cookie", b"a=1")], [(b"host", b"pacs.example"), (b"cookie", b"a=1")]),
    ],
)
def test_headers_become_those_of_http_1(
    headers: list[tuple[bytes, bytes]], expected: list[tuple[bytes, bytes]]
) -> None:
    assert list(read(lines(*headers)).headers) == expected


def test_host_stands_in_for_an_authority() -> None:
    head = read(lines((b"host", b"pacs.example"), authority=None))
    assert head.headers == ((b"host", b"pacs.example"),)


def test_length_and_expectation_are_known() -> None:
    head = read(lines((b"content-length", b"12"), (b"expect", b"100-Continue"), method=b"POST"))
    assert (head.length, head.expects_continue) == (12, True)


MALFORMED = {
    "a name in upper case": lines((b"Accept", b"*/*")),
    "a space in a name": lines((b"a b", b"")),
    "no name": lines((b"", b"")),
    "a NUL in a value": lines((b"a", b"\0")),
    "a line break in a value": lines((b"a", b"b\r\nc: d")),
    "a control character in a value": lines((b"a", b"b\x01")),
    "a space before a value": lines((b"a", b" b")),
    "a tab behind a value": lines((b"a", b"b\t")),
    "a line break in :authority": lines(authority=b"a\nb"),
    "Connection": lines((b"connection", b"close")),
    "Keep-Alive": lines((b"keep-alive", b"1")),
    "Proxy-Connection": lines((b"proxy-connection", b"close")),
    "Transfer-Encoding": lines((b"transfer-encoding", b"chunked")),
    "Upgrade": lines((b"upgrade", b"h2c")),
    "TE: gzip": lines((b"te", b"gzip")),
    "an unknown pseudo-header": lines(status=b"200"),
    "a pseudo-header behind a header": [(b"accept", b"*/*"), *lines()],
    ":path behind a header": [*lines((b"a", b"b"), path=None), (b":path", b"/")],
    "two paths": [*lines(), (b":path", b"/other")],
    "two methods": [(b":method", b"GET"), *lines()],
    "no method": lines(method=None),
    "an empty method": lines(method=b""),
    "a method that is no token": lines(method=b"GE T"),
    "an endless method": lines(method=b"M" * 65),
    "no scheme": lines(scheme=None),
    "no path": lines(path=None),
    "an empty path": lines(path=b""),
    "a path without a slash": lines(path=b"studies"),
    "a URL for a path": lines(path=b"https://pacs.example/"),
    "CONNECT with a path": lines(method=b"CONNECT"),
    "a length that is no number": lines((b"content-length", b"1x")),
    "a negative length": lines((b"content-length", b"-1")),
    "two lengths": lines((b"content-length", b"1"), (b"content-length", b"1")),
}


@pytest.mark.parametrize("head", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_head_is_an_error_of_its_stream(head: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(MalformedHead):
        HTTP2Heads(LIMITS).read(head)


REJECTED = {
    "two hosts": (lines((b"host", b"other.example")), 400),
    "a space in the target": (lines(path=b"/a b"), 400),
    "a byte beyond ASCII": (lines(path=b"/\xe9"), 400),
    "a target that is too long": (lines(path=b"/" + b"a" * 100), 414),
    "a head that is too large": (lines((b"a", b"b" * 1000)), 431),
    "too many headers": (lines(*[(b"a", b"b")] * 10), 431),
    "CONNECT": (lines(method=b"CONNECT", scheme=None, path=None), 405),
}


@pytest.mark.parametrize(("head", "status"), REJECTED.values(), ids=REJECTED)
def test_a_valid_head_may_be_rejected(head: list[tuple[bytes, bytes]], status: int) -> None:
    problem = read(head).problem
    assert problem is not None
    assert problem.status == status


@pytest.mark.parametrize(("path", "status"), [(b"/", 431), (b"/" + b"a" * 100, 414)])
def test_an_oversized_head_keeps_what_its_response_needs(path: bytes, status: int) -> None:
    kept = lines((b"origin", b"https://v.example"), path=path)
    head = HTTP2Heads(LIMITS).read_oversized(kept)
    assert head.headers == ((b"host", b"pacs.example"), (b"origin", b"https://v.example"))
    assert head.problem is not None
    assert head.problem.status == status


@pytest.mark.parametrize(
    ("value", "urgency"),
    [
        (b"", 3),
        (b"u=0", 0),
        (b"i, u=7", 7),
        (b"u=2;a=b, i", 2),
        (b"u=8", 3),
        (b"u=12", 3),
        (b"xu=1", 3),
        (b"i", 3),
    ],
)
def test_urgency_is_read_from_priority(value: bytes, urgency: int) -> None:
    assert urgency_of(value) == urgency


def test_the_cache_is_bounded() -> None:
    heads = HTTP2Heads(LIMITS)
    for number in range(600):
        heads.read(lines((b"a", b"%d" % number)))
    assert len(vars(heads)["_known"]) <= 512
