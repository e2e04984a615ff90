"""Faults from public reports of viewers and archives, and what the proxy makes of them.

Each row names its source. UIDs and hosts are made up.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trustme

from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.config.report import warnings
from tests.support.sockets import ORIGIN, Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sockets import Head

PADDED = "python-hyper/h11 PR 143, nodejs/undici PR 5286, valyala/fasthttp PR 372, llhttp's tests"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.native_only("h11, which httpx uses, rejects some of them")
@pytest.mark.parametrize(
    ("source", "chunks"),
    [
        (PADDED, b"2  \r\nok\r\n0\r\n\r\n"),
        (PADDED, b"2\t\r\nok\r\n0\r\n\r\n"),
        (PADDED, b"2\r\nok\r\n0 \r\n\r\n"),
        ("benoitc/gunicorn tests/requests/valid/013.http", b"2 ; a = b\r\nok\r\n0\r\n\r\n"),
        ("RFC 9112 §7.1.1", b'2;a\r\nok\r\n0 ; b="c" \r\n\r\n'),
    ],
)
async def test_padded_chunk_sizes_are_read(source: str, chunks: bytes) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(CHUNKED + chunks)

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request())
    assert (head.status, body) == (200, b"ok"), source


BROKEN_HEADS = "uNetworking/h1spec, benoitc/gunicorn tests/requests/invalid"


@pytest.mark.parametrize("method", ["FOO", "PATCH", "GET"])
@pytest.mark.parametrize(
    ("source", "line"),
    [
        (BROKEN_HEADS, b"bad header"),
        (BROKEN_HEADS, b"X-A : b"),
        (BROKEN_HEADS, b": b"),
        (BROKEN_HEADS, b"X-A: b\r\n c"),
    ],
)
async def test_a_page_can_read_why_its_malformed_head_is_rejected(
    method: str, source: str, line: bytes
) -> None:
    asked = request(method).replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % line)
    async with archive(lambda wire, _: wire.send(answer(b"ok"))) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(asked)
    assert head.status == 400, source
    assert head.get(b"access-control-allow-origin") == ORIGIN
    assert "not well-formed" in json.loads(body)["detail"]
    assert not a.requests


TWICE = "duckdb/duckdb-ui #52"
BOTH = "netptop/siteproxy #75"
RFC = "RFC 9112"
SECRET = "Doe^Jane"


@pytest.mark.native_only("httpx says in its own words what is wrong")
@pytest.mark.parametrize(
    ("source", "lines", "rule"),
    [
        (TWICE, ["Content-Length: 2", "Content-Length: 2"], "it has Content-Length twice"),
        (TWICE, ["Content-Length: 2", "content-length: 3"], "it has Content-Length twice"),
        (BOTH, ["Content-Length: 2", "Transfer-Encoding: chunked"],
         "it has both Content-Length and Transfer-Encoding"),
        (BOTH, ["Transfer-Encoding: chunked", "Content-Length: 2"],
         "it has both Content-Length and Transfer-Encoding"),
        (f"{RFC} §6.3", ["Content-Length: 2, 2"], "its Content-Length is not a number"),
        (f"{RFC} §6.1", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
         "it has Transfer-Encoding twice"),
        (f"{RFC} §6.1", ["Transfer-Encoding: identity"],
         "its Transfer-Encoding names another coding than chunked"),
        (f"{RFC} §5.2", [f"X-Patient: {SECRET}", f"\t{SECRET}"],
         "the header X-Patient is folded over several lines"),
        (f"{RFC} §5.1", [f"Content-Type : {SECRET}"],
         "a blank stands before the colon of the header Content-Type"),
        (f"{RFC} §5.1", [f"X {SECRET} : b"], "a blank stands in the name of a header"),
        (f"{RFC} §5.1", [f"{SECRET}"], "a header has no colon"),
        (f"{RFC} §5.5", [f"X-Patient: {SECRET}\0"],
         "the header X-Patient has a control character"),
        (f"{RFC} §2.2", [f"X-Patient: {SECRET}\nX-A: b"],
         "the header X-Patient ends with LF alone"),
        ("archives with large cookies", [f"Set-Cookie: {70000 * 'a'}"],
         "its head has more than 65536 bytes"),
    ],
)  # fmt: skip
async def test_a_malformed_head_is_named_by_rule_and_header(
    source: str, lines: list[str], rule: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw = "\r\n".join(["HTTP/1.1 200 OK", *lines, "", "[]"]).encode("latin-1")
    async with archive(lambda wire, _: wire.send(raw)) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request())
    assert head.status == 502, source
    assert rule in json.loads(body)["detail"]
    assert rule in caplog.text
    assert not any(
        secret in text
        for secret in (SECRET, "identity", "aaaa")
        for text in (body.decode(), caplog.text)
    )


@pytest.mark.native_only("httpx says in its own words what is wrong")
@pytest.mark.parametrize(
    ("source", "raw", "rule"),
    [
        (f"{RFC} §6.1", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
         "it has Transfer-Encoding, which HTTP/1.0 lacks"),
        (f"{RFC} §2.2", b"HTTP/1.1 200 OK\nContent-Length: 2\n\n[]",
         "its status line ends with LF alone"),
        (f"{RFC} §4", b"HTTP/1.1 OK\r\n\r\n[]", "its status line is malformed"),
        (f"{RFC} §4", b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n[]",
         "it has the status 200 of HTTP/2.0"),
        ("an archive that speaks TLS there", b"\x15\x03\x01\0\x02\x02\x46", "write https://"),
    ],
)  # fmt: skip
async def test_a_malformed_start_is_named(source: str, raw: bytes, rule: str) -> None:
    async with archive(lambda wire, _: wire.send(raw)) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request())
    assert head.status == 502, source
    assert rule in json.loads(body)["detail"]


OLD_TLS = "nroduit/Weasis #98, openssl/openssl #21296, weserv/images #208"
LAX = """openssl_conf = init
[init]
ssl_conf = ssl
[ssl]
system_default = tls  # for all contexts
[tls]
MinProtocol = TLSv1.1
CipherString = ALL:@SECLEVEL=0
"""


def old_context() -> ssl.SSLContext:
    """Return the TLS of an archive that speaks TLS 1.1 at most."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return context


def refuse_handshake(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Accept one connection and fail its handshake with an alert, which asyncio would not send."""
    accepted, _ = listener.accept()
    with accepted, suppress(ssl.SSLError):
        context.wrap_socket(accepted, server_side=True)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/pacs"
        async with proxy(settings(url, upstream={"url": url, "verify_tls": False})) as p:
            refused = asyncio.to_thread(refuse_handshake, listener, old_context())
            (head, body), _ = await asyncio.gather(p.ask(request()), refused)
    assert head.status == 502, OLD_TLS
    detail = json.loads(body)["detail"]
    assert "the TLS version there is too old" in detail
    assert "OPENSSL_CONF" in detail
    assert "ca_file" not in detail


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_can_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "openssl.cnf"
    conf.write_text(LAX)
    monkeypatch.setenv("OPENSSL_CONF", str(conf))
    async with archive(lambda wire, _: wire.send(answer(b"[]")), tls=old_context()) as a:
        changed = settings(a.url, upstream={"url": a.url, "verify_tls": False})
        async with proxy(changed) as p:
            head, body = await p.ask(request())
    assert (head.status, body) == (200, b"[]"), OLD_TLS


APPS = "ionic-team/capacitor #6936, #2669"
FILES = "fruitcake/laravel-cors #229, playframework #5193, SimulatedGREG/electron-vue #443"
PUNYCODE = "jub0bs/cors internal/origins/pattern_test.go"
BUILDS = "preview deployments of Netlify and Vercel"


@pytest.mark.parametrize(
    ("source", "origin", "words"),
    [
        (APPS, "app://", "give the app's pages a host, as in app://localhost"),
        (APPS, "capacitor://", "allow any origin by a plain *"),
        (FILES, "file://", "some apps send file://"),
        (FILES, "null", "allow any origin by a plain *"),
        (PUNYCODE, "http://xn--f", "no valid Punycode"),
        (PUNYCODE, "https://*.xn--a.example", "no valid Punycode"),
        (BUILDS, "https://*viewer.netlify.app", "only a part that -- separates may vary"),
    ],
)
def test_an_origin_that_no_list_can_hold_is_rejected_with_the_way_out(
    source: str, origin: str, words: str
) -> None:
    flags = {"upstream.url": "http://archive/dicom-web", "cors.allow_origins": [origin]}
    with pytest.raises(ConfigurationError) as raised:
        load(flags=flags, environ={})
    assert words in str(raised.value), source


@pytest.mark.parametrize(
    ("source", "origin"),
    [(APPS, "app://"), (APPS, "capacitor://"), (FILES, "file://"), (FILES, "null")],
)
async def test_a_plain_star_lets_apps_read(source: str, origin: str) -> None:
    async with archive(lambda wire, _: wire.send(answer(b"[]"))) as a:
        async with proxy(settings(a.url, cors={"allow_origins": ["*"]})) as p:
            head, _ = await p.ask(request(origin=origin.encode()))
        async with proxy(settings(a.url)) as p:
            refused, body = await p.ask(
                request(
                    "OPTIONS",
                    "/dicom-web/studies",
                    "Access-Control-Request-Method: GET",
                    origin=origin.encode(),
                )
            )
    assert head.get(b"access-control-allow-origin") == b"*", source
    assert refused.status == 403
    assert "a plain * there allows it too" in json.loads(body)["detail"]


ORTHANC_TESTS = "orthanc-tests through the proxy, with Orthanc's root as upstream"


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        (ORTHANC_TESTS, {"access.extra_paths": ["/wado"]}, "set upstream.wado_uri_url"),
        (
            ORTHANC_TESTS,
            {"access.extra_paths": ["/instances"], "access.mode": "read-only"},
            "further methods are added only with access.mode: read-write",
        ),
        (ORTHANC_TESTS, {"access.extra_paths": ["/**"]}, "opens every path of the archive"),
        (ORTHANC_TESTS, {"access.extra_paths": ["/instances"]}, None),
    ],
)
def test_an_extra_path_that_changes_nothing_is_warned_of(
    source: str, changes: dict[str, object], words: str | None
) -> None:
    flags = {
        "upstream.url": "http://archive/dicom-web",
        "cors.allow_origins": ["https://viewer.example"],
        "access.mode": "read-write",
        "server.base_path": "/",
        **changes,
    }
    told = [
        issue.reason
        for issue in warnings(load(flags=flags, environ={}))
        if issue.setting == "access.extra_paths"
    ]
    assert bool(told) is (words is not None), source
    assert words is None or words in told[0]


async def test_a_method_that_an_extra_path_adds_is_forwarded() -> None:
    access = {"mode": "read-write", "extra_paths": ["/wado", "/instances", "/**"]}
    async with archive(lambda wire, _: wire.send(answer(b"ok"))) as a:
        changed = settings(a.url, access=access, server={"base_path": "/"})
        async with proxy(changed) as p:
            stored, _ = await p.ask(request("POST", "/instances"))
            wado, body = await p.ask(request("GET", "/wado?requestType=WADO&objectUID=1.2.3"))
    assert stored.status == 200, ORTHANC_TESTS
    assert wado.status == 404
    assert "set upstream.wado_uri_url" in json.loads(body)["detail"]
