"""The whole proxy while everything around it fails: `python -m tests.stress.chaos [--seconds 180]`.

`serve` with two workers and TLS on both sides speaks HTTP/1.1 to half of the clients and HTTP/2 to
the others. It stands before an archive that lies, cuts and resets (see `tests.stress.rogue`), is
killed, restarted and stopped, and whose name has a dead address and is looked up slowly (see
`bench.names`); clients leave in the middle, workers are killed, nobody reads the log for a while,
the configuration and the certificate are changed under way. What was asked is drawn from the seed;
how it meets with the rest is up to the machine. Exit status 1 if any promise is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import random
import re
import secrets
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx
import trustme
import yaml
from bench import names
from bench.processes import listens

from tests.stress.multiplexed import Shared, StreamExchange
from tests.stress.rogue import (
    BROKEN,
    EARLY,
    NAME,
    TINY,
    WHOLE,
    Order,
    content,
    in_tiny_chunks,
    read_ledger,
)
from tests.support.proxy import serving
from tests.support.servers import free_port
from tests.support.sockets import Wire, request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.http2 import Response
    from tests.support.proxy import Proxy
    from tests.support.sockets import Head

ROOT: Final = Path(__file__).parents[2]
ORIGIN: Final = b"https://viewer.example"
PUBLIC: Final = "https://proxy.example/dicom-web"
FRAME: Final = "/dicom-web/studies/1.2/series/1.2.3/instances/1.2.3.4/frames/1"
USERS: Final = 32
CONNECTIONS: Final = 4  # of HTTP/2, which half of the users share
PIECE: Final = 1 << 15

TIMEOUT: Final = 2  # seconds, of the proxy's for connecting, reading, and a free connection
PATIENCE: Final = 30.0  # seconds; whoever waits longer for a response was forgotten

# A log that nobody reads fills this pipe in a moment.
PIPE_BYTES: Final = 4096
HEALTH_SECONDS: Final = 10.0  # for /healthz while nobody reads the log
HEALTH_CONNECTIONS: Final = 8  # so many that each worker gets some

# Bytes in chunks of 2 are many chunks: of longer bodies, the run would do little else.
TINY_BYTES: Final = 20_000
FRAMINGS: Final = {"length": 10, "chunked": 8, TINY: 2}  # of uploads

# Bytes that a worker may have grown by in the last quarter: what the allocator and TLS keep of the
# worst moment. What was leaked would be more by far. Workers are killed in the first half only, so
# that none is so young in the last quarter that it still grows to its usual size.
GROWTH: Final = 96 << 20

WRITE: Final = "POST"
KINDS: Final = {"frame": 45, "search": 15, "store": 20, "preflight": 8, "head": 7, "nowhere": 5}
ARCHIVES: Final = {200, 502, 503, 504}
STATUSES: Final = {
    "frame": ARCHIVES,
    "search": ARCHIVES,
    "store": ARCHIVES,
    "head": ARCHIVES,
    "preflight": {204},
    "nowhere": {404},
}


TROUBLE: Final = (
    "archive killed",
    "archive hung",
    "worker killed",
    "reloaded",
    "name server changed",
    "log unread",
)


class Plan(NamedTuple):
    """One request; its client leaves after that many seconds, if any."""

    kind: str
    order: Order
    framing: str
    leaves_after: float | None

    @property
    def head(self) -> bytes:
        """What is sent, but for the body."""
        frame = f"{FRAME}?{self.order.query}"
        studies = f"/dicom-web/studies?{self.order.query}"
        match self.kind:
            case "store":
                framing = (
                    f"Content-Length: {self.order.size}"
                    if self.framing == "length"
                    else "Transfer-Encoding: chunked"
                )
                return request(WRITE, studies, "Content-Type: application/dicom", framing)
            case "preflight":
                return request("OPTIONS", frame, "Access-Control-Request-Method: GET")
            case "search":
                return request("GET", studies, "Accept: application/dicom+json")
            case "nowhere":
                return request("GET", "/elsewhere")
            case _:
                return request("HEAD" if self.kind == "head" else "GET", frame)

    @property
    def upload(self) -> bytes | None:
        """The body of the request, if it has one."""
        return content(self.order.number, self.order.size) if self.kind == "store" else None

    @property
    def body(self) -> bytes:
        """Of the response, if all goes well."""
        match self.kind:
            case "store":
                return self.order.stored
            case "search":
                return self.order.found.replace(NAME, PUBLIC.encode())
            case _:
                return content(self.order.number, self.order.size)


def plan(seed: int, number: int) -> Plan:
    """The request of that number."""
    chance = random.Random(f"{seed} {number}")
    kind = chance.choices([*KINDS], [*KINDS.values()])[0]
    manner = chance.choice(BROKEN if chance.random() < 0.15 else WHOLE)
    if kind == "head":
        manner = "length"
    elif kind == "store" and chance.random() < 0.1:
        manner = EARLY
    size = chance.choice([2, 2_000, 20_000, 20_000, 500_000])
    leaves_after = chance.uniform(0, 0.3) if chance.random() < 0.2 else None
    framing = chance.choices([*FRAMINGS], [*FRAMINGS.values()])[0] if kind == "store" else "length"
    if TINY in (manner, framing):
        size = min(size, TINY_BYTES)
    return Plan(kind, Order(number, size, manner), framing, leaves_after)


class Archive:
    """`tests.stress.rogue`, whose process comes and goes."""

    def __init__(self, directory: Path, certificate: Path) -> None:
        self.ledger = directory / "ledger"
        self.port = free_port()
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None
        self.is_down = True
        self.disturbed_at = 0.0  # when it last was killed or stopped, or came back

    async def start(self) -> None:
        command = [sys.executable, "-m", "tests.stress.rogue", str(self.port), str(self.ledger)]
        self._process = subprocess.Popen(  # noqa: ASYNC220
            [*command, str(self._certificate)], env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        while not await asyncio.to_thread(listens, self.port):  # noqa: ASYNC110  (not ours)
            await asyncio.sleep(0.05)

        self.is_down = False
        self.disturbed_at = time.monotonic()

    def was_up_since(self, when: float) -> bool:
        return not self.is_down and self.disturbed_at < when

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; SIGKILL returns once it is dead."""
        if self._process is not None:
            self._process.send_signal(number)
            self.disturbed_at = time.monotonic()
            if number == signal.SIGKILL:
                self.is_down = True
                self._process.wait()


class Worker(NamedTuple):
    """What a worker holds; memory in bytes."""

    descriptors: int
    memory: int


class Chaos:
    """A run; `faults` are the broken promises."""

    def __init__(
        self,
        proxy: Proxy,
        archive: Archive,
        name_server: names.NameServer,
        authority: trustme.CA,
        seed: int,
    ) -> None:
        self._proxy = proxy
        self._archive = archive
        self._name_server = name_server
        self._trust = trusting(authority)
        self._seed = seed
        self._port = int(proxy.root.rpartition(":")[2])
        offering = trusting(authority, "h2")
        self._shared = [Shared(self._port, offering, PATIENCE) for _ in range(CONNECTIONS)]
        self._number = 0
        self._killed_at = 0.0
        self._is_calm = False
        self.answers: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.confirmed: list[int] = []  # writes that were answered as stored
        self.faults: list[str] = []

    # Clients

    async def load(self, goes_on: Callable[[], bool]) -> None:
        """Ask as long as `goes_on` returns True."""
        await asyncio.gather(*(self._user(user, goes_on) for user in range(USERS)))
        await self._leave_shared()

    async def calm(self, count: int) -> None:
        """With nothing wrong, everything has to be right."""
        self._is_calm = True
        for _ in range(0, count, USERS):
            connections = await asyncio.gather(*(self._ask(user, None) for user in range(USERS)))
            for connection in connections:
                _leave(connection)
        await self._leave_shared()
        self._is_calm = False

    async def _leave_shared(self) -> None:
        for shared in self._shared:
            await shared.leave()
            self.faults += shared.faults
            shared.faults.clear()

    async def _user(self, user: int, goes_on: Callable[[], bool]) -> None:
        connection = None
        while goes_on():
            connection = await self._ask(user, connection)
            if self._archive.is_down:
                await asyncio.sleep(0.3)  # else there would be little but refusals
        _leave(connection)

    async def _ask(self, user: int, connection: Connection | None) -> Connection | None:
        """Send one request; the connection of its own, if it can serve another."""
        if user % 2:
            await self._one_of_many(self._shared[user // 2 % CONNECTIONS])
            return None
        return await self._one(connection)

    def _plan(self) -> Plan:
        self._number += 1
        planned = plan(self._seed, self._number)
        if self._is_calm:
            order = planned.order._replace(manner="length")
            planned = planned._replace(order=order, leaves_after=None)
        self.events["response in chunks of 2 bytes"] += planned.order.manner == TINY
        return planned

    async def _one_of_many(self, shared: Shared) -> None:
        """Send one request over HTTP/2."""
        planned = self._plan()
        self.events["request over HTTP/2"] += 1
        exchange = StreamExchange(planned)
        try:
            async with asyncio.timeout(planned.leaves_after or PATIENCE):
                await exchange.run(shared)
        except TimeoutError:
            if planned.leaves_after is None:
                self._fault("no answer in time", planned)
            self.answers["the client cancelled"] += 1
        except OSError:
            if exchange.client is not None and shared.has_left(exchange.client):
                self.answers["the client left"] += 1
            else:
                self._judge_broken(exchange, exchange.since)
        else:
            self._judge_whole(exchange)

    async def _one(self, connection: Connection | None) -> Connection | None:
        """Send one request over HTTP/1.1; the connection, if it can serve another."""
        planned = self._plan()
        self.events["upload in chunks of 2 bytes"] += planned.framing == TINY
        exchange = Exchange(planned)
        try:
            async with asyncio.timeout(planned.leaves_after or PATIENCE):
                if connection is None or connection.wire.reader.at_eof():
                    connection = await self._connect()
                await exchange.run(connection.wire)
        except TimeoutError:
            if planned.leaves_after is None:
                self._fault("no answer in time", planned)
            self.answers["the client left"] += 1
        except (OSError, asyncio.IncompleteReadError):
            self._judge_broken(exchange, None if connection is None else connection.since)
        else:
            self._judge_whole(exchange)
            if connection is not None and exchange.keeps_open:
                return connection
        _leave(connection)
        return None

    async def _connect(self) -> Connection:
        began = time.monotonic()
        wire = Wire(
            *await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._trust, server_hostname="127.0.0.1"
            )
        )
        return Connection(wire, began)

    def _judge_broken(
        self, exchange: Exchange | StreamExchange, connected_at: float | None
    ) -> None:
        planned = exchange.plan
        if exchange.head is None:
            self.answers["no answer, its worker was killed"] += 1
            since = time.monotonic() - PATIENCE if connected_at is None else connected_at
            if self._killed_at < since and planned.order.manner != EARLY:
                self._fault("no answer", planned)
            return
        self.answers[f"{exchange.head.status}, visibly broken"] += 1
        self._judge_head(exchange, exchange.head)
        if self._is_calm:
            self._fault("broken in a calm", planned)

    def _judge_whole(self, exchange: Exchange | StreamExchange) -> None:
        planned, head = exchange.plan, exchange.head
        assert head is not None
        self.answers[f"{head.status}, whole"] += 1
        self._judge_head(exchange, head)
        if head.status == 200:
            expected = b"" if planned.kind == "head" else planned.body
            if exchange.body != expected or planned.order.manner in BROKEN:
                self._fault("a wrong body, as if complete", planned)
            elif planned.kind == "store":
                self.confirmed.append(planned.order.number)
        elif head.status == 413:
            if exchange.body != b"no":
                self._fault("a wrong refusal", planned)
        elif head.status != 204 and planned.kind != "head":
            with suppress(ValueError):
                if json.loads(exchange.body)["status"] == head.status:
                    return
            self._fault("no problem in the body", planned)

    def _judge_head(self, exchange: Exchange | StreamExchange, head: Head | Response) -> None:
        planned = exchange.plan
        allowed = STATUSES[planned.kind]
        if planned.order.manner == EARLY:
            allowed = allowed | {413}
        if self._is_calm:
            allowed = allowed - {502, 503, 504}
        elif planned.order.manner in WHOLE and self._archive.was_up_since(exchange.began):
            allowed = allowed - {502}
        if head.status not in allowed:
            self._fault(f"status {head.status}", planned)
        if head.all(b"access-control-allow-origin") != [ORIGIN]:
            self._fault(f"status {head.status} without CORS", planned)

    def _fault(self, what: str, planned: Plan) -> None:
        self.faults.append(f"{what}: {planned}")

    # Trouble

    async def trouble(self, until: float, renew: Callable[[], None]) -> None:
        """Break something now and then; workers in the first half only."""
        chance = random.Random(self._seed)
        began = time.monotonic()
        ahead: list[str] = []
        while time.monotonic() < until:
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            ahead = ahead or chance.sample(TROUBLE, len(TROUBLE))  # short runs have each, too
            what = ahead.pop()
            match what:
                case "archive killed":
                    self._archive.signal(signal.SIGKILL)
                    await asyncio.sleep(chance.uniform(0, 1))
                    await self._archive.start()
                case "archive hung":
                    self._archive.signal(signal.SIGSTOP)
                    await asyncio.sleep(chance.uniform(0.1, 1.5 * TIMEOUT))
                    self._archive.signal(signal.SIGCONT)
                case "worker killed":
                    now = time.monotonic()
                    if now - began > (until - began) / 2 or now - self._killed_at < 10:
                        continue  # the supervisor waits ever longer if they follow closely
                    victim = chance.choice(workers_of(self._proxy.child.pid))
                    self._killed_at = now
                    os.kill(victim, signal.SIGKILL)
                case "reloaded":
                    await asyncio.to_thread(renew)
                    os.kill(self._proxy.child.pid, signal.SIGHUP)
                case "name server changed":
                    seconds = chance.choice([0, names.SLOW_SECONDS])
                    self._name_server.answer(dead_first=chance.random() < 0.7, seconds=seconds)
                case "log unread":
                    await self._leave_log_unread(chance.uniform(2, 4))
            self.events[what] += 1
        self._name_server.answer()
        await asyncio.sleep(names.SLOW_SECONDS)  # until the last slow look-up has ended

    async def _leave_log_unread(self, seconds: float) -> None:
        """Read nothing of the log for a while; each worker has to answer all the same."""
        with self._proxy.child.unread():
            await asyncio.sleep(seconds)
            healthy = await asyncio.gather(
                *(self._is_healthy() for _ in range(HEALTH_CONNECTIONS)), return_exceptions=True
            )
            if not all(each is True for each in healthy):
                self.faults.append(f"no health while nobody reads the log: {healthy}")

    async def _is_healthy(self) -> bool:
        async with asyncio.timeout(HEALTH_SECONDS):
            connection = await self._connect()
            try:
                await connection.wire.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                return (await connection.wire.head()).status == 200
            finally:
                _leave(connection)

    # Afterwards

    async def rest(self, at_most: int | None = None) -> dict[int, Worker]:
        """With the archive killed and nobody asking, nothing may be under way.

        `at_most` is how many descriptors a worker may hold; default: as many as it stays at.
        """
        self._archive.signal(signal.SIGKILL)  # and with it the connections that are kept
        end = time.monotonic() + PATIENCE
        before: set[int] = set()
        while time.monotonic() < end:
            await asyncio.sleep(0.5)
            gauges = await asyncio.to_thread(self._gauges)
            held = held_by(self._proxy.child.pid)
            now = {worker.descriptors for worker in held.values()}
            if not any(gauges.values()) and (
                now == before if at_most is None else max(now) <= at_most
            ):
                return held
            before = now
        self.faults.append(f"left at the end: {gauges}, {now} descriptors, not {at_most}")
        return held

    def judge_writes(self, ledger: dict[str, list[int]]) -> None:
        """None sent twice, none changed, and what was confirmed is there."""
        begun = Counter(ledger["begun"])
        self.faults += [f"sent twice: {number}" for number, count in begun.items() if count > 1]
        self.faults += [f"stored otherwise: {number}" for number in ledger["wrong"]]
        lost = set(self.confirmed) - set(ledger["stored"])
        self.faults += [f"confirmed and not stored: {number}" for number in lost]

    @property
    def asked(self) -> int:
        return self._number

    def _gauges(self) -> dict[str, float]:
        """Of what is under way, by the metrics."""
        text = httpx.get(f"{self._proxy.root}/metrics", verify=False, trust_env=False).text
        pattern = (
            r'^dicomweb_proxy_(requests_in_progress|upstream_connections\{state="'
            r'(?:active|waiting)"\}) (\S+)$'
        )
        return {name: float(value) for name, value in re.findall(pattern, text, re.MULTILINE)}


class Connection(NamedTuple):
    """A client's; `since` is when it was opened."""

    wire: Wire
    since: float


def _leave(connection: Connection | None) -> None:
    if connection is not None:
        connection.wire.writer.transport.abort()


class Exchange:
    """A request on its way, and what has come of its response."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self.began = time.monotonic()
        self.head: Head | None = None
        self.body = b""
        self.keeps_open = False

    async def run(self, wire: Wire) -> None:
        """Raises OSError or IncompleteReadError where it breaks."""
        planned = self.plan
        sent = True
        try:
            await wire.send(planned.head)
            if planned.kind == "store":
                await self._upload(wire)
        except OSError:
            sent = False  # it may have been refused, and that is a response
        self.head = head = await wire.head()
        if planned.kind != "head" and head.status != 204:
            framed = head.all(b"content-length") + head.all(b"transfer-encoding")
            if len(framed) != 1:
                raise AssertionError(f"framed by {framed}")
            self.body = await wire.body(head)
        early = planned.order.manner == EARLY
        self.keeps_open = sent and not early and head.get(b"connection") != b"close"

    async def _upload(self, wire: Wire) -> None:
        body = self.plan.upload or b""
        for at in range(0, len(body), PIECE):
            await wire.send(framed(body[at : at + PIECE], self.plan.framing))
            await asyncio.sleep(0)
        if self.plan.framing != "length":
            await wire.send(b"0\r\n\r\n")


def framed(piece: bytes, framing: str) -> bytes:
    """Return a part of a body as it is sent."""
    match framing:
        case "chunked":
            return b"%x\r\n%b\r\n" % (len(piece), piece)
        case "tiny":
            return in_tiny_chunks(piece)
        case _:
            return piece


def shrink_pipe(pid: int) -> None:
    """Have the pipe of a process's stderr hold PIPE_BYTES only."""
    descriptor = os.open(f"/proc/{pid}/fd/2", os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    finally:
        os.close(descriptor)


def workers_of(pid: int) -> list[int]:
    """The children of a supervisor."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def held_by(pid: int) -> dict[int, Worker]:
    """What each of its workers holds."""
    found = {}
    for worker in workers_of(pid):
        with suppress(OSError):
            folder = Path(f"/proc/{worker}")
            pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
            memory = pages * os.sysconf("SC_PAGESIZE")
            found[worker] = Worker(len(list((folder / "fd").iterdir())), memory)
    return found


def trusting(authority: trustme.CA, *protocols: str) -> ssl.SSLContext:
    """Return a client's context that offers these protocols by ALPN."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if protocols:
        context.set_alpn_protocols([*protocols])
    return context


def certificates(directory: Path) -> tuple[trustme.CA, Callable[[], None]]:
    """An authority, and what gives archive and proxy a new certificate each."""
    authority = trustme.CA()

    def renew() -> None:
        for name in ("archive", "proxy"):
            made = directory / f"{name}.new"
            issued = authority.issue_cert("127.0.0.1", names.NAME)
            issued.private_key_and_cert_chain_pem.write_to_path(str(made))
            made.replace(directory / f"{name}.pem")

    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    renew()
    return authority, renew


def settings(directory: Path, port: int) -> dict[str, dict[str, object]]:
    """Of the proxy, everything that it checks switched on."""
    certificate = str(directory / "proxy.pem")
    return {
        "upstream": {
            "url": f"https://{names.NAME}:{port}/dicom-web",
            "aliases": [NAME.decode()],
            "ca_file": str(directory / "authority.pem"),
            "connect_timeout": TIMEOUT,
            "read_timeout": TIMEOUT,
            "pool_timeout": TIMEOUT,
            "max_connections": USERS // 2,
        },
        "cors": {"allow_origins": [ORIGIN.decode()]},
        "access": {"mode": "read-write"},
        "server": {"workers": 2, "tls_cert_file": certificate, "tls_key_file": certificate},
        "logging": {"level": "info"},
        "public_url": PUBLIC,  # type: ignore[dict-item]
    }


async def chaos(seconds: float, seed: int) -> list[str]:
    """Run it and print its figures; what was wrong."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        authority, renew = certificates(directory)
        archive = Archive(directory, directory / "archive.pem")
        stack.callback(archive.signal, signal.SIGKILL)
        await archive.start()
        options = settings(directory, archive.port)
        name_server = stack.enter_context(names.NameServer(directory, archive.port))
        proxy = stack.enter_context(serving(options, directory, env=name_server.environment()))
        shrink_pipe(proxy.child.pid)
        run = Chaos(proxy, archive, name_server, authority, seed)

        def change() -> None:
            renew()
            options["cors"]["max_age"] = 5 + len(proxy.child.output) % 100
            proxy.file.write_text(yaml.safe_dump(options), encoding="utf-8")

        await run.calm(100)
        fresh = await run.rest()
        await archive.start()
        began = time.monotonic()
        end = began + seconds
        troubling = asyncio.create_task(run.trouble(end, change))
        await run.load(lambda: time.monotonic() < began + 0.75 * seconds)
        later = held_by(proxy.child.pid)
        await run.load(lambda: not troubling.done())
        await troubling
        await run.calm(200)
        last = await run.rest(at_most=max(worker.descriptors for worker in fresh.values()))
        run.judge_writes(read_ledger(archive.ledger))
        for pid in later.keys() & last.keys():
            grown = last[pid].memory - later[pid].memory
            run.faults += [f"a worker has grown by {grown} bytes"] * (grown > GROWTH)
        run.faults += ["a traceback in the log"] * ("Traceback" in proxy.child.output)
        run.events += name_server.counted()
    print(f"{run.asked} requests in {seconds:.0f} s, seed {seed}")
    for title, counts in (("answers", run.answers), ("trouble", run.events)):
        print(
            f"{title}:", *(f"  {count} {what}" for what, count in sorted(counts.items())), sep="\n"
        )
    print(f"writes: {len(run.confirmed)} confirmed, none twice" if not run.faults else "")
    for title, workers in (("at rest before", fresh), ("last quarter", later), ("at rest", last)):
        print(
            f"{title}:",
            *(
                f"{worker.descriptors} descriptors {worker.memory / 2**20:.0f} MB"
                for worker in workers.values()
            ),
            sep="  ",
        )
    return run.faults


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it; exit status 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress.chaos")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    if faults := asyncio.run(chaos(options.seconds, options.seed)):
        sys.exit("\n".join([f"seed {options.seed}: {len(faults)} faults", *faults[:20]]))
    print("every promise kept")


if __name__ == "__main__":
    main()
