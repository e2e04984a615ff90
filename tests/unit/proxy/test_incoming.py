"""Heads that are refused before anybody reads their meaning; and what servers do to targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dicomweb_cors_proxy.http.extensions import EMPTY_QUERY, REJECTION
from dicomweb_cors_proxy.http.forwarding import TrustedProxies
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.proxy.checks import RequestChecks
from dicomweb_cors_proxy.proxy.incoming import IncomingRequest, RequestHeadCache
from tests.support import asgi

if TYPE_CHECKING:
    from starlette.types import Scope

LIMITS = {"max_target_bytes": 60, "max_header_bytes": 2000, "max_headers": 4}


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
    trusted = TrustedProxies(["10.0.0.0/8"])
    screen = RequestChecks(**LIMITS, allowed_hosts=allowed_hosts, trusted_proxies=trusted)
    heads = RequestHeadCache()
    found = {refusal(screen, scope, heads) for _ in range(2)}
    assert len(found) == 1, "a head that is known is judged as it was before"
    return found.pop()


def refusal(screen: RequestChecks, scope: Scope, heads: RequestHeadCache) -> int:
    try:
        screen.check(scope, IncomingRequest.read(scope, heads))
    except HTTPProblem as problem:
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
        (254 * b"x" + b":65535", 0),
        (256 * b"x" + b":65535", 400),
        (b"[%b]" % (260 * b":"), 400),
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


BEHIND = ("10.1.2.3", 50000)  # a trusted peer


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([(b"x-forwarded-host", 261 * b"x")], 0),
        ([(b"x-forwarded-host", 262 * b"x")], 400),
        ([(b"x-forwarded-host", b"a, " + 261 * b"x"), (b"x-forwarded-host", b"b")], 0),
        ([(b"x-forwarded-host", b"a, " + 262 * b"x")], 400),
        ([(b"x-forwarded-host", 512 * b"x,")], 0),
        ([(b"x-forwarded-host", 512 * b"x,"), (b"x-forwarded-host", b"x")], 400),
        *(
            ([(name, size * b"x")], expected)
            for name in (b"x-forwarded-prefix", b"x-forwarded-port", b"x-forwarded-proto")
            for size, expected in ((1024, 0), (1025, 400))
        ),
        ([(b"x-forwarded-for", 1025 * b"x")], 0),
    ],
)
def test_what_a_trusted_peer_says_is_bounded(
    lines: list[tuple[bytes, bytes]], expected: int
) -> None:
    assert status(*lines, client=BEHIND) == expected
    assert status(*lines, client=("192.0.2.1", 50000)) == 0  # what others say is dropped
    assert status(*lines, client=None) == 0


@pytest.mark.parametrize(
    ("host", "told", "expected"),
    [
        (b"pacs.example", b"PACS.example", 0),
        (b"pacs.example", b"", 0),
        (b"pacs.example", b"evil.example", 421),
        (b"evil.example", b"pacs.example", 421),
        (b"pacs.example", b"pacs.example, evil.example", 421),
        (b"pacs.example", b"evil.example, pacs.example", 421),
        (b"pacs.example", b"pacs.example,pacs.example", 0),
    ],
)
def test_the_host_that_a_trusted_peer_names_has_to_be_allowed(
    host: bytes, told: bytes, expected: int
) -> None:
    told_lines = [(b"x-forwarded-host", told)]
    allowed_hosts = ("pacs.example",)
    found = status(*told_lines, hosts=(host,), allowed_hosts=allowed_hosts, client=BEHIND)
    assert found == expected


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
        ([(b"x", 2000 * b"y")], 431),
    ],
)
def test_headers(headers: list[tuple[bytes, bytes]], expected: int) -> None:
    assert status(*headers) == expected


def test_the_query_counts() -> None:
    assert status(query_string=b"%zz") == 400
    assert status(query_string=60 * b"x") == 414


def test_what_the_server_found_comes_first() -> None:
    assert status(hosts=(), extensions={REJECTION: HTTPProblem(408, "late")}) == 408


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
    assert (
        IncomingRequest.read(
            asgi.scope(path=raw_path, root_path=root_path), RequestHeadCache()
        ).path
        == path
    )


@pytest.mark.parametrize(
    ("query", "extensions", "target"),
    [
        (b"", {}, b"/dicom-web"),
        (b"", {EMPTY_QUERY: {}}, b"/dicom-web?"),
        (b"a", {}, b"/dicom-web?a"),
        (b"?", {}, b"/dicom-web??"),
    ],
)
@pytest.mark.parametrize("path", [b"/dicom-web", b"http://proxy.example/dicom-web"])
def test_an_empty_query_is_one(
    path: bytes, query: bytes, extensions: dict[str, object], target: bytes
) -> None:
    scope = asgi.scope(path=path, query_string=query, extensions=extensions)
    assert IncomingRequest.read(scope, RequestHeadCache()).target == target


def test_a_server_may_have_no_raw_path() -> None:
    scope = {**asgi.scope(), "raw_path": None, "path": "/dicom-web/a b"}
    assert IncomingRequest.read(scope, RequestHeadCache()).path == b"/dicom-web/a%20b"
