"""Commands that run beside a test."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Child:
    """A running command whose output can be awaited.

    Leaving the `with` block asks it to end and waits until it has.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.command = command
        self.output = ""
        self._ended = False
        self._news = threading.Condition()
        self._may_read = threading.Event()
        self._may_read.set()
        self._process = subprocess.Popen(
            command,
            env=env,
            pass_fds=pass_fds,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # without the terminal, from which SIGHUP would stop `serve`
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def is_silent(self) -> bool:
        """Whether nobody is left who could write to the output, children of its own included."""
        return self._ended

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, pattern: str, *, seconds: float = 30) -> re.Match[str]:
        """Return the first match of `pattern` in the output, past or to come."""
        with self._news:
            self._news.wait_for(lambda: self._ended or re.search(pattern, self.output), seconds)
            match = re.search(pattern, self.output)
        if match is None:
            raise AssertionError(f"{self.command} never said {pattern!r}, but:\n{self.output}")
        return match

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Leave the output unread while the block runs, so that its pipe fills up."""
        self._may_read.clear()
        try:
            yield
        finally:
            self._may_read.set()

    def terminate(self) -> None:
        """Ask it to end, as an init system would."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, *, seconds: float = 30) -> int:
        """Return the exit code; past `seconds` the child is killed and the wait fails."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._reader.join(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()
        self.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._may_read.wait()
                self._tell(line)
        self._tell("", ended=True)

    def _tell(self, line: str, *, ended: bool = False) -> None:
        with self._news:
            self.output += line
            self._ended = ended
            self._news.notify_all()
