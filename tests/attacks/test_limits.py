"""Every limit of the contract at the limit and one beyond, through `serve`, and its cost to others.

A refusal can be read by the page, names its setting, and leaves the slots as they were.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import pytest_asyncio

from dicomweb_cors_proxy.cors.origins import MAX_ORIGIN_BYTES
from dicomweb_cors_proxy.cors.policy import MAX_EMPTY_ELEMENTS, MAX_REQUEST_HEADERS
from tests.support.attacks import PATIENCE, Front, read_answer, standing
from tests.support.sockets import ORIGIN, Head, Wire, answer, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

pytestmark = pytest.mark.asyncio(loop_scope="module")

STUDIES = "/dicom-web/studies"
READ_WRITE = {"mode": "read-write"}
CHUNKED = "Transfer-Encoding: chunked"
NARROW = {
    "max_header_bytes": 1000,
    "max_headers": 10,
    "max_target_bytes": 200,
    "max_body_bytes": 1000,
    "allowed_hosts": ["proxy.example", "[2001:db8::1]:8443"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    cors = {"allow_headers": ["*"], "allow_origins": [ORIGIN.decode(), "https://*.example.edu"]}
    directory = tmp_path_factory.mktemp("serve")
    async with standing(directory, access=READ_WRITE, server=NARROW, cors=cors) as front:
        yield front


LINES = len(request()) - len(f"GET {STUDIES} HTTP/1.1\r\n") - len("\r\n")


def head_of(size: int) -> bytes:
    return request("GET", STUDIES, "X: " + "y" * (size - LINES - len("X: \r\n")))


def lines_of(count: int) -> bytes:
    return request("GET", STUDIES, *["X: y"] * (count - 2))


def target_of(size: int) -> bytes:
    return request("GET", f"{STUDIES}?".ljust(size, "x"))


def body_of(size: int) -> bytes:
    return request("POST", STUDIES, body=b"x" * size)


def chunks_of(size: int) -> bytes:
    return request("POST", STUDIES, CHUNKED) + b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)


def host_of(host: str) -> bytes:
    return request().replace(b"proxy.example", host.encode())


class Limit(NamedTuple):
    """What stays within it, what goes beyond, and the status and the word that tell so."""

    within: bytes
    beyond: bytes
    status: int
    word: str
    then: str = "closed"


LIMITS = {
    "server.max_header_bytes": Limit(head_of(1000), head_of(1001), 431, "server.max_header_bytes"),
    "server.max_headers": Limit(lines_of(10), lines_of(11), 431, "server.max_headers"),
    "server.max_target_bytes": Limit(
        target_of(200), target_of(201), 414, "server.max_target_bytes"
    ),
    "server.max_body_bytes": Limit(
        body_of(1000), body_of(1001), 413, "server.max_body_bytes", "open"
    ),
    "server.max_body_bytes, chunks": Limit(
        chunks_of(1000), chunks_of(1001), 413, "server.max_body_bytes", "open"
    ),
    "server.allowed_hosts": Limit(
        host_of("PROXY.example"), host_of("proxy.example:80"), 421, "server.allowed_hosts", "open"
    ),
    "server.allowed_hosts, IPv6": Limit(
        host_of("[2001:db8::1]:8443"), host_of("[2001:db8::1]"), 421, "allowed_hosts", "open"
    ),
}


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
async def test_a_limit_of_a_request(narrow: Front, limit: Limit) -> None:
    within = await narrow.attack(limit.within, reaching=1)
    # What the archive was told of an upload before, which was cut, may come to light only now.
    reached = [each for each in within.reached if not each.endswith(" (cut)")]
    assert (within.answers, within.cors, len(reached)) == ("200 open", "yes", 1)
    beyond = await narrow.attack(limit.beyond)
    assert (beyond.answers, beyond.cors) == (f"{limit.status} {limit.then}", "yes")
    assert beyond.reached in ((), ("POST /pacs/studies (cut)",))
    head, body = await narrow.ask(limit.beyond)
    assert limit.word in json.loads(body)["detail"]
    assert head.get(b"cache-control") == b"no-store"


FLOODED = {
    "lines": (request("GET", STUDIES, *["X: y"] * 20_000), 431),
    "empty lines of a list": (request("GET", STUDIES, *["Accept:"] * 20_000), 431),
    "Origins": (request("GET", STUDIES, *[f"Origin: https://{n}.example" for n in range(9)]), 431),
    "Via": (request("GET", STUDIES, *["Via: 1.1 (((((((("] * 5_000), 431),
    "a value": (request("GET", STUDIES, "X: " + "y" * 2**20), 431),
    "a name": (request("GET", STUDIES, "x" * 2**20 + ": y"), 431),
    "cookies": (request("GET", STUDIES, "Cookie: " + "a=b;" * 10_000), 431),
    "a target": (request("GET", STUDIES + "?" + "x" * 2**20), 414),
    "a method": (request("M" * 2**20), 400),
    "empty lines": (b"\r\n" * 2**19 + b"X\r\n", 400),
}


@pytest.mark.parametrize(("raw", "status"), FLOODED.values(), ids=FLOODED)
async def test_a_head_far_beyond_its_limits(narrow: Front, raw: bytes, status: int) -> None:
    narrow.recorder.seen.clear()
    async with asyncio.timeout(PATIENCE), await narrow.connect() as wire:
        wire.writer.write(raw)
        head, _ = await read_answer(wire)
        assert (head.status, head.get(b"connection")) == (status, b"close")
        assert await wire.closed()
    assert narrow.recorder.seen == []


# Limits that are no settings: of preflights.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def usual(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    cors = {"allow_headers": ["*"], "allow_origins": [ORIGIN.decode(), "https://*.example.edu"]}
    async with standing(tmp_path_factory.mktemp("serve"), cors=cors) as front:
        yield front


def preflight(names: str = "", origin: bytes = ORIGIN) -> bytes:
    lines = ["Access-Control-Request-Method: GET", f"Access-Control-Request-Headers: {names}"]
    return request("OPTIONS", STUDIES, *lines, origin=origin)


def names(count: int) -> str:
    return ",".join(f"x{number}" for number in range(count))


def origin_of(size: int) -> bytes:
    """A subdomain of example.edu; of 253 bytes a host may have no more."""
    room = size - len(b"https://.example.edu:65535")
    return b"https://%b.example.edu:65535" % (b"a." * room)[: room - 1].ljust(room, b"a")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (preflight(names(MAX_REQUEST_HEADERS)), 204),
        (preflight(names(MAX_REQUEST_HEADERS + 1)), 204),  # without Allow-Headers
        (preflight("a" + "," * MAX_EMPTY_ELEMENTS), 204),
        (preflight("a" + "," * (MAX_EMPTY_ELEMENTS + 1)), 204),  # the same
        (preflight("a" * 8000), 204),
        (preflight("a" * 8200), 403),
        (preflight("," * 60_000), 403),  # rs/cors, fixed in 1.11
        (preflight(origin=b"https://" + b"a" * MAX_ORIGIN_BYTES), 403),
        (preflight(origin=b"https://" + b"a." * 30_000 + b"example.edu"), 403),
    ],
)
async def test_a_limit_of_a_preflight(usual: Front, raw: bytes, status: int) -> None:
    outcome = await usual.attack(raw)
    assert outcome == (f"{status} open", (), "yes" if status == 204 else "no")


# Slots and deadlines

SHORT = 0.5  # seconds
BRIEF: Mapping[str, Any] = {
    "access": READ_WRITE,
    "upstream": {"max_connections": 2, "pool_timeout": SHORT, "read_timeout": 2 * SHORT},
    "server": {
        "max_concurrent_requests": 3,
        "header_timeout": SHORT,
        "body_timeout": SHORT,
        "write_timeout": SHORT,
        "keepalive_timeout": SHORT,
    },
}


class Scripted:
    """An archive that answers `?hold` when it is told to, and others as `?…` says."""

    def __init__(self) -> None:
        self.held: asyncio.Queue[None] = asyncio.Queue()
        self.released = asyncio.Event()
        self.left = asyncio.Event()

    async def __call__(self, wire: Wire, head: Head) -> None:
        match head.first_line.split()[1].partition(b"?")[2]:
            case b"hold":
                self.held.put_nowait(None)
                await self.released.wait()
            case b"drip":
                for byte in answer(b"hello"):
                    await wire.send(bytes([byte]))
                    await asyncio.sleep(SHORT / 20)
                return
            case b"silence":
                await wire.closed()
            case b"half-head":
                await wire.send(answer(b"hello")[:20])
                await wire.closed()
            case b"half":
                await wire.send(answer(b"half", length=8))
                await wire.closed()
            case b"endless":
                with suppress(ConnectionError):
                    await wire.send(answer(length=2**40))
                    while True:
                        await wire.send(bytes(2**20))
                self.left.set()
                raise ConnectionError
        if head.get(b"content-length") or head.get(b"transfer-encoding"):
            await wire.body(head)
        await wire.send(answer(b"hello"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted() -> Scripted:
    return Scripted()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def brief(
    tmp_path_factory: pytest.TempPathFactory, scripted: Scripted
) -> AsyncIterator[Front]:
    async with standing(tmp_path_factory.mktemp("serve"), scripted, **BRIEF) as front:
        yield front


def search(query: str) -> bytes:
    return request("GET", f"{STUDIES}?{query}")


async def detail(asked: asyncio.Task[tuple[Head, bytes]], status: int) -> str:
    head, body = await asked
    assert head.status == status
    assert head.get(b"access-control-allow-origin") == ORIGIN
    assert head.get(b"retry-after") == (b"1" if status == 503 else None)
    return str(json.loads(body)["detail"])


async def test_slots(brief: Front, scripted: Scripted) -> None:
    """Two connections, three requests: the third waits for a connection, the fourth for nothing."""
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):  # and once more: no slot is lost
            scripted.released.clear()
            held = [tasks.create_task(brief.ask(search("hold"))) for _ in range(2)]
            for _ in held:
                await scripted.held.get()
            third = tasks.create_task(brief.ask(search("third")))
            while True:  # until the third is there
                fourth = tasks.create_task(brief.ask(search("fourth")))
                if "max_concurrent_requests" in await detail(fourth, 503):
                    break
            assert (await brief.ask(preflight("accept")))[0].status == 204
            assert (await brief.ask(request("GET", "/healthz")))[0].status == 200
            assert (await brief.ask(request("GET", "/nowhere")))[0].status == 404
            assert "upstream.max_connections" in await detail(third, 503)
            scripted.released.set()
            assert [(await each)[1] for each in held] == [b"hello", b"hello"]


POSTED = request("POST", STUDIES, "Content-Length: 10")
DEADLINES = {
    "no byte": (b"", None, ""),
    "half a request line": (b"GET /dicom", 408, "server.header_timeout"),
    "half a head": (request()[:-2], 408, "server.header_timeout"),
    "half a second head": (b"\r\n\r\n" + request()[:-2], 408, "server.header_timeout"),
    "no body": (POSTED, 408, "server.body_timeout"),
    "half a body": (POSTED + b"hello", 408, "server.body_timeout"),
    "half a chunk": (
        request("POST", STUDIES, CHUNKED) + b"a\r\nhello",
        408,
        "server.body_timeout",
    ),
    "100 that is not taken up": (
        request("POST", STUDIES, "Content-Length: 10", "Expect: 100-continue"),
        408,
        "server.body_timeout",
    ),
    "an archive that says nothing": (search("silence"), 504, "upstream.read_timeout"),
    "an archive that says half a head": (search("half-head"), 504, "upstream.read_timeout"),
}


@pytest.mark.parametrize(("raw", "status", "word"), DEADLINES.values(), ids=DEADLINES)
async def test_a_deadline(brief: Front, raw: bytes, status: int | None, word: str) -> None:
    async with asyncio.timeout(PATIENCE), await brief.connect() as wire:
        wire.writer.write(raw)
        if status is not None:
            head, body = await read_answer(wire)
            assert head.status == status
            assert word in json.loads(body)["detail"]
            if not raw.startswith(b"GET /dicom") or raw.startswith(b"GET /dicom-web"):
                assert head.get(b"access-control-allow-origin") == ORIGIN
        if status != 504:
            assert await wire.closed()


async def test_an_idle_connection(brief: Front) -> None:
    async with asyncio.timeout(PATIENCE), await brief.connect() as wire:
        await wire.send(search("all"))
        assert (await read_answer(wire))[1] == b"hello"
        assert await wire.closed()


async def test_an_archive_that_stops_in_its_response_is_seen_to(brief: Front) -> None:
    async with asyncio.timeout(PATIENCE), await brief.connect() as wire:
        await wire.send(search("half"))
        with pytest.raises(asyncio.IncompleteReadError):
            await read_answer(wire)


async def test_who_reads_nothing_is_left(brief: Front, scripted: Scripted) -> None:
    async with asyncio.timeout(PATIENCE), await brief.connect() as wire:
        await wire.send(search("endless"))
        await scripted.left.wait()


# Slow loris: a byte now and then. A head has a deadline as a whole, so has nothing else.


async def drip(wire: Wire, raw: bytes) -> None:
    with suppress(ConnectionError):
        for byte in raw:
            await wire.send(bytes([byte]))
            await asyncio.sleep(SHORT / 20)


async def test_a_head_in_drips_is_late(brief: Front) -> None:
    async with asyncio.timeout(PATIENCE), await brief.connect() as wire:
        dripping = asyncio.create_task(drip(wire, request()))
        head, _ = await read_answer(wire)
        assert head.status == 408
        await dripping


async def test_a_body_in_drips_is_taken(brief: Front) -> None:
    async with asyncio.timeout(PATIENCE), await brief.connect() as wire:
        wire.writer.write(request("POST", STUDIES, "Content-Length: 30"))
        await drip(wire, b"x" * 30)
        assert (await read_answer(wire))[1] == b"hello"


async def test_a_response_in_drips_is_passed_on(brief: Front) -> None:
    assert (await brief.ask(search("drip")))[1] == b"hello"


HOLDING = {
    "no byte": b"",
    "half a head": request()[:-2],
    "a refusal with half its body": request("POST", "/nowhere", "Content-Length: 9") + b"half",
    "a preflight with half its body": preflight()[:-2] + b"Content-Length: 9\r\n\r\nhalf",
}


@pytest.mark.parametrize("raw", HOLDING.values(), ids=HOLDING)
async def test_who_holds_connections_holds_no_slot(brief: Front, raw: bytes) -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack:
        for _ in range(50):
            wire = await stack.enter_async_context(await brief.connect())
            wire.writer.write(raw)
        for _ in range(5):
            assert (await brief.ask(search("good")))[1] == b"hello"


# Floods of what is refused. That others have their turn is counted, not timed.

FLOODS: Mapping[str, Callable[[], bytes]] = {
    "400": lambda: request("GET", "/dicom-web/../x"),
    "404": lambda: request("GET", "/nowhere"),
    "405": lambda: request("DELETE"),
    "preflights": lambda: preflight("accept"),
    "refused preflights": lambda: preflight(origin=b"https://evil.example"),
    "preflights of many origins": lambda: b"".join(
        preflight(origin=b"https://a%d.example.edu" % number) for number in range(100)
    ),
}
MOST = 3000  # refusals that may be answered while one search is


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_refusals_starves_nobody(usual: Front, flood: Callable[[], bytes]) -> None:
    answered = 0

    async def read(wire: Wire) -> None:
        nonlocal answered
        while data := await wire.reader.read(2**16):
            answered += data.count(b"HTTP/1.1 ")

    async def send(wire: Wire) -> None:
        while True:
            await wire.send(flood() * 20)
            await asyncio.sleep(0)

    async with asyncio.timeout(3 * PATIENCE), AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(await usual.connect()) for _ in range(4)]
        tasks = [asyncio.create_task(act(wire)) for wire in wires for act in (read, send)]
        while not answered:  # noqa: ASYNC110  (no event tells)
            await asyncio.sleep(0.01)
        meanwhile = []
        for _ in range(5):
            before = answered
            assert (await usual.ask(request()))[0].status == 200
            meanwhile.append(answered - before)
        # Megabytes of older responses may come with any of them, but not with all.
        assert min(meanwhile) < MOST
        assert any(meanwhile)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for wire in wires:
            wire.reset()  # the rest of the flood is for nobody
