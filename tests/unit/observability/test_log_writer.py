"""The queue and the thread between the log and a standard error that may stall or fail."""

from __future__ import annotations

import fcntl
import io
import os
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TextIO

import pytest

from dicomweb_cors_proxy.observability import log_writer
from dicomweb_cors_proxy.observability.log_writer import ATOMIC_WRITE_BYTES, QUEUE_LINES, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECONDS = 30.0  # until a test is stuck


def notice(text: str) -> str:
    return f"{text}\n"


@contextmanager
def pipe() -> Iterator[tuple[TextIO, int]]:
    """A stream, and the descriptor that reads it."""
    reader, end = os.pipe()
    with os.fdopen(end, "w", encoding="utf-8") as stream, ExitStack() as reading:
        reading.callback(os.close, reader)
        yield stream, reader
        reading.close()  # a thread that is stuck in a write ends


def fill(stream: TextIO) -> int:
    """Fill a pipe with blanks, and return how many."""
    descriptor = stream.fileno()
    os.set_blocking(descriptor, False)
    count = 0
    for size in (4096, 1):
        try:
            while True:
                count += os.write(descriptor, b" " * size)
        except BlockingIOError:
            pass
    os.set_blocking(descriptor, True)
    return count


def read(descriptor: int, until: Callable[[bytes], bool]) -> bytes:
    data = b""
    while not until(data):
        data += os.read(descriptor, 65536)
    return data


def test_lines_arrive_whole_and_in_order() -> None:
    lines = [f"{number} {'é' * (number % 300)}\n" for number in range(2000)]
    with pipe() as (stream, reader):
        writer = Writer()
        writer.attach(stream, notice)
        for line in lines:
            writer.put(line)
        everything = "".join(lines).encode()
        assert read(reader, lambda data: len(data) >= len(everything)) == everything
        assert writer.flush(SECONDS)
    assert writer.dropped == 0


def test_a_write_holds_whole_lines_and_is_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        pieces.append(data)
        return len(data)

    monkeypatch.setattr(os, "write", write)
    long = "x" * ATOMIC_WRITE_BYTES
    with pipe() as (stream, _):
        writer = Writer()
        writer.attach(stream, notice)
        for number in range(1000):
            writer.put(f"{number:>99}\n")
        writer.put(f"{long}\n")
        assert writer.flush(SECONDS)
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert max(map(len, pieces[:-1])) <= ATOMIC_WRITE_BYTES
    assert pieces[-1] == f"{long}\n".encode()
    assert len(pieces) < 100  # many lines in each


def test_a_reader_that_stalls_makes_nobody_wait() -> None:
    extra = 1234
    with pipe() as (stream, reader):
        writer = Writer()
        writer.attach(stream, notice)
        blanks = fill(stream)
        writer.put("first\n")
        assert not writer.flush(0.1)  # the thread is stuck with it, so all others are queued
        # The sentinel of the flush takes a place as well.
        for number in range(QUEUE_LINES - 1 + extra):
            writer.put(f"{number}\n")
        assert writer.dropped == extra
        text = f"{extra} log lines were dropped because the log's reader stalled\n".encode()
        end = b"\n%d\n" % (QUEUE_LINES - 2)
        data = read(reader, lambda data: text in data and end in data)
        kept = data[blanks:].replace(text, b"").splitlines()
        assert kept == [b"first", *(b"%d" % number for number in range(QUEUE_LINES - 1))]
        writer.put("last\n")
        assert read(reader, lambda data: b"\n" in data) == b"last\n"
        assert writer.dropped == extra


def test_one_dropped_line_is_told_in_the_singular(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "QUEUE_LINES", 2)
    with pipe() as (stream, reader):
        writer = Writer()
        writer.attach(stream, notice)
        fill(stream)
        writer.put("first\n")
        assert not writer.flush(0.1)
        writer.put("second\n")
        writer.put("third\n")
        data = read(reader, lambda data: b"stalled" in data)
    assert b"\n1 log line was dropped because the log's reader stalled\n" in data
    assert b"third" not in data


class Failing(io.StringIO):
    """A stream whose next writes fail."""

    error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe"),
        (ValueError("I/O operation on closed file"), "ValueError"),
    ],
)
def test_what_cannot_be_written_is_counted_and_told_of(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "NOTICE_SECONDS", 0.05)
    stream = Failing()
    writer = Writer()
    writer.attach(stream, notice)
    stream.error = error
    for number in range(5):
        writer.put(f"{number}\n")
    assert writer.flush(SECONDS)
    assert writer.dropped == 5
    stream.error = None
    told = f"5 log lines were dropped because writing to the log failed: {reason}\n"
    writer.put("next\n")
    while told not in stream.getvalue():  # at most once in NOTICE_SECONDS
        assert writer.flush(SECONDS)
    assert stream.getvalue() in (f"next\n{told}", f"{told}next\n")
    assert writer.dropped == 5


def test_a_line_cut_by_a_full_disk_ends_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    real, written, room = os.write, bytearray(), [7]

    def write(descriptor: int, data: bytes) -> int:
        if descriptor != stream.fileno():
            return real(descriptor, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        part = data[: room[0]]
        room[0] -= len(part)
        written.extend(part)
        return len(part)

    monkeypatch.setattr(os, "write", write)
    with pipe() as (stream, _):
        writer = Writer()
        writer.attach(stream, lambda _: None)
        for line in ("one\n", "two and\n", "three\n"):
            writer.put(line)
        assert writer.flush(SECONDS)
        # The first line is written whole, and whatever the thread took with it is not.
        assert writer.dropped == 2
        assert bytes(written) == b"one\ntwo"
        room[0] = 100
        writer.put("four\n")
        assert writer.flush(SECONDS)
    assert bytes(written) == b"one\ntwo\nfour\n"


def test_a_pipe_that_is_non_blocking_is_waited_for() -> None:
    with pipe() as (stream, reader):
        blanks = fill(stream)
        os.set_blocking(stream.fileno(), False)
        assert fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_NONBLOCK
        writer = Writer()
        writer.attach(stream, notice)
        writer.put("late\n")
        assert not writer.flush(0.1)
        assert read(reader, lambda data: b"\n" in data)[blanks:] == b"late\n"
    assert writer.dropped == 0


def test_without_a_stream_lines_are_discarded() -> None:
    writer = Writer()
    writer.attach(None)
    writer.put("line\n")
    assert writer.flush(SECONDS)
    assert writer.dropped == 0


def test_another_stream_begins_behind_the_lines_of_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    writer = Writer()
    for stream in (first, second):
        writer.attach(stream, notice)
        writer.put("line\n")
    assert writer.flush(SECONDS)
    assert (first.getvalue(), second.getvalue()) == ("line\n", "line\n")


def test_a_flush_with_nothing_written_starts_no_thread() -> None:
    before = threading.active_count()
    assert Writer().flush(SECONDS)
    assert threading.active_count() == before
