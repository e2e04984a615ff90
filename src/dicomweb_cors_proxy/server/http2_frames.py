"""The frames of HTTP/2 (RFC 9113 §4 and §6): read from bytes, and written, without I/O."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, Protocol

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# The largest payload of a frame that we accept. It is the initial SETTINGS_MAX_FRAME_SIZE.
MAX_FRAME_BYTES: Final = 16 * 1024

# CONTINUATION frames of one header block. Full frames of the largest block need 20.
MAX_CONTINUATIONS: Final = 32

MAX_WINDOW: Final = 2**31 - 1

# Frame types. PRIORITY_UPDATE is RFC 9218 §7.1.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9
PRIORITY_UPDATE: Final = 16

# Flags.
ACK: Final = 0x01
END_STREAM: Final = 0x01
END_HEADERS: Final = 0x04
PADDED: Final = 0x08
WITH_PRIORITY: Final = 0x20

HEAD_BYTES: Final = 9
_HEAD: Final = struct.Struct(">BHBBL")
_UINT32: Final = struct.Struct(">L")
_TWO_UINT32: Final = struct.Struct(">LL")
_SETTING: Final = struct.Struct(">HL")


class ErrorCode(IntEnum):
    """The codes of RST_STREAM and GOAWAY (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """The settings that we send or read (RFC 9113 §6.5.2, RFC 9218 §2.1)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    NO_RFC7540_PRIORITIES = 9


class ConnectionFault(Exception):  # noqa: N818  (the RFC's term is an error *of* a connection)
    """An error after which the connection cannot go on (RFC 9113 §5.4.1).

    `reason` is sent with GOAWAY. It holds nothing of a request.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class StreamFault(Exception):  # noqa: N818
    """An error that ends one stream (RFC 9113 §5.4.2)."""

    def __init__(self, stream_id: int, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.stream_id = stream_id
        self.code = code


class FrameReceiver(Protocol):
    """The callbacks of a `FrameReader`. They may raise `ConnectionFault` and `StreamFault`."""

    def on_headers(self, stream_id: int, block: bytes, *, ends: bool) -> None:
        """Take a complete header block. With `ends` it ends the stream."""

    def on_data(self, stream_id: int, data: bytes, flow_bytes: int, *, ends: bool) -> None:
        """Take a part of a body. It counts as `flow_bytes`, padding included."""

    def on_reset(self, stream_id: int) -> None:
        """Take the client's end of a stream."""

    def on_settings(self, settings: list[tuple[int, int]]) -> None:
        """Take the client's settings, in their order."""

    def on_ping(self, data: bytes) -> None:
        """Take a PING to be acknowledged."""

    def on_window_update(self, stream_id: int, increment: int) -> None:
        """Take bytes of a window, of the connection if `stream_id` is 0."""

    def on_priority_update(self, stream_id: int, value: bytes) -> None:
        """Take a new priority of a stream (RFC 9218 §7.1)."""

    def on_other(self) -> None:
        """Count a frame without effect."""

    def on_stream_fault(self, fault: StreamFault) -> None:
        """End a stream on which a frame was in error."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return frame_head(len(payload), kind, flags, stream_id) + payload


def frame_head(size: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the head of a frame with a payload of `size` bytes."""
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream_id)


def settings_frame(settings: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in settings.items()))


def window_update(stream_id: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, _UINT32.pack(increment))


def reset_frame(stream_id: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream_id, _UINT32.pack(code))


def goaway_frame(last_stream_id: int, code: ErrorCode, reason: str = "") -> bytes:
    """Return a GOAWAY frame."""
    return frame(GOAWAY, 0, 0, _TWO_UINT32.pack(last_stream_id, code) + reason.encode("ascii"))


def header_frames(stream_id: int, block: bytes, max_bytes: int, *, ends: bool) -> bytes:
    """Return the HEADERS frame of a block, and the CONTINUATION frames behind it."""
    flags = END_STREAM if ends else 0
    if len(block) <= max_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    frames = [frame(HEADERS, flags, stream_id, block[:max_bytes])]
    for at in range(max_bytes, len(block), max_bytes):
        last = END_HEADERS if at + max_bytes >= len(block) else 0
        frames.append(frame(CONTINUATION, last, stream_id, block[at : at + max_bytes]))
    return b"".join(frames)


class FrameReader:
    """A reader of the frames of one client, after its preface.

    Args:
        receiver: is called with each frame that is valid by itself. Whether it is allowed in the
            state of its stream is for the receiver to check.
        max_block_bytes: maximum size of a header block, encoded.

    Attributes:
        blocks: number of header blocks that were complete.
    """

    def __init__(self, receiver: FrameReceiver, max_block_bytes: int) -> None:
        self._receiver = receiver
        self._max_block_bytes = max_block_bytes
        self._data = b""
        self._at = 0
        self._has_settings = False
        self.blocks = 0
        # The header block that is incomplete.
        self._block: list[bytes] = []
        self._block_stream = 0
        self._block_bytes = 0
        self._block_ends = False

    def add(self, data: bytes) -> None:
        """Append bytes that have just arrived."""
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def close(self) -> None:
        """Drop the input, and break the reference cycle."""
        self._data = b""
        del self._receiver

    @property
    def is_in_block(self) -> bool:
        """Return whether a header block is incomplete."""
        if self._block:
            return True
        data, at = self._data, self._at
        return len(data) > at + 3 and data[at + 3] == HEADERS

    def read(self, limit: int) -> bool:
        """Read up to `limit` frames. Return whether there may be more.

        Raises:
            ConnectionFault: A frame is in error. Do not read on.
        """
        data = self._data
        for _ in range(limit):
            at = self._at
            if len(data) - at < HEAD_BYTES:
                return False
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, at)
            if high or low > MAX_FRAME_BYTES:
                if high << 16 | low > MAX_FRAME_BYTES:
                    raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "A frame is too large.")
                low |= high << 16
            at += HEAD_BYTES
            end = at + low
            if end > len(data):
                return False
            self._at = end
            try:
                self._read_frame(kind, flags, stream_id & 0x7FFFFFFF, data[at:end])
            except StreamFault as fault:
                self._receiver.on_stream_fault(fault)
        return True

    def _read_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block and (kind != CONTINUATION or stream_id != self._block_stream):
            raise _protocol_error("A header block is interrupted.")
        if not self._has_settings:
            if kind != SETTINGS or flags & ACK:
                raise _protocol_error("The first frame is not SETTINGS.")
            self._has_settings = True
        match kind:
            case 1:  # HEADERS
                self._read_headers(flags, stream_id, payload)
            case 0:  # DATA
                _require_stream(stream_id)
                content = _unpadded(payload) if flags & PADDED else payload
                ends = bool(flags & END_STREAM)
                self._receiver.on_data(stream_id, content, len(payload), ends=ends)
            case 8:  # WINDOW_UPDATE
                _require_size(payload, 4)
                (increment,) = _UINT32.unpack(payload)
                self._receiver.on_window_update(stream_id, increment & MAX_WINDOW)
            case 9:  # CONTINUATION
                if not self._block:
                    raise _protocol_error("CONTINUATION without HEADERS.")
                self._add_to_block(flags, payload)
            case _:
                self._read_rare_frame(kind, flags, stream_id, payload)

    def _read_rare_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        match kind:
            case 3:  # RST_STREAM
                _require_stream(stream_id)
                _require_size(payload, 4)
                self._receiver.on_reset(stream_id)
            case 5:  # PUSH_PROMISE
                raise _protocol_error("A client cannot push.")
            case 2:  # PRIORITY
                _require_stream(stream_id)
                if len(payload) != 5:
                    raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR)
                self._receiver.on_other()
            case 4 | 6 | 7 | 16:  # SETTINGS, PING, GOAWAY, PRIORITY_UPDATE
                _require_connection(stream_id)
                self._read_connection_frame(kind, flags, payload)
            case _:  # RFC 9113 §4.1: unknown types are ignored.
                self._receiver.on_other()

    def _read_connection_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == SETTINGS:
            if flags & ACK:
                _require_size(payload, 0)
                self._receiver.on_other()
            elif len(payload) % _SETTING.size:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS has a wrong size.")
            else:
                self._receiver.on_settings(list(_SETTING.iter_unpack(payload)))
        elif kind == PING:
            _require_size(payload, 8)
            if flags & ACK:
                self._receiver.on_other()
            else:
                self._receiver.on_ping(payload)
        elif kind == GOAWAY:
            if len(payload) < _TWO_UINT32.size:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short.")
            self._receiver.on_other()
        else:
            if len(payload) < _UINT32.size:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY_UPDATE is too short.")
            (stream_id,) = _UINT32.unpack_from(payload)
            stream_id &= MAX_WINDOW
            _require_stream(stream_id)
            self._receiver.on_priority_update(stream_id, payload[_UINT32.size :])

    def _read_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        _require_stream(stream_id)
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & WITH_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short.")
            payload = payload[5:]
        ends = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            self.blocks += 1
            self._receiver.on_headers(stream_id, payload, ends=ends)
            return
        self._block_stream = stream_id
        self._block_bytes = 0
        self._block_ends = ends
        self._add_to_block(flags, payload)

    def _add_to_block(self, flags: int, payload: bytes) -> None:
        self._block.append(payload)
        self._block_bytes += len(payload)
        if self._block_bytes > self._max_block_bytes or len(self._block) > MAX_CONTINUATIONS:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "A header block is too large.")
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), []
            self.blocks += 1
            self._receiver.on_headers(self._block_stream, block, ends=self._block_ends)


def _protocol_error(reason: str) -> ConnectionFault:
    return ConnectionFault(ErrorCode.PROTOCOL_ERROR, reason)


def _require_stream(stream_id: int) -> None:
    if not stream_id:
        raise _protocol_error("A frame names no stream, but must.")


def _require_connection(stream_id: int) -> None:
    if stream_id:
        raise _protocol_error("A frame names a stream, but must not.")


def _require_size(payload: bytes, size: int) -> None:
    if len(payload) != size:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "A frame has a wrong size.")


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise _protocol_error("A frame has more padding than bytes.")
    return payload[1 : len(payload) - payload[0]]
