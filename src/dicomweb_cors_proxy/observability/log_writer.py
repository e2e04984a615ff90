"""A writer of log lines that never makes its caller wait.

A write to standard error blocks while the reader of a pipe stalls, or the disk below a file does.
So lines go into a bounded queue, and a thread writes them. A line that does not fit, or that cannot
be written, is dropped and counted.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FLUSH_SECONDS", "QUEUE_LINES", "Writer", "occupy_standard_descriptors"]

# A line takes about 350 bytes, so a full queue takes about 4 MB.
QUEUE_LINES: Final = 10_000

# The thread writes the first line at once, and then collects lines for this long. Waking it for
# every line would cost more than the line.
COLLECT_SECONDS: Final = 0.01

# PIPE_BUF of Linux. Processes that share a pipe do not mix writes up to this size.
ATOMIC_WRITE_BYTES: Final = 4096

FLUSH_SECONDS: Final = 1.0
NOTICE_SECONDS: Final = 1.0

STALLED: Final = "because the log's reader stalled"


class Writer:
    """A bounded queue of lines, and the thread that writes them to a stream.

    Each process has its own thread, which starts with the first line. A forked process begins with
    an empty queue, because its parent writes the lines that are there.
    """

    def __init__(self) -> None:
        self._stream: TextIO | None = None
        self._has_descriptor = False
        self._notice: Callable[[str], str | None] = lambda _: None
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._queue: SimpleQueue[str | Event] = SimpleQueue()
        self._is_started = False
        self._unwritten: Event | None = None
        # Never released: a process needs one thread. A signal or the garbage collector may log
        # while the thread is being started.
        self._start = Lock()
        # Each counter has one writer, the callers of `put` or the thread, so no increment is lost.
        self._overflowed = 0
        self._failed = 0
        self._told = 0
        self._cause = STALLED
        self._next_notice = 0.0
        self._line_is_open = False

    @property
    def dropped(self) -> int:
        """Lines that this process has dropped."""
        return self._overflowed + self._failed

    def attach(
        self, stream: TextIO | None, notice: Callable[[str], str | None] | None = None
    ) -> None:
        """Write to `stream` from now on; with None, discard the lines.

        Args:
            stream: where lines go.
            notice: makes a line of a warning about dropped lines, or None to leave it out;
                default: as before.
        """
        if stream is not self._stream:
            self.flush()
            self._stream = stream
            self._has_descriptor = _has_descriptor(stream)
        self._notice = notice or self._notice

    def put(self, line: str) -> None:
        """Queue a line, with the line break at its end. The logging handler's lock is held."""
        if self._queue.qsize() >= QUEUE_LINES:
            self._overflowed += 1
            return
        self._queue.put(line)
        if not self._is_started and self._start.acquire(blocking=False):
            try:
                Thread(target=self._run, args=(self._queue,), name="log", daemon=True).start()
                self._is_started = True
            except RuntimeError:  # no more threads: the next line tries again
                self._start.release()

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until the lines queued so far are written. Return whether they were, in time.

        A process that ends flushes several times. So once time has run out, no other call waits
        until the lines of that time are written.
        """
        if not self._is_started:
            return self._queue.empty()
        if self._unwritten is not None and not self._unwritten.is_set():
            return False
        self._unwritten = written = Event()
        self._queue.put(written)
        return written.wait(seconds)

    # The thread

    def _run(self, queue: SimpleQueue[str | Event]) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # A signal must interrupt the main thread, where Python handles it.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            is_told = self._told == self.dropped
            with suppress(Empty):
                self._drain(queue, queue.get(timeout=None if is_told else NOTICE_SECONDS))
            self._tell()
            sleep(COLLECT_SECONDS)

    def _drain(self, queue: SimpleQueue[str | Event], item: str | Event) -> None:
        """Write `item` and all that is queued, in pieces that other processes leave whole."""
        piece = bytearray()
        try:
            while True:
                if isinstance(item, Event):
                    self._write(piece)
                    piece.clear()
                    item.set()
                else:
                    line = item.encode("utf-8", "backslashreplace")
                    if len(piece) + len(line) > ATOMIC_WRITE_BYTES:
                        self._write(piece)
                        piece.clear()
                    piece += line
                item = queue.get_nowait()
        except Empty:
            self._write(piece)

    def _write(self, piece: bytes | bytearray) -> bool:
        """Write lines, or count them as dropped. Return whether they were written."""
        if not piece or self._stream is None:
            return True
        break_bytes = 1 if self._line_is_open else 0  # ends a line that could not be written whole
        data = b"\n" * break_bytes + piece
        written = 0
        try:
            while written < len(data):
                written += self._write_some(self._stream, data[written:])
        except Exception as error:  # noqa: BLE001  (a full disk, a reader that is gone, a closed file)
            if written:
                self._line_is_open = not data.endswith(b"\n", 0, written)
            self._failed += piece.count(b"\n", max(0, written - break_bytes))
            reason = getattr(error, "strerror", None) or type(error).__name__
            self._cause = f"because writing to the log failed: {reason}"
            return False
        self._line_is_open = False
        return True

    def _write_some(self, stream: TextIO, data: bytes) -> int:
        if not self._has_descriptor:
            stream.write(data.decode())
            stream.flush()
            return len(data)
        try:
            # The stream's buffer would keep lines that failed, and fail again at the exit.
            return os.write(stream.fileno(), data)
        except BlockingIOError:  # another process that shares it made it non-blocking
            sleep(COLLECT_SECONDS)
            return 0

    def _tell(self) -> None:
        """Once lines flow again, write how many were dropped, and why."""
        dropped = self.dropped
        if dropped == self._told or monotonic() < self._next_notice:
            return
        count, cause = dropped - self._told, self._cause
        line = self._notice(f"{count} log line{'s were' if count > 1 else ' was'} dropped {cause}")
        self._next_notice = monotonic() + NOTICE_SECONDS
        failed = self._failed
        if line is None or self._write(line.encode("utf-8", "backslashreplace")):
            self._told = dropped
            self._cause = STALLED
        else:
            self._failed = failed  # the notice is not one of the lines


def _has_descriptor(stream: TextIO | None) -> bool:
    """Return whether bytes may be written to the descriptor below a stream."""
    if stream is None or os.name == "nt":  # a Windows console is not UTF-8
        return False
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        return False
    return True


def occupy_standard_descriptors() -> None:
    """Open the null device for each of the descriptors 0 to 2 that is closed.

    Otherwise a socket gets the number, and a write to standard error goes to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
