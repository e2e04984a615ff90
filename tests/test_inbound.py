"""Heads that are refused before anybody reads their meaning; and what servers do to targets."""

from __future__ import annotations

from typing import Any

import pytest

from dicomweb_cors_proxy.answers import Problem
from dicomweb_cors_proxy.extensions import REFUSAL
from dicomweb_cors_proxy.inbound import Heads, Inbound, Screen
from tests.support import asgi

LIMITS = {"max_target_bytes": 60, "max_header_bytes": 200, "max_headers": 4}


def status(
    *headers: tuple[bytes, bytes],
    path: bytes = b"/dicom-web/studies",
    hosts: tuple[bytes, ...] = (b"proxy.example",),
    allowed_hosts: tuple[str, ...] = (),
    **others: Any,  # noqa: ANN401
) -> int:
    """What a head is refused with; 0 if it isn't."""
    lines = [*((b"host", host) for host in hosts), *headers]
    scope = {**asgi.scope(path=path, **others), "headers": lines}
    screen = Screen(**LIMITS, allowed_hosts=allowed_hosts)
    try:
        screen.check(scope, Inbound.read(scope, Heads()))
    except Problem as problem:
        return problem.status
    return 0


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"proxy.example", 0),
        (b"proxy.example:8080", 0),
        (b"PROXY_1.example.", 0),
        (b"192.0.2.1", 0),
        (b"[2001:db8::1]:8080", 0),
        (b"", 400),
        (b":8080", 400),
        (b"proxy.example:", 400),
        (b"proxy.example:http", 400),
        (b"proxy.example, evil.example", 400),
        (b"user@proxy.example", 400),
        (b"proxy.example/path", 400),
        (b"proxy example", 400),
        (b"[2001:db8::1", 400),
        (b"caf\xe9.example", 400),
    ],
)
def test_hosts(host: bytes, expected: int) -> None:
    assert status(hosts=(host,)) == expected


@pytest.mark.parametrize("hosts", [(), (b"a", b"a"), (b"a", b"b")])
def test_one_host_is_needed(hosts: tuple[bytes, ...]) -> None:
    assert status(hosts=hosts) == 400


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"pacs.example", 0),
        (b"PACS.example", 0),
        (b"pacs.example:8080", 421),
        (b"x.pacs.example", 421),
        (b"192.0.2.1:8080", 0),
    ],
)
def test_allowed_hosts(host: bytes, expected: int) -> None:
    assert status(hosts=(host,), allowed_hosts=("pacs.example", "192.0.2.1:8080")) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"http://proxy.example/dicom-web/studies", 0),
        (b"HTTPS://PROXY.example/dicom-web/studies", 0),
        (b"http://proxy.example", 0),
        (b"http://evil.example/dicom-web/studies", 400),
        (b"http://proxy.example:8080/dicom-web/studies", 400),
        (b"http://user@proxy.example/dicom-web/studies", 400),
        (b"http:///dicom-web/studies", 400),
        (b"ftp://proxy.example/dicom-web/studies", 400),
        (b"proxy.example:443", 400),
        (b"*", 400),
        (b"/dicom-web/../servers", 400),
        (b"/dicom-web/%2e%2E/servers", 400),
        (b"http://proxy.example/dicom-web/../servers", 400),
        (b"/" + 60 * b"x", 414),
        (b"/" + 59 * b"x", 0),
    ],
)
def test_targets(path: bytes, expected: int) -> None:
    assert status(path=path) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"origin", b"https://a.example")], 0),
        ([(b"origin", b"https://a.example"), (b"origin", b"https://a.example")], 400),
        ([(b"transfer-encoding", b"Chunked")], 0),
        ([(b"transfer-encoding", b"gzip, chunked")], 400),
        ([(b"transfer-encoding", b"gzip"), (b"transfer-encoding", b"chunked")], 400),
        (3 * [(b"x", b"y")], 0),
        (4 * [(b"x", b"y")], 431),
        ([(b"x", 200 * b"y")], 431),
    ],
)
def test_headers(headers: list[tuple[bytes, bytes]], expected: int) -> None:
    assert status(*headers) == expected


def test_the_query_counts() -> None:
    assert status(query_string=b"%zz") == 400
    assert status(query_string=60 * b"x") == 414


def test_what_the_server_found_comes_first() -> None:
    assert status(hosts=(), extensions={REFUSAL: Problem(408, "late")}) == 408


@pytest.mark.parametrize(
    ("root_path", "raw_path", "path"),
    [
        ("", b"/dicom-web", b"/dicom-web"),
        ("/x", b"/x/dicom-web", b"/dicom-web"),
        ("/x", b"/x/x/dicom-web", b"/x/dicom-web"),
        ("/x", b"/x", b"/"),
        ("/x", b"/dicom-web", b"/dicom-web"),
        ("/x", b"/xyz", b"/xyz"),
        ("/a b", b"/a%20b/dicom-web", b"/dicom-web"),
        ("/a%20b", b"/a%20b/dicom-web", b"/dicom-web"),
        ("/x", b"/xhttp://proxy.example/dicom-web", b"/dicom-web"),  # uvicorn with h11
        ("/x", b"/x*", b"*"),
    ],
)
def test_the_root_path_is_taken_off(root_path: str, raw_path: bytes, path: bytes) -> None:
    assert Inbound.read(asgi.scope(path=raw_path, root_path=root_path), Heads()).path == path


def test_a_server_may_have_no_raw_path() -> None:
    scope = {**asgi.scope(), "raw_path": None, "path": "/dicom-web/a b"}
    assert Inbound.read(scope, Heads()).path == b"/dicom-web/a%20b"
