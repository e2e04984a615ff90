"""URLs and compression through the whole proxy: what the archive is asked, what the client gets."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from tests.support.sockets import Head, Wire, answer, archive, proxy, request, settings

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
STUDIES = "/dicom-web/studies"
FRAME = "/dicom-web/studies/1/series/2/instances/3/frames/1"
BULK = "/dicom-web/studies/1/series/2/instances/3/bulkdata/7"
JSON = b"Content-Type: application/dicom+json"
PUBLIC = "http://proxy.example/dicom-web"
GZIP = "Accept-Encoding: gzip, br"
TRUSTED = {"trusted_proxies": ["127.0.0.0/8"]}


def text(url: str, times: int = 1) -> bytes:
    """Search results of an archive at `url`, and its URL once more in a text of a patient."""
    study = {
        "00081190": {"vr": "UR", "Value": [f"{url}/studies/1"]},
        "00102000": {"vr": "LO", "Value": [f"see {url}/studies/1"]},
    }
    return json.dumps([study] * times).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def rewritten(body: bytes, url: str, public: str = PUBLIC) -> bytes:
    return body.replace(f'["{url}/'.encode(), f'["{public}/'.encode())


@pytest.mark.parametrize(
    ("changes", "lines", "public"),
    [
        ({}, [], PUBLIC),
        ({"public_url": "https://pacs.example/a"}, [], "https://pacs.example/a"),
        ({"public_url": "https://pacs.example/a/"}, [], "https://pacs.example/a"),
        ({}, ["X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: /evil"], PUBLIC),
        ({"server": {"base_path": "/"}}, [], "http://proxy.example"),
        (
            {"server": TRUSTED},
            ["X-Forwarded-Host: pacs.example", "X-Forwarded-Proto: https"],
            "https://pacs.example/dicom-web",
        ),
        (
            {"server": TRUSTED},
            ["X-Forwarded-Host: a.example, b.example", "X-Forwarded-Prefix: /imaging/"],
            "http://a.example/imaging/dicom-web",
        ),
        (
            {"server": TRUSTED},
            ['X-Forwarded-Host: a"b', "X-Forwarded-Proto: gopher", "X-Forwarded-Prefix: evil"],
            PUBLIC,
        ),
    ],
)
async def test_the_archives_urls_become_those_that_the_browser_used(
    changes: dict[str, Any], lines: list[str], public: str
) -> None:
    bodies = []

    async def handle(wire: Wire, head: Head) -> None:
        url = f"http://{head.get(b'host').decode()}"  # type: ignore[union-attr]
        bodies.append(text(f"{url}/pacs"))
        location = f"Location: {url}/pacs/studies/1".encode()
        await wire.send(answer(bodies[0], JSON, location, b'ETag: "a"', b"Accept-Ranges: bytes"))

    base = changes.get("server", {}).get("base_path", "/dicom-web").rstrip("/")
    async with archive(handle) as a, proxy(settings(a.url, **changes)) as p:
        head, body = await p.ask(request("GET", f"{base}/studies", *lines))
    assert body == rewritten(bodies[0], a.url, public)
    assert head.get(b"location") == f"{public}/studies/1".encode()
    assert head.get(b"etag") == b'W/"a~"'
    assert head.get(b"content-length") in (None, b"%d" % len(body))
    assert head.get(b"accept-ranges") is None


@pytest.mark.native_only("httpx tells the end of a body only once it is read")
@pytest.mark.parametrize("lines", [[], [GZIP]])
async def test_what_has_come_whole_goes_out_with_its_length(lines: list[str]) -> None:
    go_on = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        whole = answer(text(a.url, times=20), JSON)
        if len(a.requests) == 1:
            await wire.send(whole)
        else:
            await wire.send(whole[:-1])
            await go_on.wait()
            await wire.send(whole[-1:])

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request("GET", STUDIES, *lines))
        async with await p.connect() as wire:
            await wire.send(request("GET", STUDIES, *lines))
            streamed = await wire.head()
            go_on.set()
            assert await wire.body(streamed)
    assert head.get(b"content-length") == b"%d" % len(body)
    assert streamed.get(b"content-length") is None
    if lines:
        body = gzip.decompress(body)
    assert body == rewritten(text(a.url, times=20), a.url)


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        (STUDIES, [(b"accept-encoding", b"identity")]),
        (f"{STUDIES}/1/metadata", [(b"accept-encoding", b"identity")]),
        (
            FRAME,
            [(b"accept-encoding", b"gzip, br"), (b"range", b"bytes=0-9"), (b"if-range", b'"a"')],
        ),
    ],
)
async def test_only_what_holds_urls_is_asked_for_whole_and_plain(
    target: str, asked: list[tuple[bytes, bytes]]
) -> None:
    async with archive(lambda wire, _: wire.send(answer(b"hello"))) as a:
        async with proxy(settings(a.url)) as p:
            await p.ask(request("GET", target, GZIP, "Range: bytes=0-9", 'If-Range: "a"'))
        async with proxy(settings(a.url, rewrite_urls=False)) as p:
            await p.ask(request("GET", target, GZIP, "Range: bytes=0-9", 'If-Range: "a"'))
    names = (b"accept-encoding", b"range", b"if-range")
    first, second = ([line for line in head.headers if line[0] in names] for head in a.requests)
    assert first == asked
    assert second == [
        (b"accept-encoding", b"gzip, br"),
        (b"range", b"bytes=0-9"),
        (b"if-range", b'"a"'),
    ]


REPORT = "/dicom-web/reports/1"
RANGE = [(b"range", b"bytes=0-9"), (b"if-range", b'"a"')]
AS_ASKED = [(b"accept-encoding", b"gzip, br"), *RANGE]
PLAIN = [(b"accept-encoding", b"identity")]


@pytest.mark.parametrize(
    ("target", "accept", "asked"),
    [
        (f"{STUDIES}/1", "application/dicom+json", PLAIN),
        (f"{STUDIES}/1", 'image/png, multipart/related; type="application/dicom+xml"', PLAIN),
        (f"{STUDIES}/1", "*/*", AS_ASKED),
        (f"{STUDIES}/1", "application/dicom+json;q=0", AS_ASKED),
        (FRAME, 'multipart/related; type="application/octet-stream"', AS_ASKED),
        (BULK, "application/dicom+json", AS_ASKED),
        (REPORT, "application/json", PLAIN),
        (REPORT, "image/jpeg", AS_ASKED),
        (REPORT, "*/*", [*RANGE, *PLAIN]),
        (REPORT, "image/webp, */*;q=0.8", [*RANGE, *PLAIN]),
        (REPORT, None, [*RANGE, *PLAIN]),
    ],
)
async def test_what_may_be_text_by_the_accept_is_asked_for_plain(
    target: str, accept: str | None, asked: list[tuple[bytes, bytes]]
) -> None:
    lines = [GZIP, "Range: bytes=0-9", 'If-Range: "a"']
    if accept is not None:
        lines.append(f"Accept: {accept}")
    access = {"extra_paths": ["/reports/*"]}
    async with archive(lambda wire, _: wire.send(answer(b"hello"))) as a:
        for rewrite_urls in (True, False):
            changed = settings(a.url, access=access, rewrite_urls=rewrite_urls)
            async with proxy(changed) as p:
                await p.ask(request("GET", target, *lines))
    names = (b"accept-encoding", b"range", b"if-range")
    first, second = ([line for line in head.headers if line[0] in names] for head in a.requests)
    assert first == asked
    assert second == AS_ASKED


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("http://localhost/pacs", "http://localhost/pacs"),
        ("https://other.example:8443/x", "https://other.example:8443/x"),
    ],
)
async def test_other_names_of_the_archive_count(alias: str, name: str) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(text(name), JSON))

    async with archive(handle) as a:
        upstream = {"url": a.url, "aliases": [alias]}
        async with proxy(settings(a.url, upstream=upstream)) as p:
            _, body = await p.ask(request("GET", STUDIES))
        async with proxy(settings(a.url)) as p:
            _, untouched = await p.ask(request("GET", STUDIES))
    assert f'["{PUBLIC}/studies/1"]'.encode() in body
    assert untouched == text(name)


async def test_an_archive_that_believes_what_it_is_told_is_believed() -> None:
    """It puts X-Forwarded-Host before its own path, which is not ours."""

    async def handle(wire: Wire, head: Head) -> None:
        name = head.get(b"x-forwarded-host")
        assert name is not None
        await wire.send(answer(text(f"http://{name.decode()}/pacs"), JSON))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        _, body = await p.ask(request("GET", STUDIES))
    assert f'["{PUBLIC}/studies/1"]'.encode() in body


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        (FRAME, b"Content-Type: application/octet-stream"),
        (BULK, JSON),
        ("/dicom-web/studies/1", JSON + b"\r\nContent-Encoding: gzip"),
        (STUDIES, b"Content-Type: application/dicom"),
        (STUDIES, JSON + b"\r\nContent-Encoding: br"),
    ],
)
async def test_other_bodies_pass_byte_for_byte(target: str, headers: bytes) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        url = f"http://{head.get(b'host').decode()}/pacs"  # type: ignore[union-attr]
        await wire.send(answer(text(url), *headers.split(b"\r\n"), b'ETag: "a"'))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request("GET", target))
    assert body == text(a.url)
    assert head.get(b"etag") == b'"a"'
    assert head.get(b"content-length") == str(len(body)).encode()


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Encoding: deflate", "Content-Encoding: identity"),
        ("Cache-Control: no-transform", "Cache-Control: max-age=60"),
    ],
)
async def test_a_header_in_two_lines_is_one(lines: tuple[str, ...]) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"encoded", JSON, *(line.encode() for line in lines)))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request("GET", STUDIES, GZIP))
    assert body == b"encoded"
    assert b"gzip" not in head.all(b"content-encoding")


@pytest.mark.parametrize("path", ["studies/1", "color-palettes/1", "reports/1", "wado?a=b"])
async def test_text_is_rewritten_wherever_it_comes(path: str) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        url = f"http://{head.get(b'host').decode()}/pacs"  # type: ignore[union-attr]
        await wire.send(answer(text(url), JSON, b'ETag: "a"'))

    async with archive(handle) as a:
        changes = {"extra_paths": ["/reports/*"]}
        upstream = {"url": a.url, "wado_uri_url": f"{a.url}/wado"}
        async with proxy(settings(a.url, access=changes, upstream=upstream)) as p:
            head, body = await p.ask(request("GET", f"/dicom-web/{path}"))
    assert body == rewritten(text(a.url), a.url)
    assert head.get(b"etag") == b'W/"a~"'


@pytest.mark.parametrize("lines", [[], [GZIP]])
async def test_where_the_archive_splits_its_response_is_all_one(lines: list[str]) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        url = f"http://{head.get(b'host').decode()}/pacs"  # type: ignore[union-attr]
        await wire.send(CHUNKED + JSON + b"\r\n\r\n")
        for byte in text(url, times=3):
            await wire.send(chunk(bytes([byte])))
            await asyncio.sleep(0)
        await wire.send(b"0\r\n\r\n")

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request("GET", STUDIES, *lines))
    if lines:
        assert head.get(b"content-encoding") == b"gzip"
        body = gzip.decompress(body)
    assert body == rewritten(text(a.url, times=3), a.url)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_text_goes_out_compressed(method: str) -> None:
    content = text("http://foreign.example", times=50)

    async def handle(wire: Wire, head: Head) -> None:
        body = content if head.first_line.startswith(b"GET") else b""
        whole = answer(content, JSON, b"Vary: Accept")
        await wire.send(whole[: len(whole) - len(content)] + body)

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, body = await p.ask(request(method, STUDIES, GZIP))
        plain, rest = await p.ask(request(method, STUDIES))
    assert head.get(b"content-encoding") == b"gzip"
    assert head.get(b"content-length") in (None, b"%d" % len(body))
    assert plain.get(b"content-encoding") is None
    assert head.get(b"vary") == plain.get(b"vary") == b"Accept, Accept-Encoding, Origin"
    if method == "GET":
        assert gzip.decompress(body) == rest == content


@pytest.mark.parametrize("content", [b"a" * 3000, b'[{"00081190":{"vr":"UR","Value":["' * 100])
async def test_the_first_bytes_wait_for_no_others(content: bytes) -> None:
    """Of what could be the beginning of a URL some is held back, and only that."""
    go_on = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(CHUNKED + JSON + b"\r\n\r\n" + chunk(content))
        await go_on.wait()
        await wire.send(chunk(b"end") + b"0\r\n\r\n")

    async with (
        archive(handle) as a,
        proxy(settings(a.url)) as p,
        await p.connect() as client,
    ):
        await client.send(request("GET", STUDIES, GZIP))
        await client.head()
        decompressor = zlib.decompressobj(31)
        received = b""
        while len(received) < len(content) - 2048:
            size = int(await client.reader.readline(), 16)
            received += decompressor.decompress(await client.reader.readexactly(size))
            await client.reader.readexactly(2)
        go_on.set()
        assert content.startswith(received)


@pytest.mark.parametrize("lines", [[], [GZIP]])
async def test_a_cut_stays_a_cut(lines: list[str]) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(CHUNKED + JSON + b"\r\n\r\n" + chunk(b"a" * 3000))
        wire.writer.close()

    async with (
        archive(handle) as a,
        proxy(settings(a.url)) as p,
        await p.connect() as client,
    ):
        await client.send(request("GET", STUDIES, *lines))
        await client.head()
        rest = await client.reader.read()
    assert not rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_no_body_has_no_length(status: bytes) -> None:
    whole = b"HTTP/1.1 %b\r\nContent-Type: application/dicom+json\r\n\r\n" % status
    async with archive(lambda wire, _: wire.send(whole)) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(request("GET", STUDIES, GZIP))
    assert head.status == int(status[:3])
    assert head.get(b"content-length") is None
    assert head.get(b"content-encoding") is None


@pytest.mark.parametrize(
    ("target", "tag", "etag", "vary"),
    [
        (STUDIES, 'W/"a~"', b'W/"a~"', b"Accept-Encoding, Origin"),
        (BULK, 'W/"a~"', b'W/"a~"', b"Accept-Encoding, Origin"),  # JSON, say
        (BULK, 'W/"b", W/"a~"', b'W/"a~"', b"Accept-Encoding, Origin"),
        (BULK, '"a"', b'"a"', b"Origin"),
    ],
)
async def test_a_304_has_the_etag_and_vary_of_the_200(
    target: str, tag: str, etag: bytes, vary: bytes
) -> None:
    whole = answer(b"", b'ETag: "a"', status=b"304 Not Modified", length=0)
    async with archive(lambda wire, _: wire.send(whole)) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(request("GET", target, f"If-None-Match: {tag}"))
    assert (head.get(b"etag"), head.get(b"vary")) == (etag, vary)


async def test_a_304_keeps_the_etag_that_the_text_had() -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"", b'ETag: "a"', status=b"304 Not Modified", length=9))

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(request("GET", STUDIES, 'If-None-Match: W/"a~"'))
    assert a.requests[0].get(b"if-none-match") == b'"a"'
    assert head.get(b"etag") == b'W/"a~"'
    assert head.get(b"content-length") is None
    assert head.get(b"vary") == b"Accept-Encoding, Origin"


@pytest.mark.parametrize(
    ("target", "status", "content_type", "template"),
    [
        (STUDIES, b"200 OK", JSON, "of studies although"),
        (f"{STUDIES}/1", b"206 Partial", JSON, "of studies/{study} although"),
        (REPORT, b"200 OK", b"Content-Type: application/xml", "of /reports/* although"),
        (REPORT, b"404 Not Found", JSON, None),
        (REPORT, b"200 OK", b"Content-Type: text/html", None),
        (BULK, b"200 OK", JSON, None),
    ],
)
async def test_an_archive_that_compresses_all_the_same_is_named_once(
    target: str,
    status: bytes,
    content_type: bytes,
    template: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        lines = content_type, b"Content-Encoding: gzip"
        await wire.send(answer(gzip.compress(b"[]"), *lines, status=status))

    access = {"extra_paths": ["/reports/*"]}
    async with archive(handle) as a, proxy(settings(a.url, access=access)) as p:
        for _ in range(2):
            _, body = await p.ask(request("GET", target, GZIP))
            assert gzip.decompress(body) == b"[]"
    assert caplog.text.count("asked not to") == (template is not None)
    assert template is None or template in caplog.text


@pytest.mark.parametrize(
    ("cookie", "changes", "words"),
    [
        ("a=secret; Path=/dcm4chee-arc", {}, "whose Path does not cover"),
        ("a=secret; Domain=archive.internal", {}, "whose Domain does not cover"),
        ("a=secret; Path=/dicom-web", {}, None),
        ("a=secret; Domain=proxy.example", {}, None),
        ("a=secret", {}, None),
        ("a=secret; Path=/arc", {"public_url": "https://pacs.example/arc/rs"}, None),
        ("a=secret; Domain=proxy.example", {"public_url": "https://pacs.example/x"}, "Domain"),
        ("a=secret; Path=/arc", {"server": {"base_path": "/"}}, None),
        ("a=secret; Path=/arc", {"rewrite_urls": False}, "whose Path does not cover"),
    ],
)
async def test_a_cookie_that_does_not_come_back_is_named_once(
    cookie: str, changes: dict[str, Any], words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    lines = JSON, b"Set-Cookie: b=c", f"Set-Cookie: {cookie}".encode()
    root = changes.get("server", {}).get("base_path", "/dicom-web").rstrip("/")
    async with (
        archive(lambda wire, _: wire.send(answer(b"[]", *lines))) as a,
        proxy(settings(a.url, **changes)) as p,
    ):
        for _ in range(2):
            head, _ = await p.ask(request("GET", f"{root}/studies"))
            assert head.all(b"set-cookie") == [b"b=c", cookie.encode()]
    assert caplog.text.count("sets a cookie on studies") == (words is not None)
    assert words is None or words in caplog.text
    assert "secret" not in caplog.text
    assert "/dcm4chee-arc" not in caplog.text
