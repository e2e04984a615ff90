"""The streams of one HTTP/2 connection: which are open, which run, and which have ended."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, Protocol

from dicomweb_cors_proxy.http.extensions import HAS_BODY, REJECTION
from dicomweb_cors_proxy.server import http2_frames as frames
from dicomweb_cors_proxy.server.exchange import Exchange
from dicomweb_cors_proxy.server.http2_frames import ConnectionFault, ErrorCode, StreamFault
from dicomweb_cors_proxy.server.http2_output import INITIAL_WINDOW
from dicomweb_cors_proxy.server.http2_stream import Stream
from dicomweb_cors_proxy.server.request_reader import Request

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope

    from dicomweb_cors_proxy.server.http2_head import HTTP2Head
    from dicomweb_cors_proxy.server.http2_output import Output
    from dicomweb_cors_proxy.server.turns import Turns

# Streams that a client may have open. RFC 9113 §6.5.2 recommends 100 at least. Browsers wait for
# one to end before they open another, and each preflight takes one. So a series of 300 frames is
# complete several round trips earlier with 256 than with 100.
MAX_STREAMS: Final = 256

# Bytes of bodies that a client may send before any is read, on all streams together. Each stream
# has a window of its own, so an upload that stalls holds up the others only if many do.
RECEIVE_WINDOW: Final = 4 * 1024 * 1024

# Streams that ended last. Frames for them may still be on their way.
MAX_ENDED: Final = 200


class StreamsOwner(Protocol):
    """The connection of the streams.

    Attributes:
        turns: the queue for further pieces of a body in tiny chunks.
        running_streams: maximum number of requests that run at a time.
    """

    turns: Turns
    running_streams: int

    def request_scope(self, request: Request) -> Scope:
        """Return the ASGI scope of a request."""

    def reply_at_once(self, exchange: Exchange) -> bool:
        """Send the reply to a preflight. Return whether there is one."""

    def begin_relay(self, exchange: Exchange) -> bool:
        """Have the application relay the request, if it can. Return whether it does."""

    def relay_ended(self, exchange: Exchange) -> None:
        """Note that the request is not relayed any more."""

    def run(self, exchange: Exchange) -> asyncio.Task[None]:
        """Run the application."""

    def on_last_stream_ended(self) -> None:
        """Go on without any open stream."""


class ReceiveWindow:
    """The window of a connection for the bodies of requests (RFC 9113 §5.2)."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._window = INITIAL_WINDOW
        self._read_bytes = RECEIVE_WINDOW - INITIAL_WINDOW  # since it was last widened
        self.give_back(0)

    def take(self, count: int) -> None:
        """Count bytes that arrived. Raise `ConnectionFault` if the client may not send them."""
        self._window -= count
        if self._window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "The client exceeds the window.")

    def give_back(self, count: int) -> None:
        """Let the client send as many bytes again, because they were read or dropped."""
        self._read_bytes += count
        if self._read_bytes * 4 >= RECEIVE_WINDOW:
            self._window += self._read_bytes
            self._output.frame(frames.window_update(0, self._read_bytes))
            self._read_bytes = 0


class Streams:
    """The streams of one connection.

    Attributes:
        open: those that have not ended, by their ids.
        last_id: the highest id of a request that is served.
        is_ending: True once GOAWAY is sent: later requests are ignored, and the client repeats
            them on another connection (RFC 9113 §6.8).
    """

    def __init__(self, owner: StreamsOwner, output: Output) -> None:
        self._owner = owner
        self.turns = owner.turns
        self.output = output
        self.window = ReceiveWindow(output)
        self.open: dict[int, Stream] = {}
        self.last_id = 0
        self.is_ending = False
        # True if we reset the stream, so that the client may not know yet that it has ended.
        self._ended: dict[int, bool] = {}
        # Requests that run, until their responses are sent, and those that wait for them: urgency,
        # id.
        self._running = 0
        self._unsent: set[int] = set()  # of those that run: only their sending is not finished
        self._waiting: list[tuple[int, int]] = []

    def close(self) -> None:
        """End all streams, and break the reference cycle."""
        self.drop_all()
        del self._owner

    def is_idle(self, stream_id: int) -> bool:
        """Return whether the client has not used the id yet (RFC 9113 §5.1)."""
        if not stream_id % 2:
            return True
        return stream_id > self.last_id and not self.is_ending

    def check_ended(self, stream_id: int) -> None:
        """Accept a frame that was on its way when its stream ended.

        Raises:
            ConnectionFault: The stream was never used, or the client has ended it itself.
        """
        if self.is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A frame is for an idle stream.")
        if self._ended.get(stream_id) is False:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "A frame is for a stream that ended.")

    def check_new(self, stream_id: int) -> bool:
        """Return whether a HEADERS frame opens a stream. Others are ignored.

        Raises:
            ConnectionFault: The client may not use this id (RFC 9113 §5.1.1).
            StreamFault: Too many streams are open.
        """
        if not stream_id % 2:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A stream of a client has an odd id.")
        if self.is_ending and stream_id > self.last_id:
            return False
        if stream_id <= self.last_id:
            self.check_ended(stream_id)
            if stream_id not in self._ended:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "The id of a stream is too low.")
            return False
        self.last_id = stream_id
        if len(self.open) >= MAX_STREAMS:
            raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM)
        return True

    def begin(self, stream_id: int, head: HTTP2Head, *, has_body: bool) -> None:
        """Run the application for a request, or let the request wait for others."""
        stream = Stream(self, stream_id, head, has_body=has_body)
        self.open[stream_id] = stream
        scope = self._owner.request_scope(
            Request(
                head.method,
                "2",
                # The application must find no resource for a request that is rejected.
                head.target if head.problem is None else b"/",
                head.headers,
                keep_alive=True,
                expects_continue=head.expects_continue,
            )
        )
        if has_body:
            scope["extensions"][HAS_BODY] = {}
        if head.problem is not None:
            scope["extensions"][REJECTION] = head.problem
        exchange = stream.exchange = Exchange(
            stream,
            stream,
            stream,
            scope,
            keep_alive=True,
            expects_continue=head.expects_continue and has_body,
        )
        if self._owner.reply_at_once(exchange):
            return
        exchange.offer_push()
        if self._running < self._owner.running_streams:
            self._start(stream_id, exchange)
        else:
            self._drop_cancelled()
            heapq.heappush(self._waiting, (head.urgency, stream_id))

    def _drop_cancelled(self) -> None:
        """Drop waiting requests that were cancelled, once there are many."""
        if len(self._waiting) >= 2 * MAX_STREAMS:
            self._waiting = [entry for entry in self._waiting if entry[1] in self.open]
            heapq.heapify(self._waiting)

    def _start(self, stream_id: int, exchange: Exchange) -> None:
        self._running += 1
        if not self._owner.begin_relay(exchange):
            self._run(stream_id, exchange)

    def _run(self, stream_id: int, exchange: Exchange) -> None:
        task = self._owner.run(exchange)
        task.add_done_callback(lambda _: self._on_request_done(stream_id))

    def relay_ended(self, stream: Stream, exchange: Exchange) -> None:
        """Note that the request is not relayed any more: its response is complete, or cut."""
        self._owner.relay_ended(exchange)
        self._on_request_done(stream.id)

    def run_application(self, stream: Stream, exchange: Exchange) -> None:
        """Run the application for a request that could not be relayed."""
        self._owner.relay_ended(exchange)
        self._run(stream.id, exchange)

    def _on_request_done(self, stream_id: int) -> None:
        if stream_id in self.open:
            self._unsent.add(stream_id)
        else:
            self._start_waiting()

    def _start_waiting(self) -> None:
        """Start other requests in the place of one that has ended."""
        self._running -= 1
        while self._waiting and self._running < self._owner.running_streams:
            stream_id = heapq.heappop(self._waiting)[1]
            stream = self.open.get(stream_id)
            if stream is not None and stream.exchange is not None:  # it may be cancelled
                self._start(stream_id, stream.exchange)

    def refuse_waiting(self) -> None:
        """Reset the streams whose requests have not begun.

        The client may send these requests again (RFC 9113 §8.7).
        """
        waiting, self._waiting = self._waiting, []
        for _, stream_id in waiting:
            if (stream := self.open.get(stream_id)) is not None:
                self.reset(stream, ErrorCode.REFUSED_STREAM)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream before its response is complete."""
        if not stream.is_closed:
            self.output.frame(frames.reset_frame(stream.id, code))
            self.drop(stream, was_reset=True)

    def refuse(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream because of an error of the client, whether it is open or not."""
        stream = self.open.get(stream_id)
        if stream is not None:
            self.reset(stream, code)
        else:
            self._note_ended(stream_id, was_reset=True)
            self.output.frame(frames.reset_frame(stream_id, code))

    def on_stream_sent(self, stream_id: int) -> None:
        """Go on after the last byte of a response was sent."""
        stream = self.open[stream_id]
        # RFC 9113 §8.1: the client may stop sending a body that is not going to be read.
        if not stream.has_whole_request:
            self.output.frame(frames.reset_frame(stream.id, ErrorCode.NO_ERROR))
        self._forget(stream, was_reset=not stream.has_whole_request)

    def drop(self, stream: Stream, *, was_reset: bool) -> None:
        """End a stream, and with it the application's work for it."""
        exchange = stream.exchange
        self._forget(stream, was_reset=was_reset)
        if exchange is not None:
            exchange.client_disconnected()

    def drop_all(self) -> None:
        """End all streams without a word to the client."""
        self._waiting.clear()
        for stream in list(self.open.values()):
            self.drop(stream, was_reset=True)

    def _forget(self, stream: Stream, *, was_reset: bool) -> None:
        self.open.pop(stream.id, None)
        self._note_ended(stream.id, was_reset=was_reset)
        stream.close()
        if stream.id in self._unsent:
            self._unsent.remove(stream.id)
            self._start_waiting()
        if not self.open:
            self._owner.on_last_stream_ended()

    def _note_ended(self, stream_id: int, *, was_reset: bool) -> None:
        if len(self._ended) >= MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[stream_id] = was_reset
