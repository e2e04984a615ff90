"""Read requests from the bytes of a client (HTTP/1.1, RFC 9112) on httptools, without I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

from dicomweb_cors_proxy.http.limits import MAX_CACHED_HEAD_BYTES, head_too_large
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.http.targets import unreadable_target
from dicomweb_cors_proxy.server.head_cache import CachedHead, HeadCache
from dicomweb_cors_proxy.server.head_parser import HeadParser
from dicomweb_cors_proxy.server.request_body import ReceivedBytes, RequestBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.server.limits import ServerLimits

# Maximum size of a piece of a head for the parser. The size of the head is checked after each.
PARSE_CHUNK_BYTES = 16 * 1024

# A head over a limit is still read for its Origin, so that the page can read the response. This
# many times the limit is the maximum.
REJECTED_HEAD_FACTOR = 4

# The beginning of the preface of HTTP/2 (RFC 9113 §3.4).
PREFACE_LINE = b"PRI * HTTP/2.0\r\n"

# Bytes of a head that are searched for the Origin if the head is rejected.
ORIGIN_SEARCH_BYTES = 4096

# Request lines that need no parser if the header lines below them are cached.
_PLAIN = re.compile(rb"(GET|HEAD|OPTIONS) (/[!-~]*) HTTP/1\.1")

_EMPTY_LINES = re.compile(rb"[\r\n]+")

_PARTIAL_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")

_ORIGIN_LINE = re.compile(rb"\r\norigin:[ \t]*([!-~]+)[ \t]*(?=\r\n)", re.IGNORECASE)


class Request(NamedTuple):
    """A request as read, without its body."""

    method: str
    version: str
    target: bytes
    headers: Sequence[Header]
    keep_alive: bool
    expects_continue: bool


class RequestReceiver(Protocol):
    """The callbacks of a `RequestReader`."""

    def on_request(self, request: Request) -> None:
        """Take a request."""

    def on_reject(self, request: Request, problem: HTTPProblem) -> None:
        """Take a request whose head is rejected, and may be incomplete."""


class RequestReader:
    """A reader of the requests of one connection.

    It reads one head at a time. Later requests and bodies stay in `received` until the caller
    reads them, so that a client cannot make the server hold parsed requests.

    Attributes:
        received: the bytes to read from.
        body: the body of the request that was read last.
        is_in_head: True if a head has begun and is incomplete.
        is_http2: True if the connection begins with the preface of HTTP/2, which is not read.
    """

    def __init__(
        self, limits: ServerLimits, known_heads: HeadCache, receiver: RequestReceiver
    ) -> None:
        self._limits = limits
        self._known_heads = known_heads
        self._receiver = receiver
        self._parser = HeadParser(limits)
        self.received = ReceivedBytes()
        self.body = RequestBody(self.received)
        self.is_in_head = False
        self.is_http2 = False
        self._may_be_http2 = limits.http2
        self._beginning = b""  # of the head that is being parsed
        self._tail = b""  # the last three bytes of it
        self._head_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Return whether no request has begun that is not read to its end."""
        return not (self.is_in_head or self.body.more)

    def close(self) -> None:
        """Drop the input, and break the reference cycles."""
        self.received.data = b""
        self._parser.close()
        del self._receiver

    def read_head(self) -> None:
        """Read until one head is complete or rejected, or all bytes are used."""
        received = self.received
        if not (self.is_in_head or received.at) and self._read_known(received.data):
            return
        if self._may_be_http2 and self._begins_http2(received.data):
            return
        while received.data:
            if not self._beginning:
                # RFC 9112 §2.2: empty lines before a request line are ignored.
                if (lines := _EMPTY_LINES.match(received.data, received.at)) is not None:
                    received.use(lines.end())
                    continue
                # The parser cannot tell from an incomplete method that it is unknown.
                if _PARTIAL_METHOD.fullmatch(received.data, received.at):
                    self._parser.begin()
                    self.is_in_head = True
                    return
            self._read_piece(self._next_piece())
            if not self.is_in_head:
                return

    def _begins_http2(self, data: bytes) -> bool:
        """Return whether the first bytes of the connection are those of HTTP/2, or may be."""
        if PREFACE_LINE.startswith(data[: len(PREFACE_LINE)]):
            self.is_http2 = len(data) >= len(PREFACE_LINE)
            self._parser.begin()
            self.is_in_head = True
            return True
        self._may_be_http2 = False
        return False

    def reject_head(self, problem: HTTPProblem) -> None:
        """Reject the head that is being read, and ignore further input.

        A problem found in the head earlier has precedence.
        """
        self._reject(problem if self._parser.problem is None else self._parser.problem)

    def _reject(self, problem: HTTPProblem) -> None:
        parser = self._parser
        self.received.stop()
        parser.problem = problem
        self._find_origin()
        self.is_in_head = False
        self.body.more = True  # unread input: a close must not reset the connection
        self._report()

    def _next_piece(self) -> bytes:
        """Take bytes for the parser: of one head, and none behind it."""
        data, at = self.received.data, self.received.at
        end = at + PARSE_CHUNK_BYTES
        seam = self._tail + data[at : at + 3]
        found = seam.find(b"\r\n\r\n")
        if found >= 0:
            end = at + found + 4 - len(self._tail)
        elif (found := data.find(b"\r\n\r\n", at, end)) >= 0:
            end = found + 4
        self.received.use(end)
        return data[at:end]

    def _read_known(self, data: bytes) -> bool:
        """Read a request whose header lines are cached; return False if they are not."""
        end = data.find(b"\r\n")
        if len(data) - end > MAX_CACHED_HEAD_BYTES or not data.endswith(b"\r\n\r\n"):
            return False
        lines = self._known_heads.get(data[end:])
        line = _PLAIN.fullmatch(data, 0, end) if lines else None
        if lines is None or line is None or end > self._limits.max_target_bytes:
            return False
        self.received.use(len(data))
        method = line[1].decode("ascii")
        self._receiver.on_request(
            Request(method, "1.1", line[2], lines.headers, lines.keep_alive, False)  # noqa: FBT003
        )
        return True

    def _cache(self, head: bytes) -> None:
        """Cache the header lines of a request without a body."""
        parser = self._parser
        if (
            parser.problem is None
            and not parser.expects_continue
            and _PLAIN.fullmatch(head, 0, head.find(b"\r\n"))
        ):
            lines = CachedHead(tuple(parser.headers), parser.keep_alive)
            self._known_heads.remember(head, lines)

    def _read_piece(self, piece: bytes) -> None:
        parser = self._parser
        is_first = not self._beginning
        self._beginning += piece[: max(0, ORIGIN_SEARCH_BYTES - len(self._beginning))]
        if is_first:
            parser.begin()
        parser.feed(piece)
        if parser.is_complete:
            self._end_head(piece if is_first else None)
        elif parser.is_malformed:
            fault = unreadable_target(self._beginning)
            self._reject(
                HTTPProblem(400, fault or "The request's head is not well-formed HTTP/1.1.")
            )
        else:
            self.is_in_head = True
            self._tail = (self._tail + piece)[-3:]
            self._head_bytes += len(piece)
            parser.line_bytes += len(piece)
            self._check_size()

    def _end_head(self, head: bytes | None) -> None:
        """Report a request. `head` has its bytes, if they came in one piece."""
        parser = self._parser
        self._beginning = self._tail = b""
        self._head_bytes = 0
        self.is_in_head = False
        self.body.more = parser.has_body
        self._report()
        if parser.is_malformed:  # the parser checks Transfer-Encoding only behind the head
            self.body.reject()
        elif parser.is_tunnel:
            self.received.stop()
        elif parser.has_body:
            self.body.begin(parser.length, is_chunked=parser.is_chunked)
            parser.restart()
        elif head is not None:
            self._cache(head)

    def _report(self) -> None:
        parser = self._parser
        problem = parser.problem
        request = Request(
            parser.method.decode("ascii"),
            parser.version,
            parser.target,
            parser.headers,
            parser.keep_alive,
            parser.expects_continue,
        )
        if problem is None:
            self._receiver.on_request(request)
        else:
            self._receiver.on_reject(request, problem)

    def _check_size(self) -> None:
        limits = self._limits
        most = REJECTED_HEAD_FACTOR * (limits.max_header_bytes + limits.max_target_bytes)
        longest = limits.max_header_bytes + PARSE_CHUNK_BYTES
        # The parser buffers a line until its end.
        if self._head_bytes > most or self._parser.line_bytes > longest:
            self.reject_head(head_too_large(limits.max_header_bytes))

    def _find_origin(self) -> None:
        """Find the Origin of a rejected head in the bytes, unless the parser has reported it.

        The parser reports a line only when the next one begins, and none behind a malformed one.
        """
        if not any(name == b"origin" for name, _ in self._parser.headers):
            head, end, _ = self._beginning.lstrip(b"\r\n").partition(b"\r\n\r\n")
            origins = _ORIGIN_LINE.findall(head + end[:2])
            if len(origins) == 1:
                self._parser.headers.append((b"origin", origins[0]))
