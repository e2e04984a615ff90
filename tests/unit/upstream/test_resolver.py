"""Look-ups of names: shared, cached, refreshed, late and failed ones."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING

import pytest
import uvloop

from dicomweb_cors_proxy.upstream.resolver import (
    FRESH_FAILURE_SECONDS,
    FRESH_SECONDS,
    STALE_SECONDS,
    Address,
    Resolver,
    ResolveTimeout,
)
from tests.support.names import NameServer
from tests.support.upstream import Clock, turns, until

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}

NAME = "archive.example"
AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    with NameServer(monkeypatch) as server:
        server.names[NAME] = ["192.0.2.1", "2001:db8::1"]
        yield server


async def hosts(resolver: Resolver, *, max_age: float = STALE_SECONDS) -> list[str]:
    addresses = await resolver.resolve(NAME, 80, max_age=max_age)
    return [address.sockaddr[0] for address in addresses]


async def test_addresses_keep_the_order_of_the_operating_system(server: NameServer) -> None:
    assert await Resolver().resolve(NAME, 8042) == [
        Address(socket.AF_INET, ("192.0.2.1", 8042)),
        Address(socket.AF_INET6, ("2001:db8::1", 8042)),
    ]
    assert server.asked == [NAME]


@pytest.mark.parametrize(
    ("literal", "family", "host"),
    [
        ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
        ("::1", socket.AF_INET6, "::1"),
        ("fe80::1%1", socket.AF_INET6, "fe80::1%1"),
    ],
)
async def test_an_address_needs_no_look_up(
    literal: str, family: int, host: str, server: NameServer
) -> None:
    assert await Resolver().resolve(literal, 80) == [Address(family, (host, 80))]
    assert server.asked == []


async def test_all_who_wait_share_a_look_up(server: NameServer) -> None:
    server.responding.clear()
    resolver = Resolver()
    waiting = [asyncio.create_task(hosts(resolver)) for _ in range(60)]
    await until(lambda: server.asked)
    await turns(3)
    server.responding.set()
    assert await asyncio.gather(*waiting) == [["192.0.2.1", "2001:db8::1"]] * 60
    assert server.asked == [NAME]


async def test_a_cancelled_request_leaves_the_look_up_to_the_others(server: NameServer) -> None:
    server.responding.clear()
    resolver = Resolver()
    first, second = (asyncio.create_task(hosts(resolver)) for _ in range(2))
    await until(lambda: server.asked)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.responding.set()
    assert await second == ["192.0.2.1", "2001:db8::1"]
    assert server.asked == [NAME]


async def test_names_do_not_wait_for_each_other(server: NameServer) -> None:
    """The event loop's own thread pool has few threads for many names."""
    server.responding.clear()
    resolver = Resolver()
    names = [f"archive-{number}.example" for number in range(50)]
    server.names |= {name: ["192.0.2.1"] for name in names}
    waiting = [asyncio.create_task(resolver.resolve(name, 80)) for name in names]
    await until(lambda: sorted(server.asked) == sorted(names))
    server.responding.set()
    await asyncio.gather(*waiting)


async def test_a_result_is_used_for_seconds(server: NameServer) -> None:
    resolver = Resolver()
    with Clock() as clock:
        await hosts(resolver)
        server.names[NAME] = ["192.0.2.2"]
        await clock.advance(FRESH_SECONDS - 1)
        assert await hosts(resolver) == ["192.0.2.1", "2001:db8::1"]
        assert server.asked == [NAME]


async def test_an_older_result_is_used_while_it_is_refreshed(server: NameServer) -> None:
    resolver = Resolver()
    with Clock() as clock:
        await hosts(resolver)
        server.names[NAME] = ["192.0.2.2"]
        server.responding.clear()
        await clock.advance(STALE_SECONDS - 1)
        assert await hosts(resolver) == ["192.0.2.1", "2001:db8::1"]
        assert await hosts(resolver) == ["192.0.2.1", "2001:db8::1"]
        server.responding.set()
        await server.idle(2)
        assert await hosts(resolver) == ["192.0.2.2"]
        assert server.asked == [NAME] * 2


async def test_too_old_a_result_is_not_used(server: NameServer) -> None:
    resolver = Resolver()
    with Clock() as clock:
        await hosts(resolver)
        server.names[NAME] = ["192.0.2.2"]
        await clock.advance(STALE_SECONDS)
        assert await hosts(resolver) == ["192.0.2.2"]


async def test_a_request_can_ask_for_a_newer_result(server: NameServer) -> None:
    resolver = Resolver()
    with Clock() as clock:
        await hosts(resolver)
        server.names[NAME] = ["192.0.2.2"]
        await clock.advance(2)
        assert await hosts(resolver, max_age=3) == ["192.0.2.1", "2001:db8::1"]
        assert await hosts(resolver, max_age=1) == ["192.0.2.2"]


async def test_a_failure_is_cached_for_a_shorter_time(server: NameServer) -> None:
    resolver = Resolver()
    server.names[NAME] = UNKNOWN
    with Clock() as clock:
        for _ in range(3):
            with pytest.raises(socket.gaierror, match="not known"):
                await hosts(resolver)
        assert server.asked == [NAME]
        server.names[NAME] = ["192.0.2.2"]
        await clock.advance(FRESH_FAILURE_SECONDS)
        assert await hosts(resolver) == ["192.0.2.2"]


async def test_a_failure_raises_an_exception_of_its_own_for_each(server: NameServer) -> None:
    server.names[NAME] = UNKNOWN
    failures = await asyncio.gather(
        *(hosts(resolver) for resolver in [Resolver()] * 5), return_exceptions=True
    )
    assert len(set(map(id, failures))) == 5


@pytest.mark.parametrize("failure", [AGAIN, UNKNOWN], ids=["no response", "unknown"])
async def test_a_name_servers_trouble_does_not_replace_what_it_said_before(
    failure: socket.gaierror, server: NameServer
) -> None:
    resolver = Resolver()
    with Clock() as clock:
        await hosts(resolver)
        server.names[NAME] = failure
        await clock.advance(STALE_SECONDS - 1)
        await hosts(resolver)
        await server.idle(2)
        if failure is AGAIN:
            assert await hosts(resolver) == ["192.0.2.1", "2001:db8::1"]
            await server.idle(3)
            await clock.advance(1)
        with pytest.raises(socket.gaierror) as raised:
            await hosts(resolver)
        assert raised.value.errno == failure.errno


async def test_a_look_up_ends_after_the_deadline_of_who_started_it(server: NameServer) -> None:
    server.responding.clear()
    resolver = Resolver()
    with Clock() as clock:
        first = asyncio.create_task(resolver.resolve(NAME, 80, deadline=clock.now + 5))
        await until(lambda: clock.armed == [5])
        await clock.advance(5)
        with pytest.raises(ResolveTimeout):
            await first
        assert clock.armed == []
        second = asyncio.create_task(resolver.resolve(NAME, 80, deadline=clock.now + 5))
        await turns(3)
        server.responding.set()
        assert len(await second) == 2
        assert server.asked == [NAME]


@pytest.mark.parametrize("age", [0, FRESH_FAILURE_SECONDS])
async def test_a_refresh_looks_up_what_is_not_new(age: float, server: NameServer) -> None:
    resolver = Resolver()
    resolver.refresh(NAME, 80)
    assert server.asked == []  # the name was never used
    with Clock() as clock:
        await hosts(resolver)
        server.names[NAME] = ["192.0.2.2"]
        await clock.advance(age)
        resolver.refresh(NAME, 80)
        resolver.refresh(NAME, 80)
        if age:
            await server.idle(2)
        assert await hosts(resolver) == (["192.0.2.2"] if age else ["192.0.2.1", "2001:db8::1"])


async def test_a_name_that_cannot_be_one_does_not_resolve() -> None:
    with pytest.raises(socket.gaierror):
        await Resolver().resolve("x" * 64 + ".example", 80)


async def test_a_thread_that_cannot_start_is_a_failure(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="start new thread"):
            await hosts(Resolver())
    assert server.asked == []


async def test_a_loop_that_has_closed_is_no_trouble_for_a_late_look_up(
    server: NameServer,
) -> None:
    server.responding.clear()
    raised: list[BaseException | None] = []

    async def ask() -> None:
        with pytest.raises(ResolveTimeout):
            await Resolver().resolve(NAME, 80, deadline=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))
        await asyncio.to_thread(asyncio.run, ask())
        server.responding.set()
        await server.idle(1)
    assert raised == []
