"""What an HTTP/2 connection sends, and in which order; and how its windows widen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import hyperframe.frame
import pytest

from dicomweb_cors_proxy.server import http2_frames as frames
from dicomweb_cors_proxy.server.http2_budget import Budget
from dicomweb_cors_proxy.server.http2_frames import (
    MAX_WINDOW,
    ConnectionFault,
    ErrorCode,
    Setting,
    StreamFault,
)
from dicomweb_cors_proxy.server.http2_head import HTTP2Head
from dicomweb_cors_proxy.server.http2_output import QUANTUM_BYTES, WRITE_BYTES, Output
from dicomweb_cors_proxy.server.http2_queue import HIGH_WATER_BYTES
from dicomweb_cors_proxy.server.http2_stream import (
    MAX_RECEIVE_WINDOW,
    RECEIVE_WINDOW,
    Stream,
)
from dicomweb_cors_proxy.server.http2_streams import ReceiveWindow

if TYPE_CHECKING:
    from dicomweb_cors_proxy.server.exchange import Exchange
    from dicomweb_cors_proxy.server.turns import Turns


class Transport:
    def __init__(self) -> None:
        self.sent = b""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.sent += data


class Connection:
    """An output, and the streams that belong to it."""

    turns = cast("Turns", None)

    def __init__(self, window: int = MAX_WINDOW) -> None:
        self.transport = Transport()
        loop = asyncio.get_running_loop()
        self.output = Output(cast("asyncio.Transport", self.transport), loop, self)
        self.output.window = self.output.initial_window = window
        self.window = ReceiveWindow(self.output)
        self.resets: list[tuple[int, ErrorCode]] = []
        self.complete: list[int] = []
        self.data_frames = 0
        self.shut = 0
        self.output.flush()
        self.transport.sent = b""

    def stream(
        self, number: int, urgency: int = 3, *, length: int | None = None, has_body: bool = False
    ) -> Stream:
        head = HTTP2Head("GET", b"/", (), length, False, urgency, None)
        return Stream(self, number, head, has_body=has_body)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        self.resets.append((stream.id, code))

    def relay_ended(self, stream: Stream, exchange: Exchange) -> None:
        raise NotImplementedError

    run_application = relay_ended

    def on_stream_sent(self, stream_id: int) -> None:
        self.complete.append(stream_id)

    def on_data_sent(self, count: int) -> None:
        self.data_frames += count

    def on_window_shut(self) -> None:
        self.shut += 1

    def frames(self) -> list[hyperframe.frame.Frame]:
        """The frames that are sent in one turn."""
        self.output.flush()
        data, self.transport.sent = memoryview(self.transport.sent), b""
        found = []
        while data:
            frame, size = hyperframe.frame.Frame.parse_frame_header(data[:9])
            frame.parse_body(data[9 : 9 + size])
            found.append(frame)
            data = data[9 + size :]
        return found

    def all_data(self) -> list[tuple[int, int]]:
        """The stream and the size of each DATA frame, until nothing can be sent any more."""
        found: list[tuple[int, int]] = []
        while sent := self.frames():
            found += [
                (frame.stream_id, len(frame.data))
                for frame in sent
                if isinstance(frame, hyperframe.frame.DataFrame)
            ]
        return found


def respond(stream: Stream, size: int, *, more: bool = False) -> None:
    stream.start(200, [(b"content-type", b"a/b")], keep_alive=True, is_repeated=False)
    assert stream.write(b"x" * size, more=more)


def order(data: list[tuple[int, int]]) -> list[int]:
    """The streams in the order in which they change."""
    return [each for at, (each, _) in enumerate(data) if not at or data[at - 1][0] != each]


async def test_the_first_stream_is_whole_first() -> None:
    connection = Connection()
    for number in (5, 1, 3):
        respond(connection.stream(number), 100_000)
    assert order(connection.all_data()) == [1, 3, 5]
    assert connection.complete == [1, 3, 5]


async def test_an_urgent_stream_goes_first() -> None:
    connection = Connection()
    for number, urgency in ((1, 3), (3, 7), (5, 0)):
        respond(connection.stream(number, urgency), 20_000)
    assert order(connection.all_data()) == [5, 1, 3]


async def test_a_stream_may_become_urgent_while_it_waits() -> None:
    connection = Connection()
    streams = [connection.stream(number) for number in (1, 3)]
    for stream in streams:
        respond(stream, 20_000)
    connection.output.set_urgency(streams[1].response, 0)
    assert order(connection.all_data()) == [3, 1]


async def test_a_long_response_lets_others_go_after_a_quantum() -> None:
    connection = Connection()
    respond(connection.stream(1), 3 * QUANTUM_BYTES)
    respond(connection.stream(3), 1000)
    data = connection.all_data()
    assert order(data) == [1, 3, 1]
    first = sum(size for number, size in data[: [n for n, _ in data].index(3)] if number == 1)
    assert QUANTUM_BYTES <= first <= QUANTUM_BYTES + frames.MAX_FRAME_BYTES


async def test_one_turn_sends_a_bounded_number_of_bytes() -> None:
    connection = Connection()
    respond(connection.stream(1), 10 * WRITE_BYTES)
    sent = sum(
        len(frame.data)
        for frame in connection.frames()
        if isinstance(frame, hyperframe.frame.DataFrame)
    )
    assert sent == WRITE_BYTES


async def test_a_short_response_is_sent_in_one_piece() -> None:
    connection = Connection()
    respond(connection.stream(1), 1000)
    assert [set(frame.flags) for frame in connection.frames()] == [{"END_HEADERS"}, {"END_STREAM"}]
    assert connection.complete == [1]
    assert connection.data_frames == 1
    assert connection.output.window == MAX_WINDOW - 1000


async def test_no_body_needs_no_data_frame() -> None:
    connection = Connection()
    respond(connection.stream(1), 0)
    (head,) = connection.frames()
    assert set(head.flags) == {"END_HEADERS", "END_STREAM"}
    assert connection.complete == [1]


async def test_a_body_of_unknown_length_ends_with_its_last_frame() -> None:
    connection = Connection()
    stream = connection.stream(1)
    respond(stream, 5, more=True)
    assert [set(frame.flags) for frame in connection.frames()] == [{"END_HEADERS"}, set()]
    assert stream.write(b"", more=False)
    (end,) = connection.frames()
    assert set(end.flags) == {"END_STREAM"}
    assert connection.complete == [1]


@pytest.mark.parametrize(("length", "size"), [(3, 4), (3, 2)])
async def test_a_body_that_does_not_fit_its_length_is_not_sent(length: int, size: int) -> None:
    stream = Connection().stream(1)
    stream.start(200, [(b"content-length", b"%d" % length)], keep_alive=True, is_repeated=False)
    assert not stream.write(b"x" * size, more=False)


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_none(status: int) -> None:
    connection = Connection()
    stream = connection.stream(1)
    stream.start(status, [(b"connection", b"close")], keep_alive=True, is_repeated=False)
    assert stream.write(b"body", more=False)
    (head,) = connection.frames()
    assert "END_STREAM" in head.flags


async def test_windows_bound_what_is_sent() -> None:
    connection = Connection(window=1000)
    one, other = connection.stream(1), connection.stream(3)
    respond(one, 1500)
    respond(other, 1500)
    assert connection.all_data() == [(1, 1000)]
    assert connection.shut
    assert connection.output.window_shut_at is not None
    connection.output.add_window(2000)
    assert connection.output.window_shut_at is None
    assert connection.all_data() == [(3, 1000)]
    assert one.response.window_shut_at is not None
    connection.output.add_stream_window(one.response, 700)
    assert one.response.window_shut_at is None
    assert connection.all_data() == [(1, 500)]
    assert connection.complete == [1]


async def test_a_smaller_initial_window_may_leave_a_negative_one() -> None:
    connection = Connection()
    stream = connection.stream(1)
    connection.output.apply([(Setting.INITIAL_WINDOW_SIZE, 1000)], [])
    stream.response.window = 1000
    respond(stream, 3000)
    assert connection.all_data() == [(1, 1000)]
    connection.output.apply([(Setting.INITIAL_WINDOW_SIZE, 500)], [stream.response])
    assert stream.response.window == -500
    assert connection.all_data() == []
    connection.output.apply([(Setting.INITIAL_WINDOW_SIZE, 2000)], [stream.response])
    assert connection.all_data() == [(1, 1000)]


async def test_the_client_may_take_larger_frames() -> None:
    connection = Connection()
    connection.output.apply([(Setting.MAX_FRAME_SIZE, 2**24 - 1)], [])
    respond(connection.stream(1), 50_000)
    assert connection.all_data() == [(1, 50_000)]


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        (Setting.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (Setting.INITIAL_WINDOW_SIZE, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (Setting.INITIAL_WINDOW_SIZE, 2**31 - 1, ErrorCode.FLOW_CONTROL_ERROR),
        (Setting.MAX_FRAME_SIZE, 2**14 - 1, ErrorCode.PROTOCOL_ERROR),
        (Setting.MAX_FRAME_SIZE, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
async def test_a_setting_out_of_range_is_a_fault(
    setting: Setting, value: int, code: ErrorCode
) -> None:
    connection = Connection(window=65535)
    stream = connection.stream(1)
    stream.response.window += 1
    with pytest.raises(ConnectionFault) as raised:
        connection.output.apply([(setting, value)], [stream.response])
    assert raised.value.code is code


async def test_a_window_that_is_too_wide_is_a_fault() -> None:
    connection = Connection()
    with pytest.raises(ConnectionFault):
        connection.output.add_window(1)
    stream = connection.stream(1)
    with pytest.raises(StreamFault):
        connection.output.add_stream_window(stream.response, 1)


async def test_the_application_waits_while_much_is_queued() -> None:
    connection = Connection(window=0)
    stream = connection.stream(1)
    respond(stream, HIGH_WATER_BYTES, more=True)
    assert stream.writable.is_set()
    assert stream.write(b"x", more=True)
    assert not stream.writable.is_set()
    connection.output.add_window(MAX_WINDOW)
    connection.output.add_stream_window(stream.response, MAX_WINDOW)
    assert sum(size for _, size in connection.all_data()) == HIGH_WATER_BYTES + 1
    assert stream.writable.is_set()


async def test_a_paused_transport_gets_no_bodies() -> None:
    connection = Connection()
    stream = connection.stream(1)
    respond(stream, 20_000)
    connection.output.is_paused = True
    assert connection.all_data() == []
    assert not connection.stream(3).writable.is_set()
    connection.output.resume()
    assert connection.all_data() == [(1, 16384), (1, 3616)]


async def test_a_paused_transport_gets_nothing_before_the_end() -> None:
    connection = Connection()
    connection.output.is_paused = True
    connection.output.frame(b"ping")
    connection.output.flush()
    assert len(connection.transport.sent) == 0
    connection.output.flush(is_last=True)
    assert connection.transport.sent == b"ping"


async def test_a_closed_stream_sends_nothing() -> None:
    connection = Connection()
    stream = connection.stream(1)
    respond(stream, 1000)
    connection.frames()
    respond(other := connection.stream(3), 1000, more=True)
    other.close()
    assert other.write(b"x", more=False)
    other.flush_head()
    assert connection.all_data() == []


async def test_a_large_head_is_continued() -> None:
    connection = Connection()
    stream = connection.stream(1)
    headers = [(b"a", b"%d" % number + b"b" * 1000) for number in range(40)]
    stream.start(200, headers, keep_alive=True, is_repeated=False)
    stream.write(b"", more=False)
    kinds = [type(frame).__name__ for frame in connection.frames()]
    assert kinds == ["HeadersFrame", "ContinuationFrame", "ContinuationFrame"]


async def test_an_upload_widens_its_window_as_it_is_read() -> None:
    connection = Connection()
    stream = connection.stream(1, has_body=True)
    granted = RECEIVE_WINDOW
    sizes = []
    for _ in range(300):
        stream.receive(b"x" * 16_000, 16_000, ends=False)
        assert len(stream.read()) == 16_000
        granted -= 16_000
        granted += sum(
            frame.window_increment
            for frame in connection.frames()
            if isinstance(frame, hyperframe.frame.WindowUpdateFrame) and frame.stream_id
        )
        sizes.append(granted)
    assert max(sizes) == MAX_RECEIVE_WINDOW
    assert max(sizes[:2]) < MAX_RECEIVE_WINDOW


@pytest.mark.parametrize(
    ("length", "data", "ends", "code"),
    [
        (None, b"x" * (RECEIVE_WINDOW + 1), False, ErrorCode.FLOW_CONTROL_ERROR),
        (3, b"abcd", False, ErrorCode.PROTOCOL_ERROR),
        (3, b"ab", True, ErrorCode.PROTOCOL_ERROR),
    ],
)
async def test_a_body_beyond_window_or_length_is_a_fault(
    length: int | None,
    data: bytes,
    ends: bool,
    code: ErrorCode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = Connection()
    given_back: list[int] = []
    monkeypatch.setattr(connection.window, "give_back", given_back.append)
    stream = connection.stream(1, has_body=True, length=length)
    with pytest.raises(StreamFault) as raised:
        stream.receive(data, len(data), ends=ends)
    assert raised.value.code is code
    stream.close()
    assert sum(given_back) == len(data)


async def test_a_connection_takes_bodies_within_its_window() -> None:
    connection = Connection()
    connection.window.take(4 * 1024 * 1024)
    with pytest.raises(ConnectionFault):
        connection.window.take(1)


def test_a_budget_is_refilled_over_time() -> None:
    now = 0.0
    budget = Budget(3, 2.0, "events", lambda: now)
    for _ in range(3):
        budget.spend()
    now = 0.6  # one more
    budget.spend()
    with pytest.raises(ConnectionFault) as raised:
        budget.spend()
    assert raised.value.code is ErrorCode.ENHANCE_YOUR_CALM
    budget.earn(10)
    now = 100.0
    for _ in range(3):
        budget.spend()
