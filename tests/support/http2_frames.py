"""Frames of HTTP/2 (RFC 9113) and header blocks (RFC 7541), made by hand.

Nothing is checked here, so that a test can also make malformed ones.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.support.sockets import ORIGIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    Line = tuple[bytes, bytes]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
FRAME_BYTES: Final = 16_384  # of a payload, unless SETTINGS_MAX_FRAME_SIZE says otherwise
WINDOW: Final = 65_535  # bytes, before SETTINGS and WINDOW_UPDATE
MAX_WINDOW: Final = 2**31 - 1

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITIZED: Final = 0x20


class Kind(IntEnum):
    """The type of a frame."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    UNKNOWN = 0xBE


class Code(IntEnum):
    """An error code."""

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
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(IntEnum):
    """The identifier of a setting."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Frame(NamedTuple):
    """A frame as it was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes


# Frames


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame; the highest bit of `stream` is the reserved one."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def data(stream: int, content: bytes = b"", *, end: bool = False) -> bytes:
    return frame(Kind.DATA, END_STREAM if end else 0, stream, content)


def headers(stream: int, block: bytes, *, end: bool = True, whole: bool = True) -> bytes:
    """Return a HEADERS frame. Unless it is `whole`, CONTINUATION has to follow."""
    flags = (END_STREAM if end else 0) | (END_HEADERS if whole else 0)
    return frame(Kind.HEADERS, flags, stream, block)


def continuation(stream: int, block: bytes = b"", *, whole: bool = True) -> bytes:
    return frame(Kind.CONTINUATION, END_HEADERS if whole else 0, stream, block)


def priority(stream: int, depends_on: int = 0, weight: int = 15) -> bytes:
    return frame(Kind.PRIORITY, 0, stream, depends_on.to_bytes(4, "big") + bytes((weight,)))


def rst_stream(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings(*pairs: tuple[int, int]) -> bytes:
    payload = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs)
    return frame(Kind.SETTINGS, 0, 0, payload)


def ping(content: bytes = b"01234567", flags: int = 0) -> bytes:
    return frame(Kind.PING, flags, 0, content)


def goaway(last: int = 0, code: int = Code.NO_ERROR, debug: bytes = b"") -> bytes:
    return frame(Kind.GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def window_update(stream: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


# Header blocks


def integer(value: int, bits: int, first: int = 0) -> bytes:
    """Return an integer with a prefix of so many bits (RFC 7541 §5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes((first | value,))
    encoded = bytearray((first | most,))
    value -= most
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def string(value: bytes) -> bytes:
    """Return a string literal that is not in the Huffman code."""
    return integer(len(value), 7) + value


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header line that enters no table."""
    return b"\x00" + string(name) + string(value)


def indexing(name: bytes, value: bytes) -> bytes:
    """Return a header line that enters the dynamic table."""
    return b"\x40" + string(name) + string(value)


def indexed(index: int) -> bytes:
    return integer(index, 7, 0x80)


def resize(size: int) -> bytes:
    """Return a change of the dynamic table's size."""
    return integer(size, 5, 0x20)


def block(lines: Iterable[Line]) -> bytes:
    return b"".join(literal(name, value) for name, value in lines)


def head(
    method: bytes = b"GET",
    path: bytes = b"/dicom-web/studies",
    *lines: Line,
    authority: bytes | None = b"proxy.example",
    scheme: bytes = b"http",
    origin: bytes | None = ORIGIN,
) -> list[Line]:
    """Return the lines of a request."""
    made = [(b":method", method), (b":scheme", scheme), (b":path", path)]
    if authority is not None:
        made.append((b":authority", authority))
    if origin is not None:
        made.append((b"origin", origin))
    return [*made, *lines]


def request(
    stream: int,
    method: bytes = b"GET",
    path: bytes = b"/dicom-web/studies",
    *lines: Line,
    end: bool = True,
) -> bytes:
    """Return the HEADERS frame of a well-formed request."""
    return headers(stream, block(head(method, path, *lines)), end=end)
