"""One line a request, whatever becomes of it; and the same figures in the metrics."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicomweb_cors_proxy.observability.log_setup import flush
from tests.support.servers import free_port
from tests.support.sockets import ORIGIN, Wire, answer, archive, proxy, request, settings
from tests.support.upstream import until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicomweb_cors_proxy.observability.records import RequestRecord
    from tests.support.sockets import Head, Proxy

STUDIES = "/dicom-web/studies"
SERIES = "studies/{study}/series"
UUID = "550e8400-e29b-41d4-a716-446655440000"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK = "Access-Control-Request-Method: GET"


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "dicomweb_cors_proxy")


def told(caplog: pytest.LogCaptureFixture) -> list[RequestRecord]:
    """The requests that have been logged."""
    return [record.request for record in caplog.records if hasattr(record, "request")]


async def hello(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"hello"))


READ_WRITE = {"access": {"mode": "read-write"}}


@pytest.mark.parametrize(
    ("asked", "changes", "expected"),
    [
        (request(), {}, {"method": "GET", "resource": "studies", "status": 200, "bytes_out": 5,
                         "upstream_status": 200, "cors": "allowed", "event": "request",
                         "origin": ORIGIN.decode(), "client": "127.0.0.1", "bytes_in": 0}),
        (request("GET", f"{STUDIES}/1.2/series?x=1", origin=None), {},
         {"resource": SERIES, "origin": None, "cors": "none"}),
        (request(origin=b"https://stranger.example"), {},
         {"cors": "refused", "origin": "https://stranger.example", "status": 200,
          "event": "cors.allow_origins does not list https://stranger.example."}),
        (request(origin=b"null"), {}, {"origin": "null", "cors": "refused"}),
        (request("GET", "/dicom-web/patients/1", origin=b"https://stranger.example"), {},
         {"cors": "refused", "status": 404}),
        (request(origin=b"https://x.example/Doe"), {}, {"origin": "malformed"}),
        (request(origin=b"capacitor://"), {}, {"origin": "capacitor://"}),
        (request(origin=b"doe://"), {}, {"origin": "malformed"}),
        (request(origin=b"https://x.example\x1b[31m"), {}, {"origin": None, "status": 400}),
        (request(origin="https://x.example\x85".encode()), {}, {"origin": "malformed"}),
        (request(origin=b"https://" + b"a" * 500), {}, {"origin": "malformed"}),
        (request("HEAD"), {}, {"method": "HEAD", "status": 200, "bytes_out": 0}),
        (request("POST", STUDIES, body=b"four"), READ_WRITE,
         {"method": "POST", "bytes_in": 4, "status": 200}),
        (request("OPTIONS", STUDIES, ASK), {},
         {"resource": "studies", "status": 204, "cors": "preflight-allowed", "bytes_out": 0,
          "upstream_status": None, "ttfb": None, "event": "request"}),
        (request("OPTIONS", STUDIES, ASK, origin=b"https://no.example"), {},
         {"status": 403, "cors": "preflight-refused",
          "event": "cors.allow_origins does not list https://no.example."}),
        (request("OPTIONS", STUDIES, ASK, "Access-Control-Request-Headers: x-token"), {},
         {"status": 204, "cors": "preflight-refused",
          "event": "cors.allow_headers does not list these headers: x-token."}),
        (request("GET", "/dicom-web/patients/Doe"), {}, {"resource": "unmatched", "status": 404}),
        (request("GET", "/dicom-web/../Doe"), {}, {"resource": "unmatched", "status": 400}),
        (request("DOE"), {}, {"method": "OTHER", "resource": "studies", "status": 405}),
        (request("GET", "/" + "x" * 99), {"server": {"max_target_bytes": 64, "base_path": "/"}},
         {"resource": "unmatched", "status": 414, "upstream_status": None}),
        (request(), {"upstream": {"url": f"http://127.0.0.1:{free_port()}"}},
         {"status": 502, "upstream_status": None, "upstream_error": "connect", "ttfb": None}),
    ],
    ids=["search", "series", "stranger", "null", "stranger at no resource",
         "path in origin", "app", "scheme of no app", "C0 in origin",
         "C1 in origin",
         "long origin", "head", "store", "preflight", "preflight refused", "preflight of a header",
         "no resource",
         "dot segment", "unknown method", "refused by the server", "archive down"],
)  # fmt: skip
async def test_what_is_told(
    asked: bytes,
    changes: Mapping[str, Any],
    expected: Mapping[str, object],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.body(head) if head.get(b"content-length") else None
        await wire.send(answer(b"" if head.first_line.startswith(b"HEAD") else b"hello"))

    async with archive(handle) as a, proxy(settings(a.url, **changes)) as p:
        await p.ask(asked)
    (record,) = told(caplog)
    fields = asdict(record)
    assert {key: fields[key] for key in expected} == expected
    assert 0 < record.duration < 5
    assert record.ttfb is None or 0 < record.ttfb <= record.duration


async def test_a_failure_says_where_and_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with proxy(settings(f"{url}/secret")) as p:
        await p.ask(request("GET", f"{STUDIES}?PatientName=Doe"))
    (record,) = told(caplog)
    assert record.event.startswith(f"{url}: ")
    assert "upstream.url" in record.event
    assert caplog.records[0].levelname == "WARNING"
    assert not {"Doe", "secret"} & set(caplog.text.replace("=", " ").split())


async def test_a_cut_response_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(CHUNKED, b"4\r\nhalf\r\n")
        wire.writer.close()

    async with archive(handle) as a, proxy(settings(a.url)) as p, await p.connect() as client:
        await client.send(request())
        await client.reader.read()
    (record,) = told(caplog)
    assert record.event.startswith("response cut: ")
    assert (record.status, record.bytes_out) == (200, 4)
    assert record.upstream_error == "protocol"


async def test_a_bug_is_told_with_the_requests_id(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        monkeypatch.setattr("dicomweb_cors_proxy.proxy.outgoing.fields.via", lambda *_: 1 / 0)
        head, _ = await p.ask(request())
    (record,) = told(caplog)
    assert record.status == 500
    assert head.get(b"x-request-id") == record.request_id.encode()
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("sent", "status"), [(b"", 499), (CHUNKED, 200)], ids=["before", "in the middle"]
)
async def test_a_client_that_left_is_told(
    sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(sent)
        asked.set()
        assert await wire.closed()

    async with archive(handle) as a, proxy(settings(a.url)) as p:
        async with await p.connect() as client:
            await client.send(request())
            await asked.wait()
            if sent:
                await client.head()
        async with asyncio.timeout(2):
            await until(lambda: told(caplog))
        figures = await scrape(p)
    (record,) = told(caplog)
    assert (record.status, record.event) == (status, "client disconnected")
    assert figures["requests_total", ("GET", "studies", str(status))] == 1


# Identity


@pytest.mark.parametrize(
    ("lines", "trusted", "kept"),
    [
        ([f"X-Request-ID: {UUID}"], True, True),
        ([f"X-Request-ID: {UUID}"], False, False),
        (["X-Request-ID: Doe^Jane"], True, False),
        (["X-Request-ID: 1.2.840.10008.1.2.3.4.5.6.7.8.9"], True, False),
        ([f"X-Request-ID: {UUID}", f"X-Request-ID: {UUID}"], True, False),
        ([], True, False),
    ],
    ids=["trusted", "not trusted", "name", "uid", "twice", "none"],
)
async def test_a_request_has_one_id(
    lines: list[str], trusted: bool, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", b"X-Request-ID: of-the-archive"))

    server = {"trusted_proxies": ["127.0.0.1"] if trusted else []}
    async with archive(handle) as a, proxy(settings(a.url, server=server)) as p:
        head, _ = await p.ask(request("GET", STUDIES, *lines))
    identity = told(caplog)[0].request_id
    assert (identity == UUID) == kept
    assert len(identity) >= 32
    assert head.get(b"x-request-id") == identity.encode()
    assert a.requests[0].get(b"x-request-id") == identity.encode()


@pytest.mark.parametrize(
    ("forwarded", "trusted", "client"),
    [
        ("198.51.100.6", True, "198.51.100.6"),
        ("198.51.100.6", False, "127.0.0.1"),
        ("Doe, 198.51.100.6, 127.0.0.2", True, "198.51.100.6"),
        ("Doe", True, "127.0.0.1"),
        ("fe80::1%Doe", True, "fe80::1"),
    ],
)
async def test_a_trusted_proxy_speaks_for_its_client(
    forwarded: str, trusted: bool, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = {"trusted_proxies": ["127.0.0.0/8"] if trusted else []}
    async with archive(hello) as a, proxy(settings(a.url, server=server)) as p:
        await p.ask(request("GET", STUDIES, f"X-Forwarded-For: {forwarded}"))
    assert told(caplog)[0].client == client


async def test_a_preflights_response_has_no_id() -> None:
    async with archive(hello) as a, proxy(settings(a.url)) as p:
        head, _ = await p.ask(request("OPTIONS", STUDIES, ASK))
    assert head.get(b"x-request-id") is None


# Metrics


async def scrape(p: Proxy) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample by its name, without the prefix, and the values of its labels."""
    head, body = await p.ask(request("GET", "/metrics"))
    assert head.status == 200
    assert head.get(b"access-control-allow-origin") is None
    assert (head.get(b"content-type") or b"").startswith(b"text/plain; version=0.0.4")
    return {
        (sample.name.removeprefix("dicomweb_proxy_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


async def test_metrics_add_up_to_the_requests(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        status = b"404 Not Found" if b"1.4" in head.first_line else b"200 OK"
        await wire.send(answer(b"hello", status=status))

    script = [
        *[request()] * 3,
        *[request("GET", f"{STUDIES}/1.{last}/series") for last in range(6)],
        *[request("OPTIONS", STUDIES, ASK)] * 2,
        request("OPTIONS", STUDIES, ASK, origin=b"https://no.example"),
        request("GET", "/nothing"),
        request("DOE"),
    ]
    async with archive(handle) as a, proxy(settings(a.url)) as p:
        for asked in script:
            await p.ask(asked)
        await p.ask(request("GET", "/healthz"))
        # The thread that writes the log counts the lines that it cannot write.
        assert await asyncio.to_thread(flush)
        figures = await scrape(p)
        assert figures == await scrape(p)  # which does not count itself
    counted = {labels: n for (name, labels), n in figures.items() if name == "requests_total"}
    assert counted == {
        ("GET", "studies", "200"): 3,
        ("GET", SERIES, "200"): 5,
        ("GET", SERIES, "404"): 1,
        ("OPTIONS", "studies", "204"): 2,
        ("OPTIONS", "studies", "403"): 1,
        ("GET", "unmatched", "404"): 1,
        ("OTHER", "studies", "405"): 1,
    }
    assert counted == Counter((r.method, r.resource, str(r.status)) for r in told(caplog))
    assert figures["preflights_total", ("allowed",)] == 2
    assert figures["preflights_total", ("refused",)] == 1
    assert figures["upstream_ttfb_seconds_count", ("studies",)] == 3
    assert figures["upstream_ttfb_seconds_count", (SERIES,)] == 6
    assert figures["request_duration_seconds_count", ("GET", SERIES)] == 6
    assert figures["response_bytes_total", (SERIES,)] == 30
    assert figures["requests_in_progress", ()] == 0
    assert figures["upstream_connections", ("idle",)] == 1


async def test_what_is_under_way_is_counted() -> None:
    asked, finish = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        await finish.wait()
        await wire.send(answer(b"hello"))

    upstream = {"max_connections": 1}
    async with archive(handle) as a, proxy(settings(a.url, upstream=upstream)) as p:
        running = [asyncio.create_task(p.ask(request())) for _ in range(3)]
        await asked.wait()
        async with asyncio.timeout(5):
            while (figures := await scrape(p))["requests_in_progress", ()] < 3:
                pass
        assert figures["upstream_connections", ("active",)] == 1
        assert figures["upstream_connections", ("waiting",)] == 2
        finish.set()
        await asyncio.gather(*running)


@pytest.mark.parametrize(
    ("script", "upstream", "reason"),
    [
        ([b"garbage\r\n\r\n"], {}, "protocol"),
        ([b"HTTP/1.1 999 No\r\n\r\n"], {}, "protocol"),
        ([], {"read_timeout": 0.05}, "read_timeout"),
        ([answer(status=b"401 No")], {"auth": {"type": "bearer", "token": "t"}}, "credentials"),
    ],
    ids=["garbage", "unsendable", "hung", "credentials"],
)
async def test_failures_of_the_archive_are_counted_by_reason(
    script: list[bytes], upstream: dict[str, object], reason: str
) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(*script)
        await wire.closed()

    async with archive(handle) as a, proxy(settings(a.url, upstream=upstream)) as p:
        head, body = await p.ask(request())
        figures = await scrape(p)
    assert head.status == json.loads(body)["status"]
    errors = {labels: n for (name, labels), n in figures.items() if name == "upstream_errors_total"}
    assert {labels for labels, count in errors.items() if count} == {(reason,)}
