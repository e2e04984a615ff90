"""Parse one response from its bytes; does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, cast

import httptools
import httpx

from dicomweb_cors_proxy.http.chunked import ChunkedDecoder, ChunkedError
from dicomweb_cors_proxy.upstream.head_faults import as_clause, coding_fault, find_fault
from dicomweb_cors_proxy.upstream.interface import MalformedResponse, ResponseHead

if TYPE_CHECKING:
    from dicomweb_cors_proxy.http.messages import Header

# Bytes of a response to buffer for a slow client before reading from the archive is paused. One
# read of the event loop (256 KiB under uvloop) may be added.
READ_HIGH_WATER = 64 * 1024

# Shorter pieces of a body are joined as they come: each bytes object has an overhead of 33 bytes.
SMALL_PIECE_BYTES = 1024

_END_OF_HEAD = b"\r\n\r\n"

MAX_HEADERS = 256
MAX_INTERIM_RESPONSES = 16


class ResponseParser:
    """A parser for the response to one request, without I/O.

    Framing (RFC 9112 §6.3) is strict: a wrong guess of the end would pass the rest as the next
    response. Bytes after the end are dropped, and the connection is not used again.
    """

    def __init__(self, method: bytes, max_head_bytes: int) -> None:
        self._method = method
        self._max_head_bytes = max_head_bytes
        # None once the head is read.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._rejection: str | None = None
        self._reason = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._fed_bytes = 0  # to the parser, for the present head
        self._earlier: list[bytes] = []  # of an incomplete head, to name its fault
        self._head_tail = b""  # the last bytes that were fed to the parser
        self._interim_responses = 0
        self._remaining: int | None = None  # of a Content-Length body, bytes
        self._decoder: ChunkedDecoder | None = None
        self._undecoded = b""
        self._decoded_to = 0  # position in `_undecoded`
        self._body: list[bytes | bytearray] = []
        self.buffered = 0  # bytes of the body that `take` has not returned yet
        self.head: ResponseHead | None = None
        self.complete = False
        self.persistent = False  # another request may follow on the connection

    def feed(self, data: bytes) -> None:
        """Parse what the archive sent. A part of a chunked body may be left to `decode`.

        Raises:
            httpx.RemoteProtocolError: it is not a response to the request.
        """
        at = 0
        if self._parser is not None:
            at = self._feed_head(data)
        if at == len(data):
            return
        if self.complete:
            self.persistent = False
        elif self._decoder is not None:
            if self._undecoded:
                data = self._undecoded[self._decoded_to :] + data
            self._undecoded = data
            self._decoded_to = at
            self.decode()
        else:
            if at:
                data = data[at:]
            if self._remaining is not None:
                if len(data) > self._remaining:
                    data = data[: self._remaining]
                    self.persistent = False
                self._remaining -= len(data)
                self.complete = self._remaining == 0
            self._add(data)

    @property
    def has_undecoded(self) -> bool:
        """Return whether `decode` has something to do."""
        return self._undecoded != b""

    def decode(self) -> None:
        """Decode as much of a chunked body as one turn of the event loop has time for.

        Raises:
            httpx.RemoteProtocolError: the body is malformed.
        """
        decoder = self._decoder
        if decoder is None:
            return
        try:
            content, self._decoded_to = decoder.decode(self._undecoded, self._decoded_to)
        except ChunkedError as exc:
            raise MalformedResponse(as_clause(str(exc))) from None
        if content:
            self._add(content)
        is_read = self._decoded_to == len(self._undecoded)
        if decoder.complete:
            self.complete = True
            self._decoder = None
            if not is_read:
                self.persistent = False
        if is_read or decoder.complete:
            self._undecoded = b""
            self._decoded_to = 0

    def feed_eof(self, *, cut: bool) -> None:
        """Note that the archive will send nothing more; with `cut`, because its connection broke.

        Raises:
            httpx.RemoteProtocolError: the response is not complete.
        """
        while self.has_undecoded:
            self.decode()
        self.persistent = False
        if self.complete:
            return
        if self.head is None:
            raise httpx.RemoteProtocolError("closed before a response")
        if cut or self._decoder is not None or self._remaining is not None:
            raise httpx.RemoteProtocolError("closed in the middle of a response")
        self.complete = True

    def take(self) -> bytes:
        """Return all of the body that has arrived and was not taken before."""
        body = self._body
        data = bytes(body[0]) if len(body) == 1 else b"".join(body)
        body.clear()
        self.buffered = 0
        return data

    def discard(self) -> None:
        """Drop the body, and break the reference cycle with the parser."""
        self._body.clear()
        self._undecoded = b""
        self._decoder = self._parser = None

    def _feed_head(self, data: bytes) -> int:
        """Feed the parser up to the end of the head; return the position behind it.

        The parser would call back for every chunk of a body.
        """
        parser = self._parser
        at = 0
        while at < len(data) and parser is not None:
            end = self._end_of_head(data, at)
            part = data[at:end] if end - at < len(data) else data
            at = end
            self._fed_bytes += len(part)
            try:
                parser.feed_data(part)
            except httptools.HttpParserError as exc:
                if fault := self._rejection or find_fault(b"".join([*self._earlier, data])):
                    raise MalformedResponse(fault) from None
                # The parser's words may quote the archive's bytes.
                raise httpx.RemoteProtocolError(f"not HTTP: {exc}") from exc
            if self.head is not None:
                parser = self._parser = None
            elif self._fed_bytes > self._max_head_bytes:
                raise MalformedResponse(self._too_long)
        if parser is not None:
            self._earlier.append(data)
        return at

    def _end_of_head(self, data: bytes, start: int) -> int:
        """Return the position behind the end of the head, or that of `data` if it lacks the end."""
        if tail := self._head_tail:
            self._head_tail = b""
            end = (tail + data[:3]).find(_END_OF_HEAD)
            if end >= 0:
                return end + len(_END_OF_HEAD) - len(tail)
        end = data.find(_END_OF_HEAD, start)
        if end >= 0:
            return end + len(_END_OF_HEAD)
        self._head_tail = (tail + data[start:])[-3:]
        return len(data)

    def _add(self, data: bytes) -> None:
        body = self._body
        self.buffered += len(data)
        if len(data) >= SMALL_PIECE_BYTES or not body:
            body.append(data)
        elif isinstance(last := body[-1], bytearray) and len(last) < READ_HIGH_WATER:
            last += data
        else:
            body.append(bytearray(data))

    # httptools callbacks

    def on_status(self, reason: bytes) -> None:
        self._reason += reason
        self._count(len(reason))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value.rstrip(b" \t")))  # the parser strips the front only
        if len(self._headers) > MAX_HEADERS:
            self._reject(f"it has more than {MAX_HEADERS} header lines")
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        parser = cast("httptools.HttpResponseParser", self._parser)  # it is what calls us
        status = parser.get_status_code()
        version = parser.get_http_version()
        if status < 100 or status == 101 or version not in ("1.0", "1.1"):
            self._reject(f"it has the status {status} of HTTP/{version}")
        if status < 200:
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                self._reject(f"it has more than {MAX_INTERIM_RESPONSES} interim responses")
            return

        length, chunked, persistent = self._framing(version)
        self.head = ResponseHead(b"HTTP/" + version.encode(), status, self._reason, self._headers)
        self.persistent = persistent
        if self._method == b"HEAD" or status in (204, 304) or length == 0:
            self.complete = True  # whatever length a bodyless one announces
            if length or chunked:
                # If the archive sends that body nevertheless, it must not become the next response.
                self.persistent = False
        elif length is None and not chunked:
            self.persistent = False  # ends when the archive closes
        elif chunked:
            self._decoder = ChunkedDecoder()
        self._remaining = length

    def on_body(self, _: bytes) -> None:
        self._reject("its head has a body")

    def on_message_complete(self) -> None:
        if self.head is None:  # of an interim response
            self._headers, self._reason, self._earlier = [], b"", []
            self._head_bytes = self._fed_bytes = 0

    def _framing(self, version: str) -> tuple[int | None, bool, bool]:
        """Content-Length, whether chunked, whether persistent; the parser has seen to digits."""
        length = None
        chunked = close = False
        persistent = version == "1.1"
        for name, value in self._headers:
            match name.lower():
                case b"content-length":
                    length = int(value)
                case b"transfer-encoding":
                    if fault := coding_fault(value, version, is_repeated=chunked):
                        self._reject(fault)
                    chunked = True
                case b"connection":
                    options = {option.strip() for option in value.lower().split(b",")}
                    close = close or b"close" in options
                    persistent = persistent or b"keep-alive" in options
        return length, chunked, persistent and not close

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._max_head_bytes:
            self._reject(self._too_long)

    def _reject(self, what: str) -> NoReturn:
        """Break off out of a callback."""
        self._rejection = what
        raise MalformedResponse(what)

    @property
    def _too_long(self) -> str:
        return f"its head has more than {self._max_head_bytes} bytes"
