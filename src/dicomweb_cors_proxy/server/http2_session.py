"""The meaning of a client's HTTP/2 frames: for streams, windows and budgets (RFC 9113 §5, §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dicomweb_cors_proxy.server import http2_frames as frames
from dicomweb_cors_proxy.server.hpack import (
    DEFAULT_TABLE_BYTES,
    HeaderDecoder,
    HeaderListTooLarge,
    HPACKError,
)
from dicomweb_cors_proxy.server.http2_budget import (
    EARNED_PER_DATA_FRAME,
    frames_without_effect,
    streams_ended_early,
)
from dicomweb_cors_proxy.server.http2_frames import ConnectionFault, ErrorCode, StreamFault
from dicomweb_cors_proxy.server.http2_head import MalformedHead, are_trailers, urgency_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.server.http2_head import HTTP2Heads
    from dicomweb_cors_proxy.server.http2_output import Output
    from dicomweb_cors_proxy.server.http2_streams import Streams


class SessionOwner(Protocol):
    """The connection of a session."""

    def on_request(self) -> None:
        """Note that a request begins."""


class HTTP2Session:
    """A receiver of the frames of one client."""

    def __init__(  # noqa: PLR0913
        self,
        owner: SessionOwner,
        heads: HTTP2Heads,
        streams: Streams,
        output: Output,
        *,
        max_list_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._heads = heads
        self._streams = streams
        self._output = output
        self._decoder = HeaderDecoder(DEFAULT_TABLE_BYTES, max_list_bytes)
        self._idle_frames = frames_without_effect(clock)
        self._ended_early = streams_ended_early(clock)

    def end(self, code: ErrorCode, reason: str = "") -> None:
        """Send GOAWAY."""
        self._streams.is_ending = True
        self._output.frame(frames.goaway_frame(self._streams.last_id, code, reason))

    def on_data_sent(self, count: int) -> None:
        """Allow as many WINDOW_UPDATE frames as the DATA frames that were sent may need."""
        self._idle_frames.earn(EARNED_PER_DATA_FRAME * count)

    # FrameReceiver

    def on_headers(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        """Begin a request, or end one with trailers."""
        lines, is_oversized = self._decode(block)
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            if stream.has_whole_request:
                raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED)
            if not (ends and are_trailers(lines)):
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
            stream.end_request()  # trailers are dropped
            return
        if not self._streams.check_new(stream_id):
            return
        try:
            head = self._heads.read_oversized(lines) if is_oversized else self._heads.read(lines)
        except MalformedHead:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR) from None
        if ends and head.length:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        self._owner.on_request()
        self._streams.begin(stream_id, head, has_body=not ends)

    def _decode(self, block: bytes) -> tuple[list[Header], bool]:
        """Return the lines of a block, and whether most are left out because it is too large."""
        try:
            return self._decoder.decode(block), False
        except HeaderListTooLarge as error:
            return error.headers, True
        except HPACKError:
            raise ConnectionFault(
                ErrorCode.COMPRESSION_ERROR, "A header block is not valid."
            ) from None

    def on_data(self, stream_id: int, data: bytes, flow_bytes: int, *, ends: bool) -> None:
        """Take a part of a request's body."""
        window = self._streams.window
        window.take(flow_bytes)
        if not data and not ends:
            self._idle_frames.spend()
        stream = self._streams.open.get(stream_id)
        if stream is None:
            window.give_back(flow_bytes)
            self._streams.check_ended(stream_id)
        elif stream.has_whole_request:
            window.give_back(flow_bytes)
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED)
        else:
            stream.receive(data, flow_bytes, ends=ends)

    def on_reset(self, stream_id: int) -> None:
        """End a request that its client has cancelled."""
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self._ended_early.spend()
            self._streams.drop(stream, was_reset=False)
        else:
            self._idle_frames.spend()
            self._require_used(stream_id)

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        """Apply the client's settings."""
        self._idle_frames.spend()
        self._output.apply(settings, [stream.response for stream in self._streams.open.values()])

    def on_ping(self, data: bytes) -> None:
        """Answer a PING."""
        self._idle_frames.spend()
        self._output.frame(frames.frame(frames.PING, frames.ACK, 0, data))

    def on_window_update(self, stream_id: int, increment: int) -> None:
        """Widen a window for responses."""
        self._idle_frames.spend()
        if not stream_id:
            if not increment:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A WINDOW_UPDATE is of 0 bytes.")
            self._output.add_window(increment)
            return
        stream = self._streams.open.get(stream_id)
        if stream is None:
            self._require_used(stream_id)
        elif not increment:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR)
        else:
            self._output.add_stream_window(stream.response, increment)

    def on_priority_update(self, stream_id: int, value: bytes) -> None:
        """Give a response another place among others (RFC 9218 §7.1)."""
        self._idle_frames.spend()
        stream = self._streams.open.get(stream_id)
        if stream is not None:
            self._output.set_urgency(stream.response, urgency_of(value))

    def on_other(self) -> None:
        """Count a frame without effect."""
        self._idle_frames.spend()

    def on_stream_fault(self, fault: StreamFault) -> None:
        """Reset a stream because of an error of the client."""
        if self._streams.is_idle(fault.stream_id):  # RFC 9113 §5.1: nothing else may be sent
            raise ConnectionFault(fault.code, "A frame is in error.")
        self._ended_early.spend()
        self._streams.refuse(fault.stream_id, fault.code)

    def _require_used(self, stream_id: int) -> None:
        if self._streams.is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "A frame is for an idle stream.")
