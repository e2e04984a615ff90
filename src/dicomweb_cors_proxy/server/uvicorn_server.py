"""The server around the application: TLS, start and shutdown."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from dicomweb_cors_proxy.server.acceptor import Acceptor, ClientConnections
from dicomweb_cors_proxy.server.base_connection import READ_BYTES
from dicomweb_cors_proxy.server.connection import ClientConnection
from dicomweb_cors_proxy.server.head_cache import HeadCache
from dicomweb_cors_proxy.server.http2_head import HTTP2Heads
from dicomweb_cors_proxy.server.http2_streams import MAX_STREAMS
from dicomweb_cors_proxy.server.listening import handling_signals
from dicomweb_cors_proxy.server.tls import start_tls_on_accepted
from dicomweb_cors_proxy.server.turns import Turns

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterator
    from ssl import SSLContext

    from starlette.types import ASGIApp

    from dicomweb_cors_proxy.server.base_connection import BaseConnection
    from dicomweb_cors_proxy.server.exchange import Exchange
    from dicomweb_cors_proxy.server.limits import ServerLimits

logger = logging.getLogger(__name__)

# Seconds between two checks for the end of the last response.
SHUTDOWN_POLL = 0.05

DAY = 86400.0  # seconds

# Bodies in tiny chunks that are decoded further in one iteration of the event loop.
DECODED_AT_ONCE = 8

# Seconds for cancelled requests to abort their connections.
CANCEL_TIMEOUT = 1.0

# Seconds beyond all that an end may take, before a process is taken to hang.
SHUTDOWN_MARGIN = 5.0


def longest_end(limits: ServerLimits) -> float:
    """Seconds from a signal until the process is gone, at the most."""
    return limits.drain_delay + limits.shutdown_timeout + CANCEL_TIMEOUT + SHUTDOWN_MARGIN


class ServerConfig(uvicorn.Config):
    """uvicorn's configuration, made from ours alone: none of its environment variables count.

    Args:
        app: the ASGI application.
        limits: of its connections.
        running_streams: maximum number of requests of an HTTP/2 connection at a time.
        ssl_context: for the listener; default: plain HTTP.
    """

    ssl: SSLContext | None

    def __init__(
        self,
        app: ASGIApp,
        limits: ServerLimits,
        ssl_context: SSLContext | None = None,
        *,
        running_streams: int = MAX_STREAMS,
    ) -> None:
        self.limits = limits
        self.running_streams = running_streams
        self.known_heads = HeadCache()
        self.http2_heads = HTTP2Heads(limits)
        self.clients = ClientConnections(limits.max_connections)
        self.relays: set[Exchange] = set()
        self.turns = Turns(DECODED_AT_ONCE)
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self._ssl_context = ssl_context
        super().__init__(
            app,
            http=ClientConnection,  # type: ignore[arg-type]
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            forwarded_allow_ips="",
            workers=1,
        )

    def load(self) -> None:
        super().load()
        if self._ssl_context is not None:
            self.ssl = self._ssl_context


class Server(uvicorn.Server):
    """uvicorn's server, which ends with exit status 0 when it is told to stop.

    Args:
        config: what it serves, and how.
        on_stop: called once the end begins, while connections are still accepted.
        on_reload: called for SIGHUP; default: that ends the process, as it ends others.
        on_ready: called once connections are accepted.
        on_stopping: called when shutdown begins, with the seconds that it takes at most.

    Attributes:
        ready: set once connections are accepted and a signal ends the server in order.
    """

    config: ServerConfig

    def __init__(
        self,
        config: ServerConfig,
        *,
        on_stop: Callable[[], None] | None = None,
        on_reload: Callable[[], None] | None = None,
        on_ready: Callable[[], None] | None = None,
        on_stopping: Callable[[float], None] | None = None,
    ) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._on_stop = on_stop
        self._on_reload = on_reload
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._drain_delay = config.limits.drain_delay

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        self._acceptor = Acceptor(
            self.config.clients, self._connect, is_slow=self.config.ssl is not None
        )
        for listener in sockets or ():
            self._acceptor.listen(listener)
        self.ready.set()
        if self._on_ready is not None:
            self._on_ready()

    def _connect(self, sock: socket.socket) -> Coroutine[Any, Any, None]:
        """Count an accepted socket, and return the coroutine that connects it to a protocol."""
        protocol = ClientConnection(self.config, self.server_state, self.lifespan.state)
        self.config.clients.opened(protocol)
        return self._connect_to(protocol, sock)

    async def _connect_to(self, protocol: ClientConnection, sock: socket.socket) -> None:
        """Connect an accepted socket to a protocol. Raises OSError."""
        try:
            if self.config.ssl is None:
                loop = asyncio.get_running_loop()
                await loop.connect_accepted_socket(lambda: protocol, sock)
            else:
                await start_tls_on_accepted(
                    sock,
                    protocol,
                    self.config.ssl,
                    # A handshake is the beginning of the first head.
                    handshake_timeout=self.config.limits.header_timeout,
                    # Who still takes bytes is not cut; who takes none, `write_timeout` is for.
                    shutdown_timeout=DAY,
                )
        finally:
            if protocol not in self.server_state.connections:  # never open, or closed already
                self.config.clients.closed(protocol)

    def shut_down(self, *, drain: bool = True) -> None:
        """Start shutting down. A second call ends the drain delay, or the responses, early.

        Without `drain` there is no delay for clients that may still send requests here.
        """
        if not drain:
            self._drain_delay = 0
        if self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True
            if self._on_stop is not None:
                self._on_stop()

    async def _drain(self) -> None:
        """Serve on, for those who have yet to learn that they shouldn't come here."""
        if self._on_stop is not None:
            self._on_stop()
        if not self._drain_delay:
            return
        logger.info("draining: requests are taken for another %g s", self._drain_delay)
        time = asyncio.get_running_loop().time
        begun = time()
        while time() < begun + self._drain_delay and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(SHUTDOWN_POLL)
        self.force_exit = False

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests finish for `shutdown_timeout`, then cancel those that have not.

        Before that, requests are still taken for `drain_delay`.
        """
        if self._on_stopping is not None:
            self._on_stopping(longest_end(self.config.limits))
        await self._drain()
        await self._acceptor.close()
        for listener in sockets or ():
            listener.close()
        state, relays = self.server_state, self.config.relays
        for connection in list(state.connections):
            connection.shutdown()
        timeout = self.config.limits.shutdown_timeout
        running = len(state.tasks) + len(relays)
        logger.info("stopping, with %g s for %d running requests", timeout, running)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (state.connections or state.tasks) and not self.force_exit:  # noqa: ASYNC110
                    await asyncio.sleep(SHUTDOWN_POLL)
        if state.tasks or relays:
            self._cancel_requests()
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=CANCEL_TIMEOUT)
        await self.lifespan.shutdown()

    def _cancel_requests(self) -> None:
        """Cancel the requests that run, and refuse those that have not begun."""
        tasks, relays = self.server_state.tasks, self.config.relays
        logger.warning(
            "%d running requests are cancelled after %g s (server.shutdown_timeout)",
            len(tasks) + len(relays),
            self.config.limits.shutdown_timeout,
        )
        connections = cast("set[BaseConnection]", self.server_state.connections)
        for connection in list(connections):
            connection.refuse_waiting()  # they would begin in the place of others
        for exchange in list(relays):
            if exchange.relayed is not None:
                exchange.relayed.cancel()
        for task in tasks:
            task.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with handling_signals(self.shut_down, self._on_reload):
            yield
