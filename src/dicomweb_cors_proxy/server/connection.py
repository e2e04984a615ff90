"""One client's connection: turns, back-pressure, deadlines and close.

uvicorn's own protocol has no deadlines and no limits for a head. It rejects malformed heads
without CORS headers, and sends chunks to HTTP/1.0 clients. It closes after a 304 with a length, and
resets a client that it rejects in the middle of an upload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dicomweb_cors_proxy.http.extensions import REJECTION
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.server.base_connection import READ_BYTES, BaseConnection
from dicomweb_cors_proxy.server.exchange import Exchange
from dicomweb_cors_proxy.server.http2_connection import HTTP2Connection
from dicomweb_cors_proxy.server.request_reader import RequestReader
from dicomweb_cors_proxy.server.response_writer import ResponseWriter
from dicomweb_cors_proxy.server.scopes import request_scope
from dicomweb_cors_proxy.server.socket_state import is_ready, reset_connection
from dicomweb_cors_proxy.server.watchdogs import ReadPause, abort_when_sent
from dicomweb_cors_proxy.server.writable import Writable

if TYPE_CHECKING:
    from uvicorn.server import ServerState

    from dicomweb_cors_proxy.server.base_connection import ConnectionConfig
    from dicomweb_cors_proxy.server.request_reader import Request

# Maximum size of one read at other times: of heads, and of bodies not yet asked for.
UNASKED_READ_BYTES = 48 * 1024

# Bytes read ahead while the application is busy. Then reading is paused.
READ_AHEAD_BYTES = 16 * 1024

# Pipelined requests started before other connections get a turn. Rejections never wait, and uvloop
# may deliver 8 MiB of them at once.
REQUESTS_PER_TURN = 16

# Seconds to discard the rest of an upload after an early response. A close with bytes unread is a
# reset, which would destroy the response before the client reads it (RFC 9112 §9.6).
LINGER_SECONDS = 30.0


class ClientConnection(BaseConnection):
    """A client's connection that speaks HTTP/1.1, or is about to choose HTTP/2.

    Requests are read one at a time, and a body only when the application asks for it. Further
    input waits unparsed. `_exchange` holds the request in progress.
    """

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._reader = RequestReader(config.limits, config.known_heads, self)
        self._received = self._reader.received
        self._body = self._reader.body
        self._exchange: Exchange | None = None
        self.writable = Writable()
        self.writable.set()
        self._is_lingering = False  # the response is sent, but the client may still be sending
        self._draining = False
        self._going_on = False
        self._awaits_turn = False
        self._pause = ReadPause(self._loop)

    # asyncio.BufferedProtocol

    def eof_received(self) -> None:
        if self._exchange is not None:
            self._exchange.client_disconnected()
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._pause.stop()
        if self._exchange is not None:
            self._exchange.client_disconnected()
        self.writable.set()
        # Break reference cycles, which would hold the buffers until a garbage collection.
        self._exchange = None
        self._reader.close()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        if self._received.data:
            return self._read_buffer[:READ_AHEAD_BYTES]
        return self._read_buffer if self._is_awaited() else self._read_buffer[:UNASKED_READ_BYTES]

    def data_received(self, data: bytes) -> None:
        """Read the bytes that have arrived."""
        if not self._received.is_stopped:
            self._received.add(data)
            self._go_on()

    def pause_writing(self) -> None:
        self.writable.clear()
        self._write_watchdog.start(self.transport)

    def resume_writing(self) -> None:
        self.writable.set()
        if not self.transport.is_closing():
            self._write_watchdog.stop()

    # HTTP/2

    def as_http2(self) -> HTTP2Connection:
        """Return the connection to use in place of this one, before any request."""
        self._deadline.close()
        self._pause.stop()
        self._reader.close()
        connection = HTTP2Connection(self._config, self._server_state, self._app_state)
        self._clients.replace(self, connection)
        return connection

    def _switch_to_http2(self) -> None:
        """Hand over to HTTP/2, because the client has begun with its preface."""
        data = self._received.data
        connection = self.as_http2()
        self._server_state.connections.discard(self)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        connection.data_received(data)

    # Requests

    def _go_on(self) -> None:
        """Read and start requests until one must wait, for its turn or for the application."""
        if self._going_on or self._awaits_turn:  # called by an immediate response
            return
        self._going_on = True
        try:
            for _ in range(REQUESTS_PER_TURN):
                if self._exchange is None and self._received.data:
                    self._read_head()
                if self._exchange is None or self._exchange.is_running:
                    break
                self._start(self._exchange)
            else:
                self._awaits_turn = True
                self._loop.call_soon(self._take_turn)
        finally:
            self._going_on = False
        if self._body.more and self._received.data and self._exchange is not None:
            self._exchange.wake()
        self.regulate_reading()

    def _take_turn(self) -> None:
        self._awaits_turn = False
        if not self.transport.is_closing():
            self._go_on()

    def _read_head(self) -> None:
        was_in_head = self._reader.is_in_head
        self._reader.read_head()
        if self._reader.is_http2:
            self._switch_to_http2()
        elif self._reader.is_in_head and not was_in_head:
            self._deadline.set(self._limits.header_timeout, self._head_is_late)

    def _head_is_late(self) -> None:
        timeout = self._limits.header_timeout
        if self._pause.is_paused:  # the delay is ours
            self._deadline.set(timeout, self._head_is_late)
            return
        late = f"The request's head took more than {timeout:g} s (server.header_timeout)."
        self._reader.reject_head(HTTPProblem(408, late))
        self._go_on()

    def on_request(self, request: Request) -> None:
        """Make an exchange of a request that was read."""
        self._deadline.clear()
        self._exchange = Exchange(
            self,
            self._body,
            ResponseWriter(self.transport, request.method, request.version),
            request_scope(self._scope, request, self._app_state),
            keep_alive=request.keep_alive and request.version == "1.1" and not self._draining,
            expects_continue=request.expects_continue and request.version == "1.1",
        )
        self._exchange.offer_push()

    def on_reject(self, request: Request, problem: HTTPProblem) -> None:
        """Make an exchange of a rejected head, so that the application adds CORS headers."""
        # The target may be cut, and must lead to no resource that does not look for REJECTION.
        self.on_request(request._replace(target=b"/", keep_alive=False))
        assert self._exchange is not None  # noqa: S101
        self._exchange.scope["extensions"][REJECTION] = problem

    def _start(self, exchange: Exchange) -> None:
        exchange.is_running = True
        if not (self.reply_at_once(exchange) or self.begin_relay(exchange)):
            self.run(exchange)

    def run_application(self, exchange: Exchange) -> None:
        """Run the application for a request that could not be relayed."""
        self.relay_ended(exchange)
        self.run(exchange)

    def response_sent(self, exchange: Exchange) -> None:
        """Go on to the next request, or close the connection."""
        self._exchange = None
        if not exchange.keep_alive:
            self._end()
            return
        if self._reader.is_idle:
            self._deadline.set(self._limits.keepalive_timeout, self.close)
            self._clients.idle(self)
        self._go_on()

    # Back-pressure

    def regulate_reading(self) -> None:
        """Pause reading if too many bytes are unused; resume it otherwise."""
        unread = len(self._received.data) - self._received.at
        pause = not self._received.is_stopped and (
            self._awaits_turn
            or unread > READ_BYTES
            or (unread >= READ_AHEAD_BYTES and not self._is_awaited())
        )
        if pause is not self._pause.is_paused and not self.transport.is_closing():
            self._pause.set(self.transport, is_paused=pause)

    def _is_awaited(self) -> bool:
        """Return whether the application waits for the body, and will take what is read."""
        return self._exchange is not None and self._exchange.is_waiting

    # Close

    def close(self) -> None:
        """Close as soon as the client has taken what is written."""
        if not self.transport.is_closing():
            self._received.stop()
            super().close()

    def close_if_idle(self) -> bool:
        """Close the connection if its last response is sent and no request has begun."""
        if self.transport.get_write_buffer_size():
            return False
        if self._is_lingering:
            self.transport.abort()
            return True
        is_idle = self._reader.is_idle and self._exchange is None and not self._received.data
        # A request may have arrived that the event loop has yet to read.
        if not is_idle or self._received.is_stopped or is_ready(self.transport, "POLLIN"):
            return False
        self._close_without_waiting()
        return True

    def _end(self) -> None:
        """Close after a complete response without resetting a client that is still sending."""
        if self._reader.is_idle and not (self._received.data or self._received.is_stopped):
            self.close()
            return
        self._received.stop()
        self.regulate_reading()
        self._is_lingering = True
        self._clients.idle(self)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline.set(LINGER_SECONDS, self.transport.abort)

    def cut(self, *, reset: bool) -> None:
        """Close the connection so that the client sees that the response is incomplete."""
        if reset:  # an orderly close would be the end of the response
            reset_connection(self.transport)
        else:
            self.close()

    def shutdown(self) -> None:
        """Finish the request in progress, and close."""
        self._draining = True
        is_sent = self.transport.get_write_buffer_size() == 0
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._reader.is_idle and not self._received.is_stopped:
            (self._close_without_waiting if is_sent else self.close)()
        elif self._is_lingering and is_sent:
            abort_when_sent(self.transport, self._deadline)
