"""RFC 9113 and RFC 7541, section by section: what a client sends, and what `serve` makes of it.

One file, because it is one table. The sections are those of h2spec. Each row holds in nginx, Caddy
or nghttpx too, except those on a fragment and on user information, which none of them rejects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
import pytest_asyncio

from tests.support.attacks import Front, standing
from tests.support.http2 import Client, bare, connected, name_of
from tests.support.http2_archive import HOLD, STUDIES, Script
from tests.support.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    MAX_WINDOW,
    PADDED,
    PREFACE,
    PRIORITIZED,
    Code,
    Kind,
    Setting,
    block,
    continuation,
    data,
    frame,
    goaway,
    head,
    headers,
    indexed,
    indexing,
    integer,
    literal,
    ping,
    priority,
    request,
    resize,
    rst_stream,
    settings,
    string,
    window_update,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.http2_frames import Line

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESPONSE: Final = "the response on stream 1"  # a step that waits for it

# Rejections of a malformed request (RFC 9113 §8.1.1): a stream error, or a response before it.
MALFORMED: Final = ("reset PROTOCOL_ERROR", "400")
OPEN: Final = ("open",)
SERVED: Final = ("200",)
PROTOCOL: Final = ("goaway PROTOCOL_ERROR",)
SIZE: Final = ("goaway FRAME_SIZE_ERROR",)
FLOW: Final = ("goaway FLOW_CONTROL_ERROR",)
COMPRESSION: Final = ("goaway COMPRESSION_ERROR",)
CLOSED: Final = ("reset STREAM_CLOSED", "goaway STREAM_CLOSED")
REFUSED_PRIORITY: Final = ("open", "reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR")


class Row(NamedTuple):
    """What is sent, and which outcomes are right.

    Attributes:
        steps: bytes to send, each a frame; `RESPONSE` waits.
        accepted: `goaway CODE`, `reset CODE` of stream 1, its status, or `open`: the connection
            lives and nothing happened on the stream.
    """

    steps: tuple[bytes | str, ...]
    accepted: tuple[str, ...]


def row(*steps: bytes | str, accepted: tuple[str, ...]) -> Row:
    return Row(steps, accepted)


GET: Final = request(1)
HELD: Final = request(1, path=HOLD)
UPLOAD: Final = request(1, b"POST", STUDIES, end=False)
LINES: Final = head()
BLOCK: Final = block(LINES)


def asking(lines: list[Line]) -> Row:
    """Return a malformed request with these lines."""
    return row(headers(1, block(lines)), accepted=MALFORMED)


def having(*lines: Line, accepted: tuple[str, ...] = MALFORMED) -> Row:
    """Return a request with further lines."""
    return row(headers(1, block(head(b"GET", STUDIES, *lines))), accepted=accepted)


def without(name: bytes) -> list[Line]:
    return [line for line in LINES if line[0] != name]


def replacing(name: bytes, value: bytes) -> list[Line]:
    return [(key, value if key == name else old) for key, old in LINES]


def compressed(encoded: bytes, accepted: tuple[str, ...] = COMPRESSION) -> Row:
    """Return a request with further bytes in its header block."""
    return row(headers(1, BLOCK + encoded), accepted=accepted)


FRAMING = {
    "4.1 a frame of an unknown type": row(
        frame(Kind.UNKNOWN, 0xFF, 0, b"x" * 8), GET, accepted=SERVED
    ),
    "4.1 a frame of an unknown type on a stream": row(
        HELD, frame(Kind.UNKNOWN, 0, 1, b"x"), accepted=OPEN
    ),
    "4.1 undefined flags": row(frame(Kind.PING, 0xFE, 0, b"\x00" * 8), GET, accepted=SERVED),
    "4.1 undefined flags of HEADERS": row(
        frame(Kind.HEADERS, 0xD2 & ~PRIORITIZED | 0x5, 1, BLOCK), accepted=SERVED
    ),
    "4.1 the reserved bit": row(frame(Kind.HEADERS, 0x5, 1 << 31 | 1, BLOCK), accepted=SERVED),
    "4.1 the reserved bit of stream 0": row(
        frame(Kind.PING, 0, 1 << 31, b"\x00" * 8), GET, accepted=SERVED
    ),
    "4.2 DATA of the maximum size": row(
        UPLOAD, data(1, b"x" * FRAME_BYTES, end=True), accepted=SERVED
    ),
    "4.2 DATA beyond the maximum size": row(
        UPLOAD,
        data(1, b"x" * (FRAME_BYTES + 1), end=True),
        accepted=("reset FRAME_SIZE_ERROR", "goaway FRAME_SIZE_ERROR"),
    ),
    "4.2 HEADERS beyond the maximum size": row(
        headers(1, BLOCK + literal(b"x", b"y" * FRAME_BYTES)), accepted=SIZE
    ),
    "4.2 an unknown frame beyond the maximum size": row(
        frame(Kind.UNKNOWN, 0, 0, b"x" * (FRAME_BYTES + 1)), accepted=SIZE
    ),
    "4.2 the largest length": row(
        frame(Kind.DATA, 0, 1, b"x" * (2**24 - 1))[: FRAME_BYTES * 2],
        accepted=(*PROTOCOL, *SIZE),
    ),
    "4.3 an invalid header block": row(headers(1, b"\xff" * 4), accepted=COMPRESSION),
    "4.3 PRIORITY within a header block": row(
        headers(1, BLOCK, whole=False), priority(1), continuation(1), accepted=PROTOCOL
    ),
    "4.3 HEADERS within the header block of another stream": row(
        headers(1, BLOCK, whole=False), request(3), accepted=PROTOCOL
    ),
    "4.3 a header block in pieces": row(
        headers(1, BLOCK[:1], whole=False),
        continuation(1, BLOCK[1:10], whole=False),
        continuation(1, BLOCK[10:11], whole=False),
        continuation(1, BLOCK[11:], whole=False),
        continuation(1),
        accepted=SERVED,
    ),
}

STREAMS = {
    "5.1 idle: DATA": row(data(1, b"x", end=True), accepted=PROTOCOL),
    "5.1 idle: RST_STREAM": row(rst_stream(1), accepted=PROTOCOL),
    "5.1 idle: WINDOW_UPDATE": row(window_update(1, 100), accepted=PROTOCOL),
    "5.1 idle: CONTINUATION": row(continuation(1, BLOCK), accepted=PROTOCOL),
    "5.1 idle: PRIORITY": row(priority(1), GET, accepted=SERVED),
    "5.1 half-closed: DATA": row(HELD, data(1, b"x", end=True), accepted=CLOSED),
    "5.1 half-closed: HEADERS": row(HELD, request(1), accepted=CLOSED),
    "5.1 half-closed: CONTINUATION": row(
        HELD, continuation(1, BLOCK), accepted=(*CLOSED, *PROTOCOL)
    ),
    "5.1 half-closed: WINDOW_UPDATE": row(HELD, window_update(1, 100), accepted=OPEN),
    "5.1 half-closed: PRIORITY": row(HELD, priority(1), accepted=OPEN),
    "5.1 half-closed: RST_STREAM": row(HELD, rst_stream(1), accepted=OPEN),
    "5.1 closed: DATA": row(GET, RESPONSE, data(1, b"x"), accepted=(*CLOSED, *SERVED)),
    "5.1 closed: HEADERS": row(GET, RESPONSE, request(1), accepted=(*CLOSED, *PROTOCOL, *SERVED)),
    "5.1 closed: CONTINUATION": row(
        GET, RESPONSE, continuation(1, BLOCK), accepted=(*CLOSED, *PROTOCOL)
    ),
    "5.1 closed: PRIORITY": row(GET, RESPONSE, priority(1), accepted=SERVED),
    "5.1 closed: WINDOW_UPDATE": row(GET, RESPONSE, window_update(1, 1), accepted=SERVED),
    "5.1 closed: RST_STREAM": row(GET, RESPONSE, rst_stream(1), accepted=SERVED),
    "5.1 reset by the client: DATA": row(
        UPLOAD, rst_stream(1), data(1, b"x"), accepted=(*CLOSED, *OPEN)
    ),
    "5.1 reset by the client: HEADERS": row(
        HELD, rst_stream(1), request(1), accepted=(*CLOSED, *PROTOCOL, *OPEN)
    ),
    "5.1 reset by the client: RST_STREAM": row(
        HELD, rst_stream(1), rst_stream(1), accepted=(*CLOSED, *OPEN)
    ),
    "5.1 reset by the client: WINDOW_UPDATE": row(
        HELD, rst_stream(1), window_update(1, 1), accepted=(*CLOSED, *OPEN)
    ),
    "5.1.1 an even stream": row(request(2), accepted=PROTOCOL),
    "5.1.1 a lower stream": row(request(5), request(3), accepted=(*PROTOCOL, *CLOSED)),
    "5.1.1 a stream far ahead": row(request(2**31 - 1), GET, accepted=(*PROTOCOL, *CLOSED)),
    "5.3 PRIORITY on the stream itself": row(HELD, priority(1, 1), accepted=REFUSED_PRIORITY),
    "5.3 HEADERS that depend on their own stream": row(
        frame(Kind.HEADERS, 0x25, 1, (1).to_bytes(4, "big") + b"\x0f" + BLOCK),
        accepted=(*SERVED, *MALFORMED, *PROTOCOL),
    ),
    "5.4.2 RST_STREAM is not an answer to RST_STREAM": row(
        UPLOAD, rst_stream(1, Code.PROTOCOL_ERROR), accepted=OPEN
    ),
    "5.5 an unknown frame within a header block": row(
        headers(1, BLOCK, whole=False),
        frame(Kind.UNKNOWN, 0, 0, b"x"),
        continuation(1),
        accepted=PROTOCOL,
    ),
    "5.5 an unknown setting": row(settings((0xFF, 1)), GET, accepted=SERVED),
}


def padded(kind: int, flags: int, content: bytes, padding: int) -> bytes:
    """Return a frame on stream 1 that claims so much padding and has 4 bytes of it."""
    return frame(kind, flags | PADDED, 1, bytes((padding,)) + content + bytes(4))


FRAMES = {
    "6.1 DATA on stream 0": row(data(0, b"x"), accepted=PROTOCOL),
    "6.1 padded DATA": row(UPLOAD, padded(Kind.DATA, END_STREAM, b"content", 4), accepted=SERVED),
    "6.1 DATA of padding alone": row(
        UPLOAD, padded(Kind.DATA, END_STREAM, b"", 4), accepted=SERVED
    ),
    "6.1 padding as long as the payload": row(
        UPLOAD, padded(Kind.DATA, END_STREAM, b"", 5), accepted=PROTOCOL
    ),
    "6.1 padding beyond the payload": row(
        UPLOAD, padded(Kind.DATA, END_STREAM, b"x", 99), accepted=PROTOCOL
    ),
    "6.1 PADDED without a length": row(
        UPLOAD, frame(Kind.DATA, PADDED | END_STREAM, 1), accepted=(*PROTOCOL, *SIZE)
    ),
    "6.2 HEADERS on stream 0": row(headers(0, BLOCK), accepted=PROTOCOL),
    "6.2 padded HEADERS": row(padded(Kind.HEADERS, 0x5, BLOCK, 4), accepted=SERVED),
    "6.2 padding beyond the payload": row(padded(Kind.HEADERS, 0x5, BLOCK, 255), accepted=PROTOCOL),
    "6.2 PADDED without a length": row(
        frame(Kind.HEADERS, 0x5 | PADDED, 1), accepted=(*PROTOCOL, *SIZE)
    ),
    "6.2 HEADERS with a priority": row(
        frame(Kind.HEADERS, 0x25, 1, bytes(4) + b"\xff" + BLOCK), accepted=SERVED
    ),
    "6.2 padded HEADERS with a priority": row(
        padded(Kind.HEADERS, 0x25, bytes(4) + b"\xff" + BLOCK, 4), accepted=SERVED
    ),
    "6.2 HEADERS too short for their priority": row(
        frame(Kind.HEADERS, 0x25, 1, bytes(3)), accepted=(*PROTOCOL, *SIZE)
    ),
    "6.2 padding into the priority": row(
        padded(Kind.HEADERS, 0x25, bytes(4), 5), accepted=(*PROTOCOL, *SIZE)
    ),
    "6.2 DATA within a header block": row(
        headers(1, BLOCK, whole=False), data(1, b"x"), accepted=PROTOCOL
    ),
    "6.2 PING within a header block": row(
        headers(1, BLOCK, whole=False), ping(), accepted=PROTOCOL
    ),
    "6.2 SETTINGS within a header block": row(
        headers(1, BLOCK, whole=False), settings(), accepted=PROTOCOL
    ),
    "6.3 PRIORITY on stream 0": row(priority(0), accepted=PROTOCOL),
    "6.3 PRIORITY of 4 bytes": row(
        HELD,
        frame(Kind.PRIORITY, 0, 1, bytes(4)),
        accepted=("reset FRAME_SIZE_ERROR", "goaway FRAME_SIZE_ERROR"),
    ),
    "6.3 PRIORITY of 4 bytes on an idle stream": row(
        frame(Kind.PRIORITY, 0, 1, bytes(4)),
        accepted=("reset FRAME_SIZE_ERROR", "goaway FRAME_SIZE_ERROR"),
    ),
    "6.4 RST_STREAM on stream 0": row(rst_stream(0), accepted=PROTOCOL),
    "6.4 RST_STREAM of 3 bytes": row(HELD, frame(Kind.RST_STREAM, 0, 1, bytes(3)), accepted=SIZE),
    "6.5 an acknowledgement with a payload": row(
        frame(Kind.SETTINGS, ACK, 0, b"\x00\x01" + bytes(4)), accepted=SIZE
    ),
    "6.5 an acknowledgement of nothing": row(
        frame(Kind.SETTINGS, ACK, 0), GET, accepted=(*SERVED, *PROTOCOL)
    ),
    "6.5 SETTINGS on a stream": row(frame(Kind.SETTINGS, 0, 1), accepted=PROTOCOL),
    "6.5 SETTINGS of 5 bytes": row(frame(Kind.SETTINGS, 0, 0, bytes(5)), accepted=SIZE),
    "6.5.2 ENABLE_PUSH 2": row(settings((Setting.ENABLE_PUSH, 2)), accepted=PROTOCOL),
    "6.5.2 ENABLE_PUSH 0": row(settings((Setting.ENABLE_PUSH, 0)), GET, accepted=SERVED),
    "6.5.2 INITIAL_WINDOW_SIZE beyond the maximum": row(
        settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW + 1)), accepted=FLOW
    ),
    "6.5.2 INITIAL_WINDOW_SIZE at the maximum": row(
        settings((Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW)), GET, accepted=SERVED
    ),
    "6.5.2 MAX_FRAME_SIZE too small": row(
        settings((Setting.MAX_FRAME_SIZE, 2**14 - 1)), accepted=PROTOCOL
    ),
    "6.5.2 MAX_FRAME_SIZE too large": row(
        settings((Setting.MAX_FRAME_SIZE, 2**24)), accepted=PROTOCOL
    ),
    "6.5.2 MAX_FRAME_SIZE at the maximum": row(
        settings((Setting.MAX_FRAME_SIZE, 2**24 - 1)), GET, accepted=SERVED
    ),
    "6.5.2 HEADER_TABLE_SIZE 0": row(
        settings((Setting.HEADER_TABLE_SIZE, 0)), GET, accepted=SERVED
    ),
    "6.5.2 HEADER_TABLE_SIZE at the maximum": row(
        settings((Setting.HEADER_TABLE_SIZE, 2**32 - 1)), GET, accepted=SERVED
    ),
    "6.5.2 MAX_CONCURRENT_STREAMS 0": row(
        settings((Setting.MAX_CONCURRENT_STREAMS, 0)), GET, accepted=SERVED
    ),
    "6.6 PUSH_PROMISE from a client": row(
        frame(Kind.PUSH_PROMISE, END_HEADERS, 1, (2).to_bytes(4, "big") + BLOCK), accepted=PROTOCOL
    ),
    "6.6 PUSH_PROMISE on an open stream": row(
        HELD,
        frame(Kind.PUSH_PROMISE, END_HEADERS, 1, (2).to_bytes(4, "big") + BLOCK),
        accepted=PROTOCOL,
    ),
    "6.7 PING on a stream": row(frame(Kind.PING, 0, 1, bytes(8)), accepted=PROTOCOL),
    "6.7 PING of 7 bytes": row(ping(bytes(7)), accepted=SIZE),
    "6.7 PING of 9 bytes": row(ping(bytes(9)), accepted=SIZE),
    "6.7 an acknowledgement of nothing": row(ping(b"12345678", ACK), GET, accepted=SERVED),
    "6.8 GOAWAY while a request runs": row(GET, goaway(), accepted=SERVED),
    "6.8 GOAWAY with debug data": row(GET, goaway(0, Code.NO_ERROR, b"bye"), accepted=SERVED),
    "6.8 GOAWAY on a stream": row(frame(Kind.GOAWAY, 0, 1, bytes(8)), accepted=PROTOCOL),
    "6.8 GOAWAY of 7 bytes": row(frame(Kind.GOAWAY, 0, 0, bytes(7)), accepted=SIZE),
    "6.9 WINDOW_UPDATE 0 on the connection": row(window_update(0, 0), accepted=PROTOCOL),
    "6.9 WINDOW_UPDATE 0 on a stream": row(
        HELD, window_update(1, 0), accepted=("reset PROTOCOL_ERROR", "goaway PROTOCOL_ERROR")
    ),
    "6.9 WINDOW_UPDATE 0 with the reserved bit": row(window_update(0, 1 << 31), accepted=PROTOCOL),
    "6.9 WINDOW_UPDATE of 3 bytes": row(frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3)), accepted=SIZE),
    "6.9 WINDOW_UPDATE of 5 bytes": row(
        HELD, frame(Kind.WINDOW_UPDATE, 0, 1, bytes(5)), accepted=SIZE
    ),
    "6.9.1 the window of the connection overflows": row(
        window_update(0, MAX_WINDOW), window_update(0, MAX_WINDOW), accepted=FLOW
    ),
    "6.9.1 the window of a stream overflows": row(
        HELD,
        window_update(1, MAX_WINDOW),
        window_update(1, MAX_WINDOW),
        accepted=("reset FLOW_CONTROL_ERROR", *FLOW),
    ),
    "6.9.2 SETTINGS let the window of a stream overflow": row(
        HELD,
        window_update(1, MAX_WINDOW - 65_535),
        settings((Setting.INITIAL_WINDOW_SIZE, 65_536)),
        accepted=("reset FLOW_CONTROL_ERROR", *FLOW),
    ),
    "6.9.2 SETTINGS do not change the window of the connection": row(
        window_update(0, MAX_WINDOW - 65_535),
        settings((Setting.INITIAL_WINDOW_SIZE, 100_000)),
        GET,
        accepted=SERVED,
    ),
    "6.10 several CONTINUATION frames": row(
        headers(1, BLOCK[:9], whole=False),
        continuation(1, BLOCK[9:20], whole=False),
        continuation(1, BLOCK[20:]),
        accepted=SERVED,
    ),
    "6.10 an empty HEADERS frame": row(
        headers(1, b"", whole=False), continuation(1, BLOCK), accepted=SERVED
    ),
    "6.10 CONTINUATION with undefined flags": row(
        headers(1, BLOCK[:9], whole=False),
        frame(Kind.CONTINUATION, 0xFF & ~END_STREAM, 1, BLOCK[9:]),
        accepted=SERVED,
    ),
    "6.10 CONTINUATION after the end of a header block": row(
        HELD, continuation(1, BLOCK), accepted=(*PROTOCOL, *CLOSED)
    ),
    "6.10 CONTINUATION after CONTINUATION with END_HEADERS": row(
        headers(1, BLOCK[:9], whole=False),
        continuation(1, BLOCK[9:]),
        continuation(1, BLOCK),
        accepted=(*PROTOCOL, *CLOSED),
    ),
    "6.10 CONTINUATION on stream 0": row(
        headers(1, BLOCK, whole=False), continuation(0), accepted=PROTOCOL
    ),
    "6.10 CONTINUATION on another stream": row(
        headers(1, BLOCK, whole=False), continuation(3), accepted=PROTOCOL
    ),
    "6.10 CONTINUATION after DATA": row(
        UPLOAD, data(1, b"x"), continuation(1, BLOCK), accepted=(*PROTOCOL, *CLOSED)
    ),
    "7 an unknown code in GOAWAY": row(GET, goaway(0, 0xFF), accepted=SERVED),
    "7 an unknown code in RST_STREAM": row(HELD, rst_stream(1, 0xFF), accepted=OPEN),
}

MESSAGES = {
    "8.1 a second head without END_STREAM": row(
        UPLOAD, headers(1, block([(b"x", b"y")]), end=False), accepted=("reset PROTOCOL_ERROR",)
    ),
    "8.1 trailers": row(
        UPLOAD, data(1, b"content"), headers(1, block([(b"x", b"y")])), accepted=SERVED
    ),
    "8.1 trailers without a body": row(UPLOAD, headers(1, block([(b"x", b"y")])), accepted=SERVED),
    "8.1 a pseudo-header in trailers": row(
        UPLOAD, data(1, b"x"), headers(1, block([(b":path", b"/")])), accepted=MALFORMED
    ),
    "8.1 capitals in trailers": row(
        UPLOAD, data(1, b"x"), headers(1, block([(b"X", b"y")])), accepted=MALFORMED
    ),
    "8.1 frames after trailers": row(
        request(1, b"POST", HOLD, end=False),
        headers(1, block([(b"x", b"y")])),
        data(1, b"x"),
        accepted=CLOSED,
    ),
    "8.1.1 a length that DATA exceeds": row(
        request(1, b"POST", STUDIES, (b"content-length", b"3"), end=False),
        data(1, b"1234", end=True),
        accepted=MALFORMED,
    ),
    "8.1.1 a length that DATA does not reach": row(
        request(1, b"POST", STUDIES, (b"content-length", b"5"), end=False),
        data(1, b"1234", end=True),
        accepted=MALFORMED,
    ),
    "8.1.1 a length that several DATA frames exceed": row(
        request(1, b"POST", STUDIES, (b"content-length", b"3"), end=False),
        data(1, b"12"),
        data(1, b"34", end=True),
        accepted=MALFORMED,
    ),
    "8.1.1 a length without a body": row(
        request(1, b"POST", STUDIES, (b"content-length", b"5")), accepted=MALFORMED
    ),
    "8.1.1 a length that trailers end too early": row(
        request(1, b"POST", STUDIES, (b"content-length", b"5"), end=False),
        data(1, b"1234"),
        headers(1, block([(b"x", b"y")])),
        accepted=MALFORMED,
    ),
    "8.1.1 a length that is right": row(
        request(1, b"POST", STUDIES, (b"content-length", b"4"), end=False),
        data(1, b"12"),
        data(1, b"34"),
        data(1, end=True),
        accepted=SERVED,
    ),
    "8.1.1 a length that is no number": having((b"content-length", b"x")),
    "8.1.1 two lengths": row(
        request(
            1, b"POST", STUDIES, (b"content-length", b"4"), (b"content-length", b"5"), end=False
        ),
        data(1, b"1234", end=True),
        accepted=MALFORMED,
    ),
    "8.2 a name in capitals": having((b"X-Name", b"y")),
    "8.2 the capitals of a connection header": having((b"Connection", b"close")),
    "8.2.1 a name with a space": having((b"x y", b"z")),
    "8.2.1 a name with a control character": having((b"x\x07", b"z")),
    "8.2.1 a name with DEL": having((b"x\x7f", b"z")),
    "8.2.1 a name beyond ASCII": having((b"x\xe4", b"z")),
    "8.2.1 a name with a colon": having((b"x:y", b"z")),
    "8.2.1 an empty name": having((b"", b"z")),
    "8.2.1 a value with NUL": having((b"x", b"y\x00z")),
    "8.2.1 a value with a control character": having((b"x", b"y\x01z")),
    "8.2.1 a value with CR": having((b"x", b"y\rz")),
    "8.2.1 a value with LF": having((b"x", b"y\nz")),
    "8.2.1 a value with a header line": having((b"x", b"y\r\ntransfer-encoding: chunked")),
    "8.2.1 a value that begins with a space": having((b"x", b" y")),
    "8.2.1 a value that ends with a tab": having((b"x", b"y\t")),
    "8.2.2 connection": having((b"connection", b"keep-alive"), accepted=MALFORMED[:1]),
    "8.2.2 keep-alive": having((b"keep-alive", b"timeout=5"), accepted=MALFORMED[:1]),
    "8.2.2 proxy-connection": having((b"proxy-connection", b"close"), accepted=MALFORMED[:1]),
    "8.2.2 transfer-encoding": having((b"transfer-encoding", b"chunked"), accepted=MALFORMED[:1]),
    "8.2.2 transfer-encoding of a body": row(
        request(1, b"POST", STUDIES, (b"transfer-encoding", b"chunked"), end=False),
        data(1, b"0\r\n\r\nGET /pacs/studies HTTP/1.1\r\nHost: a\r\n\r\n", end=True),
        accepted=MALFORMED[:1],
    ),
    "8.2.2 upgrade": having((b"upgrade", b"h2c"), accepted=MALFORMED[:1]),
    "8.2.2 te": having((b"te", b"gzip"), accepted=MALFORMED[:1]),
    "8.2.2 te: trailers": having((b"te", b"trailers"), accepted=SERVED),
    "8.3 an unknown pseudo-header": having((b":unknown", b"x")),
    "8.3 a pseudo-header of responses": asking([(b":status", b"200"), *LINES]),
    "8.3 an unknown pseudo-header in its place": asking([(b":unknown", b"x"), *LINES]),
    "8.3 a pseudo-header after a header": asking([*without(b":path"), (b":path", STUDIES)]),
    "8.3.1 an empty path": asking(replacing(b":path", b"")),
    "8.3.1 no path": asking(without(b":path")),
    "8.3.1 no method": asking(without(b":method")),
    "8.3.1 no scheme": asking(without(b":scheme")),
    "8.3.1 an empty method": asking(replacing(b":method", b"")),
    "8.3.1 two paths": asking([LINES[0], *LINES]),
    "8.3.1 two methods": asking([(b":method", b"GET"), *LINES]),
    "8.3.1 two schemes": asking([(b":scheme", b"http"), *LINES]),
    "8.3.1 two authorities": asking([(b":authority", b"proxy.example"), *LINES]),
    "8.3.1 a path without a slash": asking(replacing(b":path", b"dicom-web/studies")),
    "8.3.1 an asterisk as the path of GET": asking(replacing(b":path", b"*")),
    "8.3.1 a fragment in the path": asking(replacing(b":path", STUDIES + b"#x")),
    "8.3.1 user information in the authority": asking(
        replacing(b":authority", b"user@proxy.example")
    ),
    "8.3.1 an empty authority": asking(replacing(b":authority", b"")),
    "8.3.1 an absolute URL as the path": asking(
        replacing(b":path", b"http://proxy.example/dicom-web/studies")
    ),
    "8.3.1 a path with a space": asking(replacing(b":path", b"/dicom-web/studies x")),
    "8.3.1 a path with a header line": asking(
        replacing(b":path", b"/dicom-web/studies HTTP/1.1\r\nx: y")
    ),
    "8.3.1 a method with a space": asking(replacing(b":method", b"GET /admin")),
    "8.3.1 an authority with a header line": asking(
        replacing(b":authority", b"proxy.example\r\nx: y")
    ),
    "8.3.1 no authority and no Host": asking(without(b":authority")),
    "8.3.1 Host instead of the authority": row(
        headers(1, block([*without(b":authority"), (b"host", b"proxy.example")])), accepted=SERVED
    ),
    "8.3.1 Host equal to the authority": having((b"host", b"proxy.example"), accepted=SERVED),
    "8.3.1 Host other than the authority": having((b"host", b"else.example")),
    "8.3.1 two Hosts": asking(
        [*without(b":authority"), (b"host", b"proxy.example"), (b"host", b"else.example")]
    ),
    "8.5 CONNECT": row(
        headers(1, block([(b":method", b"CONNECT"), (b":authority", b"a:1")]), end=False),
        accepted=("400", "405", "501", "reset PROTOCOL_ERROR", "reset CONNECT_ERROR"),
    ),
    "8.5 CONNECT with a path": row(
        headers(1, block(replacing(b":method", b"CONNECT")), end=False),
        accepted=(*MALFORMED, "405", "501"),
    ),
}

HPACK = {
    "2.3.3 an index beyond the tables": compressed(indexed(70)),
    "2.3.3 an index far beyond the tables": compressed(indexed(2**28)),
    "2.3.3 a name with an index beyond the tables": compressed(integer(70, 6, 0x40) + string(b"x")),
    "4.2 a change of size at the end of a block": compressed(resize(0)),
    "4.2 two changes of size at the beginning": row(
        headers(1, resize(0) + resize(4096) + BLOCK), accepted=SERVED
    ),
    "4.3 entries that a smaller table evicts": row(
        headers(1, BLOCK + indexing(b"x", b"y")),
        RESPONSE,
        headers(3, resize(0) + BLOCK + indexed(62)),
        accepted=COMPRESSION,
    ),
    "4.4 an entry larger than the table": row(
        headers(1, BLOCK + indexing(b"x", b"y" * 5000)),
        RESPONSE,
        headers(3, BLOCK + indexed(62)),
        accepted=COMPRESSION,
    ),
    "5.1 an integer without an end": compressed(b"\x7f" + b"\xff" * 20),
    "5.1 an integer that is cut": compressed(b"\x7f\x80"),
    "5.2 a literal that is cut": compressed(b"\x00\x01x\x09y"),
    "5.2 Huffman padding of more than 7 bits": compressed(b"\x00\x01x\x82\x0f\xff"),
    "5.2 Huffman padding of zeros": compressed(b"\x00\x01x\x81\x00"),
    "5.2 EOS in a Huffman string": compressed(b"\x00\x01x\x84\xff\xff\xff\xff"),
    "6.1 the index 0": compressed(indexed(0)),
    "6.3 a size beyond the limit": row(headers(1, resize(4097) + BLOCK), accepted=COMPRESSION),
    "6.3 a size far beyond the limit": row(headers(1, resize(2**32) + BLOCK), accepted=COMPRESSION),
}

TABLE: Final = {
    **{f"RFC 9113 §{name}": each for name, each in (FRAMING | STREAMS | FRAMES | MESSAGES).items()},
    **{f"RFC 7541 §{name}": each for name, each in HPACK.items()},
}


async def outcome(client: Client, tested: Row) -> str:
    """Send what a row has, and return what comes of it."""
    for step in tested.steps:
        if isinstance(step, bytes):
            client.send(step)
        else:
            await client.answer(1)
    await client.step()
    response = client.responses.get(1)
    waits = any(not each.startswith(("goaway", "open")) for each in tested.accepted)
    if waits and not client.is_closed and response is not None and OPEN[0] not in tested.accepted:
        await client.until(lambda: response.is_done or client.is_closed, "end of stream 1")
        await client.step()  # RST_STREAM may follow the response
    if client.is_closed:
        code = await client.closed()
        return "closed" if code is None else f"goaway {name_of(code)}"
    if response is None or not response.is_done:
        return "open"
    if response.reset not in (None, Code.NO_ERROR) and not response.is_ended:
        return f"reset {name_of(response.reset)}"
    return f"{response.status}"


async def goes_on(client: Client) -> bool:
    """Return whether another request is served, its headers compressed or not."""
    for stream, encoded in ((101, indexing(b"x-test", b"y")), (103, indexed(62))):
        client.send(headers(stream, block(head()) + encoded))
        if (await client.answer(stream)).status != 200:
            return False
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    directory = tmp_path_factory.mktemp("serve")
    async with standing(directory, Script(), access={"mode": "read-write"}) as running:
        yield running


@pytest.mark.parametrize("tested", TABLE.values(), ids=TABLE)
async def test_frames_have_an_outcome_of_the_standard(front: Front, tested: Row) -> None:
    async with connected(front.port) as client:
        assert await outcome(client, tested) in tested.accepted
        if not client.is_closed and max(client.responses, default=0) < 100:
            assert await goes_on(client)


# §3.4: what comes before everything else.

UNUSUAL = {
    "another preface": PREFACE.replace(b"SM", b"XX") + settings(),
    "no SETTINGS but PING": PREFACE + ping(),
    "no SETTINGS but a request": PREFACE + GET,
    "an acknowledgement instead of SETTINGS": PREFACE + frame(Kind.SETTINGS, ACK, 0),
    "malformed SETTINGS": PREFACE + frame(Kind.SETTINGS, 0, 0, bytes(5)),
}


@pytest.mark.parametrize("raw", UNUSUAL.values(), ids=UNUSUAL)
async def test_a_wrong_beginning_ends_the_connection(front: Front, raw: bytes) -> None:
    async with bare(front.port) as client:
        client.judges = False  # the response may be one of HTTP/1.1
        client.send(raw)
        code = await client.closed()
    assert name_of(code) in ("none", "PROTOCOL_ERROR", "FRAME_SIZE_ERROR")
