"""A response can't be made many times the size of what the archive sent, by any header."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.attacks import PATIENCE, Front, standing
from tests.support.memory import Memory, measured
from tests.support.sockets import Head, Wire, answer, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 2**20
READERS = 12
STUDIES = "/dicom-web/studies"
LONGEST_HOST = "x" * 261
BEHIND = "127.0.0.2"  # the one peer that is trusted


class Verbose:
    """An archive whose responses are URLs of its own, and little else."""

    def __init__(self) -> None:
        self.sent = 0

    async def __call__(self, wire: Wire, head: Head) -> None:
        host = (head.get(b"host") or b"").decode()
        found = json.dumps([{"BulkDataURI": f"http://{host}/pacs"}] * 4000).encode()
        self.sent = len(found)
        link = b", ".join([b"</pacs>"] * 1000)
        await wire.send(answer(found, b"Content-Type: application/dicom+json", b"Link: " + link))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def archive() -> Verbose:
    return Verbose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory, archive: Verbose) -> AsyncIterator[Front]:
    server = {"trusted_proxies": [BEHIND]}
    async with standing(tmp_path_factory.mktemp("serve"), archive, server=server) as front:
        yield front


def asking(host: str, *lines: str) -> bytes:
    return request("GET", STUDIES, *lines).replace(b"proxy.example", host.encode())


TOO_LONG = {
    "Host": (asking("x" * 60_000), "127.0.0.1"),
    "X-Forwarded-Host": (asking("p", f"X-Forwarded-Host: {'x' * 60_000}"), BEHIND),
    "X-Forwarded-Prefix": (asking("p", f"X-Forwarded-Prefix: /{'x' * 60_000}"), BEHIND),
    "X-Forwarded-Port": (asking("p", f"X-Forwarded-Port: {'8' * 60_000}"), BEHIND),
    "X-Forwarded-Proto": (asking("p", f"X-Forwarded-Proto: {'x' * 60_000}"), BEHIND),
}


@pytest.mark.parametrize("header", TOO_LONG)
async def test_a_header_that_would_multiply_a_response_is_a_400(front: Front, header: str) -> None:
    raw, source = TOO_LONG[header]
    front.archive.requests.clear()
    head, body = await front.ask(raw, source=source)
    assert head.status == 400
    assert f"The {header} header " in json.loads(body)["detail"]
    assert front.archive.requests == []


async def test_a_long_header_of_a_stranger_is_dropped(front: Front) -> None:
    raw, _ = TOO_LONG["X-Forwarded-Prefix"]
    _, body = await front.ask(raw)
    assert json.loads(body)[0] == {"BulkDataURI": "http://p/dicom-web"}


async def test_a_response_is_a_small_multiple_of_what_the_archive_sent(
    front: Front, archive: Verbose
) -> None:
    head, body = await front.ask(asking(LONGEST_HOST))
    assert json.loads(body)[-1] == {"BulkDataURI": f"http://{LONGEST_HOST}/dicom-web"}
    assert len(body) < 8 * archive.sent
    assert len(head.get(b"link") or b"") < 64 * 1024


LONGEST_PREFIX = f"X-Forwarded-Prefix: /{'p' * 1023}"
STALLING = {
    "a Host that is refused": (asking("x" * 60_000), "127.0.0.1"),
    "the longest Host": (asking(LONGEST_HOST), "127.0.0.1"),
    "the longest prefix": (asking(LONGEST_HOST, LONGEST_PREFIX), BEHIND),
}


@measured
@pytest.mark.parametrize("header", STALLING)
async def test_readers_that_stall_hold_little_of_what_grows(front: Front, header: str) -> None:
    """With one feed for all that was read, each reader held 4 MiB behind the longest prefix."""
    raw, source = STALLING[header]
    await front.ask(asking("p"))
    memory = Memory(front.process.child.pid)
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        for _ in range(READERS):
            wire = await stack.enter_async_context(await front.connect(source))
            await wire.send(raw)
            await wire.reader.readexactly(1)  # and no more than fits into the buffers
        await front.ask(asking("p"))
    assert memory.growth < READERS * MIB
