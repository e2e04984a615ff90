"""HTTP/2: to clients under granian, to the archive by httpx."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.granian import Granian, granian, trusting
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from pathlib import Path

SEARCH = "/dicom-web/studies?PatientName=Doe"
ASKED = {"Origin": ORIGIN.decode()}


def client(server: Granian) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.root, verify=trusting(), http2=True, trust_env=False, headers=ASKED
    )


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body of unknown length."""
    for chunk in chunks:
        yield chunk


async def hello(wire: Wire, head: Head) -> None:
    body = await wire.body(head) if head.first_line.startswith(b"POST") else b"hello"
    await wire.send(answer(b"" if head.first_line.startswith(b"HEAD") else body))


async def test_it_is_agreed_on_in_the_handshake(tmp_path: Path) -> None:
    with granian("http://127.0.0.1:9", ORIGIN.decode(), tmp_path) as server:
        for offered, taken in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", server.port, ssl=trusting(*offered)
            )
            tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == taken
            writer.close()
            await writer.wait_closed()


async def test_requests_responses_log_and_metrics(tmp_path: Path) -> None:
    async with archive(hello) as a:
        with granian(a.url, ORIGIN.decode(), tmp_path, ACCESS__MODE="read-write") as server:
            async with client(server) as asking:
                searched = await asking.get(SEARCH)
                assert (searched.http_version, searched.content) == ("HTTP/2", b"hello")
                assert searched.headers.get_list("access-control-allow-origin") == [ORIGIN.decode()]
                assert "keep-alive" not in searched.headers

                stored = await asking.post("/dicom-web/studies", content=pieces(b"a", b"b"))
                assert stored.content == b"ab"
                assert a.requests[-1].get(b"transfer-encoding") == b"chunked"
                assert a.requests[-1].get(b"via") == b"2 dicomweb-cors-proxy"

                preflight = await asking.options(
                    SEARCH, headers={"Access-Control-Request-Method": "GET"}
                )
                assert preflight.status_code == 204
                for path, status in ((SEARCH, 200), ("/dicom-web/no", 404), ("/healthz", 200)):
                    head = await asking.head(path)
                    assert (head.status_code, head.content) == (status, b"")

                metrics = (await asking.get("/metrics")).text
    counted = 'dicomweb_proxy_requests_total{method="GET",resource="studies",status="200"} 1.0'
    assert counted in metrics
    lines = server.child.output
    assert "preflight-allowed  studies " in lines
    assert "POST    200" in lines
    assert "Doe" not in lines
    assert "Traceback" not in lines


async def test_a_cut_response_is_seen_as_cut(tmp_path: Path) -> None:
    async def half(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"half", length=8))
        wire.writer.close()

    async with archive(half) as a:
        with granian(a.url, ORIGIN.decode(), tmp_path) as server:
            async with client(server) as asking:
                with pytest.raises(httpx.RemoteProtocolError):
                    await asking.get(SEARCH)
        assert "Traceback" not in server.child.output


def test_a_bad_configuration_is_refused_in_sentences(tmp_path: Path) -> None:
    with granian("http://a", ORIGIN.decode(), tmp_path, CORS__MAX_AGE="1000000") as server:
        assert server.child.wait() == 1
    assert "cors.max_age: '1000000'" in server.child.output
    assert "Traceback" not in server.child.output


async def test_an_archive_that_speaks_it(tmp_path: Path) -> None:
    """Our own application under granian, in front of another archive, is one."""
    async with archive(hello) as a:
        with granian(a.url, ORIGIN.decode(), tmp_path) as there:
            upstream = {"transport": "httpx", "ca_file": str(tmp_path / "ca.pem")}
            changes = {"upstream": upstream, "server": {"instance_name": "near"}}
            async with proxy(settings(there.url, **changes)) as p:
                answers = await asyncio.gather(*(p.ask(request("GET", SEARCH)) for _ in range(8)))
        assert {(head.status, body) for head, body in answers} == {(200, b"hello")}
        assert {b", ".join(head.all(b"via")) for head in a.requests} == {
            b"1.1 near, 2 dicomweb-cors-proxy"
        }
