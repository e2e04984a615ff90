"""One client's connection: HTTP/1.1 (RFC 9112) on httptools.

uvicorn's own protocol has no deadlines and no limits for a head, and rejects what it cannot parse
without CORS headers. It sends chunks to HTTP/1.0 clients and closes after a 304 that announces a
length. It resets a client that it rejects in the middle of an upload.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import struct
import typing
from collections import deque
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from dicomweb_cors_proxy.http.chunked import ChunkedDecoder, ChunkedError
from dicomweb_cors_proxy.http.extensions import EMPTY_QUERY, REFUSAL
from dicomweb_cors_proxy.http.limits import (
    MAX_CACHED_HEAD_BYTES,
    head_too_large,
    target_too_long,
    too_many_headers,
)
from dicomweb_cors_proxy.http.messages import TCHAR
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.http.targets import origin_form, unreadable_target
from dicomweb_cors_proxy.server.deadline import Deadline
from dicomweb_cors_proxy.server.exchange import Exchange
from dicomweb_cors_proxy.server.head_cache import CachedHead, HeadCache
from dicomweb_cors_proxy.server.socket_state import is_ready, unsent_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Scope
    from uvicorn.server import ServerState

    from dicomweb_cors_proxy.http.replies import LocalReply
    from dicomweb_cors_proxy.server.acceptor import ClientConnections
    from dicomweb_cors_proxy.server.limits import ServerLimits
    from dicomweb_cors_proxy.server.turns import Turns

logger = logging.getLogger(__name__)

# Bytes of a response to buffer for a slow client before the archive is paused.
HIGH_WATER = 64 * 1024

# Maximum size of one read from a client while the application waits for the body. Larger reads make
# uploads faster, but a client can hold as much memory when the archive stops reading.
READ_BYTES = 96 * 1024

# Maximum size of one read at other times: of heads, and of bodies not yet asked for.
UNASKED_READ_BYTES = 48 * 1024

# Bytes read ahead while the application is busy. Then reading is paused.
READ_AHEAD_BYTES = 16 * 1024

# Requests of one connection answered in one turn of the event loop: refusals wait for nothing, and
# uvloop hands over as much as 8 MiB of them in a turn.
REQUESTS_PER_TURN = 16

# Bytes of a head given to the parser at a time, after which its size is checked.
PARSE_CHUNK = 16 * 1024

# A head that is over a limit is still read for its Origin, so that the page can read the refusal;
# beyond this many times the limit nothing more is read.
REJECTED_HEAD_FACTOR = 4

# Seconds to discard the rest of an upload after an early response. A close with bytes unread is a
# reset, which would destroy the response before the client reads it (RFC 9112 §9.6).
LINGER_TIMEOUT = 30.0

# Seconds between two looks whether a client is still there while nothing is read from it.
DISCONNECT_POLL = 0.25

# Seconds after which a connection without any request is idle, and may be closed for another one.
# Sooner, a rush of clients would lose connections whose first request is still on its way.
FIRST_REQUEST_SECONDS = 1.0

# Seconds that a client has at shutdown to answer the end of TLS, which it needn't, or to end an
# upload that was answered before.
TLS_CLOSE_GRACE = 0.25

_OF_BODIES = frozenset({b"content-length", b"expect", b"transfer-encoding"})

# Request lines of which no more has to be known, if the lines below are known already.
_PLAIN = re.compile(rb"(GET|HEAD|OPTIONS) (/[!-~]*) HTTP/1\.1")

_METHOD = re.compile(rf"[\r\n]*({TCHAR}{{1,64}}) ".encode("ascii"))

_EMPTY_LINES = re.compile(rb"[\r\n]+")

_PARTIAL_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")

_ORIGIN_LINE = re.compile(rb"\r\norigin:[ \t]*([!-~]+)[ \t]*(?=\r\n)", re.IGNORECASE)

# Bytes of a head that are looked at once more for its Origin.
ORIGIN_SEARCH_MAX = 4096


class Stage(Enum):
    """The part of a request that the client's next byte belongs to."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()


class ConnectionConfig(typing.Protocol):
    """The configuration of a server, as far as its connections use it."""

    clients: ClientConnections
    known_heads: HeadCache

    @property
    def limits(self) -> ServerLimits: ...
    @property
    def loaded_app(self) -> ASGIApp: ...

    read_buffer: memoryview
    turns: Turns


class ClientConnection(asyncio.BufferedProtocol):
    """One client's connection.

    Requests are read one at a time: what a client sends behind the one that is being answered stays
    as it came. So does a body until the application asks for it. `_exchanges` holds that request.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        config: ConnectionConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._app = config.loaded_app
        self._try_preflight: Callable[[Scope], LocalReply | None] | None
        self._try_preflight = getattr(self._app, "try_preflight", None)
        self._limits = limits = config.limits
        self._known_heads = config.known_heads
        self._clients = config.clients
        self._read_buffer = config.read_buffer
        self.turns = config.turns
        self._max_header_bytes = limits.max_header_bytes
        self._max_headers = limits.max_headers
        self._server_state = server_state
        self._app_state = app_state
        self._loop = _loop or asyncio.get_running_loop()
        self._exchanges: deque[Exchange] = deque()
        self.writable = asyncio.Event()
        self.writable.set()
        self._reading_paused = False
        self._ignoring = False  # whatever else the client sends
        self._is_lingering = False  # all is said, but the client may still be sending
        self._draining = False
        self._deadline = Deadline(self._loop)  # for a head, the next request, the end
        self._write_watch: asyncio.TimerHandle | None = None
        self._pause_watch: asyncio.TimerHandle | None = None

        self._parser = httptools.HttpRequestParser(self)
        self._stage = Stage.IDLE
        self._beginning = b""  # of the head that is being parsed
        self._tail = b""  # its last three bytes
        self._body_left = 0  # bytes of a body that is not chunked
        self._decoder: ChunkedDecoder | None = None  # of a body that is
        self.is_laborious = False  # so much that the last call of read_body did not decode it all
        self._unread = b""  # what has arrived: from here on
        self._at = 0
        self._going_on = False
        self._is_others_turn = False
        self._unknown_method: bytes | None = None
        self._begin_head()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(HIGH_WATER)
        if hasattr(transport, "set_read_buffer_limits"):
            # While reading is paused, TLS would read on until 256 KiB wait to be decrypted.
            transport.set_read_buffer_limits(high=1)
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._connection_scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "scheme": "https" if is_ssl(transport) else "http",
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "root_path": "",
        }
        self._deadline.set(
            min(FIRST_REQUEST_SECONDS, self._limits.header_timeout), self._first_request_is_late
        )

    def _first_request_is_late(self) -> None:
        """Count the connection as idle, and go on waiting for its first request."""
        self._clients.idle(self)
        rest = self._limits.header_timeout - FIRST_REQUEST_SECONDS
        self._deadline.set(max(0, rest), self.close)

    def eof_received(self) -> None:
        self._client_left()
        self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server_state.connections.discard(self)
        self._clients.closed(self)
        self._deadline.close()
        for timer in (self._write_watch, self._pause_watch):
            if timer is not None:
                timer.cancel()
        self._client_left()
        self.writable.set()
        # Or it would be a cycle, and wait for the collector with its buffers.
        self._exchanges.clear()
        self._unread = b""
        del self._parser

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        if self._unread:
            return self._read_buffer[:READ_AHEAD_BYTES]
        if self._is_awaited():
            return self._read_buffer
        return self._read_buffer[:UNASKED_READ_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        if not self._ignoring:
            self.data_received(bytes(self._read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take bytes that have arrived."""
        if not self._ignoring:
            self._unread = self._unread[self._at :] + data if self._unread else data
            self._at = 0
            self._go_on()

    def pause_writing(self) -> None:
        self.writable.clear()
        self._watch_writing()

    def resume_writing(self) -> None:
        self.writable.set()
        if self._write_watch is not None and not self.transport.is_closing():
            self._write_watch.cancel()
            self._write_watch = None

    # Reading requests

    def _go_on(self) -> None:
        """Read and answer requests until what comes next has to wait, if only for its turn."""
        if self._going_on or self._is_others_turn:  # called by an immediate response
            return
        self._going_on = True
        try:
            for _ in range(REQUESTS_PER_TURN):
                if not self._exchanges and self._unread:
                    self._read_head()
                if not self._exchanges or self._exchanges[0].is_running:
                    break
                self._start(self._exchanges[0])
            else:
                self._is_others_turn = True
                self._loop.call_soon(self._take_turn)
        finally:
            self._going_on = False
        if self._stage is Stage.BODY and self._unread:
            self._exchanges[0].wake()
        self.regulate_reading()

    def _take_turn(self) -> None:
        self._is_others_turn = False
        if not self.transport.is_closing():
            self._go_on()

    @property
    def has_unread(self) -> bool:
        """Return whether bytes have arrived that are not used yet."""
        return bool(self._unread)

    def _use(self, end: int) -> None:
        """Go on at `end` of what has arrived."""
        if end >= len(self._unread):
            self._unread = b""
            self._at = 0
        elif end > len(self._unread) // 2:  # free what is used, with little copying
            self._unread = self._unread[end:]
            self._at = 0
        else:
            self._at = end

    def _read_head(self) -> None:
        """Read on until a request's head is complete, or all that has arrived is read."""
        if self._stage is Stage.IDLE and not self._at and self._take_known(self._unread):
            return
        while self._unread and not (self._exchanges or self._ignoring):
            if not self._beginning:
                # RFC 9112 §2.2: empty lines before a request line are ignored.
                if (lines := _EMPTY_LINES.match(self._unread, self._at)) is not None:
                    self._use(lines.end())
                    continue
                if _PARTIAL_METHOD.fullmatch(self._unread, self._at):
                    self._await_method()
                    break
            self._feed_parser(self._next_piece())
        if self._ignoring:
            self._unread = b""
        elif self._stage is Stage.HEAD and not self._deadline.is_set:
            self._deadline.set(self._limits.header_timeout, self._head_is_late)

    def _await_method(self) -> None:
        """Begin a head whose method is incomplete: the parser could not tell that it is unknown."""
        if self._stage is Stage.IDLE:
            self._deadline.clear()
            self._stage = Stage.HEAD
            self._begin_head()

    def _next_piece(self) -> bytes:
        """Take bytes for the parser: of one head, and none behind it."""
        data, at = self._unread, self._at
        end = at + PARSE_CHUNK
        seam = self._tail + data[at : at + 3]
        found = seam.find(b"\r\n\r\n")
        if found >= 0:
            end = at + found + 4 - len(self._tail)
        elif (found := data.find(b"\r\n\r\n", at, end)) >= 0:
            end = found + 4
        self._use(end)
        return data[at:end]

    def _take_known(self, data: bytes) -> bool:
        """Dispatch a request whose header lines were read before, and came again byte for byte."""
        end = data.find(b"\r\n")
        if len(data) - end > MAX_CACHED_HEAD_BYTES or not data.endswith(b"\r\n\r\n"):
            return False
        lines = self._known_heads.get(data[end:])
        line = _PLAIN.fullmatch(data, 0, end) if lines else None
        if lines is None or line is None or end > self._limits.max_target_bytes:
            return False
        self._use(len(data))
        self._deadline.clear()
        self._target = line[2]
        self._dispatch(line[1].decode("ascii"), "1.1", lines.headers, keep_alive=lines.keep_alive)
        self.on_message_complete()
        return True

    def _remember(self, head: bytes) -> None:
        """Keep the header lines of a request without a body."""
        if (
            self._refusal is None
            and not self._expects_continue
            and _PLAIN.fullmatch(head, 0, head.find(b"\r\n"))
        ):
            # The parser has forgotten by now whether the connection stays.
            lines = CachedHead(tuple(self._headers), self._exchanges[-1].keep_alive)
            self._known_heads.remember(head, lines)

    def _feed_parser(self, piece: bytes) -> None:
        is_first = not self._beginning
        self._beginning += piece[: max(0, ORIGIN_SEARCH_MAX - len(self._beginning))]
        self._parse(piece)
        if self._ignoring:
            return
        if self._stage is Stage.HEAD:
            self._tail = (self._tail + piece)[-3:]
            self._unparsed_bytes += len(piece)
            self._line_bytes += len(piece)
            self._check_patience()
            return
        self._beginning = self._tail = b""
        if self._stage is Stage.BODY:
            self._decoder = ChunkedDecoder() if self._is_chunked else None
            self._body_left = self._length
            self._restart_parser()
            self._stage = Stage.BODY
        elif self._exchanges and is_first:
            self._remember(piece)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._stage is Stage.HEAD:
                self._parse(self._head_without_upgrade())
            else:
                self._ignoring = True  # CONNECT, or a head that is refused
        except httptools.HttpParserInvalidMethodError:
            # The parser knows a list of methods, HTTP any token (RFC 9110 §9.1): the request is
            # read as a GET, and refused under its own name.
            method = _METHOD.match(data)
            if method is None or self._unknown_method is not None:
                self._malformed()
                return
            self._unknown_method = method[1]
            self._restart_parser()
            self._parse(b"GET" + data[method.end(1) :])
        except httptools.HttpParserError:
            self._malformed()

    def may_have_whole_body(self) -> bool:
        """Tell whether the end of the body may have arrived. Decode nothing."""
        if self._decoder is None:
            return len(self._unread) - self._at >= self._body_left
        return self._unread.endswith(b"\r\n\r\n")

    def read_body(self) -> bytes:
        """Read of the body what has arrived, in bounded work; b"" if no content has."""
        data = self._unread
        if not data or self._ignoring:
            return b""
        if self._decoder is None:
            content = data[self._at : self._at + self._body_left]
            self._body_left -= len(content)
            self._use(self._at + len(content))
            is_complete = not self._body_left
        else:
            try:
                content, at = self._decoder.decode(data, self._at)
            except ChunkedError:
                self._malformed()
                self.is_laborious = False
                return b""
            self._use(at)
            is_complete = self._decoder.complete
            self.is_laborious = bool(self._unread) and not is_complete
        if is_complete:
            self._stage = Stage.IDLE
            self._exchanges[0].more_body = False
        self.regulate_reading()
        return content

    def _restart_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._stage = Stage.IDLE

    def _head_without_upgrade(self) -> bytes:
        """Return the head to be read again.

        Upgrade may be ignored (RFC 9110 §7.8), but the parser skips the body of who asks for it.
        """
        method = self._parser.get_method()
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self._target, version)]
        lines += [b"%b: %b" % header for header in self._headers if header[0] != b"upgrade"]
        self._restart_parser()
        return b"\r\n".join([*lines, b"", b""])

    def _begin_head(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._refusal: HTTPProblem | None = None
        self._header_bytes = 0
        self._unparsed_bytes = 0
        self._line_bytes = 0  # at least, of the line that is being parsed
        self._length = 0  # of a body that is not chunked
        self._is_chunked = False

    def _malformed(self) -> None:
        if self._stage is not Stage.BODY:
            fault = unreadable_target(self._beginning)
            self._refuse(HTTPProblem(400, fault or "The request is not well-formed HTTP/1.1."))
            return
        self._ignoring = True
        self._unread = b""
        self._exchanges[0].body_failed(
            HTTPProblem(400, "The request's body is not well-formed: chunked framing.")
        )

    def _check_patience(self) -> None:
        limits = self._limits
        most = REJECTED_HEAD_FACTOR * (limits.max_header_bytes + limits.max_target_bytes)
        # The parser keeps a line that is too long, until it ends.
        if self._unparsed_bytes > most or self._line_bytes > limits.max_header_bytes + PARSE_CHUNK:
            self._refuse(self._refusal or head_too_large(limits.max_header_bytes))

    def _refuse(self, problem: HTTPProblem) -> None:
        """Answer a head that can't be read to its end."""
        self._ignoring = True
        if self._stage is Stage.IDLE:
            self._begin_head()
        self._refusal = problem
        self._find_origin()
        self._dispatch("GET", "1.1", self._headers, keep_alive=False)

    def _find_origin(self) -> None:
        """Read on for the Origin of a head that is refused.

        The parser hands over a line when the next one comes, and none behind what is malformed.
        """
        if not any(name == b"origin" for name, _ in self._headers):
            head, end, _ = self._beginning.lstrip(b"\r\n").partition(b"\r\n\r\n")
            origins = _ORIGIN_LINE.findall(head + end[:2])
            if len(origins) == 1:
                self._headers.append((b"origin", origins[0]))

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._deadline.clear()
        self._stage = Stage.HEAD
        self._begin_head()

    def on_url(self, url: bytes) -> None:
        if len(self._target) + len(url) <= self._limits.max_target_bytes:
            self._target += url
        else:
            self._refusal = target_too_long(self._limits.max_target_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._line_bytes = 0
        name = name.lower()
        value = value.rstrip(b" \t")
        self._header_bytes += len(name) + len(value) + 4
        if self._refusal is None:
            self._headers.append((name, value))
            if self._header_bytes > self._max_header_bytes:
                self._refusal = head_too_large(self._max_header_bytes)
            elif len(self._headers) > self._max_headers:
                self._refusal = too_many_headers(self._max_headers)
            elif name in _OF_BODIES:
                self._body_announced(name, value)
        elif name == b"origin":
            self._headers.append((name, value))

    def _body_announced(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
        elif name == b"content-length":
            self._length = int(value)  # the parser has seen to digits
        elif self._parser.get_http_version() == "1.0":  # RFC 9112 §6.1
            self._refusal = HTTPProblem(400, "HTTP/1.0 has no Transfer-Encoding.")
        else:  # the parser refuses one that does not end in `chunked`
            self._is_chunked = True

    def on_headers_complete(self) -> None:
        parser = self._parser
        method = parser.get_method()
        version = parser.get_http_version()
        if method == b"CONNECT":
            self._refusal = self._refusal or HTTPProblem(
                405, "This server is no tunnel.", [(b"allow", b"GET, HEAD, OPTIONS")]
            )
        elif version not in ("1.0", "1.1"):
            self._refusal = HTTPProblem(400, "This server speaks HTTP/1.1.")
        elif parser.should_upgrade() and self._refusal is None:
            return  # and starts again without it: see _parse
        if self._unknown_method is not None:
            method, self._unknown_method = self._unknown_method, None
        self._deadline.clear()
        self._dispatch(
            method.decode("ascii"), version, self._headers, keep_alive=parser.should_keep_alive()
        )

    def on_message_complete(self) -> None:
        """End a request without a body; the parser is given none."""
        if self._stage is Stage.BODY:  # and not a head that is read again without its Upgrade
            self._stage = Stage.IDLE
            self._exchanges[0].more_body = False

    # Exchanges

    def _dispatch(
        self,
        method: str,
        version: str,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        keep_alive: bool,
    ) -> None:
        refusal = self._refusal
        # A refused target may be cut, and must lead to no resource that doesn't look for refusals.
        target = self._target if refusal is None else b"/"
        path, mark, query = target.partition(b"?")
        extensions: dict[str, object] = {} if refusal is None else {REFUSAL: refusal}
        if mark and not query:
            extensions[EMPTY_QUERY] = {}
        # The target is kept in the form in which it came; who asks for the path gets the path.
        local = path if path[:1] == b"/" else origin_form(path)[0]
        scope = {
            **self._connection_scope,
            "http_version": version,
            "method": method,
            "path": unquote(local.decode("ascii")) if b"%" in local else local.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "headers": headers,
            "state": self._app_state.copy(),
            "extensions": extensions,
        }
        exchange = Exchange(
            self,
            scope,
            keep_alive=(keep_alive and version == "1.1" and refusal is None and not self._draining),
            expects_continue=self._expects_continue and version == "1.1",
        )
        self._stage = Stage.BODY
        self._exchanges.append(exchange)

    def _start(self, exchange: Exchange) -> None:
        exchange.is_running = True
        exchange.start(self._app, self._try_preflight)
        if exchange.task is not None:
            tasks = self._server_state.tasks
            tasks.add(exchange.task)
            exchange.task.add_done_callback(tasks.discard)

    def answered(self, exchange: Exchange) -> None:
        """Go on to the next request, or to the end of the connection."""
        self._exchanges.popleft()
        if not exchange.keep_alive:
            self._end()
            return
        if not self._exchanges and self._stage is Stage.IDLE:
            self._deadline.set(self._limits.keepalive_timeout, self.close)
            self._clients.idle(self)
        self._go_on()

    def _client_left(self) -> None:
        for exchange in self._exchanges:
            exchange.client_left()

    # Deadlines and back-pressure

    def _head_is_late(self) -> None:
        timeout = self._limits.header_timeout
        if self._reading_paused:  # by us
            self._deadline.set(timeout, self._head_is_late)
            return
        late = f"The request's head did not arrive within {timeout:g} s (server.header_timeout)."
        self._refuse(self._refusal or HTTPProblem(408, late))
        self._go_on()

    def regulate_reading(self) -> None:
        """Read on, unless as much is unused as may be."""
        unread = len(self._unread) - self._at
        pause = not self._ignoring and (
            self._is_others_turn
            or unread > READ_BYTES
            or (unread >= READ_AHEAD_BYTES and not self._is_awaited())
        )
        if pause is self._reading_paused or self.transport.is_closing():
            return
        self._reading_paused = pause
        if pause:
            self.transport.pause_reading()
            self._pause_watch = self._loop.call_later(DISCONNECT_POLL, self._look_for_client)
        else:
            self.transport.resume_reading()
            if self._pause_watch is not None:
                self._pause_watch.cancel()

    def _is_awaited(self) -> bool:
        """Tell whether the application waits for the body, and will take what was read."""
        return bool(self._exchanges) and self._exchanges[0].is_waiting

    def _look_for_client(self) -> None:
        """Look for a disconnect, which the event loop does not see while reading is paused."""
        if is_ready(self.transport, "POLLRDHUP"):  # be there bytes to read or not
            self.transport.abort()
        else:
            self._pause_watch = self._loop.call_later(DISCONNECT_POLL, self._look_for_client)

    def _watch_writing(self, last_size: int = -1, *, stalled: bool = False) -> None:
        """Abort once the client has taken no byte for `write_timeout`."""
        if self._write_watch is not None:
            self._write_watch.cancel()
        size = self.transport.get_write_buffer_size() + unsent_bytes(self.transport)
        if stalled and size == last_size:
            self.transport.abort()
            return
        self._write_watch = self._loop.call_later(
            self._limits.write_timeout / 2,
            lambda: self._watch_writing(size, stalled=size == last_size),
        )

    # The end

    def close(self) -> None:
        """Close as soon as the client has taken what is written."""
        if not self.transport.is_closing():
            self._ignoring = True
            self._deadline.clear()
            self.transport.close()
            self._watch_writing()

    def close_if_idle(self) -> bool:
        """Close the connection if its last response is sent and no request has begun."""
        if self.transport.get_write_buffer_size():
            return False
        if self._is_lingering:
            self.transport.abort()
            return True
        has_begun = self._stage is not Stage.IDLE or self._exchanges or self._unread
        # A request may have arrived that the event loop has yet to read.
        if has_begun or self._ignoring or is_ready(self.transport, "POLLIN"):
            return False
        self._close_without_waiting()
        return True

    def _close_without_waiting(self) -> None:
        """Close, and under TLS wait only until the end of TLS is sent, not for the client's."""
        self.close()
        self._deadline.set(TLS_CLOSE_GRACE, self._abort_when_sent)

    def _end(self) -> None:
        """Close after a complete response, without resetting a client that is still sending."""
        if self._stage is Stage.IDLE and not (self._unread or self._ignoring):
            self.close()
            return
        self._ignoring = True
        self._unread = self._beginning = b""
        self.regulate_reading()
        self._is_lingering = True
        self._clients.idle(self)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline.set(LINGER_TIMEOUT, self.transport.abort)

    def cut(self, *, reset: bool) -> None:
        """End the connection so that the client can't take what it has for the whole."""
        if reset:  # an orderly close would be the end of the response
            with contextlib.suppress(OSError, ValueError):  # it may be closed already
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            self.transport.abort()
        else:
            self.close()

    def shutdown(self) -> None:
        """Finish the request in progress, and close."""
        self._draining = True
        if self._exchanges:
            self._exchanges[-1].keep_alive = False
        elif self._stage is Stage.IDLE and not self._ignoring:
            if self.transport.get_write_buffer_size() == 0:
                self._close_without_waiting()
            else:
                self.close()
        elif self._is_lingering and self.transport.get_write_buffer_size() == 0:
            self._deadline.set(TLS_CLOSE_GRACE, self._abort_when_sent)

    def _abort_when_sent(self, *, had_room: bool = False) -> None:
        """Abort, unless there may be bytes below TLS, which the size of no buffer tells of.

        The system has room for more, and was not given any since it had: so there is none.
        """
        has_room = is_ready(self.transport, "POLLOUT")
        if has_room and had_room:
            self.transport.abort()
        else:
            look_again = partial(self._abort_when_sent, had_room=has_room)
            self._deadline.set(TLS_CLOSE_GRACE, look_again)
