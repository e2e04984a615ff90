"""CORS on everything that leaves, and nothing more than these headers."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from dicomweb_cors_proxy import create_app
from tests.support import asgi
from tests.support.sockets import ORIGIN, Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Message

    from tests.support.sockets import Head

STUDIES = "/dicom-web/studies"
STRANGER = b"https://stranger.example"
READ_WRITE = {"mode": "read-write"}
PREFLIGHT_VARY = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
DEFAULT_HEADERS = b"accept, authorization, content-type, if-modified-since, if-none-match, range"
EXPOSED = {"expose_headers": ["etag", "link"]}
ALLOWED = [
    (b"vary", b"Origin"),
    (b"access-control-allow-origin", ORIGIN),
    (b"access-control-expose-headers", b"etag, link"),
]


def cors(head: Head) -> list[tuple[bytes, bytes]]:
    """The headers by which browsers and caches judge a response, sorted."""
    return sorted(
        line for line in head.headers if line[0] == b"vary" or b"access-control" in line[0]
    )


async def unreached(wire: Wire, head: Head) -> None:
    raise AssertionError((wire, head))


# Actual requests


@pytest.mark.parametrize(
    "status",
    [200, 201, 204, 206, 300, 301, 304, 307, 400, 401, 403, 404, 406, 409, 429, 500, 501, 503, 599],
)
async def test_every_status_has_them(status: int) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 %d Any\r\nContent-Length: 0\r\n\r\n" % status)

    async with archive(handle) as a, proxy(settings(a.url, cors=EXPOSED, compress=False)) as p:
        head, _ = await p.ask(request())
    assert head.status == status
    assert cors(head) == sorted(ALLOWED)


class Case(NamedTuple):
    policy: Mapping[str, object]
    origin: bytes | None
    archive: list[bytes]  # lines of its response
    expected: list[tuple[bytes, bytes]]


ARCHIVES_OWN = [
    b"Access-Control-Allow-Origin: *",
    b"Access-Control-Allow-Credentials: true",
    b"access-control-expose-headers: *",
    b"Access-Control-Max-Age: 5",
    b"Access-Control-Allow-Private-Network: true",
]
VARY_ORIGIN = [(b"vary", b"Origin")]
ANY = {"allow_origins": ["*"], "expose_headers": ["etag"]}
ANY_ALLOWED = [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"etag")]
CASES = {
    "allowed": Case(EXPOSED, ORIGIN, [], ALLOWED),
    "refused": Case(EXPOSED, STRANGER, [], VARY_ORIGIN),
    "null": Case(EXPOSED, b"null", [], VARY_ORIGIN),
    "no origin": Case(EXPOSED, None, [], VARY_ORIGIN),
    "empty origin": Case(EXPOSED, b"", [], VARY_ORIGIN),
    "allowed, archive too": Case(EXPOSED, ORIGIN, ARCHIVES_OWN, ALLOWED),
    "refused, archive allows": Case(EXPOSED, STRANGER, ARCHIVES_OWN, VARY_ORIGIN),
    "credentials": Case(
        {"allow_credentials": True, "expose_headers": []}, ORIGIN, [],
        [(b"vary", b"Origin"), (b"access-control-allow-origin", ORIGIN),
         (b"access-control-allow-credentials", b"true")],
    ),
    "any": Case(ANY, STRANGER, [], ANY_ALLOWED),
    "any, no origin": Case(ANY, None, [], ANY_ALLOWED),
    "vary": Case({}, STRANGER, [b"Vary: accept", b"Vary: Accept-Encoding"],
                 [(b"vary", b"accept, Origin"), (b"vary", b"Accept-Encoding")]),
    "vary has it": Case({}, STRANGER, [b"Vary: accept, ORIGIN"], [(b"vary", b"accept, ORIGIN")]),
    "vary: *": Case({}, STRANGER, [b"Vary: *"], [(b"vary", b"*")]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_these_headers_and_nothing_more(case: Case) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", *case.archive))

    async with archive(handle) as a, proxy(settings(a.url, cors=case.policy)) as p:
        head, body = await p.ask(request(origin=case.origin))
    assert body == b"hello"
    assert cors(head) == sorted(case.expected)


async def test_the_archives_own_headers_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", *ARCHIVES_OWN))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        for _ in range(3):
            await p.ask(request())
    assert caplog.text.count("CORS headers of its own") == 1


async def test_policies_differ_by_origin() -> None:
    policy = EXPOSED | {
        "per_origin": [{"allow_origins": [STRANGER.decode()], "expose_headers": []}]
    }

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello"))

    async with archive(handle) as a, proxy(settings(a.url, cors=policy)) as p:
        head, _ = await p.ask(request(origin=ORIGIN))
        assert cors(head) == sorted(ALLOWED)
        head, _ = await p.ask(request(origin=STRANGER))
        assert cors(head) == [(b"access-control-allow-origin", STRANGER), (b"vary", b"Origin")]


# Preflights


def preflight(*lines: str, target: str = STUDIES, origin: bytes | None = ORIGIN) -> bytes:
    return request("OPTIONS", target, *lines, origin=origin)


@pytest.mark.parametrize(
    "target",
    [
        STUDIES,
        f"{STUDIES}?PatientName=Doe",
        "/dicom-web",
        "/dicom-web/nothing",
        "/elsewhere",
        "/",
        "//dicom-web",
    ],
)
async def test_a_preflight_is_answered_here(target: str) -> None:
    names = "Access-Control-Request-Headers: "
    asked = ["Access-Control-Request-Method: POST", f"{names}accept", f"{names}, authorization"]
    async with archive(unreached) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(preflight(*asked, target=target))
    assert head.status == 204
    assert [line for line in head.headers if line[0] not in {b"date", b"server"}] == [
        (b"access-control-allow-origin", ORIGIN),
        (b"access-control-allow-methods", b"GET, HEAD"),
        (b"access-control-allow-headers", DEFAULT_HEADERS),
        (b"access-control-max-age", b"7200"),
        (b"vary", PREFLIGHT_VARY),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("origin", "reason"), [(STRANGER, "cors.allow_origins"), (b"null", "null")]
)
async def test_a_preflight_of_an_unknown_origin_says_why_and_shows_no_policy(
    origin: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    asked = ["Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-token"]
    async with archive(unreached) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(preflight(*asked, origin=origin))
    assert head.status == 403
    assert cors(head) == [(b"vary", PREFLIGHT_VARY)]
    problem = json.loads(body)
    assert (problem["status"], problem["title"]) == (403, "Forbidden")
    assert reason in problem["detail"]
    assert problem["detail"] in caplog.text


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Access-Control-Request-Method: DELETE"], "cors.allow_methods does not list DELETE."),
        (2 * ["Access-Control-Request-Method: GET"], "not a method"),
        (
            ["Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-token"],
            "cors.allow_headers does not list these headers: x-token.",
        ),
    ],
)
async def test_a_refused_preflight_of_a_known_origin_gets_the_policys_lists(
    lines: list[str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with archive(unreached) as a, proxy(settings(a.url)) as p:
        for _ in range(2):  # the second is answered from the cache
            head, body = await p.ask(preflight(*lines))
            assert (head.status, body) == (204, b"")
            assert b"content-length" not in dict(head.headers)
            assert cors(head) == sorted(
                [
                    (b"access-control-allow-origin", ORIGIN),
                    (b"access-control-allow-methods", b"GET, HEAD"),
                    (b"access-control-allow-headers", DEFAULT_HEADERS),
                    (b"access-control-max-age", b"0"),
                    (b"vary", PREFLIGHT_VARY),
                ]
            )
    records = [line.request for line in caplog.records if hasattr(line, "request")]
    assert [(record.cors, record.status) for record in records] == 2 * [("preflight-refused", 204)]
    assert all(reason in record.event for record in records)


@pytest.mark.parametrize(
    ("method", "lines", "origin"),
    [
        ("OPTIONS", [], ORIGIN),
        ("OPTIONS", ["Access-Control-Request-Method:"], ORIGIN),
        ("OPTIONS", ["Access-Control-Request-Method: GET"], None),
        ("OPTIONS", ["Access-Control-Request-Method: GET"], b""),
        ("GET", ["Access-Control-Request-Method: GET"], ORIGIN),
    ],
)
async def test_anything_else_is_no_preflight(
    method: str, lines: list[str], origin: bytes | None
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"capabilities"))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request(method, STUDIES, *lines, origin=origin))
    assert (head.status, body) == (200, b"capabilities")


# Writes


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_a_strangers_write_never_reaches_the_archive(method: str) -> None:
    paths = {"PUT": "/dicom-web/workitems/1/state"}
    async with archive(unreached) as a, proxy(settings(a.url, access=READ_WRITE)) as p:
        head, _ = await p.ask(
            request(method, paths.get(method, "/dicom-web/studies/1"), body=b"x", origin=STRANGER)
        )
        assert head.status == 403
        assert cors(head) == [(b"vary", b"Origin")]
        assert not a.connections


@pytest.mark.parametrize(
    ("origin", "public_url", "status"),
    [
        (ORIGIN, None, 200),
        (None, None, 200),
        (b"https://pacs.example", "https://pacs.example/dicom-web", 200),
        (b"https://pacs.example", None, 403),
        (b"http://proxy.example", None, 403),  # Host can be anything
        (b"null", None, 403),
    ],
)
async def test_who_may_write(origin: bytes | None, public_url: str | None, status: int) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.body(head)
        await wire.send(answer(b"stored"))

    configuration = {"access": READ_WRITE, "public_url": public_url}
    async with archive(handle) as a, proxy(settings(a.url, **configuration)) as p:
        head, _ = await p.ask(request("POST", STUDIES, body=b"x", origin=origin))
    assert head.status == status


# Failures of our own


@pytest.mark.parametrize(
    ("origin", "expected"), [(ORIGIN, ALLOWED), (STRANGER, VARY_ORIGIN)], ids=["allowed", "refused"]
)
async def test_a_bug_is_readable_and_its_log_holds_no_value(
    origin: bytes, expected: list[tuple[bytes, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise ValueError("Doe^Jane")

    configuration = settings("http://archive.example", cors=EXPOSED)
    async with proxy(configuration, transport=httpx.MockTransport(fail)) as p:
        head, body = await p.ask(request(origin=origin))
    assert head.status == 500
    assert cors(head) == sorted(expected)
    assert b"Doe" not in body
    assert "bug: ValueError < fail" in caplog.text
    assert "Doe" not in caplog.text


async def test_a_client_that_left_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    def respond(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="hello")

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        assert message["type"] == "http.response.start"
        raise OSError  # as ASGI 2.4 has it

    app = create_app(settings("http://a"), transport=httpx.MockTransport(respond))
    await app(asgi.scope(), receive, send)
    assert "bug" not in caplog.text


async def test_websockets_are_closed() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    app = create_app(settings("http://a"))
    await app({**asgi.scope(), "type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1000}]
