"""Trouble on the way to an archive: slow name servers, dead addresses, no file descriptors."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import uvloop

from tests.support.attacks import PATIENCE, read_answer, standing
from tests.support.names import NameServer
from tests.support.sockets import ORIGIN, answer, archive, proxy, request, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.sockets import Head, Wire

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

NAME = "archive.example"
GOOD = "127.0.0.1"
DEAD = "127.0.0.2"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with NameServer(monkeypatch) as server:
        yield server


async def hello(wire: Wire, _: Head) -> None:
    await wire.send(answer(b"hello"))


@contextmanager
def dead(port: int) -> Iterator[None]:
    """Let nothing answer at `DEAD`: neither an acceptance nor a refusal."""
    with socket.create_server((DEAD, port), backlog=0), socket.create_connection((DEAD, port)):
        yield


@pytest.mark.native_only("httpx looks a name up for each request")
async def test_a_slow_name_server_delays_requests_and_fails_none(server: NameServer) -> None:
    server.names[NAME] = [GOOD]
    server.responding.clear()
    async with archive(hello) as a, proxy(settings(f"http://{NAME}:{a.port}/pacs")) as p:
        asking = [asyncio.create_task(p.ask(request())) for _ in range(60)]
        in_progress = b"\ndicomweb_proxy_requests_in_progress 60.0\n"
        while in_progress not in (await p.ask(request("GET", "/metrics")))[1]:
            pass
        server.responding.set()
        assert {head.status for head, _ in await asyncio.gather(*asking)} == {200}
    assert server.asked == [NAME]


@pytest.mark.native_only("uvloop's own look-ups know no name of a test's")
async def test_a_dead_address_is_no_outage(server: NameServer) -> None:
    server.names[NAME] = [DEAD, GOOD]
    async with archive(hello) as a, proxy(settings(f"http://{NAME}:{a.port}/pacs")) as p:
        with dead(a.port):
            async with asyncio.timeout(PATIENCE):
                for _ in range(3):
                    head, body = await p.ask(request())
                    assert (head.status, body) == (200, b"hello")


async def test_a_lack_of_descriptors_is_named(tmp_path: Path) -> None:
    async def goodbye(wire: Wire, _: Head) -> None:
        await wire.send(answer(b"hello", b"Connection: close"))
        wire.writer.close()

    async with (
        standing(tmp_path, goodbye) as front,
        asyncio.timeout(PATIENCE),
        await front.connect() as w,
    ):
        # The check after the start holds a connection, which a request could use later.
        await asyncio.to_thread(front.process.child.wait_for, "right path")
        pid = front.process.child.pid
        await w.send(request())
        assert (await read_answer(w))[0].status == 200
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))  # 0, 1 and 2 are in use
        try:
            for _ in range(3):
                await w.send(request())
                head, body = await read_answer(w)
                assert (head.status, head.get(b"retry-after")) == (503, b"1")
                assert head.get(b"access-control-allow-origin") == ORIGIN
                assert "limit on open files" in json.loads(body)["detail"]
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        await w.send(request())
        assert (await read_answer(w))[0].status == 200
