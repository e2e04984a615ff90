"""One request and its response on an HTTP/2 connection, as an `Exchange` sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from dicomweb_cors_proxy.server import http2_frames as frames
from dicomweb_cors_proxy.server.http2_frames import ErrorCode, StreamFault
from dicomweb_cors_proxy.server.http2_queue import ResponseQueue
from dicomweb_cors_proxy.server.response_head import SERVER_NAME, date_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.server.exchange import Exchange
    from dicomweb_cors_proxy.server.http2_head import HTTP2Head
    from dicomweb_cors_proxy.server.http2_output import Output
    from dicomweb_cors_proxy.server.turns import Turns

# The window for the body of a request: at first, and at most. It doubles as the body is read. So
# an upload over a long way is fast, and one to a stalled archive fills no memory.
RECEIVE_WINDOW: Final = 65535
MAX_RECEIVE_WINDOW: Final = 512 * 1024

# Maximum size of a part of a body that is copied to others. Parts of a few bytes, each kept as an
# object of its own, would take twenty times the memory that the windows allow.
SMALL_PART_BYTES: Final = 1024

_STATUS_VALUES: Final = {status: b"%d" % status for status in range(100, 600)}
_SERVER_LINE: Final = (b"server", SERVER_NAME)


class ReceiveWindow(Protocol):
    """The window of a connection for the bodies of requests."""

    def give_back(self, count: int) -> None:
        """Let the client send as many bytes again, because they were read or dropped."""


class StreamOwner(Protocol):
    """The connection of a stream."""

    turns: Turns
    output: Output

    @property
    def window(self) -> ReceiveWindow: ...

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream before its response is complete."""

    def on_stream_sent(self, stream_id: int) -> None:
        """Go on after the last byte of a response was sent."""

    def relay_ended(self, stream: Stream, exchange: Exchange) -> None:
        """Note that the request is not relayed any more."""

    def run_application(self, stream: Stream, exchange: Exchange) -> None:
        """Run the application for a request that could not be relayed."""


class Stream:
    """One request and its response: the body's source, the response's sink.

    Attributes:
        id: identifies the stream on its connection.
        exchange: runs the application; None before it begins and after the stream is closed.
        more: True until the end of the request's body is read.
        response: the part of the response that waits.
        writable: set unless the application has to wait.
        has_whole_request: True once the end of the request has arrived.
        is_closed: True once neither side sends any more.
    """

    ends_with_connection = False  # END_STREAM ends each body
    is_laborious = False
    exchange: Exchange | None = None
    is_closed = False
    _lines: list[Header] | None = None  # the head, which waits for the first part of the body
    _is_head_only = False
    _remaining: int | None = None  # bytes of a response's Content-Length
    _unread_bytes = 0
    _read_bytes = 0  # since the window was last widened
    _receive_window = RECEIVE_WINDOW
    _receive_window_size = RECEIVE_WINDOW

    def __init__(
        self, connection: StreamOwner, stream_id: int, head: HTTP2Head, *, has_body: bool
    ) -> None:
        self.id = stream_id
        self.turns = connection.turns
        output = self._output = connection.output
        self.response = ResponseQueue(
            stream_id, head.urgency, output.initial_window, is_paused=output.is_paused
        )
        self.writable = self.response.writable
        self.more = has_body
        self.has_whole_request = not has_body
        self._connection = connection
        self._is_head_request = head.method == "HEAD"
        self._length = head.length  # bytes of the request's body that are still to come
        self._parts: list[bytes | bytearray] = []

    # The request's body

    def receive(self, data: bytes, flow_bytes: int, *, ends: bool) -> None:
        """Take a part of the body. Raise `StreamFault` if the client may not send it."""
        self._receive_window -= flow_bytes
        if self._length is not None:
            self._length -= len(data)
        if self._receive_window < 0 or (self._length is not None and self._length < 0):
            self._connection.window.give_back(flow_bytes)
            is_window = self._receive_window < 0
            raise StreamFault(
                self.id, ErrorCode.FLOW_CONTROL_ERROR if is_window else ErrorCode.PROTOCOL_ERROR
            )
        if flow_bytes > len(data):  # padding, which is not read
            self._give_back(flow_bytes - len(data))
        if data:
            self._keep(data)
        if ends:
            self.end_request()
        elif data:
            self._wake()

    def _keep(self, data: bytes) -> None:
        """Keep a part of the body, together with others if it is small."""
        self._unread_bytes += len(data)
        if len(data) >= SMALL_PART_BYTES:
            self._parts.append(data)
        elif self._parts and isinstance(last := self._parts[-1], bytearray):
            last += data
        else:
            self._parts.append(bytearray(data))

    def end_request(self) -> None:
        """Note the end of the request. Raise `StreamFault` if the body is too short."""
        if self._length:
            raise StreamFault(self.id, ErrorCode.PROTOCOL_ERROR)
        self.has_whole_request = True
        self._wake()

    def _wake(self) -> None:
        if self.exchange is not None:
            self.exchange.wake()

    @property
    def has_unread(self) -> bool:
        """Return whether bytes have arrived that are not used yet."""
        return bool(self._parts)

    def may_be_whole(self) -> bool:
        """Return whether the end of the body has arrived."""
        return self.has_whole_request

    def read(self) -> bytes:
        """Return the content that has arrived, and let the client send as much again."""
        content = b"".join(self._parts)
        self._parts.clear()
        self._unread_bytes = 0
        self.more = not self.has_whole_request
        self._give_back(len(content))
        return content

    def _give_back(self, count: int) -> None:
        self._connection.window.give_back(count)
        self._read_bytes += count
        size = self._receive_window_size
        if self.has_whole_request or self._read_bytes * 2 < size:
            return
        increment = self._read_bytes
        self._read_bytes = 0
        self._receive_window_size = min(2 * size, MAX_RECEIVE_WINDOW)
        increment += self._receive_window_size - size
        self._receive_window += increment
        self._output.frame(frames.window_update(self.id, increment))

    # The application's response

    def response_sent(self, _: Exchange) -> None:
        """Go on after the application has given the last byte of the response."""

    def relay_ended(self, exchange: Exchange) -> None:
        """Note that the request is not relayed any more."""
        self._connection.relay_ended(self, exchange)

    def run_application(self, exchange: Exchange) -> None:
        """Run the application for a request that could not be relayed."""
        self._connection.run_application(self, exchange)

    def regulate_reading(self) -> None:
        """Do nothing: `read` widens the window."""

    def cut(self, *, reset: bool) -> None:  # noqa: ARG002
        """End the response visibly incomplete."""
        self._connection.reset(self, ErrorCode.INTERNAL_ERROR)

    def write_continue(self) -> None:
        """Ask the client for the body of the request."""
        if not self.is_closed:
            self._output.head(self.id, [(b":status", b"100")], ends=False)

    def start(
        self,
        status: int,
        headers: Sequence[Header],
        *,
        keep_alive: bool,  # noqa: ARG002
        is_repeated: bool,  # noqa: ARG002
    ) -> bool:
        """Take the head of the response. The connection is kept alive."""
        known = dict(headers)
        if b"connection" in known:  # RFC 9113 §8.2.2
            headers = [header for header in headers if header[0] != b"connection"]
        lines = [(b":status", _STATUS_VALUES[status]), *headers]
        if b"server" not in known:
            lines.append(_SERVER_LINE)
        if b"date" not in known:
            lines.append((b"date", date_value()))
        self._lines = lines
        self._is_head_only = self._is_head_request or status in (204, 304)
        length = known.get(b"content-length")
        if self._is_head_only:
            self._remaining = 0
        elif length is not None:
            self._remaining = int(length)
        return True

    def flush_head(self) -> None:
        """Send the head, if it is still waiting for the body."""
        self._send_head(ends=False)

    def drop_head(self) -> None:
        """Forget a head that is still waiting for the body."""
        self._lines = None

    def _send_head(self, *, ends: bool) -> None:
        lines, self._lines = self._lines, None
        if lines is not None and not self.is_closed:
            self._output.head(self.id, lines, ends=ends)

    def write(self, body: bytes, *, more: bool) -> bool:
        """Send a part of the body; return False if its length does not fit the head."""
        if self.is_closed:
            return True
        if self._is_head_only:
            body = b""
        if self._remaining is not None:
            self._remaining -= len(body)
            if self._remaining < 0 or (self._remaining and not more):
                return False
        response = self.response
        response.is_complete = not more
        ends = response.is_complete and not body and self._lines is not None
        self._send_head(ends=ends)
        if ends or (
            response.is_complete
            and not response.waiting_bytes
            and self._output.send_whole(response, body)
        ):
            response.has_ended = True
            self._connection.on_stream_sent(self.id)
            return True
        if body:
            response.add(body)
        if body or not more:
            self._output.enqueue(response)
        return True

    def close(self) -> None:
        """Drop everything that waits: neither side sends any more."""
        self.is_closed = True
        self._connection.window.give_back(self._unread_bytes)
        self._unread_bytes = 0
        self._parts.clear()
        self.response.close()
        self._lines = None
        self.more = False
        # Break the reference cycle, which would keep both until a garbage collection.
        self.exchange = None
