"""The state that a client's connection has in both versions of HTTP: deadlines and close."""

from __future__ import annotations

import asyncio
import typing
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

from dicomweb_cors_proxy.deadline import Deadline
from dicomweb_cors_proxy.server.scopes import connection_scope
from dicomweb_cors_proxy.server.watchdogs import WriteWatchdog, abort_when_sent

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Scope
    from uvicorn.server import ServerState

    from dicomweb_cors_proxy.http.replies import LocalReply
    from dicomweb_cors_proxy.server.acceptor import ClientConnections
    from dicomweb_cors_proxy.server.exchange import Exchange
    from dicomweb_cors_proxy.server.head_cache import HeadCache
    from dicomweb_cors_proxy.server.http2_head import HTTP2Heads
    from dicomweb_cors_proxy.server.limits import ServerLimits
    from dicomweb_cors_proxy.server.relayed_response import TryRelay
    from dicomweb_cors_proxy.server.turns import Turns

    TryPreflight: typing.TypeAlias = Callable[[Scope], LocalReply | None]

# Bytes of a response to buffer for a slow client before the application has to wait.
HIGH_WATER_BYTES = 64 * 1024

# Maximum size of one read from a client while the application waits for the body. Larger reads make
# uploads faster, but a client can hold as much memory when the archive stops reading.
READ_BYTES = 96 * 1024

# Seconds after which a connection without any request is idle, and may be closed for another one.
# If this were shorter, a rush of clients would close connections before their first request.
FIRST_REQUEST_SECONDS = 1.0


class ConnectionConfig(typing.Protocol):
    """The configuration of a server, as far as its connections use it.

    Attributes:
        running_streams: maximum number of requests of an HTTP/2 connection at a time.
        relays: the requests that are relayed, without a task.
    """

    clients: ClientConnections
    relays: set[Exchange]
    known_heads: HeadCache
    http2_heads: HTTP2Heads
    running_streams: int

    @property
    def limits(self) -> ServerLimits: ...
    @property
    def loaded_app(self) -> ASGIApp: ...

    read_buffer: memoryview
    turns: Turns


def _limit_buffers(transport: asyncio.Transport) -> None:
    transport.set_write_buffer_limits(HIGH_WATER_BYTES)
    if hasattr(transport, "set_read_buffer_limits"):
        # While reading is paused, TLS would read on until 256 KiB wait to be decrypted.
        transport.set_read_buffer_limits(high=1)


class BaseConnection(asyncio.BufferedProtocol):
    """A client's connection: what does not depend on the version of HTTP."""

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        self._config = config
        self._app = config.loaded_app
        self._try_preflight: TryPreflight | None = getattr(self._app, "try_preflight", None)
        self._try_relay: TryRelay | None = getattr(self._app, "try_relay", None)
        self._relays = config.relays
        self._limits = config.limits
        self._clients = config.clients
        self._read_buffer = config.read_buffer
        self.turns = config.turns
        self._server_state = server_state
        self._app_state = app_state
        self._loop = asyncio.get_running_loop()
        self._deadline = Deadline(self._loop)
        self._write_watchdog = WriteWatchdog(self._loop, config.limits.write_timeout)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        _limit_buffers(self.transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._scope = connection_scope(self.transport)
        seconds = min(FIRST_REQUEST_SECONDS, self._limits.header_timeout)
        self._deadline.set(seconds, self._first_request_is_late)

    def _first_request_is_late(self) -> None:
        """Count the connection as idle, and go on waiting for its first request."""
        self._clients.idle(self)
        self._deadline.set(max(0, self._limits.header_timeout - FIRST_REQUEST_SECONDS), self.close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server_state.connections.discard(self)
        self._clients.closed(self)
        self._deadline.close()
        self._write_watchdog.stop()

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._read_buffer[:nbytes]))

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Read the bytes that have arrived."""

    def reply_at_once(self, exchange: Exchange) -> bool:
        """Send the reply to a preflight. Return whether there is one."""
        return self._try_preflight is not None and exchange.reply_at_once(self._try_preflight)

    def begin_relay(self, exchange: Exchange) -> bool:
        """Have the application relay the request, if it can. Return whether it does."""
        if self._try_relay is None or not exchange.begin_relay(self._try_relay):
            return False
        self._relays.add(exchange)  # a shutdown waits for it
        return True

    def relay_ended(self, exchange: Exchange) -> None:
        """Note that the request is not relayed any more."""
        self._relays.discard(exchange)

    def run(self, exchange: Exchange) -> asyncio.Task[None]:
        """Run the application, so that a shutdown waits for it."""
        exchange.is_running = True
        task = exchange.run(self._app)
        tasks = self._server_state.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    def close(self) -> None:
        """Close as soon as the client has taken what is written."""
        if not self.transport.is_closing():
            self._deadline.clear()
            self.transport.close()
            self._write_watchdog.start(self.transport)

    @abstractmethod
    def close_if_idle(self) -> bool:
        """Close the connection if no request is in progress on it; return whether it was."""

    def refuse_waiting(self) -> None:
        """Refuse the requests that wait for others; only HTTP/2 has such requests."""

    def _close_without_waiting(self) -> None:
        """Close, and under TLS wait only until the end of TLS is sent, not for the client's."""
        self.close()
        abort_when_sent(self.transport, self._deadline)
