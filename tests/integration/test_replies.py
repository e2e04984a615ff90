"""Every problem that the proxy tells: readable by the page, and silent about patients."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import trustme

from dicomweb_cors_proxy.proxy import reverse_proxy
from dicomweb_cors_proxy.upstream.interface import ResolveTimedOut
from tests.support.servers import free_port
from tests.support.sockets import ORIGIN, Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dicomweb_cors_proxy import Settings
    from tests.support.sockets import Archive, Head

# RFC 9110 §15 and the IANA registry.
TITLES = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    421: "Misdirected Request",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    508: "Loop Detected",
}

PATIENT = "Doe^Jane"
UID = "1.2.840.99999"
STUDY = f"/dicom-web/studies/{UID}"
READ_WRITE = {"access": {"mode": "read-write"}}
CHUNKED = "Transfer-Encoding: chunked"


def ask(method: str = "GET", path: str = STUDY, *lines: str, query: str = "") -> bytes:
    """A request that says whom it is about wherever it can."""
    about = f"?PatientName={PATIENT}{query}"
    return request(method, path + about, f"X-Patient: {PATIENT}", f"Cookie: {PATIENT}", *lines)


async def hello(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"hello"))


async def garbage(wire: Wire, _: Head) -> None:
    await wire.send(f"{PATIENT} {UID}\r\n\r\n".encode())


async def splitting(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"", f"X-Patient: {PATIENT}\0".encode()))


async def closing(wire: Wire, _: Head) -> None:
    wire.writer.close()


async def resetting(wire: Wire, _: Head) -> None:
    wire.reset()


async def silent(wire: Wire, _: Head) -> None:
    await wire.closed()


async def forbidding(wire: Wire, _: Head) -> None:
    await wire.send(answer(PATIENT.encode(), status=b"403 Forbidden"))


def with_a_bug(_: httpx.Request) -> httpx.Response:
    raise ValueError(PATIENT)


def with_an_odd_status(_: httpx.Request) -> httpx.Response:
    return httpx.Response(600, text=PATIENT)


def quoting(_: httpx.Request) -> httpx.Response:
    raise httpx.RemoteProtocolError(PATIENT) from ValueError(PATIENT)


def writing_slowly(_: httpx.Request) -> httpx.Response:
    raise httpx.WriteTimeout("slow")


def without_a_descriptor(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("failed") from OSError(errno.EMFILE, "Too many open files")


def without_one_for_any_address(_: httpx.Request) -> httpx.Response:
    each = [OSError(errno.EMFILE, "Too many open files") for _ in range(2)]
    raise httpx.ConnectError("failed") from ExceptionGroup("several", each)


def resolving_slowly(_: httpx.Request) -> httpx.Response:
    raise ResolveTimedOut("slow")


class Told(NamedTuple):
    """A problem, a word of its detail, and how it comes about."""

    status: int
    word: str
    request: bytes = ask()
    settings: dict[str, Any] = {}  # noqa: RUF012
    archive: Callable[[Wire, Head], Awaitable[None]] = hello
    transport: Callable[[httpx.Request], httpx.Response] | None = None
    has_tls: bool = False  # by an authority that nobody knows
    headers: tuple[tuple[bytes, bytes], ...] = ()
    is_busy: bool = False  # with another request, which the archive does not answer
    cors: tuple[bytes, ...] = (b"access-control-allow-origin", b"access-control-expose-headers")


AUTH = {"auth": {"type": "bearer", "token": "ours"}}
PROBLEMS = {
    "dot segment": Told(400, "dot segment", ask(path=f"{STUDY}/../servers")),
    "percent-encoding": Told(400, "%25", ask(query="%zz")),
    "second host": Told(400, "Host", ask("GET", STUDY, "Host: other.example")),
    "second origin": Told(
        400, "Origin", ask("GET", STUDY, f"Origin: {ORIGIN.decode()}"), cors=()
    ),
    "transfer coding": Told(
        400, "chunked", ask("GET", STUDY, "Transfer-Encoding: gzip, chunked")
    ),
    "no resource": Told(404, "server.base_path", ask(path=f"/dicom-web/patients/{UID}")),
    "no service": Told(
        404, "set upstream.ups_url", ask(path=f"/dicom-web/workitems/{UID}"),
        {"upstream": {"url": None, "qido_url": "http://a", "wado_url": "http://a"}},
    ),
    "read-only": Told(
        405, "access.mode", ask("POST"), headers=((b"allow", b"GET, HEAD, OPTIONS"),)
    ),
    "method": Told(
        405, "{study}", ask("PATCH"), READ_WRITE,
        headers=((b"allow", b"GET, HEAD, POST, PUT, DELETE, OPTIONS"),),
    ),
    "body stalled": Told(
        408, "server.body_timeout", ask("POST", STUDY, "Content-Length: 9") + PATIENT.encode(),
        READ_WRITE | {"server": {"body_timeout": 0.1}}, silent,
    ),
    "announced body": Told(
        413, "server.max_body_bytes", ask("POST", STUDY, "Content-Length: 9"),
        READ_WRITE | {"server": {"max_body_bytes": 8}},
    ),
    "body": Told(
        413, "server.max_body_bytes", ask("POST", STUDY, CHUNKED) + b"9\r\n123456789\r\n0\r\n\r\n",
        READ_WRITE | {"server": {"max_body_bytes": 8}}, silent,
    ),
    "target": Told(
        414, "server.max_target_bytes", ask(query=2000 * "x"),
        {"server": {"max_target_bytes": 1000}},
    ),
    "misdirected": Told(
        421, "server.allowed_hosts", settings={"server": {"allowed_hosts": ["other"]}}
    ),
    "lines": Told(
        431, "server.max_headers", ask("GET", STUDY, *20 * ["X: y"]),
        {"server": {"max_headers": 9}},
    ),
    "head": Told(
        431, "server.max_header_bytes", ask("GET", STUDY, f"X: {2000 * 'y'}"),
        {"server": {"max_header_bytes": 1000}},
    ),
    "bug": Told(500, "log", transport=with_a_bug),
    "refused": Told(
        502, "upstream.url", settings={"upstream": {"url": "http://127.0.0.1:{free}"}}
    ),
    "garbage": Told(502, "archive", archive=garbage),
    "control byte": Told(502, "archive", archive=splitting),
    "status": Told(502, "archive", transport=with_an_odd_status),
    "closed": Told(502, "closed", archive=closing),
    "reset": Told(502, "closed", archive=resetting),
    "certificate": Told(502, "upstream.ca_file", has_tls=True),
    "credentials": Told(502, "upstream.auth", settings={"upstream": AUTH}, archive=forbidding),
    "quoting library": Told(502, "archive", transport=quoting),
    "pool": Told(
        503, "upstream.max_connections",
        settings={"upstream": {"max_connections": 1, "pool_timeout": 0.1}}, archive=silent,
        headers=((b"retry-after", b"1"),), is_busy=True,
    ),
    "descriptors": Told(
        503, "limit on open files", transport=without_a_descriptor,
        headers=((b"retry-after", b"1"),),
    ),
    "descriptors for each address": Told(
        503, "limit on open files", transport=without_one_for_any_address,
        headers=((b"retry-after", b"1"),),
    ),
    "concurrency": Told(
        503, "server.max_concurrent_requests",
        settings={"server": {"max_concurrent_requests": 1}}, archive=silent,
        headers=((b"retry-after", b"1"),), is_busy=True,
    ),
    "not resolved": Told(504, "name server", transport=resolving_slowly),
    "not accepted": Told(
        504, "upstream.connect_timeout",
        settings={"upstream": {"url": "http://127.0.0.1:{full}", "connect_timeout": 0.1}},
    ),
    "silent": Told(
        504, "upstream.read_timeout", settings={"upstream": {"read_timeout": 0.1}}, archive=silent
    ),
    "not taken": Told(504, "upstream.read_timeout", transport=writing_slowly),
    "loop": Told(508, "server.instance_name", ask("GET", STUDY, "Via: 1.1 dicomweb-cors-proxy")),
}  # fmt: skip


NATIVE_ONLY = {
    "garbage": "httpcore logs what it can't read at DEBUG, which `serve` never shows",
    "control byte": "httpcore logs what it can't read at DEBUG, which `serve` never shows",
}


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(
            told,
            id=name,
            marks=[pytest.mark.native_only(NATIVE_ONLY[name])] if name in NATIVE_ONLY else [],
        )
        for name, told in PROBLEMS.items()
    ],
)
async def test_a_problem_is_told(told: Told, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    asked = asyncio.Event()

    async def handle(wire: Wire, head: Head) -> None:
        asked.set()
        await told.archive(wire, head)

    async with AsyncExitStack() as stack:
        tls = unknown_authority() if told.has_tls else None
        a = await stack.enter_async_context(archive(handle, tls=tls))
        configuration = configured(told, a, stack)
        transport = httpx.MockTransport(told.transport) if told.transport else None
        p = await stack.enter_async_context(proxy(configuration, transport=transport))
        if told.is_busy:
            other = await stack.enter_async_context(await p.connect())
            await other.send(request())
            await asked.wait()
        head, body = await p.ask(told.request)

    problem = json.loads(body)
    assert head.status == problem["status"] == told.status
    assert problem["title"] == TITLES[told.status]
    assert told.word in problem["detail"]
    assert problem.keys() == {"title", "status", "detail"}
    assert head.get(b"content-type") == b"application/problem+json"
    assert head.get(b"cache-control") == b"no-store"
    assert head.get(b"vary") == b"Origin"
    assert [head.get(name) for name in told.cors[:1]] == [ORIGIN for _ in told.cors[:1]]
    assert set(told.headers) <= set(head.headers)
    assert {name for name, _ in head.headers} - {b"connection"} == {
        b"cache-control", b"content-type", b"content-length", b"vary", b"date", b"server",
        b"x-request-id", *told.cors, *dict(told.headers),
    }  # fmt: skip
    for text in (str(head) + body.decode(), caplog.text):
        assert PATIENT not in text
        assert UID not in text


CERTIFICATES = {
    "of a name": ("another.example", True, "Write a name that the certificate has."),
    "of nobody": ("127.0.0.1", False, "Set upstream.ca_file to"),
}


@pytest.mark.parametrize("certificate", CERTIFICATES.values(), ids=CERTIFICATES)
async def test_what_is_wrong_with_a_certificate_is_told(
    certificate: tuple[str, bool, str], tmp_path: Path
) -> None:
    name, is_vouched_for, remedy = certificate
    authority, other = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    (authority if is_vouched_for else other).cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    async with archive(hello, tls=context) as a:
        upstream = {"url": a.url, "ca_file": str(file)}
        async with proxy(settings(a.url, upstream=upstream)) as p:
            head, body = await p.ask(ask())
    assert head.status == 502
    assert remedy in json.loads(body)["detail"]


async def test_the_root_is_no_page_and_says_so() -> None:
    async with proxy(settings("http://archive.example")) as p:
        head, body = await p.ask(ask(path="/dicom-web"))
    assert head.status == 405
    assert "request …/studies?limit=1" in json.loads(body)["detail"]


async def test_an_archive_that_speaks_no_tls_at_its_port_is_told() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with proxy(settings(f"https://127.0.0.1:{port}")) as p:
            head, body = await p.ask(ask())
    assert head.status == 502
    assert "Write http:// in upstream.url" in json.loads(body)["detail"]


async def test_a_lack_of_descriptors_is_logged_once_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reverse_proxy, "DESCRIPTOR_WARNING_SECONDS", 3600)
    transport = httpx.MockTransport(without_a_descriptor)
    async with proxy(settings("http://archive.example"), transport=transport) as p:
        for _ in range(3):
            assert (await p.ask(ask()))[0].status == 503
    warned = [record for record in caplog.records if record.name == reverse_proxy.__name__]
    assert len(warned) == 1
    assert "limit on open files" in warned[0].getMessage()


def configured(told: Told, a: Archive, stack: AsyncExitStack) -> Settings:
    """The settings, with the ports put into the archive's URL."""
    full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
    stack.enter_context(socket.create_connection(full.getsockname()))
    upstream = {"url": a.url} | told.settings.get("upstream", {})
    if upstream["url"]:
        ports = {"free": free_port(), "full": full.getsockname()[1]}
        upstream["url"] = upstream["url"].format(**ports)
    return settings(a.url, **told.settings | {"upstream": upstream})


def unknown_authority() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context
