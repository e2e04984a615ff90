"""How the archive is reached over TLS, and what belongs to the application's life."""

from __future__ import annotations

import asyncio
import gc
import ssl
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from dicomweb_cors_proxy import create_app
from tests.support import asgi
from tests.support.servers import Reply, stub
from tests.support.sockets import Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from pathlib import Path

    from dicomweb_cors_proxy.app import Application
    from tests.support.sockets import Head

CA = trustme.CA()


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, str]:
    """Files of the authority and of a client's certificate."""
    client = CA.issue_cert("proxy.example")
    files = {
        "ca_file": CA.cert_pem,
        "client_cert_file": client.cert_chain_pems[0],
        "client_key_file": client.private_key_pem,
    }
    for name, blob in files.items():
        blob.write_to_path(str(tmp_path / name))
    return {name: str(tmp_path / name) for name in files}


def tls(name: str, *, asks_client: bool = False) -> ssl.SSLContext:
    """An archive with a certificate for `name`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(name).configure_cert(context)
    if asks_client:
        CA.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.mark.parametrize(
    ("name", "asks_client", "keys", "changes", "status"),
    [
        ("127.0.0.1", False, ["ca_file"], {}, 200),
        ("127.0.0.1", False, [], {}, 502),
        ("archive.example", False, ["ca_file"], {}, 502),
        ("archive.example", False, [], {"verify_tls": False}, 200),
        ("127.0.0.1", True, ["ca_file", "client_cert_file", "client_key_file"], {}, 200),
        ("127.0.0.1", True, ["ca_file"], {}, 502),
    ],
    ids=["trusted", "unknown", "other name", "unchecked", "mutual", "no client certificate"],
)
async def test_tls(
    *,
    name: str,
    asks_client: bool,
    keys: list[str],
    changes: dict[str, object],
    status: int,
    pem: dict[str, str],
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello"))

    upstream = {key: pem[key] for key in keys} | changes
    async with (
        archive(handle, tls=tls(name, asks_client=asks_client)) as a,
        proxy(settings(a.url, upstream=upstream)) as p,
    ):
        head, _ = await p.ask(request())
    assert head.status == status


async def test_the_transport_is_closed_at_the_end() -> None:
    class Transport(httpx.MockTransport):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    transport = Transport(lambda _: httpx.Response(200))
    app = create_app(settings("http://archive.example"), transport=transport)
    async with app.router.lifespan_context(app):
        assert not transport.closed
    assert transport.closed


@pytest.mark.parametrize("path", [b"/dicom-web/nothing", b"/dicom-web/studies", b"/healthz"])
async def test_a_head_is_answered_without_a_body(path: bytes) -> None:
    """A server of HTTP/2 may send the body that it is given, which breaks the stream."""
    app = create_app(settings("http://127.0.0.1:9/pacs"))
    status, headers, body = await asgi.call(app, asgi.scope("HEAD", path))
    assert status in (200, 404, 502)
    assert body == b""
    assert int(dict(headers)[b"content-length"]) > 0


async def test_a_reload_opens_no_more_places() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        await go_on.wait()
        await wire.send(answer(b"hello"))

    async with archive(handle) as a:
        configuration = settings(a.url, server={"max_concurrent_requests": 1})
        app = create_app(configuration)
        first = asyncio.create_task(asgi.call(app, asgi.scope()))
        await asked.wait()
        await app.reload(configuration)
        status, _, body = await asgi.call(app, asgi.scope())
        assert (status, b"max_concurrent_requests" in body) == (503, True)
        go_on.set()
        assert (await first)[0] == 200
        assert (await asgi.call(app, asgi.scope()))[0] == 200


@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_one_event_loop_after_another() -> None:
    """Connections belong to the loop that opened them; Starlette's TestClient has one a request."""

    async def ask(app: Application) -> int:
        return (await asgi.call(app, asgi.scope()))[0]

    with stub(Reply(200, {}, b"[]")) as there:
        app = create_app(settings(there.url))
        assert [asyncio.run(ask(app)) for _ in range(3)] == [200] * 3
        with asyncio.Runner() as one, asyncio.Runner() as other:
            assert [runner.run(ask(app)) for runner in (one, other, one, other)] == [200] * 4
            one.run(asyncio.sleep(0))
            other.run(asyncio.sleep(0))
    del app
    gc.collect()  # the connections of loops that are gone, while warnings of them are ignored
