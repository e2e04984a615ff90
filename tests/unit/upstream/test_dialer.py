"""Connections to a host with several addresses, some of which are dead."""

from __future__ import annotations

import asyncio
import errno
import socket
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.keepalive import KEEPALIVE_IDLE_SECONDS
from dicomweb_cors_proxy.upstream.dialer import ATTEMPT_DELAY_SECONDS, Dialer, interleave
from dicomweb_cors_proxy.upstream.resolver import Address, Resolver, ResolveTimeout
from tests.support.names import NameServer
from tests.support.upstream import Clock, turns, until

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

NAME = "archive.example"
DELAY = ATTEMPT_DELAY_SECONDS

# Loopback addresses of which only the first is listened on.
GOOD = "127.0.0.1"
REFUSING = "127.0.0.2"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with NameServer(monkeypatch) as server:
        yield server


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server((GOOD, 0)) as listener:
        yield listener.getsockname()[1]


class Network:
    """Attempts to connect, in order; those to `dead` addresses never end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *dead: str) -> None:
        self.dead = dead
        self.attempts: list[str] = []
        loop = asyncio.get_running_loop()
        self._connect = loop.sock_connect
        monkeypatch.setattr(loop, "sock_connect", self._sock_connect)

    async def _sock_connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        self.attempts.append(address[0])
        if address[0] in self.dead:
            await asyncio.Event().wait()
        await self._connect(sock, address)


@contextmanager
def no_descriptor_lost() -> Iterator[None]:
    before = sorted(Path("/proc/self/fd").iterdir())
    yield
    assert sorted(Path("/proc/self/fd").iterdir()) == before


async def peer_of(dialer: Dialer, deadline: float | None = None) -> str:
    """Connect, and return the address that accepted."""
    with await dialer.connect(deadline) as sock:
        return str(sock.getpeername()[0])


@pytest.mark.parametrize("dead", [["2001:db8::1"], ["2001:db8::1", "192.0.2.1", "2001:db8::2"]])
async def test_an_address_that_does_not_answer_costs_a_delay_once(
    dead: list[str], server: NameServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.names[NAME] = [*dead, GOOD]
    network = Network(monkeypatch, *dead)
    dialer = Dialer(Resolver(), NAME, port)
    with no_descriptor_lost(), Clock() as clock:
        dialling = asyncio.create_task(peer_of(dialer))
        for started in range(1, len(dead) + 1):
            await until(lambda: clock.armed == [DELAY])
            await turns(1)
            assert len(network.attempts) == started
            assert not dialling.done()
            await clock.advance(DELAY)
        assert await dialling == GOOD
        assert clock.armed == []
        # It comes first from now on.
        network.attempts.clear()
        assert await peer_of(dialer) == GOOD
        assert network.attempts == [GOOD]
        await turns(3)


async def test_an_address_that_refuses_costs_no_delay(
    server: NameServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.names[NAME] = [REFUSING, GOOD]
    network = Network(monkeypatch)
    dialer = Dialer(Resolver(), NAME, port)
    with no_descriptor_lost(), Clock():
        assert await peer_of(dialer) == GOOD
        assert await peer_of(dialer) == GOOD
        assert network.attempts == [REFUSING, GOOD, GOOD]


async def test_a_slow_address_may_still_win(
    server: NameServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.names[NAME] = [GOOD, "192.0.2.1"]
    arrived = asyncio.Event()
    network = Network(monkeypatch, "192.0.2.1")
    connect = network._connect  # noqa: SLF001

    async def slowly(sock: socket.socket, address: tuple[str, int]) -> None:
        await arrived.wait()
        await connect(sock, address)

    network._connect = slowly  # type: ignore[assignment]  # noqa: SLF001
    with no_descriptor_lost(), Clock() as clock:
        dialling = asyncio.create_task(peer_of(Dialer(Resolver(), NAME, port)))
        await until(lambda: clock.armed == [DELAY])
        await clock.advance(DELAY)
        assert network.attempts == [GOOD, "192.0.2.1"]
        arrived.set()
        assert await dialling == GOOD
        await turns(3)


async def test_an_address_that_is_preferred_may_die(
    server: NameServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.names[NAME] = [REFUSING, GOOD]
    network = Network(monkeypatch)
    dialer = Dialer(Resolver(), NAME, port)
    assert await peer_of(dialer) == GOOD
    network.dead = (GOOD,)
    with socket.create_server((REFUSING, port)), Clock() as clock:
        dialling = asyncio.create_task(peer_of(dialer))
        await until(lambda: clock.armed == [DELAY])
        await clock.advance(DELAY)
        assert await dialling == REFUSING
    await turns(3)


async def test_the_deadline_bounds_all_addresses_together(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = [f"192.0.2.{number}" for number in range(1, 5)]
    server.names[NAME] = dead
    network = Network(monkeypatch, *dead)
    with no_descriptor_lost(), Clock() as clock:
        dialling = asyncio.create_task(peer_of(Dialer(Resolver(), NAME, 80), clock.now + 0.6))
        await until(lambda: clock.armed == [DELAY, 0.6])
        for _ in range(2):
            await clock.advance(DELAY)
        await clock.advance(0.1)
        with pytest.raises(TimeoutError) as raised:
            await dialling
        assert not isinstance(raised.value, ResolveTimeout)
        assert network.attempts == dead[:3]
        assert clock.armed == []


async def test_the_deadline_bounds_the_look_up(server: NameServer) -> None:
    server.names[NAME] = [GOOD]
    server.responding.clear()
    with Clock() as clock:
        dialling = asyncio.create_task(peer_of(Dialer(Resolver(), NAME, 80), clock.now + 5))
        await until(lambda: clock.armed == [5])
        await clock.advance(5)
        with pytest.raises(ResolveTimeout):
            await dialling


@pytest.mark.parametrize("turn", range(12))
async def test_cancelling_leaves_no_socket(
    turn: int, server: NameServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.names[NAME] = ["192.0.2.1", REFUSING, GOOD]
    Network(monkeypatch, "192.0.2.1")
    resolver = Resolver()
    await resolver.resolve(NAME, port)
    dialer = Dialer(resolver, NAME, port)
    with no_descriptor_lost(), Clock() as clock:
        dialling = asyncio.create_task(dialer.connect(None))
        await until(lambda: clock.armed == [DELAY])
        clock.now += DELAY
        for timer in list(clock.timers):
            timer.run()
        await turns(turn)
        dialling.cancel()
        with suppress(asyncio.CancelledError):
            (await dialling).close()
        await turns(5)
        assert len(asyncio.all_tasks()) == 1


async def test_each_address_is_named_in_the_error(server: NameServer, port: int) -> None:
    server.names[NAME] = [REFUSING, "127.0.0.3"]
    with no_descriptor_lost(), pytest.raises(OSError, match=r"127\.0\.0\.2.*127\.0\.0\.3"):
        await Dialer(Resolver(), NAME, port).connect(None)


async def test_one_address_has_its_own_error(port: int) -> None:
    with no_descriptor_lost(), pytest.raises(ConnectionRefusedError):
        await Dialer(Resolver(), REFUSING, port).connect(None)


async def test_a_changed_address_is_found_at_the_first_failure(
    server: NameServer, port: int
) -> None:
    server.names[NAME] = [REFUSING]
    with Clock() as clock:
        dialer = Dialer(Resolver(), NAME, port)
        with socket.create_server((REFUSING, port)):
            assert await peer_of(dialer) == REFUSING
        server.names[NAME] = [GOOD]
        await clock.advance(1)
        assert await peer_of(dialer) == GOOD


async def test_a_changed_address_is_found_after_a_timeout(
    server: NameServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.names[NAME] = ["192.0.2.1"]
    Network(monkeypatch, "192.0.2.1")
    with Clock() as clock:
        resolver = Resolver()
        await resolver.resolve(NAME, port)
        dialer = Dialer(resolver, NAME, port)
        first = asyncio.create_task(peer_of(dialer, clock.now + 5))
        await until(lambda: clock.armed == [5])
        server.names[NAME] = [GOOD]
        await clock.advance(5)
        with pytest.raises(TimeoutError):
            await first
        await server.idle(2)
        assert await peer_of(dialer) == GOOD


async def test_failures_look_a_name_up_once_a_second(server: NameServer, port: int) -> None:
    server.names[NAME] = [REFUSING]
    with Clock() as clock:
        dialer = Dialer(Resolver(), NAME, port)
        for _ in range(5):
            with pytest.raises(ConnectionRefusedError):
                await dialer.connect(None)
        assert server.asked == [NAME]
        await clock.advance(1)
        for _ in range(5):
            with pytest.raises(ConnectionRefusedError):
                await dialer.connect(None)
        assert server.asked == [NAME] * 2


async def test_a_lack_of_descriptors_is_the_error_of_all_addresses(
    server: NameServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.names[NAME] = [REFUSING, GOOD]
    create = socket.socket
    created = 0

    def scarce(*args: int) -> socket.socket:
        nonlocal created
        created += 1
        if created == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return create(*args)

    resolver = Resolver()
    await resolver.resolve(NAME, port)
    monkeypatch.setattr(socket, "socket", scarce)
    with pytest.raises(OSError, match="Too many open files") as raised:
        await Dialer(resolver, NAME, port).connect(None)
    assert raised.value.errno == errno.EMFILE
    assert server.asked == [NAME]


async def test_connections_send_keepalive_probes(port: int) -> None:
    with await Dialer(Resolver(), GOOD, port).connect(None) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        assert idle == KEEPALIVE_IDLE_SECONDS


ADDRESSES = st.lists(
    st.builds(
        Address,
        st.sampled_from([socket.AF_INET, socket.AF_INET6]),
        st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.just(80)),
    )
)


@given(ADDRESSES)
def test_families_take_turns(addresses: list[Address]) -> None:
    ordered = interleave(addresses)
    assert sorted(ordered) == sorted(set(addresses))
    assert ordered[:1] == addresses[:1]
    for family in (socket.AF_INET, socket.AF_INET6):
        assert [a for a in ordered if a.family == family] == [
            a for a in dict.fromkeys(addresses) if a.family == family
        ]
    families = [address.family for address in ordered]
    paired = 2 * min(families.count(socket.AF_INET), families.count(socket.AF_INET6))
    assert all(one != other for one, other in pairwise(families[:paired]))
