"""A pool of connections to one origin."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

import httpx

from dicomweb_cors_proxy.upstream.connection import Connection
from dicomweb_cors_proxy.upstream.interface import Endpoint, ResolveTimedOut, Timeouts
from dicomweb_cors_proxy.upstream.resolver import ResolveTimeout

if TYPE_CHECKING:
    import socket
    import ssl

    from dicomweb_cors_proxy.upstream.dialer import Dialer

# Seconds. Shorter than the idle limits of the firewalls between hospital networks.
IDLE_EXPIRY = 30.0


class Pool:
    """The connections to one origin in one event loop: at most `limit`, the last used first.

    A slot is the right to hold a connection. It is taken before connecting. At the end of each
    exchange it is given back, or passed to the request that has waited longest.
    """

    def __init__(
        self,
        origin: Endpoint,
        limit: int,
        context: ssl.SSLContext | None,
        max_head_bytes: int,
        dialer: Dialer,
    ) -> None:
        self._origin = origin
        self._limit = limit
        self._context = context
        self._max_head_bytes = max_head_bytes
        self._dialer = dialer
        self.loop = asyncio.get_running_loop()
        self._in_use = 0
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.idle: OrderedDict[Connection, None] = OrderedDict()  # the last used last

    @property
    def in_use(self) -> int:
        return self._in_use

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    async def acquire(self, timeouts: Timeouts, *, fresh: bool) -> Connection:
        """Return a connection for one exchange; with `fresh`, one that has served none.

        Raises:
            httpx.PoolTimeout, httpx.ConnectTimeout, httpx.ConnectError
        """
        if self._in_use < self._limit:
            self._in_use += 1
        else:
            await self._wait_for_slot(timeouts)
        if not fresh and (connection := self._pop_idle()) is not None:
            return connection
        return await self._connect(timeouts)

    def acquire_idle(self) -> Connection | None:
        """Return a connection for one exchange that is open and has no other; None if none is."""
        if self._in_use >= self._limit or (connection := self._pop_idle()) is None:
            return None
        self._in_use += 1
        return connection

    def _pop_idle(self) -> Connection | None:
        while self.idle:
            connection, _ = self.idle.popitem()
            if connection.expires_at > self.loop.time():
                return connection
            connection.abort()
        return None

    async def replace(self, connection: Connection, timeouts: Timeouts) -> Connection:
        """End the connection's exchange and open another connection in its slot.

        Raises:
            httpx.ConnectTimeout, httpx.ConnectError
        """
        connection.end()
        return await self._connect(timeouts)

    def release(self, connection: Connection) -> None:
        """End the connection's exchange."""
        if connection.end():
            now = self.loop.time()
            if self._closed or connection.expires_at <= now:
                connection.abort()
            else:
                self._keep(connection, now)
        self._give_slot_back()

    def close(self) -> None:
        """Close idle connections now, and the others once their exchange ends."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.idle):
            self._drop(connection)

    def _forget(self, connection: Connection) -> None:
        self.idle.pop(connection, None)

    def _drop(self, connection: Connection) -> None:
        self._forget(connection)
        connection.abort()

    def _keep(self, connection: Connection, now: float) -> None:
        connection.idle_since = now
        self.idle[connection] = None
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(IDLE_EXPIRY, self._sweep)

    async def _wait_for_slot(self, timeouts: Timeouts) -> None:
        waiter = self.loop.create_future()
        self._waiters[waiter] = None
        try:
            async with asyncio.timeout(timeouts.pool):
                await waiter
        except BaseException as exc:
            if waiter.done() and not waiter.cancelled():
                self._give_slot_back()  # the slot was passed to us before the cancellation
            if isinstance(exc, TimeoutError):
                message = f"all {self._limit} connections stayed busy for {timeouts.pool:g} s"
                raise httpx.PoolTimeout(message) from None
            raise
        finally:
            self._waiters.pop(waiter, None)

    def _give_slot_back(self) -> None:
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
                return
        self._in_use -= 1

    async def _connect(self, timeouts: Timeouts) -> Connection:
        """Open a connection in a slot that was taken; the slot is given back if that fails."""
        if self._in_use + len(self.idle) > self._limit:
            self._drop(next(iter(self.idle)))
        try:
            return await self._open(timeouts.connect)
        except BaseException as exc:
            self._give_slot_back()
            if isinstance(exc, ResolveTimeout):
                raise ResolveTimedOut("the archive's name was not resolved in time") from None
            if isinstance(exc, TimeoutError):
                raise httpx.ConnectTimeout("no connection to the archive in time") from None
            if isinstance(exc, OSError):  # ssl.SSLError is one
                raise httpx.ConnectError(str(exc) or repr(exc)) from exc
            raise

    async def _open(self, seconds: float | None) -> Connection:
        deadline = None if seconds is None else self.loop.time() + seconds
        sock = await self._dialer.connect(deadline)
        opening = self._start(sock, deadline)
        if self._context is not None:
            opening = _to_its_end(self.loop.create_task(opening))
        return await opening

    async def _start(self, sock: socket.socket, deadline: float | None) -> Connection:
        """Start the protocol, and TLS if the origin needs it; the event loop closes the socket."""
        host = self._origin.host
        try:
            async with asyncio.timeout_at(deadline):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self._forget, self._max_head_bytes),
                    sock=sock,
                    ssl=self._context,
                    # TLS names have no trailing dot (RFC 6066 §3).
                    server_hostname=host.rstrip(".") if self._context else None,
                )
        finally:
            if not isinstance(self.loop, asyncio.BaseEventLoop):
                # uvloop closes the descriptor itself. If the connection is lost before uvloop has
                # the socket object, that object would later close another connection's descriptor.
                sock.detach()
        return connection

    def _sweep(self) -> None:
        self._sweeper = None
        now = self.loop.time()
        while self.idle:
            connection = next(iter(self.idle))
            expiry = connection.idle_since + IDLE_EXPIRY
            if expiry > now:
                self._sweeper = self.loop.call_at(expiry, self._sweep)
                return
            self._drop(connection)


async def _to_its_end(opening: asyncio.Task[Connection]) -> Connection:
    """Finish a TLS handshake whose request was cancelled, and close its connection.

    uvloop holds the resources of a cancelled TLS handshake for a minute, and may log a traceback.
    """
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_unused)
        raise


def _close_unused(opening: asyncio.Task[Connection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()
