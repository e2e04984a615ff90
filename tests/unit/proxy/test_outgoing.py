"""What the archive is asked, what of its response the client gets, and what is refused before."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import httpx
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy import create_app
from tests.support import asgi
from tests.support.sockets import ORIGIN, Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from tests.support.sockets import Head

READ_WRITE = {"mode": "read-write"}
ROOT = "/dicom-web"
STUDIES = "/dicom-web/studies"
FRAMING = {b"content-length", b"transfer-encoding"}


def upstream(urls: dict[str, str | None], port: int) -> dict[str, str | None]:
    """The URLs of these paths of an archive on `port`."""
    return {key: path and f"http://127.0.0.1:{port}{path}" for key, path in urls.items()}


async def hello(wire: Wire, head: Head) -> None:
    if any(name in FRAMING for name, _ in head.headers):
        await wire.body(head)
    await wire.send(answer(b"hello"))


# Where a request goes

ONE: dict[str, str | None] = {"url": "/pacs"}
SEPARATE: dict[str, str | None] = {
    "url": "/root/",
    "qido_url": "/q/qidors",
    "wado_url": "/w",
    "stow_url": "/s",
    "ups_url": "/u",
    "wado_uri_url": "/wado-uri.cgi",
}
PACSBIN: dict[str, str | None] = {"url": None, "qido_url": "/q", "wado_url": "/w"}


@pytest.mark.parametrize(
    ("urls", "base_path", "method", "target", "expected"),
    [
        (ONE, ROOT, "GET", "/dicom-web/studies", "/pacs/studies"),
        (ONE, ROOT, "OPTIONS", "/dicom-web", "/pacs"),
        (ONE, ROOT, "GET", "/dicom-web/studies?", "/pacs/studies?"),
        (ONE, ROOT, "GET", "http://proxy.example/dicom-web/studies?", "/pacs/studies?"),
        (ONE, ROOT, "GET", R"/dicom-web/studies?a=%5e^\|&b?/../", R"/pacs/studies?a=%5e^\|&b?/../"),
        (ONE, ROOT, "GET", "http://proxy.example/dicom-web/studies?a=b", "/pacs/studies?a=b"),
        (ONE, ROOT, "GET", "/dicom-web/reports/a%20b", "/pacs/reports/a%20b"),
        (ONE, ROOT, "PATCH", "/dicom-web/reports/1", "/pacs/reports/1"),
        (ONE, "/", "GET", "/studies?a=b", "/pacs/studies?a=b"),
        (ONE, "/", "OPTIONS", "/", "/pacs"),
        (ONE, "/", "OPTIONS", "/?a=b", "/pacs?a=b"),
        (ONE, "/a/b/c", "GET", "/a/b/c/studies", "/pacs/studies"),
        ({"url": "/"}, ROOT, "GET", "/dicom-web/studies", "/studies"),
        ({"url": "/"}, ROOT, "OPTIONS", "/dicom-web?a=b", "/?a=b"),
        ({"url": "/a%2Fb/"}, ROOT, "GET", "/dicom-web/studies", "/a%2Fb/studies"),
        ({"url": "/a/"}, ROOT, "OPTIONS", "/dicom-web", "/a/"),
        (SEPARATE, ROOT, "GET", "/dicom-web/studies", "/q/qidors/studies"),
        (SEPARATE, ROOT, "HEAD", "/dicom-web/instances", "/q/qidors/instances"),
        (SEPARATE, ROOT, "OPTIONS", "/dicom-web/studies", "/q/qidors/studies"),
        (SEPARATE, ROOT, "GET", "/dicom-web/studies/1", "/w/studies/1"),
        (SEPARATE, ROOT, "OPTIONS", "/dicom-web/studies/1/metadata", "/w/studies/1/metadata"),
        (SEPARATE, ROOT, "POST", "/dicom-web/studies/1", "/s/studies/1"),
        (SEPARATE, ROOT, "PUT", "/dicom-web/studies", "/s/studies"),
        (SEPARATE, ROOT, "DELETE", "/dicom-web/studies/1", "/s/studies/1"),
        (SEPARATE, ROOT, "GET", "/dicom-web/workitems", "/u/workitems"),
        (SEPARATE, ROOT, "PUT", "/dicom-web/workitems/1/state", "/u/workitems/1/state"),
        (SEPARATE, ROOT, "OPTIONS", "/dicom-web", "/root/"),
        (SEPARATE, ROOT, "GET", "/dicom-web/reports/1", "/root/reports/1"),
        (SEPARATE, ROOT, "GET", "/dicom-web/wado?a=b", "/wado-uri.cgi?a=b"),
        (SEPARATE, "/", "GET", "/wado?a=b", "/wado-uri.cgi?a=b"),
        (SEPARATE, "/", "GET", "/wado?", "/wado-uri.cgi?"),
        (PACSBIN, ROOT, "OPTIONS", "/dicom-web", "/q"),
        (PACSBIN, ROOT, "GET", "/dicom-web/studies/1", "/w/studies/1"),
        (PACSBIN, ROOT, "GET", "/dicom-web/reports/1", "/q/reports/1"),
    ],
)  # fmt: skip
async def test_a_request_goes_to_its_service(
    urls: dict[str, str | None], base_path: str, method: str, target: str, expected: str
) -> None:
    async with archive(hello) as a:
        configuration = settings(
            a.url,
            upstream=upstream(urls, a.port),
            access=READ_WRITE | {"extra_paths": ["/reports/*"]},
            server={"base_path": base_path},
        )
        async with proxy(configuration) as p:
            head, _ = await p.ask(request(method, target))
    assert head.status == 200
    assert a.requests[0].first_line.decode() == f"{method} {expected} HTTP/1.1"


NO_RESOURCES = (
    "/",
    "/studies",
    "/dicom-web/",
    "/dicom-webstudies",
    "/DICOM-WEB/studies",
    "/dicom%2Dweb/studies",
    "/dicom-web%2Fstudies",
    "/dicom-web//studies",
    "//dicom-web/studies",
    "//evil.example/dicom-web/studies",
    "/dicom-web/studies/",
    "/dicom-web/studies/1.2.",
    "/dicom-web/studies/1..2",
    "/dicom-web/studies/1%2E2",
    "/dicom-web/servers",
    "/dicom-web/info",
    "/system",
    "/dicom-web/wado?requestType=WADO",
    "/healthz/",
)


@pytest.mark.parametrize("method", ["GET", "PROPFIND"])
@pytest.mark.parametrize("target", ["/dicom-web/caf\xe9", "/dicom-web/studies?a=b c", "/a\tb"])
async def test_a_target_that_no_parser_reads_is_named(method: str, target: str) -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request(method, target))
    assert head.status == 400
    assert json.loads(body)["detail"].endswith("a byte beyond ASCII: percent-encode it.")
    assert head.get(b"access-control-allow-origin") == ORIGIN


@pytest.mark.parametrize(("method", "status"), [("GET", 404), ("POST", 404), ("TRACE", 405)])
async def test_what_is_no_resource_is_not_forwarded(method: str, status: int) -> None:
    async with archive(hello) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        statuses = {
            target: (await p.ask(request(method, target)))[0].status for target in NO_RESOURCES
        }
        assert statuses == dict.fromkeys(NO_RESOURCES, status)
        assert not a.connections


@pytest.mark.parametrize(
    ("method", "path", "mode", "urls", "status", "allow"),
    [
        ("POST", "/studies", "read-only", ONE, 405, b"GET, HEAD, OPTIONS"),
        ("PATCH", "/studies", "read-write", ONE, 405, b"GET, HEAD, POST, PUT, OPTIONS"),
        ("TRACE", "/studies", "read-write", ONE, 405, b"GET, HEAD, POST, PUT, OPTIONS"),
        ("TRACE", "/reports/1", "read-write", ONE, 405,
         b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("DELETE", "/reports/1", "read-only", ONE, 405, b"GET, HEAD, OPTIONS"),
        ("GET", "", "read-only", ONE, 405, b"OPTIONS"),
        ("PUT", "/wado", "read-write", SEPARATE, 405, b"GET, HEAD, OPTIONS"),
        ("PATCH", "/studies", "read-write", PACSBIN, 405, b"GET, HEAD, OPTIONS"),
        # A service without a URL is none of ours, whatever the method.
        ("POST", "/studies", "read-write", PACSBIN, 404, None),
        ("PUT", "/studies/1", "read-write", PACSBIN, 404, None),
        ("GET", "/workitems", "read-only", PACSBIN, 404, None),
        ("POST", "/workitems", "read-only", PACSBIN, 404, None),
        ("OPTIONS", "/workitems", "read-only", PACSBIN, 404, None),
    ],
)  # fmt: skip
async def test_methods(
    *,
    method: str,
    path: str,
    mode: str,
    urls: dict[str, str | None],
    status: int,
    allow: bytes | None,
) -> None:
    async with archive(hello) as a:
        access = {"mode": mode, "extra_paths": ["/reports/*"]}
        async with proxy(settings(a.url, upstream=upstream(urls, a.port), access=access)) as p:
            head, _ = await p.ask(request(method, ROOT + path))
        assert (head.status, head.get(b"allow")) == (status, allow)
        assert not a.connections


# In which order a request is refused


FAULTS: dict[int, dict[str, Any]] = {
    400: {"lines": ["Host: second.example"]},
    414: {"query": "?" + 100 * "x"},
    431: {"lines": 30 * ["X-Line: 1"]},
    421: {"host": "other.example"},
    204: {"method": "OPTIONS", "lines": ["Access-Control-Request-Method: GET"]},
    508: {"lines": ["Via: 1.1 dicomweb-cors-proxy"]},
    404: {"path": "/dicom-web/nothing"},
    405: {"method": "PATCH"},
    403: {"origin": "https://evil.example"},
    413: {"body": bytes(11)},
    503: {"in_a_crowd": True},
}
SCREENED = {400, 414, 431, 421}  # in any order
EXCLUSIVE = ({204, 405}, {204, 403})


PAIRS = [
    (first, second)
    for first, second in itertools.combinations_with_replacement(FAULTS, 2)
    if first == second or not (SCREENED.issuperset({first, second}) or {first, second} in EXCLUSIVE)
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_of_two_faults_the_first_is_told(first: int, second: int) -> None:
    faults = FAULTS[first] | FAULTS[second]
    lines = [line for fault in {first, second} for line in FAULTS[fault].get("lines", ())]
    body = faults.get("body", b"x")
    target = faults.get("path", STUDIES) + faults.get("query", "")
    head = [
        f"{faults.get('method', 'POST')} {target} HTTP/1.1",
        f"Host: {faults.get('host', 'proxy.example')}",
        f"Origin: {faults.get('origin', ORIGIN.decode())}",
        f"Content-Length: {len(body)}",
        *lines,
    ]
    asked = asyncio.Event()
    released = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        await released.wait()
        await wire.send(answer())

    limits = {
        "max_target_bytes": 100,
        "max_headers": 20,
        "max_body_bytes": 10,
        "max_concurrent_requests": 1,
        "allowed_hosts": ["proxy.example"],
    }
    async with (
        archive(handle) as a,
        proxy(settings(a.url, access=READ_WRITE, server=limits)) as p,
        asyncio.TaskGroup() as tasks,
    ):
        if "in_a_crowd" in faults:
            tasks.create_task(p.ask(request()))
            await asked.wait()
        answered, _ = await p.ask("\r\n".join([*head, "", ""]).encode() + body)
        assert answered.status == first
        assert len(a.requests) == ("in_a_crowd" in faults)
        released.set()


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("?_method=DELETE", ""),
        ("?limit=1&_METHOD=delete", ""),
        ("?limit=1;%5fmethod=PUT", ""),
        ("", "X-HTTP-Method-Override: DELETE"),
        ("", "x-http-method: DELETE"),
        ("", "X-Method-Override: DELETE"),
        ("", "X_HTTP-Method_Override: DELETE"),
    ],
)
@pytest.mark.parametrize("mode", ["read-only", "read-write"])
async def test_a_method_in_the_place_of_another_is_a_405(query: str, line: str, mode: str) -> None:
    async with archive(hello) as a, proxy(settings(a.url, access={"mode": mode})) as p:
        head, _ = await p.ask(request("GET", STUDIES + query, *filter(None, [line])))
        assert head.status == 405
        head, _ = await p.ask(request("GET", f"{STUDIES}?StudyDescription=the_method=1"))
        assert head.status == 200
        assert len(a.requests) == 1


@pytest.mark.parametrize(
    ("method", "mode", "helps"),
    [
        ("POST", "read-only", True),
        ("PUT", "read-only", True),
        ("PATCH", "read-only", True),
        ("PATCH", "read-write", False),
        ("TRACE", "read-only", False),
    ],
)
async def test_writing_is_named_where_it_helps(method: str, mode: str, *, helps: bool) -> None:
    async with archive(hello) as a, proxy(settings(a.url, access={"mode": mode})) as p:
        _, body = await p.ask(request(method, STUDIES))
        assert (b"access.mode: read-write" in body) is helps


@pytest.mark.parametrize(
    ("method", "target", "named"),
    [
        ("PATCH", STUDIES, b"/studies, to access.extra_paths"),
        ("PUT", f"{STUDIES}/1/series/2", b"/studies/*/series/*, to access.extra_paths"),
        ("POST", f"{STUDIES}/1/bulkdata/a/b", b"/studies/*/bulkdata/**, to access.extra_paths"),
        ("GET", f"{ROOT}/workitems/1/state", b"/workitems/*/state, to access.extra_paths"),
        ("POST", ROOT, b"/, to access.extra_paths"),
        ("GET", ROOT, b""),
        ("TRACE", STUDIES, b""),
        ("PUT", f"{ROOT}/wado", b""),
    ],
)
async def test_the_path_that_adds_a_method_is_named(method: str, target: str, named: bytes) -> None:
    async with archive(hello) as a:
        upstream = {"url": a.url, "wado_uri_url": f"{a.url}/wado"}
        async with proxy(settings(a.url, access=READ_WRITE, upstream=upstream)) as p:
            head, body = await p.ask(request(method, target))
    assert head.status == 405
    assert named in body
    assert (b"access.extra_paths" in body) is bool(named)


# What the archive is sent


async def test_the_archive_gets_the_end_to_end_headers_as_they_came() -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        await p.ask(
            request(
                "GET",
                STUDIES,
                "X-Custom: b",
                "Accept: application/dicom+json",
                "Cookie: session=1",
                "x-custom: \u00e9",
                "Connection: keep-alive, X-Hop",
                "X-Hop: 1",
                "Keep-Alive: timeout=5",
                "Proxy-Authorization: Basic eDp5",
                "TE: trailers",
                "Via: 1.0 elsewhere",
                "Authorization: Bearer of-the-client",
                "Referer: https://viewer.example/",
                "Sec-Fetch-Site: cross-site",
                "Forwarded: for=198.51.100.6",
                "X-Forwarded-For: 198.51.100.6",
                "X-Forwarded-Host: evil.example",
                "X-Forwarded-Prefix: /evil",
                "X-Real-IP: 198.51.100.6",
                "Remote-User: admin",
                "X_Remote_User: admin",
                "X-Forwarded-User: admin",
                "X-Client-IP: 198.51.100.6",
                "True-Client-IP: 198.51.100.6",
                "CF-Connecting-IP: 198.51.100.6",
                "X_Forwarded_Host: evil.example",
                "X-Original-URL: /pacs/servers",
                "X-Rewrite-URL: /pacs/servers",
                "X_Original_URL: /pacs/servers",
                "SCRIPT_NAME: /pacs/studies",
                "Script-Name: /pacs/studies",
                "X-Script-Name: /pacs/studies",
                "Path-Info: /admin",
                "Daphne-Root-Path: /pacs/studies",
                "Content_Length: 99",
                "Transfer_Encoding: chunked",
                "Proxy: http://evil.example",
                "X-Request-ID: of-the-client",
                "Expect: 100-continue",
            )
        )
    assert a.requests[0].headers == [
        (b"host", b"127.0.0.1:%d" % a.port),
        (b"x-custom", b"b"),
        (b"accept", b"application/dicom+json"),
        (b"cookie", b"session=1"),
        (b"x-custom", b"\xe9"),
        (b"via", b"1.0 elsewhere"),
        (b"authorization", b"Bearer of-the-client"),
        (b"referer", b"https://viewer.example/"),
        (b"sec-fetch-site", b"cross-site"),
        (b"accept-encoding", b"identity"),
        (b"via", b"1.1 dicomweb-cors-proxy"),
        (b"x-forwarded-host", b"proxy.example"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-for", b"127.0.0.1"),
        (b"x-request-id", a.requests[0].get(b"x-request-id")),
    ]


async def test_a_trusted_peer_tells_who_asks() -> None:
    server = {"trusted_proxies": ["127.0.0.0/8"], "instance_name": "inner"}
    async with archive(hello) as a, proxy(settings(a.url, server=server)) as p:
        await p.ask(
            request(
                "GET",
                STUDIES,
                "X-Forwarded-For: 198.51.100.6",
                "X-Forwarded-Host: pacs.example",
                "X-Forwarded-Proto: https",
                "Via: 1.1 dicomweb-cors-proxy",
            )
        )
    (head,) = a.requests
    assert head.get(b"x-forwarded-for") == b"198.51.100.6, 127.0.0.1"
    assert head.get(b"x-forwarded-host") == b"pacs.example"
    assert head.get(b"x-forwarded-proto") == b"https"
    assert head.all(b"via") == [b"1.1 dicomweb-cors-proxy", b"1.1 inner"]


async def test_nothing_is_added_to_a_bare_request() -> None:
    async with archive(hello) as a, proxy(settings(a.url, rewrite_urls=False)) as p:
        await p.ask(b"GET /dicom-web/studies HTTP/1.1\r\nHost: p\r\n\r\n")
    names = [name for name, _ in a.requests[0].headers]
    assert names == [
        b"host",
        b"via",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-for",
        b"x-request-id",
    ]


UNQUOTED = "multipart/related; type=application/dicom; transfer-syntax=*"
QUOTED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@pytest.mark.parametrize(
    ("repair", "sent", "expected"),
    [(True, UNQUOTED, QUOTED), (True, QUOTED, QUOTED), (False, UNQUOTED, UNQUOTED)],
)
async def test_quotes_are_put_back(repair: bool, sent: str, expected: str) -> None:
    async with archive(hello) as a, proxy(settings(a.url, repair_accept=repair)) as p:
        await p.ask(request("GET", "/dicom-web/studies/1", f"Accept: {sent}"))
    assert a.requests[0].get(b"accept") == expected.encode()


@pytest.mark.parametrize(
    ("method", "lines", "expected"),
    [
        ("OPTIONS", ["Max-Forwards: 2"], [b"1"]),
        ("OPTIONS", ["Max-Forwards: many"], [b"many"]),
        ("OPTIONS", [], []),
        ("GET", ["Max-Forwards: 2"], [b"2"]),
    ],
)
async def test_forwards_are_counted(method: str, lines: list[str], expected: list[bytes]) -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        await p.ask(request(method, STUDIES, *lines))
    assert a.requests[0].all(b"max-forwards") == expected


async def test_the_last_forward_is_answered_here() -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(request("OPTIONS", STUDIES, "Max-Forwards: 0"))
        assert not a.connections
    assert (head.status, head.get(b"allow")) == (204, b"GET, HEAD, OPTIONS")
    assert head.get(b"content-length") is None
    assert head.get(b"access-control-allow-origin") == ORIGIN


async def test_a_proxy_that_asks_itself_says_so() -> None:
    async with proxy(settings("http://archive.example")) as outer:
        own = f"http://127.0.0.1:{outer.port}/dicom-web"
        async with proxy(settings(own)) as inner:
            assert (await inner.ask(request()))[0].status == 508


@pytest.mark.parametrize(
    ("lines", "body", "framing"),
    [
        (["Content-Length: 4"], b"body", [(b"content-length", b"4")]),
        (["Content-Length: 0"], b"", [(b"content-length", b"0")]),
        ([], b"", []),
        (["Transfer-Encoding: Chunked"], b"4\r\nbody\r\n0\r\n\r\n",
         [(b"transfer-encoding", b"chunked")]),
    ],
)  # fmt: skip
async def test_a_body_keeps_its_framing(
    lines: list[str], body: bytes, framing: list[tuple[bytes, bytes]]
) -> None:
    async with archive(hello) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        head, _ = await p.ask(request("POST", STUDIES, *lines) + body)
    assert head.status == 200
    assert [line for line in a.requests[0].headers if line[0] in FRAMING] == framing


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize(
    ("lines", "body"),
    [(["Content-Length: 4"], b"body"), (["Transfer-Encoding: chunked"], b"4\r\nbody\r\n0\r\n\r\n")],
)
async def test_what_means_nothing_does_not_reach_the_archive(
    method: str, lines: list[str], body: bytes
) -> None:
    async with archive(hello) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        await p.ask(request("POST", STUDIES, *lines) + body)  # in the same words
        head, _ = await p.ask(request(method, STUDIES, *lines) + body)
        assert (await p.ask(request(method, STUDIES, "Content-Length: 0")))[0].status == 200
    assert head.status == 400
    assert len(a.requests) == 2


@pytest.mark.parametrize(
    ("method", "headers", "framing"),
    [
        ("POST", [], [(b"transfer-encoding", b"chunked")]),
        ("POST", [(b"content-length", b"4")], [(b"content-length", b"4")]),
        ("GET", [], []),
    ],
)
async def test_http_2_announces_no_body(
    method: str, headers: list[tuple[bytes, bytes]], framing: list[tuple[bytes, bytes]]
) -> None:
    async with archive(hello) as a:
        app = create_app(settings(a.url, access=READ_WRITE))
        scope = asgi.scope(method, headers=headers, http_version="2")
        body = [b"bo", b"dy"] if method == "POST" else []
        async with app.router.lifespan_context(app):
            assert (await asgi.call(app, scope, *body))[0] == 200
    (head,) = a.requests
    assert [line for line in head.headers if line[0] in FRAMING] == framing
    assert head.get(b"via") == b"2 dicomweb-cors-proxy"


# Credentials of the proxy's own

BASIC = {"type": "basic", "username": "proxy", "password": "pass:wörd"}
BEARER = {"type": "bearer", "token": "abc.def"}


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (BASIC, b"Basic cHJveHk6cGFzczp3w7ZyZA=="),
        (BEARER, b"Bearer abc.def"),
    ],
    ids=["basic", "bearer"],
)
async def test_credentials_of_our_own_replace_the_clients(
    auth: dict[str, str], expected: bytes
) -> None:
    async with archive(hello) as a, proxy(settings(a.url, upstream={"auth": auth})) as p:
        lines = ["Authorization: Bearer of-the-client", "Connection: authorization"]
        await p.ask(request("GET", STUDIES, *lines))
    assert a.requests[0].get(b"authorization") == expected


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
async def test_a_refusal_of_the_clients_credentials_passes(status: bytes) -> None:
    challenge = b"WWW-Authenticate: Basic realm=pacs"

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"no", challenge, status=status))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request())
        assert (head.status, body) == (int(status[:3]), b"no")
        assert head.get(b"www-authenticate") == b"Basic realm=pacs"


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
async def test_a_refusal_of_our_credentials_is_a_502(status: bytes) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"no", b"WWW-Authenticate: Basic realm=pacs", status=status))

    async with archive(handle) as a, proxy(settings(a.url, upstream={"auth": BASIC})) as p:
        head, body = await p.ask(request())
    assert head.status == 502
    assert head.get(b"www-authenticate") is None
    assert b"upstream.auth" in body


# What the client gets


async def test_the_client_gets_the_end_to_end_headers_as_they_came() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(
            answer(
                b"hello",
                b"X-B: 1",
                b"Set-Cookie: a=1",
                b"X-A: \xe9",
                b"Set-Cookie: b=2; Path=/",
                b"Connection: keep-alive, X-Hop",
                b"X-Hop: 1",
                b"Keep-Alive: timeout=5",
                b'Alt-Svc: h3=":443"; ma=2592000',
                b'Clear-Site-Data: "*"',
                b"Service-Worker-Allowed: /",
                b"Strict-Transport-Security: max-age=31536000; includeSubDomains",
                b"Access-Control-Allow-Origin: *",
                b"access-control-expose-headers: x-b",
                b"Cross-Origin-Resource-Policy: same-site",
                b"Timing-Allow-Origin: *",
                b"Vary: Accept, accept-encoding",
                b"Date: Thu, 01 Jan 2026 00:00:00 GMT",
                b"Server: Orthanc",
                b"Content-Encoding: x-unknown",
            )
        )

    cors = {"expose_headers": ["x-b"]}
    async with archive(handle) as a, proxy(settings(a.url, cors=cors)) as p:
        head, body = await p.ask(request())
    assert body == b"hello"
    assert head.headers == [
        (b"x-b", b"1"),
        (b"set-cookie", b"a=1"),
        (b"x-a", b"\xe9"),
        (b"set-cookie", b"b=2; Path=/"),
        (b"timing-allow-origin", b"*"),
        (b"vary", b"Accept, accept-encoding, Origin"),
        (b"date", b"Thu, 01 Jan 2026 00:00:00 GMT"),
        (b"server", b"Orthanc"),
        (b"content-encoding", b"x-unknown"),
        (b"content-length", b"5"),
        (b"cross-origin-resource-policy", b"cross-origin"),
        (b"x-content-type-options", b"nosniff"),
        (b"access-control-allow-origin", ORIGIN),
        (b"access-control-expose-headers", b"x-b"),
        (b"x-request-id", head.get(b"x-request-id")),
    ]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("cross-origin", b"cross-origin"), ("same-origin", b"same-origin"), (None, b"same-site")],
)
async def test_who_may_embed_a_response(policy: str | None, expected: bytes) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", b"Cross-Origin-Resource-Policy: same-site"))

    async with (
        archive(handle) as a,
        proxy(settings(a.url, cross_origin_resource_policy=policy)) as p,
    ):
        head, _ = await p.ask(request())
    assert head.get(b"cross-origin-resource-policy") == expected


@pytest.mark.parametrize("own", [b"", b"Content-Security-Policy: default-src 'self'"])
async def test_a_stored_page_runs_no_script_on_our_origin(own: bytes) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        lines = filter(None, [b"Content-Type: text/html; charset=utf-8", own])
        await wire.send(answer(b"<script>", *lines))

    frame = f"{STUDIES}/1/series/2/instances/3/frames/1/rendered"
    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request("GET", frame))
        refusal, _ = await p.ask(request("GET", "/nowhere"))
    assert body == b"<script>"
    assert head.get(b"x-content-type-options") == b"nosniff"
    sent = own.partition(b": ")[2] or b"sandbox"
    assert head.all(b"content-security-policy") == [sent]
    assert refusal.get(b"content-security-policy") is None


@pytest.mark.parametrize(
    ("method", "raw", "announced", "body"),
    [
        ("HEAD", answer(length=1234), b"1234", b""),
        ("GET", answer(b"", status=b"204 No Content", length=0), None, b""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None, b""),
        ("GET", answer(b"", b'ETag: "a"', status=b"304 Not Modified", length=9), b"9", b""),
        ("GET", answer(b"part", b"Content-Range: bytes 0-3/9", status=b"206 P"), b"4", b"part"),
        ("GET", answer(b"\x1f\x8b\0", b"Content-Encoding: gzip"), b"3", b"\x1f\x8b\0"),
        ("GET", answer(b"", b"Location: /elsewhere", status=b"307 T"), b"0", b""),
        ("GET", answer(b"late", status=b"599 Odd"), b"4", b"late"),
    ],
)
async def test_a_response_passes_as_it_is(
    method: str, raw: bytes, announced: bytes | None, body: bytes
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(raw)

    async with (
        archive(handle) as a,
        proxy(settings(a.url, rewrite_urls=False)) as p,
        await p.connect() as client,
    ):
        for _ in range(2):  # on the same connections
            await client.send(request(method))
            head = await client.head()
            assert head.status == int(raw.split()[1])
            assert head.get(b"content-length") == announced
            assert await client.reader.readexactly(len(body)) == body
            for name in (b"etag", b"location", b"content-range", b"content-encoding"):
                assert (head.get(name) is not None) == (name in raw.lower())
        reused = b"304" not in raw and method != "HEAD"
        assert (len(a.connections), len(a.requests)) == (1 if reused else 2, 2)


async def test_cookies_are_nobody_elses() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", b"Set-Cookie: session=1"))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        for _ in range(2):
            await p.ask(request())
    assert not any(head.all(b"cookie") for head in a.requests)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (101, []),
        (600, []),
        (999, []),
        (200, [(b"X-A", b"a\r\nSet-Cookie: b=1")]),
        (200, [(b"X-A", b"a\0")]),
        (200, [(b"X-A\n", b"a")]),
        (200, [(b"", b"a")]),
    ],
)
async def test_what_no_server_could_send_on_is_a_502(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, headers=headers))
    async with proxy(settings("http://archive.example"), transport=transport) as p:
        head, _ = await p.ask(request())
    assert head.status == 502
    assert head.get(b"access-control-allow-origin") == ORIGIN
    assert head.get(b"set-cookie") is None


# Laws

HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"upgrade",
    b"http2-settings",
}
OURS = {
    b"host",
    b"expect",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-request-id",
}
token = st.text("!#$%&'*+-.^_`|~09az", min_size=1, max_size=8).map(str.encode)
value = st.binary(max_size=12).map(
    lambda raw: bytes(b for b in raw if b >= 32 and b != 127).strip()
)


def lines(*names: bytes) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Header lines, some of them hop-by-hop and some listed in Connection."""
    known = st.sampled_from(sorted(HOP_BY_HOP - {b"connection"} | set(names)))
    plain = st.tuples(st.one_of(token, known), value)
    listing = st.tuples(st.just(b"connection"), st.lists(token, max_size=3).map(b", ".join))
    return st.lists(st.one_of(plain, listing), max_size=12)


def end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    listed = {
        option.strip()
        for name, value in headers
        if name == b"connection"
        for option in value.split(b",")
    }
    return [line for line in headers if line[0] not in HOP_BY_HOP | listed]


class Spy(httpx.AsyncBaseTransport):
    """An archive that notes what it is asked and answers with `headers`."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(200, headers=self.headers, stream=httpx.ByteStream(b""))


SPY = Spy()
APP = create_app(
    settings(
        "http://archive.example",
        rewrite_urls=False,
        repair_accept=False,
        cross_origin_resource_policy=None,
    ),
    transport=SPY,
)


@hypothesis.settings(deadline=None)
@given(lines(b"accept", b"cookie", b"authorization", b"x-b", b"range", b"via"))
def test_end_to_end_request_headers_arrive_unchanged(headers: list[tuple[bytes, bytes]]) -> None:
    status, _, _ = asyncio.run(asgi.call(APP, asgi.scope(headers=headers)))
    assert status == 200
    sent = SPY.requests.pop().headers.raw
    *passed, via = [line for line in sent if line[0] not in OURS]
    assert passed == [line for line in end_to_end(headers) if line[0] not in OURS]
    assert via == (b"via", b"1.1 dicomweb-cors-proxy")
    assert [name for name, _ in sent if name in OURS] == [
        b"host",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-for",
        b"x-request-id",
    ]


@hypothesis.settings(deadline=None)
@given(lines(b"set-cookie", b"www-authenticate", b"access-control-allow-origin", b"etag"))
def test_end_to_end_response_headers_arrive_unchanged(headers: list[tuple[bytes, bytes]]) -> None:
    SPY.headers = headers
    _, received, _ = asyncio.run(asgi.call(APP, asgi.scope()))
    assert received.pop()[0] == b"x-request-id"
    assert received == [
        *(line for line in end_to_end(headers) if not line[0].startswith(b"access-control-")),
        (b"x-content-type-options", b"nosniff"),
        (b"vary", b"Origin"),
    ]
