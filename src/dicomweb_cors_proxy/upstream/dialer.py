"""TCP connections to a host that has several addresses (Happy Eyeballs, RFC 8305).

asyncio's own implementation (`happy_eyeballs_delay`) is missing in uvloop.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.keepalive import enable_keepalive

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dicomweb_cors_proxy.upstream.resolver import Address, Resolver

__all__ = ["Dialer"]

# RFC 8305 §8 recommends this delay before the next address is tried beside those before.
ATTEMPT_DELAY_SECONDS: Final = 0.25

# A failed connection makes us look the name up again, but not more often than this.
RETRY_ADDRESSES_AFTER_SECONDS: Final = 1.0

_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)


class Dialer:
    """A maker of connections to one host, at its first address that accepts one.

    Args:
        resolver: looks up the host.
        host: a name or an address.
        port: to connect to.
    """

    def __init__(self, resolver: Resolver, host: str, port: int) -> None:
        self._resolver = resolver
        self.host = host
        self.port = port
        self._loop = asyncio.get_running_loop()
        # The address that accepted while one before it did not.
        self._preferred: Address | None = None

    async def connect(self, deadline: float | None) -> socket.socket:
        """Open a connection before `deadline`, in loop time.

        If no address accepts, the name may have got new ones. They are then tried, too.

        Raises:
            ResolveTimeout: the name was not resolved in time.
            TimeoutError: no address accepted in time.
            OSError: the name does not resolve, or each address refused.
        """
        host, port = self.host, self.port
        addresses = await self._resolver.resolve(host, port, deadline=deadline)
        try:
            return await self._connect(addresses, deadline)
        except TimeoutError:
            self._resolver.refresh(host, port)
            raise
        except OSError as exc:
            if exc.errno in _NO_DESCRIPTOR:
                raise
            current = await self._resolver.resolve(
                host, port, deadline=deadline, max_age=RETRY_ADDRESSES_AFTER_SECONDS
            )
            if set(current) <= set(addresses):
                raise
            return await self._connect(current, deadline)

    async def _connect(self, addresses: Sequence[Address], deadline: float | None) -> socket.socket:
        async with asyncio.timeout_at(deadline):
            if len(addresses) == 1:
                return await self._attempt(addresses[0])
            return await self._race(self._order(addresses))

    def _order(self, addresses: Sequence[Address]) -> list[Address]:
        ordered = interleave(addresses)
        if self._preferred in ordered:
            ordered.remove(self._preferred)
            ordered.insert(0, self._preferred)
        return ordered

    async def _race(self, addresses: list[Address]) -> socket.socket:
        """Try one address after the other; after a delay, also beside those before it."""
        waiting = deque(addresses)
        running: dict[asyncio.Task[socket.socket], Address] = {}
        errors: list[OSError] = []
        try:
            while waiting or running:
                if waiting:
                    address = waiting.popleft()
                    running[self._loop.create_task(self._attempt(address))] = address
                done, _ = await asyncio.wait(
                    running,
                    timeout=ATTEMPT_DELAY_SECONDS if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for attempt in done:
                    if (error := attempt.exception()) is None:
                        address = running.pop(attempt)
                        self._preferred = None if address == addresses[0] else address
                        return attempt.result()
                    if not isinstance(error, OSError):
                        raise error
                    del running[attempt]
                    errors.append(error)
        finally:
            for attempt in running:
                attempt.cancel()
                attempt.add_done_callback(_close_unused)
        raise _combined(errors)

    async def _attempt(self, address: Address) -> socket.socket:
        # asyncio sets TCP_NODELAY only on sockets whose protocol is given.
        sock = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            sock.setblocking(False)  # noqa: FBT003  (its only parameter)
            enable_keepalive(sock)
            await self._loop.sock_connect(sock, address.sockaddr)
        except BaseException:
            sock.close()
            raise
        return sock


def interleave(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses with alternating families, otherwise in their order (RFC 8305 §4)."""
    families: dict[int, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        families.setdefault(address.family, []).append(address)
    rounds = zip_longest(*families.values())
    return [address for round_ in rounds for address in round_ if address is not None]


def _combined(errors: list[OSError]) -> OSError:
    """Return one error for all addresses; a lack of descriptors is the cause of the others."""
    for error in errors:
        if error.errno in _NO_DESCRIPTOR:
            return error
    messages = dict.fromkeys(str(error) for error in errors)
    return errors[0] if len(messages) == 1 else OSError("; ".join(messages))


def _close_unused(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
