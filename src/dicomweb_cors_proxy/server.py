"""What an ASGI application can't reach: the listening sockets, TLS, signals, the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvicorn

from dicomweb_cors_proxy.http1 import Protocol
from dicomweb_cors_proxy.systemd import READY, STOPPING, notify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from starlette.types import ASGIApp

    from dicomweb_cors_proxy.config import ServerSettings

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

# Seconds between two looks whether the last answer is out.
TICK = 0.05

# Seconds for cancelled answers to cut their connections.
CUT = 1.0

# `localhost` may resolve to ::1 where there is no IPv6.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class Config(uvicorn.Config):
    """uvicorn's configuration, made from ours alone: none of its environment variables count."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.limits = settings
        super().__init__(
            app,
            http=Protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            forwarded_allow_ips="",
            workers=1,
            ssl_certfile=settings.tls_cert_file,
            ssl_keyfile=settings.tls_key_file,
        )


class Server(uvicorn.Server):
    """uvicorn's server, which ends with exit status 0 when it is told to stop.

    `ready` is set once connections are accepted and a signal ends the server in order.
    """

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
        notify(READY)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running answers finish for `shutdown_timeout`, then cut what is left of them."""
        notify(STOPPING)
        for server in self.servers:
            server.close()
        for listener in sockets or ():
            listener.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        timeout = self.config.limits.shutdown_timeout
        logger.info("stopping, with %g s for %d running answers", timeout, len(state.tasks))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110
                    await asyncio.sleep(TICK)
        if state.tasks:
            logger.warning(
                "%d running answers are cut; server.shutdown_timeout is %g s",
                len(state.tasks),
                timeout,
            )
            for task in state.tasks:
                task.cancel()
            await asyncio.wait(set(state.tasks), timeout=CUT)
        await self.lifespan.shutdown()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        handled = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def lift_descriptor_limit() -> None:
    """Use as many descriptors as the system lets us have.

    The usual soft limit, 1024, is for programs that `select`; every request takes two.
    """
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, of which `::` is all, IPv4's too.

    With port 0 it is one socket: no port is sure to be free on two addresses. An address that
    this machine hasn't got is passed over if there is another.

    Raises:
        OSError: an address can't be bound, or the name does not resolve.
    """
    hosts = ("::", "0.0.0.0") if host == "::" else (host,)  # noqa: S104
    sockets: list[socket.socket] = []
    with ExitStack() as bound:
        missing: OSError | None = None
        for family, address in _addresses(hosts, port):
            try:
                listener = bound.enter_context(socket.create_server(address, family=family))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                sockets.append(listener)
                if port == 0:
                    break
        if missing and not sockets:
            raise missing
        bound.pop_all()
    return sockets


def _addresses(hosts: Iterable[str], port: int) -> dict[tuple[socket.AddressFamily, Any], None]:
    return dict.fromkeys(
        (family, address)
        for host in hosts
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )
