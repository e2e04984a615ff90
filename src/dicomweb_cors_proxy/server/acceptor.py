"""Accept client connections, keep their number below a limit, and outlast a lack of descriptors.

An event loop accepts without a limit. Once it has no descriptor left, asyncio logs a traceback for
every attempt, and uvloop closes the connections that it cannot serve.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import select
import socket
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from dicomweb_cors_proxy.keepalive import enable_keepalive
from dicomweb_cors_proxy.observability.records import traceback_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["Acceptor", "Client", "ClientConnections", "descriptor_limit"]

logger = logging.getLogger(__name__)

# Connections accepted before the connections that are open already get a turn.
ACCEPTS_PER_TURN = 16

# Seconds until accept is tried again after it failed; sooner if a connection closes.
ACCEPT_RETRY_SECONDS = 0.1

# Seconds between two log lines about the same lack.
LOG_INTERVAL_SECONDS = 1.0

# Errors of accept that concern the one connection that was to be accepted (accept(2), Linux).
_OF_THE_CONNECTION = frozenset(
    getattr(errno, name, -1)
    for name in (
        "ECONNABORTED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENETDOWN",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPERM",
        "EPROTO",
    )
)


class Client(Protocol):
    """A client connection that can be closed to make room for another one."""

    def close_if_idle(self) -> bool:
        """Close the connection if no request is in progress on it; return whether it was."""


class ClientConnections:
    """The client connections of one process, and the limit on their number.

    Connections count from the moment they are accepted, before any TLS handshake.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: set[Client] = set()
        # Longest idle first. Requests do not remove their connection, because that would cost
        # each of them time; `close_longest_idle` skips connections that are busy again.
        self._idle: OrderedDict[Client, None] = OrderedDict()
        self._changed = asyncio.Event()
        self._limit_log = _Throttle()
        self._closed_for_others = 0

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, client: Client) -> None:
        """Count a connection that was just accepted."""
        self._open.add(client)

    def replace(self, client: Client, successor: Client) -> None:
        """Count another object for a connection; it takes the place of `client`."""
        self._open.discard(client)
        self._idle.pop(client, None)
        self._open.add(successor)

    def idle(self, client: Client) -> None:
        """Note that a connection has no request in progress from now on."""
        self._idle[client] = None
        self._idle.move_to_end(client)
        self._changed.set()

    def closed(self, client: Client) -> None:
        """Stop counting a connection; may be called more than once."""
        self._open.discard(client)
        self._idle.pop(client, None)
        self._changed.set()

    def close_longest_idle(self) -> bool:
        """Close the connection that has been idle for longest; return whether there was one.

        The connection stops counting at once.
        """
        while self._idle:
            client, _ = self._idle.popitem(last=False)
            if client.close_if_idle():
                self._open.discard(client)
                return True
        return False

    async def make_room(self) -> None:
        """Close idle connections or wait, until one more connection is within the limit."""
        while len(self._open) >= self.limit:
            if self.close_longest_idle():
                self._closed_for_others += 1
            else:
                self._log_limit("No client is idle, so new ones wait.")
                await self.change()
        if self._closed_for_others:
            self._log_limit("The longest idle were closed for new ones.")

    def _log_limit(self, consequence: str) -> None:
        if self._limit_log.is_due():
            closed, self._closed_for_others = self._closed_for_others, 0
            logger.warning(
                "server.max_connections is reached: %d client connections are open. %s "
                "%d idle ones were closed since the last such line. Raise the limit if the "
                "clients are yours.",
                len(self._open),
                consequence,
                closed,
            )

    async def change(self, seconds: float | None = None) -> None:
        """Wait until a connection closes or becomes idle, or until the time is over."""
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()


class _Throttle:
    """A limit for log lines: one in `LOG_INTERVAL_SECONDS`."""

    def __init__(self) -> None:
        self._next = -1.0

    def is_due(self) -> bool:
        """Return whether a line may be logged now, and count it as logged."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return False
        self._next = now + LOG_INTERVAL_SECONDS
        return True


class Acceptor:
    """The tasks that accept clients on the listeners of a server.

    A connection beyond the limit is accepted, but connected to a protocol only once there is
    room. Further ones wait in the queue of the listener.

    Args:
        clients: the connections that are open, and their limit.
        connect: counts an accepted socket among `clients`, and returns the coroutine that
            connects it to a protocol.
        is_slow: True if that coroutine waits for the client, as a TLS handshake does; `close`
            cancels it then.
    """

    def __init__(
        self,
        clients: ClientConnections,
        connect: Callable[[socket.socket], Coroutine[Any, Any, None]],
        *,
        is_slow: bool,
    ) -> None:
        self._clients = clients
        self._connect = connect
        self._is_slow = is_slow
        self._accepting: list[asyncio.Task[None]] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._failure_log = _Throttle()

    def listen(self, listener: socket.socket) -> None:
        """Begin to accept connections; the caller closes the listener after `close`."""
        listener.setblocking(False)  # noqa: FBT003
        loop = asyncio.get_running_loop()
        self._accepting.append(loop.create_task(self._accept_all(listener)))

    async def close(self) -> None:
        """Stop accepting, and drop connections that have no protocol yet."""
        tasks = {*self._accepting, *self._connecting}
        for task in tasks if self._is_slow else self._accepting:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted = 0
        while True:
            try:
                sock = await _accept(loop, listener)
            except OSError as error:
                await self._after_failure(error, listener)
                continue
            except Exception as error:  # noqa: BLE001  (the process would never accept again)
                logger.error("bug: %s", traceback_summary(error))  # noqa: TRY400
                await self._clients.change(ACCEPT_RETRY_SECONDS)
                continue
            try:
                await self._clients.make_room()
            except asyncio.CancelledError:
                sock.close()
                raise
            task = loop.create_task(_connected(self._connect(sock)))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)
            accepted += 1
            if accepted % ACCEPTS_PER_TURN == 0:
                await asyncio.sleep(0)

    async def _after_failure(self, error: OSError, listener: socket.socket) -> None:
        """Log a failure of accept, and wait until another attempt may succeed."""
        if error.errno in _OF_THE_CONNECTION:
            return
        # Without a descriptor accept fails even if no client is waiting.
        if _has_waiting_client(listener):
            if self._failure_log.is_due():
                logger.warning("cannot accept clients: %s", _explained(error, self._clients))
            self._clients.close_longest_idle()
        await self._clients.change(ACCEPT_RETRY_SECONDS)


async def _accept(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> socket.socket:
    try:
        sock, _ = listener.accept()
    except (BlockingIOError, InterruptedError):
        sock = await _accept_next(loop, listener)
    sock.setblocking(False)  # noqa: FBT003
    enable_keepalive(sock)
    with suppress(OSError):  # asyncio sets it on sockets of IPPROTO_TCP only
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


async def _accept_next(loop: asyncio.AbstractEventLoop, listener: socket.socket) -> socket.socket:
    """Wait for a client, and accept it.

    `loop.sock_accept` loses a client that connects while it is cancelled, and asyncio's then logs
    a traceback with the client's address.
    """
    arrived = asyncio.Event()
    try:
        loop.add_reader(listener, arrived.set)
    except NotImplementedError:  # Windows
        sock, _ = await loop.sock_accept(listener)
        return sock
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            with suppress(BlockingIOError, InterruptedError):  # another process was faster
                return listener.accept()[0]
    finally:
        loop.remove_reader(listener)


async def _connected(connecting: Coroutine[Any, Any, None]) -> None:
    try:
        await connecting
    except OSError:
        pass  # the client disconnected, or its TLS handshake failed
    except Exception as error:  # noqa: BLE001  (its message may hold data of the client)
        logger.error("bug: %s", traceback_summary(error))  # noqa: TRY400


def _has_waiting_client(listener: socket.socket) -> bool:
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


def _explained(error: OSError, clients: ClientConnections) -> str:
    match error.errno:
        case errno.EMFILE:
            return (
                f"all descriptors of the process are in use (ulimit -n: {descriptor_limit()}); "
                f"{len(clients)} client connections are open. New clients wait. Raise the limit "
                "(LimitNOFILE= in a systemd unit, --ulimit nofile= of a container), or lower "
                "server.max_connections"
            )
        case errno.ENFILE:
            return (
                "all descriptors of the system are in use (sysctl fs.file-max). New clients wait. "
                "Raise the limit, or lower server.max_connections"
            )
        case _:
            return f"{os.strerror(error.errno or 0)}. New clients wait"


def descriptor_limit() -> int | None:
    """Return the number of descriptors that this process may have; None: no limit is known."""
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
