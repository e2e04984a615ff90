"""Faults from public reports of viewers and archives, and what the proxy makes of them.

Each row names its source. UIDs and hosts are made up.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.config.loading import load
from tests.support.sockets import ORIGIN, Wire, answer, archive, proxy, request, settings

if TYPE_CHECKING:
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
