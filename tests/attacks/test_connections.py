"""Clients that take connections, descriptors and the memory of connections, against `serve`."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import proxy as process
from tests.support.attacks import PATIENCE, read_answer
from tests.support.memory import Memory, measured
from tests.support.servers import LOOPBACK
from tests.support.sockets import ORIGIN, Wire, request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEALTH = request("GET", "/healthz")
PREFLIGHT = request("OPTIONS", "/dicom-web/studies", "Access-Control-Request-Method: GET")
SETTINGS = process.fronting("http://127.0.0.1:9/pacs", ORIGIN.decode())

CLIENTS = 100
CLIENT_BYTES = 128 * 1024  # that a client may cost


def port(p: process.Proxy) -> int:
    return int(p.root.rpartition(":")[2])


# Memory


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def linger(wire: Wire) -> None:
    """Send on after a refusal."""
    await wire.send(request("POST", "/nowhere", "Content-Length: 1000000000") + bytes(400_000))
    assert (await read_answer(wire))[0].status == 404
    with suppress(ConnectionError):
        for _ in range(4):
            await wire.send(bytes(300_000))


async def burst(wire: Wire) -> None:
    """Send many requests at once, and be idle then."""
    await wire.send(request("GET", "/healthz", "X: " + "y" * 10_000) * 40)
    for _ in range(40):
        assert (await read_answer(wire))[0].status == 200


async def be_idle(wire: Wire) -> None:
    await wire.send(HEALTH)
    assert (await read_answer(wire))[0].status == 200


@measured
@pytest.mark.parametrize("act", [linger, burst, be_idle])
async def test_a_tls_client_costs_little_memory(
    act: Callable[[Wire], Awaitable[None]], tmp_path: Path
) -> None:
    settings = SETTINGS | {"server": {"keepalive_timeout": 1000}}
    env = {"STATE_DIRECTORY": str(tmp_path)}
    with process.serving(settings, tmp_path, "--tls-self-signed", env=env) as p:
        context = unverified()
        async with AsyncExitStack() as stack, asyncio.timeout(12 * PATIENCE):

            async def attack() -> None:
                connection = asyncio.open_connection(LOOPBACK, port(p), ssl=context)
                wire = Wire(*await connection)
                await stack.enter_async_context(wire)
                stack.callback(wire.writer.transport.abort)  # before it waits for the server
                await act(wire)

            for _ in range(5):  # what the first of a process cost is shared by all
                await attack()
            memory = Memory(p.child.pid)
            for _ in range(CLIENTS // 10):
                await asyncio.gather(*(attack() for _ in range(10)))
            assert memory.growth < CLIENTS * CLIENT_BYTES


# Descriptors


def leave_descriptors(p: process.Proxy, count: int) -> None:
    """Lower the limit of a process, so that it may have so many descriptors more."""
    import resource  # noqa: PLC0415  (Windows has none)

    limit = len(list(Path(f"/proc/{p.child.pid}/fd").iterdir())) + count
    resource.prlimit(p.child.pid, resource.RLIMIT_NOFILE, (limit, limit))


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit and /proc")
async def test_a_lack_of_descriptors_is_told_and_outlasted(tmp_path: Path) -> None:
    with process.serving(SETTINGS, tmp_path) as p:
        pid = p.child.pid
        async with AsyncExitStack() as stack, asyncio.timeout(3 * PATIENCE):

            async def connect() -> Wire:
                wire = Wire(*await asyncio.open_connection(LOOPBACK, port(p)))
                return await stack.enter_async_context(wire)

            async def healthy(wire: Wire) -> bool:
                await wire.send(HEALTH)
                return (await read_answer(wire))[0].status == 200

            good = await connect()
            assert await healthy(good)
            leave_descriptors(p, 5)
            await good.send(HEALTH[:-2])  # not idle: a head has begun
            holding = []
            for _ in range(10):  # five of them are accepted
                holding.append(await connect())
                await holding[-1].send(HEALTH[:-2])
            began, cpu = time.monotonic(), cpu_seconds(pid)
            await asyncio.to_thread(p.child.wait_for, "ulimit -n")
            waiting = asyncio.create_task(healthy(await connect()))
            assert not (await asyncio.wait([waiting], timeout=1.5))[0]
            await good.send(HEALTH[-2:] + PREFLIGHT + HEALTH[:-2])
            assert [(await read_answer(good))[0].status for _ in range(2)] == [200, 204]
            seconds = time.monotonic() - began
            assert cpu_seconds(pid) - cpu < seconds / 2  # it does not spin
            for wire in holding:
                await wire.send(HEALTH[-2:])
            assert await waiting
            lines = [line for line in p.child.output.splitlines() if "cannot accept" in line]
            assert 1 <= len(lines) <= seconds + 2
            assert "LimitNOFILE" in lines[0]
            assert "Traceback" not in p.child.output


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit and /proc")
async def test_a_lack_of_descriptors_closes_idle_connections(tmp_path: Path) -> None:
    with process.serving(SETTINGS, tmp_path) as p:
        leave_descriptors(p, 5)
        async with AsyncExitStack() as stack, asyncio.timeout(3 * PATIENCE):
            for _ in range(20):
                wire = Wire(*await asyncio.open_connection(LOOPBACK, port(p)))
                await stack.enter_async_context(wire)
                await wire.send(HEALTH)
                assert (await read_answer(wire))[0].status == 200
