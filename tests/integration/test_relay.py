"""Requests that are relayed without a task get what they get from the application."""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from dicomweb_cors_proxy.app import Application
from dicomweb_cors_proxy.dicomweb.url_search import URLReplacer
from dicomweb_cors_proxy.http.chunked import MAX_CHUNKS_PER_CALL, ChunkedDecoder
from dicomweb_cors_proxy.observability.metrics import Metrics
from dicomweb_cors_proxy.proxy.relay import Relay
from dicomweb_cors_proxy.server.exchange import Exchange
from tests.support.back_pressure import GIB, connect, send_while_taken
from tests.support.http2 import connected
from tests.support.sockets import answer, archive, proxy, request, settings
from tests.support.upstream import turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dicomweb_cors_proxy.observability.records import RequestRecord
    from tests.support.sockets import Head, Proxy, Wire

    Handler = Callable[[Wire, Head], Awaitable[None]]

pytestmark = pytest.mark.native_only("httpx's transport does not relay")

JSON = b"Content-Type: application/dicom+json"
STUDY = "/dicom-web/studies/1.2.3"
FRAME = f"{STUDY}/series/1.2.3.1/instances/1.2.3.1.1/frames/1"
CLOSE = "Connection: close"
PATIENCE = 30.0

# The values of these differ from one response to the next.
VARYING = re.compile(rb"(?<=\r\n)(date|x-request-id): [^\r]*\r\n")


@asynccontextmanager
async def serving(handle: Handler, **changes: object) -> AsyncIterator[Proxy]:
    """A proxy with an open connection to the archive."""
    async with (
        asyncio.timeout(PATIENCE),
        archive(handle) as a,
        proxy(settings(a.url, **changes), warm=True) as p,
    ):
        yield p


def whole(*parts: bytes) -> Handler:
    """An archive that sends these, each on its own."""

    async def handle(wire: Wire, _: Head) -> None:
        for part in parts:
            await wire.send(part)
            await asyncio.sleep(0.01)

    return handle


def then_closed(*parts: bytes) -> Handler:
    """An archive that sends these and closes."""

    async def handle(wire: Wire, head: Head) -> None:
        await whole(*parts)(wire, head)
        wire.writer.close()

    return handle


def then_reset(*parts: bytes) -> Handler:
    """An archive that sends these and resets the connection."""

    async def handle(wire: Wire, head: Head) -> None:
        await whole(*parts)(wire, head)
        wire.reset()

    return handle


async def urls(wire: Wire, head: Head) -> None:
    """A search whose response holds the archive's own URLs."""
    url = b"http://%b/pacs/studies/1.2.3" % (head.get(b"host") or b"")
    item = b'{"00081190":{"vr":"UR","Value":["%b"]}}' % url
    await wire.send(answer(b"[%b]" % b",".join([item] * 20), JSON))


async def long_urls(wire: Wire, head: Head) -> None:
    """A response that is rewritten in several pieces."""
    url = b"http://%b/pacs/studies/1.2.3" % (head.get(b"host") or b"")
    item = b'{"00081190":{"vr":"UR","Value":["%b"]},"00204000":"%b"}' % (url, b"x" * 2000)
    await wire.send(answer(b"[%b]" % b",".join([item] * 200), JSON))


async def silent(wire: Wire, _: Head) -> None:
    await wire.closed()


async def stalled(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"begun", length=10))
    await wire.closed()


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\n%b\r\nTransfer-Encoding: chunked\r\n\r\n" % JSON + body + end


# Of the log line; times and ids differ.
FACTS = (
    "method",
    "event",
    "resource",
    "status",
    "upstream_status",
    "upstream_error",
    "origin",
    "cors",
    "bytes_in",
    "bytes_out",
)


class Case(NamedTuple):
    """A request, and an archive that responds to it."""

    sent: bytes
    handle: Handler


HELLO = whole(answer(b"hello"))
CASES = {
    "plain": Case(request("GET", STUDY, CLOSE), HELLO),
    "without origin": Case(request("GET", STUDY, CLOSE, origin=None), HELLO),
    "foreign origin": Case(request("GET", STUDY, CLOSE, origin=b"https://evil.example"), HELLO),
    "query": Case(request("GET", f"{STUDY}/series?limit=3&x=%20", CLOSE), HELLO),
    "HEAD": Case(request("HEAD", STUDY, CLOSE), whole(answer(length=5))),
    "HEAD at a dead archive": Case(request("HEAD", STUDY, CLOSE), then_reset(b"HTTP/1.1 2")),
    "204": Case(request("GET", STUDY, CLOSE), whole(b"HTTP/1.1 204 No Content\r\n\r\n")),
    "304": Case(
        request("GET", STUDY, CLOSE, 'If-None-Match: W/"x~"'),
        whole(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
    ),
    "404": Case(request("GET", STUDY, CLOSE), whole(answer(b"no", status=b"404 Not Found"))),
    "302": Case(
        request("GET", STUDY, CLOSE),
        whole(answer(b"", b"Location: /pacs/studies/9", status=b"302 Found")),
    ),
    "own lines": Case(
        request("GET", STUDY, CLOSE),
        whole(
            answer(
                b"hello",
                b"Vary: Accept",
                b"Access-Control-Allow-Origin: *",
                b"X-Request-ID: theirs",
                b"Server: theirs",
                b"Set-Cookie: a=b",
                b"Set-Cookie: c=d",
                b"Connection: x-private",
                b"X-Private: yes",
            )
        ),
    ),
    "interim": Case(
        request("GET", STUDY, CLOSE),
        whole(b"HTTP/1.1 103 Early Hints\r\n\r\n", answer(b"hello")),
    ),
    "head in pieces": Case(
        request("GET", STUDY, CLOSE),
        whole(b"HTTP/1.1 200 OK\r\nContent-", b"Length: 2\r\n\r\n", b"hi"),
    ),
    "urls": Case(request("GET", "/dicom-web/studies", CLOSE), urls),
    "urls, gzip": Case(request("GET", "/dicom-web/studies", CLOSE, "Accept-Encoding: gzip"), urls),
    "long urls": Case(request("GET", f"{STUDY}/metadata", CLOSE), long_urls),
    "compressed": Case(
        request("GET", "/dicom-web/studies", CLOSE),
        whole(answer(gzip.compress(b"[]", mtime=0), JSON, b"Content-Encoding: gzip")),
    ),
    "empty text": Case(
        request("GET", "/dicom-web/studies", CLOSE, "Accept-Encoding: gzip"),
        whole(answer(b"", JSON)),
    ),
    "chunked": Case(request("GET", STUDY, CLOSE), whole(chunked(b"[1,", b"2]"))),
    "chunked, slowly": Case(
        request("GET", STUDY, CLOSE), whole(chunked(b"[1,", end=b""), b"2\r\n2]\r\n0\r\n\r\n")
    ),
    "until the close": Case(
        request("GET", FRAME, CLOSE),
        then_closed(b"HTTP/1.0 200 OK\r\nContent-Type: image/jpeg\r\n\r\n", b"x" * 1000),
    ),
    "long": Case(request("GET", FRAME, CLOSE), whole(answer(b"x" * 1_000_000))),
    "HTTP/1.0 client": Case(
        request("GET", STUDY).replace(b"HTTP/1.1", b"HTTP/1.0"), whole(chunked(b"[1,", b"2]"))
    ),
    "malformed": Case(request("GET", STUDY, CLOSE), whole(b"HTTP/1.1 two hundred\r\n\r\n")),
    "status 600": Case(request("GET", STUDY, CLOSE), whole(answer(b"", status=b"600 Odd"))),
    "control character": Case(request("GET", STUDY, CLOSE), whole(answer(b"", b"X-A: a\x01b"))),
    "two lengths": Case(
        request("GET", STUDY, CLOSE), whole(answer(b"hello", b"Content-Length: 4"))
    ),
    "bad chunk": Case(request("GET", STUDY, CLOSE), whole(chunked(b"[1,", end=b"zz\r\n"))),
    "cut body": Case(request("GET", FRAME, CLOSE), then_closed(answer(b"half", length=8))),
    "reset body": Case(request("GET", FRAME, CLOSE), then_reset(answer(b"half", length=8))),
    "cut head": Case(request("GET", FRAME, CLOSE), then_closed(b"HTTP/1.1 200 OK\r\nConte")),
    "silent": Case(request("GET", FRAME, CLOSE), silent),
    "stalled": Case(request("GET", FRAME, CLOSE), stalled),
    "rejected login": Case(
        request("GET", STUDY, CLOSE), whole(answer(b"", status=b"401 Unauthorized"))
    ),
}


class Outcome(NamedTuple):
    """What is sent to the client, without what differs each time, and the log's facts."""

    response: bytes
    facts: list[dict[str, Any]]
    levels: list[str]


def facts(record: RequestRecord) -> dict[str, Any]:
    known = {key: getattr(record, key) for key in FACTS}
    known["event"] = re.sub(r":\d+: ", ": ", known["event"])  # the archive's port
    return known


def without_chunks(response: bytes) -> bytes:
    """Return a response with its body in one piece, because its chunks are as they arrive."""
    head, end, body = response.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return response
    decoder = ChunkedDecoder()
    parts, at = [head, end], 0
    while at < len(body) and not decoder.complete:
        part, at = decoder.decode(body, at)
        parts.append(part)
    return b"".join([*parts, body[at:] if decoder.complete else b"(cut)"])


async def outcome(case: Case, caplog: pytest.LogCaptureFixture) -> Outcome:
    """Send the request of a case to a proxy with an open connection to the archive."""
    caplog.clear()
    async with archive(case.handle) as a:
        upstream = {"read_timeout": 0.5, "auth": {"type": "bearer", "token": "t"}}
        configuration = settings(a.url, upstream=upstream)
        async with proxy(configuration, warm=True) as p, await p.connect() as wire:
            await wire.send(case.sent)
            async with asyncio.timeout(PATIENCE):
                try:
                    response = await wire.reader.read(-1)
                except ConnectionResetError:
                    response = b"reset"
    port = b"%d" % a.port
    response = VARYING.sub(rb"\1\r\n", without_chunks(response)).replace(port, b"PORT")
    response = response.replace(b"%d" % p.port, b"PORT")
    lines = [record for record in caplog.records if hasattr(record, "request")]
    return Outcome(
        response,
        [facts(record.__dict__["request"]) for record in lines],
        [record.levelname for record in lines],
    )


@pytest.fixture
def relays(monkeypatch: pytest.MonkeyPatch) -> list[Relay]:
    """The relays that are begun."""
    begun: list[Relay] = []
    begin = Relay.__init__

    def count(self: Relay, *args: Any, **options: Any) -> None:  # noqa: ANN401
        begun.append(self)
        begin(self, *args, **options)

    monkeypatch.setattr(Relay, "__init__", count)
    return begun


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Exchange]:
    """The requests for which the application is run."""
    begun: list[Exchange] = []
    run = Exchange.run

    def count(self: Exchange, *args: Any) -> Any:  # noqa: ANN401
        begun.append(self)
        return run(self, *args)

    monkeypatch.setattr(Exchange, "run", count)
    return begun


@pytest.mark.parametrize("name", CASES)
async def test_a_relayed_response_is_that_of_the_application(
    name: str,
    relays: list[Relay],
    runs: list[Exchange],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    relayed = await outcome(CASES[name], caplog)
    assert relayed.facts
    if name not in ("cut head", "HEAD at a dead archive"):
        assert not runs
    assert len(relays) == 1
    monkeypatch.setattr(Application, "try_relay", lambda *_: None)
    assert relayed == await outcome(CASES[name], caplog)
    assert len(relays) == 1


@pytest.mark.parametrize(("name", "pieces"), [("urls", 0), ("long urls", 0), ("long urls", 1)])
async def test_a_bug_in_a_filter_ends_a_relay_as_it_ends_the_application(
    name: str,
    pieces: int,
    relays: list[Relay],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rewrite = URLReplacer._rewritten  # noqa: SLF001
    left = pieces

    def fail(self: URLReplacer, data: bytes) -> bytes:
        nonlocal left
        if not left:
            left = pieces
            raise KeyError("DOE^JOHN")
        left -= 1
        return rewrite(self, data)

    monkeypatch.setattr(URLReplacer, "_rewritten", fail)
    caplog.set_level(logging.INFO)
    relayed = await outcome(CASES[name], caplog)
    assert "bug: KeyError < fail" in caplog.text
    assert "DOE" not in caplog.text
    monkeypatch.setattr(Application, "try_relay", lambda *_: None)
    assert relayed == await outcome(CASES[name], caplog)
    assert len(relays) == 1


async def test_a_request_on_a_dead_connection_is_sent_again(
    relays: list[Relay], runs: list[Exchange], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen = 0

    async def dead_at_first(wire: Wire, _: Head) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            wire.writer.close()
        else:
            await wire.send(answer(b"hello"))

    async with archive(dead_at_first) as a, proxy(settings(a.url), warm=True) as p:
        head, body = await p.ask(request("GET", STUDY))
        metrics = (await p.ask(request("GET", "/metrics")))[1]
    assert (head.status, body) == (200, b"hello")
    assert (len(relays), len(runs), seen) == (1, 2, 2)  # /metrics is the other one
    assert b"\ndicomweb_proxy_requests_in_progress 0.0\n" in metrics
    lines = [record.__dict__["request"] for record in caplog.records if hasattr(record, "request")]
    assert [line.status for line in lines if line.resource != "unmatched"] == [200]


async def test_a_request_that_is_sent_again_after_a_reload_goes_to_the_new_archive() -> None:
    async def reload_and_close(wire: Wire, _: Head) -> None:
        app = p.server.config.app
        assert isinstance(app, Application)
        await app.reload(settings(new.url))
        wire.writer.close()

    async with archive(HELLO) as new, serving(reload_and_close) as p:
        head, body = await p.ask(request("GET", STUDY))
        assert (head.status, body, len(new.requests)) == (200, b"hello", 1)
        assert new.requests[0].get(b"host") == b"127.0.0.1:%d" % new.port


async def in_progress(p: Proxy) -> int:
    """The requests in progress, as the metrics show them."""
    metrics = (await p.ask(request("GET", "/metrics")))[1].decode()
    match = re.search(r"\ndicomweb_proxy_requests_in_progress (-?\d+)", metrics)
    assert match is not None
    return int(match[1])


async def test_a_client_that_leaves_ends_the_archives_request(
    relays: list[Relay], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    closed = asyncio.Event()
    asked = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        await wire.closed()
        closed.set()

    async with serving(handle) as p:
        async with await p.connect() as wire:
            await wire.send(request("GET", STUDY))
            await asked.wait()
            assert await in_progress(p) == 1
        await closed.wait()
        while await in_progress(p):
            pass
    assert len(relays) == 1
    lines = [record.__dict__["request"] for record in caplog.records if hasattr(record, "request")]
    assert (499, "client disconnected") in [(line.status, line.event) for line in lines]


@pytest.mark.parametrize("end", ["complete", "cut", "disconnect"])
async def test_a_bug_in_the_log_ends_a_relay_nevertheless(
    end: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        if end == "complete":
            await wire.send(answer(b"hello"))
            return
        await wire.send(answer(b"half", length=8))
        if end == "cut":
            wire.reset()
        await wire.closed()
        closed.set()

    def fail(*_: object) -> None:
        raise KeyError("DOE^JOHN")

    async with serving(handle) as p:
        monkeypatch.setattr(Metrics, "observe", fail)
        async with await p.connect() as wire:
            await wire.send(request("GET", FRAME))
            await asked.wait()
            if end == "complete":
                assert await wire.body(await wire.head()) == b"hello"
                await wire.send(request("GET", FRAME))
                assert await wire.body(await wire.head()) == b"hello"
            elif end == "cut":
                assert (await wire.reader.read()).endswith(b"half")
        if end != "complete":
            await closed.wait()
        await until(lambda: not p.server.config.relays)
        assert await in_progress(p) == 0
    assert "bug: KeyError < fail" in caplog.text
    assert "DOE" not in caplog.text


async def test_a_slow_client_pauses_the_archive(relays: list[Relay]) -> None:
    rest = asyncio.get_running_loop().create_future()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(length=GIB))
        rest.set_result(await send_while_taken(wire, GIB))
        await wire.closed()

    async with serving(handle) as p, await connect(f"http://127.0.0.1:{p.port}") as wire:
        await wire.send(request("GET", FRAME))
        assert (await wire.head()).status == 200
        assert await rest > GIB // 2
    assert len(relays) == 1


async def test_a_client_that_pauses_is_no_silent_archive(relays: list[Relay]) -> None:
    size = 40_000_000
    paused = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(length=size))
        rest = await send_while_taken(wire, size)  # ends after a second without progress
        paused.set()
        await wire.send(bytes(rest))

    async with (
        serving(handle, upstream={"read_timeout": 0.5}) as p,
        await connect(f"http://127.0.0.1:{p.port}") as wire,
    ):
        await wire.send(request("GET", FRAME))
        await paused.wait()
        assert len(await wire.body(await wire.head())) == size
    assert len(relays) == 1


@pytest.mark.parametrize("target", [FRAME, f"{STUDY}/metadata"])
@pytest.mark.parametrize("size", [600_000, 10_000_000])
async def test_a_slow_client_gets_all(target: str, size: int, relays: list[Relay]) -> None:
    body = bytes(range(65, 75)) * (size // 10)
    sent = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        wire.writer.write(answer(body, JSON))
        sent.set()
        await wire.writer.drain()

    async with serving(handle) as p, await connect(f"http://127.0.0.1:{p.port}") as wire:
        for _ in range(2):
            await wire.send(request("GET", target, "Accept-Encoding: identity"))
            await sent.wait()
            await turns(200)  # the proxy takes what it has room for
            head = await wire.head()
            assert (head.status, await wire.body(head) == body) == (200, True)
    assert len(relays) == 2


async def test_pipelined_requests_are_relayed_in_their_order(relays: list[Relay]) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(head.first_line))

    async with serving(handle) as p, await p.connect() as wire:
        paths = [f"/dicom-web/studies/1.{number}" for number in range(50)]
        await wire.send(*(request("GET", path) for path in paths))
        for path in paths:
            body = await wire.body(await wire.head())
            assert path.removeprefix("/dicom-web").encode() in body
    assert len(relays) == len(paths)


async def test_a_body_in_tiny_chunks_leaves_its_connection_readable(relays: list[Relay]) -> None:
    async def handle(wire: Wire, _: Head) -> None:
        # Reading is paused until the next turn, in which only the end is left to decode.
        await wire.send(chunked(*[b"x"] * MAX_CHUNKS_PER_CALL))

    async with serving(handle, upstream={"read_timeout": 1}) as p, await p.connect() as wire:
        for _ in range(2):
            await wire.send(request("GET", STUDY))
            head = await wire.head()
            assert (head.status, await wire.body(head)) == (200, b"x" * MAX_CHUNKS_PER_CALL)
    assert len(relays) == 2


async def refused(p: Proxy) -> None:
    """Wait until the proxy accepts no connection any more."""
    with suppress(ConnectionRefusedError, ConnectionResetError):
        while True:
            async with await p.connect():
                pass


async def test_a_shutdown_waits_for_a_relayed_response() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        await go_on.wait()
        await wire.send(answer(b"hello"))

    async with serving(handle) as p, await p.connect() as wire:
        await wire.send(request("GET", STUDY))
        await asked.wait()
        p.server.should_exit = True
        await refused(p)
        go_on.set()
        head = await wire.head()
        assert (head.status, await wire.body(head)) == (200, b"hello")


@pytest.mark.parametrize("begun", [False, True])
async def test_a_relay_that_is_too_long_for_the_shutdown_ends(*, begun: bool) -> None:
    asked = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        if begun:
            await wire.send(answer(b"half", length=8))
        asked.set()
        await wire.closed()

    configuration: dict[str, Any] = {"server": {"shutdown_timeout": 0.1, "port": 0}}
    async with serving(handle, **configuration) as p, await p.connect() as wire:
        await wire.send(request("GET", STUDY))
        await asked.wait()
        p.server.should_exit = True
        head = await wire.head()
        assert head.status == (200 if begun else 503)
        if begun:
            with pytest.raises(asyncio.IncompleteReadError):
                await wire.body(head)
        else:
            assert b"shutting down" in await wire.body(head)


async def test_streams_of_http2_are_relayed(relays: list[Relay]) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.send(answer(head.first_line * 30_000))

    async with serving(handle) as p, connected(p.port) as client:
        for stream in (1, 3, 5):
            path = b"/dicom-web/studies/%d" % stream
            client.ask(stream, path)
            body = (await client.answer(stream)).body
            assert body == b"GET %b HTTP/1.1" % path.replace(b"dicom-web", b"pacs") * 30_000
    assert len(relays) == 3


async def stream(case: Case) -> tuple[object, ...]:
    """Send the request of a case on a stream; return what the client gets that does not vary."""
    upstream = {"read_timeout": 0.5}
    async with serving(case.handle, upstream=upstream) as p, connected(p.port) as client:
        client.ask(1, case.sent.split()[1])
        [response] = await client.done(1)
        lines = {name for name, _ in response.headers}
        return response.status, lines, len(response.body), response.reset


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "204",
        "404",
        "urls",
        "long urls",
        "chunked, slowly",
        "malformed",
        "cut body",
        "stalled",
    ],
)
async def test_a_relayed_stream_is_that_of_the_application(
    name: str, relays: list[Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    relayed = await stream(CASES[name])
    assert len(relays) == 1
    monkeypatch.setattr(Application, "try_relay", lambda *_: None)
    assert relayed == await stream(CASES[name])
    assert len(relays) == 1


async def test_a_stream_that_is_reset_ends_the_archives_request(relays: list[Relay]) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        asked.set()
        await wire.closed()
        closed.set()

    async with serving(handle) as p, connected(p.port) as client:
        client.ask(1)
        await asked.wait()
        client.cancel(1)
        await closed.wait()
    assert len(relays) == 1


async def test_shut_windows_pause_the_archive(relays: list[Relay]) -> None:
    rest = asyncio.get_running_loop().create_future()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(answer(length=GIB))
        rest.set_result(await send_while_taken(wire, GIB))
        await wire.closed()

    async with serving(handle) as p, connected(p.port, takes=False) as client:
        client.ask(1)
        assert await rest > GIB // 2
        client.cancel(1)
    assert len(relays) == 1
