"""The bare client engine under cancels, resets and lies, and what it has lost at the end.

    python -m tests.stress.soak [--requests 100000] [--seed N]

Every response is compared with what was asked for; at the end no slot, task, descriptor or memory
may be missing. What the archive does wrong, and when a request is cancelled, is drawn from the
seed; how the two meet is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import random
import secrets
import ssl
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx
import trustme
import uvloop
from bench.processes import CORES, listens, running

from dicomweb_cors_proxy.upstream.interface import Endpoint, Request, Timeouts
from dicomweb_cors_proxy.upstream.native import NativeTransport
from tests.stress.rogue import BROKEN, EARLY, HANGING, WHOLE, Order, content, read_ledger
from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

ROOT: Final = Path(__file__).parents[2]
USERS: Final = 48
CONNECTIONS: Final = 16
PIECE: Final = 1 << 16

# What the process may have grown by between the first tenth and the end: a leak at every hundredth
# request would be 900 objects. The bytes are for pages of which the allocator has use for a part.
OBJECTS: Final = 500
GROWTH: Final = 8 << 20

_LIBC: Final = ctypes.CDLL(None)


class Plan(NamedTuple):
    """One request. `cancelled_after` is seconds, `reads` bytes before it is given up."""

    method: str
    order: Order
    tls: bool
    chunked: bool
    cancelled_after: float | None
    reads: int | None


class Figures(NamedTuple):
    """What a process holds."""

    descriptors: int
    tasks: int
    objects: int
    memory: int  # bytes

    @classmethod
    def now(cls) -> Figures:
        gc.collect()
        if hasattr(_LIBC, "malloc_trim"):  # glibc
            _LIBC.malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return cls(
            len(list(Path("/proc/self/fd").iterdir())),
            len(asyncio.all_tasks()),
            len(gc.get_objects()),
            pages * os.sysconf("SC_PAGESIZE"),
        )


def plan(seed: int, number: int) -> Plan:
    """The request of that number."""
    chance = random.Random(f"{seed} {number}")
    method = chance.choices(["GET", "POST", "HEAD"], [70, 25, 5])[0]
    size = chance.choice([2, 2_000, 2_000, 20_000, 300_000])
    manner = chance.choice(BROKEN if chance.random() < 0.2 else WHOLE)
    if method == "HEAD":
        manner = "length"
    elif method == "POST" and chance.random() < 0.1:
        manner = EARLY
    cancelled_after = chance.uniform(0, 0.02) if chance.random() < 0.25 else None
    if manner == HANGING:
        cancelled_after = chance.uniform(0, 0.1)
    reads = chance.randrange(1 + size) if chance.random() < 0.1 else None
    order = Order(number, size, manner)
    return Plan(
        method, order, chance.random() < 0.125, chance.random() < 0.5, cancelled_after, reads
    )


class Soak:
    """Sends `requests` requests; `faults` are the sentences that must not be there."""

    def __init__(self, transport: NativeTransport, origins: Sequence[Endpoint], seed: int) -> None:
        self._transport = transport
        self._origins = origins
        self._seed = seed
        self._next = 0
        self.outcomes: Counter[str] = Counter()
        self.faults: list[str] = []

    async def run(self, until: int) -> None:
        """Send the requests up to that number."""
        await asyncio.gather(*(self._user(until) for _ in range(USERS)))

    async def _user(self, until: int) -> None:
        loop = asyncio.get_running_loop()
        while self._next < until:
            self._next += 1
            planned = plan(self._seed, self._next)
            exchange = loop.create_task(self._exchange(planned))
            if planned.cancelled_after is not None:
                loop.call_later(planned.cancelled_after, exchange.cancel)
            with suppress(asyncio.CancelledError):
                await exchange
            self.outcomes["cancelled"] += exchange.cancelled()

    async def _exchange(self, planned: Plan) -> None:
        order = planned.order
        expected = order.stored if planned.method == "POST" else content(order.number, order.size)
        try:
            status, body = await self._ask(planned)
        except httpx.HTTPError as error:
            outcome = type(error).__name__
            broken = order.manner in BROKEN
        else:
            if body is None:
                self.outcomes["abandoned"] += 1
                return
            outcome = f"{status} whole"
            broken = False
            early = order.manner == EARLY
            if (status, body) != ((413, b"no") if early else (200, expected)) and (
                planned.method != "HEAD" or body
            ):
                self.faults.append(f"another body: {planned}")
        self.outcomes[outcome] += 1
        if broken != (order.manner in BROKEN):
            self.faults.append(f"{outcome}: {planned}")

    async def _ask(self, planned: Plan) -> tuple[int, bytes | None]:
        """Status and body; None for a body given up on purpose."""
        method, order = planned.method, planned.order
        headers = [(b"host", b"archive")]
        length: int | None = 0
        if method == "POST":
            length = None if planned.chunked else order.size
            headers.append(
                (b"transfer-encoding", b"chunked")
                if length is None
                else (b"content-length", b"%d" % length)
            )
        response = await self._transport.send(
            Request(
                self._origins[planned.tls],
                method.encode(),
                f"/frames/1?{order.query}".encode(),
                headers,
                length,
            ),
            _pieces(order) if method == "POST" else None,
            Timeouts(10, 10, 60),
        )
        try:
            body = b""
            while data := await response.read():
                body += data
                if planned.reads is not None and len(body) > planned.reads:
                    return response.status, None
            return response.status, body
        finally:
            await response.aclose()


async def _pieces(order: Order) -> AsyncIterator[bytes]:
    body = content(order.number, order.size)
    for at in range(0, len(body), PIECE):
        yield body[at : at + PIECE]
        await asyncio.sleep(0)


async def _settled() -> Figures:
    """Let what is on its way to its end come there; what is held then."""
    for _ in range(100):
        await asyncio.sleep(0.01)
        if len(asyncio.all_tasks()) == 1:
            break
    await asyncio.sleep(0.1)
    return Figures.now()


async def soak(requests: int, seed: int) -> list[str]:
    """Run it and print its figures; what was wrong."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        authority = trustme.CA()
        certificate = directory / "archive.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
            str(certificate)
        )
        origins, ledgers = [], []
        for scheme in ("http", "https"):
            port = free_port()
            ledger = directory / scheme
            command: list[str | Path] = [
                sys.executable,
                "-m",
                "tests.stress.rogue",
                str(port),
                ledger,
            ]
            if scheme == "https":
                command.append(certificate)
            env = {"PYTHONPATH": str(ROOT)}
            process = stack.enter_context(running(command, cores=CORES, env=env))
            process.wait_until(partial(listens, port))
            origins.append(Endpoint(scheme, "127.0.0.1", port))
            ledgers.append(ledger)

        # With the first connection the event loop opens a descriptor of its own.
        _, writer = await asyncio.open_connection("127.0.0.1", origins[0].port)
        writer.close()
        await writer.wait_closed()
        opened = Figures.now().descriptors
        context = ssl.create_default_context()
        authority.configure_trust(context)
        transport = NativeTransport(max_connections=CONNECTIONS, ssl_context=context)
        run = Soak(transport, origins, seed)
        began = time.monotonic()
        await run.run(requests // 10)
        before = await _settled()
        await run.run(requests)
        seconds = time.monotonic() - began
        counts = transport.connections()
        after = await _settled()
        await transport.aclose()
        closed = await _settled()
        faults = run.faults
        faults += [f"left at the end: {counts}"] * bool(counts["active"] or counts["waiting"])
        faults += [f"{after.tasks - 1} tasks left"] * (after.tasks > 1)
        held = closed.descriptors - opened
        faults += [f"{held} descriptors left"] * (held > 0)
        growth = after.memory - before.memory
        faults += [f"grown by {growth} bytes"] * (growth > GROWTH)
        more = after.objects - before.objects
        faults += [f"{more} more objects"] * (more > OBJECTS)
        for writes in map(read_ledger, ledgers):
            faults += [f"stored otherwise: {number}" for number in writes["wrong"]]
            twice = [number for number, count in Counter(writes["begun"]).items() if count > 1]
            faults += [f"sent twice: {number}" for number in twice]
    print(f"{requests} requests in {seconds:.0f} s, seed {seed}")
    for outcome, count in sorted(run.outcomes.items()):
        print(f"  {outcome}: {count}")
    print(f"connections at the end: {counts}")
    for name, figures in (("after a tenth", before), ("at the end", after), ("closed", closed)):
        print(
            f"{name}: {figures.descriptors} descriptors, {figures.tasks - 1} tasks, "
            f"{figures.objects} objects, {figures.memory / 2**20:.1f} MB"
        )
    return faults


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it; exit status 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.soak")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    options = parser.parse_args(arguments)
    if faults := uvloop.run(soak(options.requests, options.seed)):
        sys.exit("\n".join([f"seed {options.seed}: {len(faults)} faults", *faults[:20]]))
    print("nothing lost")


if __name__ == "__main__":
    main()
