"""Frames of HTTP/2: read in any pieces, written as another library reads them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, cast

import hyperframe.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.server import http2_frames as frames
from dicomweb_cors_proxy.server.http2_frames import (
    ConnectionFault,
    ErrorCode,
    FrameReader,
    StreamFault,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SETTINGS = frames.frame(frames.SETTINGS, 0, 0)
MAX_BLOCK = 1000


class Receiver:
    """Notes each callback with its arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: object, **options: object) -> None:
            if isinstance(args and args[0], StreamFault):
                fault = cast("StreamFault", args[0])
                args = (fault.stream_id, fault.code)
            self.calls.append((name, (*args, *options.values())))

        return call


def read(*pieces: bytes) -> list[tuple[str, tuple[Any, ...]]]:
    receiver = Receiver()
    reader = FrameReader(receiver, MAX_BLOCK)
    for piece in pieces:
        reader.add(piece)
        while reader.read(3):
            pass
    return receiver.calls


def priority_update(stream_id: int, value: bytes) -> bytes:
    return frames.frame(frames.PRIORITY_UPDATE, 0, 0, struct.pack(">L", stream_id) + value)


VALID = {
    "a head": (
        frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, 1, b"abc"),
        ("on_headers", (1, b"abc", True)),
    ),
    "a head with padding and priority": (
        frames.frame(frames.HEADERS, 0x2C, 3, b"\x02" + b"\0" * 5 + b"abc" + b"\0\0"),
        ("on_headers", (3, b"abc", False)),
    ),
    "a head in three frames": (
        frames.frame(frames.HEADERS, 1, 5, b"a")
        + frames.frame(frames.CONTINUATION, 0, 5, b"b")
        + frames.frame(frames.CONTINUATION, frames.END_HEADERS, 5, b"c"),
        ("on_headers", (5, b"abc", True)),
    ),
    "a body": (frames.frame(frames.DATA, 1, 1, b"xy"), ("on_data", (1, b"xy", 2, True))),
    "a body with padding": (
        frames.frame(frames.DATA, frames.PADDED, 1, b"\x01xy\0"),
        ("on_data", (1, b"xy", 4, False)),
    ),
    "only padding": (
        frames.frame(frames.DATA, frames.PADDED, 1, b"\x02\0\0"),
        ("on_data", (1, b"", 3, False)),
    ),
    "PRIORITY": (frames.frame(frames.PRIORITY, 0, 9, b"\0" * 5), ("on_other", ())),
    "PRIORITY of a wrong size": (
        frames.frame(frames.PRIORITY, 0, 9, b"\0" * 4),
        ("on_stream_fault", (9, ErrorCode.FRAME_SIZE_ERROR)),
    ),
    "RST_STREAM": (frames.reset_frame(7, ErrorCode.CANCEL), ("on_reset", (7,))),
    "SETTINGS": (
        frames.settings_frame({frames.Setting.ENABLE_PUSH: 0}),
        ("on_settings", ([(2, 0)],)),
    ),
    "an acknowledgement": (frames.frame(frames.SETTINGS, frames.ACK, 0), ("on_other", ())),
    "PING": (frames.frame(frames.PING, 0, 0, b"12345678"), ("on_ping", (b"12345678",))),
    "a PING's answer": (frames.frame(frames.PING, 1, 0, b"12345678"), ("on_other", ())),
    "GOAWAY": (frames.goaway_frame(0, ErrorCode.NO_ERROR, "bye"), ("on_other", ())),
    "WINDOW_UPDATE": (frames.window_update(3, 70), ("on_window_update", (3, 70))),
    "a reserved bit": (
        frames.frame(frames.WINDOW_UPDATE, 0, 0x80000003, b"\x80\0\0\x46"),
        ("on_window_update", (3, 70)),
    ),
    "PRIORITY_UPDATE": (priority_update(5, b"u=1"), ("on_priority_update", (5, b"u=1"))),
    "an unknown type": (frames.frame(0x42, 0xFF, 3, b"?"), ("on_other", ())),
}


@pytest.mark.parametrize(("data", "call"), VALID.values(), ids=VALID)
def test_a_valid_frame_is_reported(data: bytes, call: tuple[str, tuple[Any, ...]]) -> None:
    assert read(SETTINGS + data) == [("on_settings", ([],)), call]


@given(
    st.lists(st.sampled_from([data for data, _ in VALID.values()]), max_size=6),
    st.lists(st.integers(min_value=0, max_value=200), max_size=6),
)
def test_frames_are_the_same_in_any_pieces(parts: list[bytes], cuts: list[int]) -> None:
    data = SETTINGS + b"".join(parts)
    ends = [*sorted(cuts), len(data)]
    pieces = [data[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    assert read(*pieces) == read(data)


INVALID = {
    "another first frame": (frames.frame(frames.PING, 0, 0, b"0" * 8), "PROTOCOL_ERROR"),
    "an acknowledgement first": (frames.frame(frames.SETTINGS, 1, 0), "PROTOCOL_ERROR"),
    "a frame of 16 KiB and a byte": (
        SETTINGS + frames.frame(frames.DATA, 0, 1, b"x" * 16385),
        "FRAME_SIZE_ERROR",
    ),
    "a frame of 64 KiB": (SETTINGS + b"\x01\0\0\0\0\0\0\0\x01", "FRAME_SIZE_ERROR"),
    "DATA without a stream": (SETTINGS + frames.frame(frames.DATA, 0, 0), "PROTOCOL_ERROR"),
    "HEADERS without a stream": (SETTINGS + frames.frame(1, 4, 0), "PROTOCOL_ERROR"),
    "RST_STREAM without a stream": (
        SETTINGS + frames.reset_frame(0, ErrorCode.CANCEL),
        "PROTOCOL_ERROR",
    ),
    "RST_STREAM of a wrong size": (SETTINGS + frames.frame(3, 0, 1, b"0"), "FRAME_SIZE_ERROR"),
    "PRIORITY without a stream": (SETTINGS + frames.frame(2, 0, 0, b"0" * 5), "PROTOCOL_ERROR"),
    "SETTINGS for a stream": (SETTINGS + frames.frame(4, 0, 1), "PROTOCOL_ERROR"),
    "SETTINGS of a wrong size": (SETTINGS + frames.frame(4, 0, 0, b"0"), "FRAME_SIZE_ERROR"),
    "an acknowledgement with a payload": (
        SETTINGS + frames.frame(4, 1, 0, b"0" * 6),
        "FRAME_SIZE_ERROR",
    ),
    "PUSH_PROMISE": (SETTINGS + frames.frame(5, 4, 1, b"0" * 4), "PROTOCOL_ERROR"),
    "PING for a stream": (SETTINGS + frames.frame(6, 0, 1, b"0" * 8), "PROTOCOL_ERROR"),
    "PING of a wrong size": (SETTINGS + frames.frame(6, 0, 0, b"0" * 7), "FRAME_SIZE_ERROR"),
    "GOAWAY for a stream": (SETTINGS + frames.frame(7, 0, 1, b"0" * 8), "PROTOCOL_ERROR"),
    "GOAWAY that is too short": (SETTINGS + frames.frame(7, 0, 0, b"0"), "FRAME_SIZE_ERROR"),
    "WINDOW_UPDATE of a wrong size": (SETTINGS + frames.frame(8, 0, 0, b"0"), "FRAME_SIZE_ERROR"),
    "PRIORITY_UPDATE for a stream": (SETTINGS + frames.frame(16, 0, 1, b"0" * 4), "PROTOCOL_ERROR"),
    "PRIORITY_UPDATE of no stream": (SETTINGS + priority_update(0, b"u=1"), "PROTOCOL_ERROR"),
    "PRIORITY_UPDATE that is too short": (SETTINGS + frames.frame(16, 0, 0), "FRAME_SIZE_ERROR"),
    "CONTINUATION without HEADERS": (SETTINGS + frames.frame(9, 4, 1), "PROTOCOL_ERROR"),
    "a frame in a head": (
        SETTINGS + frames.frame(1, 0, 1, b"a") + frames.window_update(0, 1),
        "PROTOCOL_ERROR",
    ),
    "CONTINUATION of another stream": (
        SETTINGS + frames.frame(1, 0, 1, b"a") + frames.frame(9, 4, 3),
        "PROTOCOL_ERROR",
    ),
    "more padding than bytes": (SETTINGS + frames.frame(0, 8, 1, b"\x03ab"), "PROTOCOL_ERROR"),
    "padding without its length": (SETTINGS + frames.frame(0, 8, 1), "PROTOCOL_ERROR"),
    "a priority that is too short": (
        SETTINGS + frames.frame(1, 0x24, 1, b"\0" * 4),
        "FRAME_SIZE_ERROR",
    ),
    "a head that is too large": (
        SETTINGS + frames.frame(1, 0, 1, b"a" * MAX_BLOCK) + frames.frame(9, 0, 1, b"a"),
        "ENHANCE_YOUR_CALM",
    ),
    "a head in too many frames": (
        SETTINGS + frames.frame(1, 0, 1, b"a") + frames.frame(9, 0, 1) * frames.MAX_CONTINUATIONS,
        "ENHANCE_YOUR_CALM",
    ),
}


@pytest.mark.parametrize(("data", "code"), INVALID.values(), ids=INVALID)
def test_an_invalid_frame_is_a_fault_of_the_connection(data: bytes, code: str) -> None:
    with pytest.raises(ConnectionFault) as raised:
        read(data)
    assert raised.value.code.name == code
    assert raised.value.reason.isascii()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_a_fault(data: bytes) -> None:
    try:
        read(SETTINGS + data)
    except ConnectionFault:
        pass
    except StreamFault as fault:
        raise AssertionError from fault


def test_the_reader_tells_whether_a_head_is_incomplete() -> None:
    reader = FrameReader(Receiver(), MAX_BLOCK)
    reader.add(SETTINGS + frames.frame(1, 4, 1, b"ab")[:-1])
    assert not reader.read(10)
    assert reader.is_in_block
    assert reader.blocks == 0
    reader.add(b"b")
    assert not reader.read(10)
    assert not reader.is_in_block
    assert reader.blocks == 1


def test_the_reader_stops_at_its_limit() -> None:
    receiver = Receiver()
    reader = FrameReader(receiver, MAX_BLOCK)
    reader.add(SETTINGS * 3)
    assert reader.read(2)
    assert len(receiver.calls) == 2
    assert not reader.read(2)
    assert len(receiver.calls) == 3


WRITTEN = {
    "SETTINGS": frames.settings_frame({frames.Setting.MAX_CONCURRENT_STREAMS: 100}),
    "WINDOW_UPDATE": frames.window_update(7, 65535),
    "RST_STREAM": frames.reset_frame(9, ErrorCode.REFUSED_STREAM),
    "GOAWAY": frames.goaway_frame(11, ErrorCode.ENHANCE_YOUR_CALM, "Too many."),
    "DATA": frames.frame_head(3, frames.DATA, frames.END_STREAM, 5) + b"abc",
}


@pytest.mark.parametrize("data", WRITTEN.values(), ids=WRITTEN)
def test_a_written_frame_is_what_hyperframe_writes(data: bytes) -> None:
    parsed, size = hyperframe.frame.Frame.parse_frame_header(memoryview(data[:9]))
    parsed.parse_body(memoryview(data[9:]))
    assert size == len(data) - 9
    assert parsed.serialize() == data


@given(st.binary(max_size=100), st.integers(min_value=1, max_value=60), st.booleans())
def test_a_block_of_any_size_is_read_as_it_was_written(block: bytes, most: int, ends: bool) -> None:
    data = frames.header_frames(5, block, most, ends=ends)
    if len(block) > most * frames.MAX_CONTINUATIONS:
        return
    assert read(SETTINGS + data)[1:] == [("on_headers", (5, block, ends))]
