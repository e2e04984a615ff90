"""What an ASGI application can't reach: the listening socket, the bytes of a head, signals.

uvicorn runs the application. Its httptools protocol is extended where a proxy in front of an
archive needs more: deadlines and limits for the head, answers to malformed requests that carry
CORS headers, HTTP/1.0 without chunks, a 304 that announces a length, one Date and one Server, and
an end of the connection that a client can't take for the end of the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import signal
import socket
import struct
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from dicomweb_cors_proxy.answers import Problem, ResponseAborted
from dicomweb_cors_proxy.inbound import (
    REFUSAL,
    head_too_large,
    target_too_long,
    too_many_headers,
)
from dicomweb_cors_proxy.observability import place
from dicomweb_cors_proxy.systemd import READY, STOPPING, notify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from starlette.types import ASGIApp, Message

    from dicomweb_cors_proxy.config import ServerSettings

logger = logging.getLogger(__name__)

SERVER = b"dicomweb-cors-proxy"

# A head that is over a limit is still read for its Origin, so that the page can read the refusal;
# beyond this many times the limit nothing more is read.
PATIENCE = 4

# Seconds for which the rest of an unread upload is taken and dropped after an early answer: a
# close with bytes unread is a reset, and would take the answer from the client (RFC 9112 §9.6).
LINGER = 30.0


_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [!-~]+ HTTP/1\.[01]\r?\n")


class Cycle(RequestResponseCycle):
    """One request and its answer on the wire."""

    protocol: Protocol
    failure: Problem | None = None  # the body turned out malformed
    close_delimited = False

    async def run_asgi(self, app: ASGIApp) -> None:  # type: ignore[override]
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
        except ResponseAborted:
            pass
        except Exception as exc:  # noqa: BLE001  (its message may hold patient data)
            logger.error("bug: %s", place(exc))  # noqa: TRY400
        finally:
            if not self.response_complete and not self.disconnected:
                self._truncate()
            self.on_response = lambda: None

    async def receive(self) -> Any:  # noqa: ANN401  (uvicorn's type is private)
        message = await super().receive()
        if self.failure is not None:
            raise self.failure
        return message

    async def send(self, message: Message) -> None:  # type: ignore[override]
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._send_head(message["status"], message["headers"])
        else:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))

    def _send_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        names = set()
        length = None
        for name, value in headers:
            names.add(name)
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self.keep_alive = self.keep_alive and value.lower() != b"close"
                continue
            lines += (name, b": ", value, b"\r\n")
        if b"date" not in names:  # RFC 9110 §6.6.1
            lines += (b"date: ", http_date(), b"\r\n")
        if b"server" not in names:
            lines += (b"server: ", SERVER, b"\r\n")

        if self.scope["method"] == "HEAD" or status in (204, 304):
            length = 0  # whatever the head announces, no body follows
        elif length is None:
            if self.scope["http_version"] == "1.0":
                self.close_delimited = True
                self.keep_alive = False
            else:
                self.chunked_encoding = True
                lines.append(b"transfer-encoding: chunked\r\n")
        self.expected_content_length = length or 0
        if self.more_body:
            # The rest of the request is not going to be read as one.
            self.keep_alive = False
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self.transport.write(b"".join(lines))

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self.response_complete:
            return
        if body and self.scope["method"] != "HEAD":
            if self.chunked_encoding:
                self.transport.write(b"%x\r\n" % len(body))
                self.transport.write(body)
                self.transport.write(b"\r\n")
            elif self.close_delimited:
                self.transport.write(body)
            elif len(body) > self.expected_content_length:
                self._truncate()
                return
            else:
                self.expected_content_length -= len(body)
                self.transport.write(body)
        if more:
            return
        if self.expected_content_length:
            self._truncate()
            return
        if self.chunked_encoding:
            self.transport.write(b"0\r\n\r\n")
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.protocol.close_after_answer(body_unread=self.more_body)
        self.on_response()

    def _truncate(self) -> None:
        """End the connection so that the client can't take what it has for the whole."""
        self.disconnected = True
        if self.close_delimited:
            linger = struct.pack("ii", 1, 0)  # a reset: an orderly close would be the end
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            self.transport.abort()
        else:
            self.protocol.close()


class Protocol(HttpToolsProtocol):
    """One client's connection."""

    config: Config

    def __init__(self, config: Config, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(config, *args, **kwargs)
        # uvicorn lets bytes follow `Connection: close`; nobody honest sends them.
        self.parser = httptools.HttpRequestParser(self)
        self._limits = config.limits
        self._deadline: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._in_message = False
        self._in_head = False
        self._finished = 0
        self._unparsed_head_bytes = 0
        self._header_bytes = 0
        self._header_count = 0
        self._refusal: Problem | None = None
        self._discarding = False
        self._running: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells the request read last, which may stand in line behind this one.
            self._running.disconnected = True
            self._running.message_event.set()
        for timer in (self._deadline, self._writing, self._closing):
            if timer is not None:
                timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._discarding:
            return
        if not self._in_message:
            self._await_head()
        finished = self._finished
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserInvalidMethodError:
            if _REQUEST_LINE.match(data):
                self._refuse(_method_unknown())
            else:
                self._malformed()
        except httptools.HttpParserError:
            self._malformed()
        except httptools.HttpParserUpgrade:
            # RFC 9110 §7.8 lets a server ignore Upgrade, but the parser stops here: the answer
            # is the connection's last.
            self._discarding = True
            self.cycle.keep_alive = False
        else:
            # Where an earlier message ended in these bytes, how many of them are this head's is
            # not known; they are no more than one read.
            if self._in_head and finished == self._finished:
                self._unparsed_head_bytes += len(data)
                self._check_unparsed_head()

    # httptools callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._refusal = None
        self._unparsed_head_bytes = self._header_bytes = self._header_count = 0

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) <= self._limits.max_target_bytes:
            self.url += url
        else:
            self._refusal = target_too_long(self._limits.max_target_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer field: RFC 9110 §6.5.1 lets a recipient drop it
        self._header_count += 1
        self._header_bytes += len(name) + len(value) + 4
        if self._header_count > self._limits.max_headers:
            self._refusal = self._refusal or too_many_headers(self._limits.max_headers)
        elif self._header_bytes > self._limits.max_header_bytes:
            self._refusal = self._refusal or head_too_large(self._limits.max_header_bytes)
        if self._refusal is None or name.lower() == b"origin":
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        method = self.parser.get_method().decode("ascii")
        version = self.parser.get_http_version()
        if method == "CONNECT":
            self._refusal = self._refusal or _method_unknown()
        if version not in ("1.0", "1.1"):
            self._refusal = self._refusal or Problem(400, "This server speaks HTTP/1.1.")
        self._dispatch(method, version, keep_alive=self.parser.should_keep_alive())

    def on_message_complete(self) -> None:
        self._in_message = False
        self._finished += 1
        super().on_message_complete()

    # Requests

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:  # noqa: ANN401
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _dispatch(self, method: str, version: str, *, keep_alive: bool) -> None:
        raw_path, _, query = self.url.partition(b"?")
        scope = cast("dict[str, Any]", self.scope)
        scope["method"] = method
        scope["http_version"] = version
        scope["raw_path"] = raw_path
        scope["path"] = unquote(raw_path.decode("ascii"))
        scope["query_string"] = query
        if self._refusal is not None:
            scope["extensions"] = {REFUSAL: self._refusal}
        previous = self.cycle
        self.cycle = cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive and version == "1.1" and self._refusal is None,
            on_response=self.on_response_complete,
        )
        cycle.protocol = self
        if previous is None or previous.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _refuse(self, problem: Problem) -> None:
        """Answer a head that can't be read to its end."""
        self._discarding = True
        if not self._in_message:
            self.on_message_begin()
        self._refusal = problem
        self._in_head = False
        if not self.url.startswith(b"/"):
            self.url = b"/"
        self._dispatch("GET", "1.1", keep_alive=False)

    def _malformed(self) -> None:
        if self._in_head or not self._in_message:
            self._refuse(Problem(400, "The request is not well-formed HTTP/1.1."))
            return
        self._discarding = True
        cycle = cast("Cycle", self.cycle)
        cycle.failure = Problem(400, "The request's body is not well-formed: chunked framing.")
        cycle.keep_alive = False
        cycle.message_event.set()

    def _check_unparsed_head(self) -> None:
        limits = self._limits
        longest = PATIENCE * (limits.max_header_bytes + limits.max_target_bytes)
        if self._unparsed_head_bytes > longest:
            self._refuse(self._refusal or head_too_large(limits.max_header_bytes))

    # Deadlines

    def _await_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(
                self._limits.header_timeout, self._head_is_late
            )

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._in_head and not self.transport.is_closing():
            self._refuse(
                Problem(
                    408,
                    "The request's head did not arrive within "
                    f"{self._limits.header_timeout:g} s (server.header_timeout).",
                )
            )
        elif not self._in_message and (self.cycle is None or self.cycle.response_complete):
            self.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size(), 0)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None

    def _watch_writing(self, buffered: int, stalled: int) -> None:
        """Abort once the client has taken no byte for `write_timeout`."""
        if stalled == 2:  # noqa: PLR2004  (two half timeouts)
            self.transport.abort()
            return

        def look() -> None:
            now = self.transport.get_write_buffer_size()
            self._watch_writing(now, stalled + 1 if now == buffered else 0)

        self._writing = self.loop.call_later(self._limits.write_timeout / 2, look)

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.close()
        else:
            self.cycle.keep_alive = False

    def close(self) -> None:
        """Close once what is written has been taken, or `write_timeout` has passed."""
        if not self.transport.is_closing():
            self.transport.close()
            self._closing = self.loop.call_later(
                self._limits.write_timeout, self.transport.abort
            )

    def close_after_answer(self, *, body_unread: bool) -> None:
        if not body_unread and not self._discarding:
            self.close()
            return
        self._discarding = True
        self.pipeline.clear()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._closing is None:
            self._closing = self.loop.call_later(LINGER, self.transport.abort)


def _method_unknown() -> Problem:
    return Problem(
        405, "No resource here knows this method.", [(b"allow", b"GET, HEAD, OPTIONS")]
    )


_date = (0, b"")


def http_date() -> bytes:
    """Now, as RFC 9110 §5.6.7 writes it."""
    global _date  # noqa: PLW0603  (one clock for the process)
    now = int(time.time())
    if _date[0] != now:
        _date = now, formatdate(now, usegmt=True).encode("ascii")
    return _date[1]


class Config(uvicorn.Config):
    """uvicorn's configuration, made from ours alone: none of its environment variables count."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.limits = settings
        super().__init__(
            app,  # type: ignore[arg-type]
            host=settings.host,
            port=settings.port,
            http=Protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            forwarded_allow_ips="",
            server_header=False,
            date_header=False,
            workers=1,
            timeout_keep_alive=cast("int", settings.keepalive_timeout),
            timeout_graceful_shutdown=cast("int", settings.shutdown_timeout),
            ssl_certfile=settings.tls_cert_file,
            ssl_keyfile=settings.tls_key_file,
        )


class Server(uvicorn.Server):
    """uvicorn's server, which ends with exit status 0 when it is told to stop."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
        notify(READY)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        handled = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            logger.info(
                "stopping: running answers have %g s to finish",
                self.config.timeout_graceful_shutdown,
            )
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify(STOPPING)
        await super().shutdown(sockets)
        # What the deadline has cancelled still has to cut its connection.
        if self.server_state.tasks:
            await asyncio.wait(set(self.server_state.tasks), timeout=1)


def bind(host: str, port: int, backlog: int = 2048) -> list[socket.socket]:
    """Listening sockets for every address of `host`.

    Raises:
        OSError: an address can't be bound, or the name does not resolve.
    """
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            if port == 0 and sockets:
                break  # one free port can't be had on two addresses for certain
            sockets.append(
                socket.create_server(address[:2], family=family, backlog=backlog)
            )
    except OSError:
        for listener in sockets:
            listener.close()
        raise
    return sockets
