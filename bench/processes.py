"""Processes beside the bench: on which core they run, and what the kernel says they have used."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

CORES: Final = sorted(os.sched_getaffinity(0))
PROXY_CORES: Final = CORES[-1:]
OTHER_CORES: Final = CORES[:-1] or CORES  # load generators, the archive, this process
PROC: Final = Path("/proc")


class Memory(NamedTuple):
    """Bytes; what processes share is in `pss` once, in `rss` as often as it is mapped."""

    rss: int
    pss: int


class Process:
    """A running command with its children."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu(self) -> float:
        """Seconds of CPU that the tree has had, ended threads included.

        The clock of another process, by clock_getcpuclockid(3): nanoseconds, while
        /proc/PID/stat has hundredths of a second.
        """
        total = 0.0
        for pid in tree(self.pid):
            with suppress(OSError):  # ended meanwhile
                total += time.clock_gettime((~pid << 3) | 2)
        return total

    def memory(self) -> Memory:
        """Return what the tree holds now."""
        rss = pss = 0
        for pid in tree(self.pid):
            with suppress(OSError):
                text = (PROC / str(pid) / "smaps_rollup").read_text(encoding="ascii")
                sizes = dict(re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE))
                rss += int(sizes["Rss"]) * 1024
                pss += int(sizes["Pss"]) * 1024
        return Memory(rss, pss)

    def wait_until(self, condition: Callable[[], bool], *, seconds: float = 20) -> None:
        """Ask again every millisecond; raises RuntimeError if it takes too long or has ended."""
        end = time.monotonic() + seconds
        while not condition():
            if self._process.poll() is not None or time.monotonic() > end:
                said = self._output.read_text(encoding="utf-8", errors="replace")[-2000:]
                command = " ".join(map(str, self._process.args))  # type: ignore[arg-type]
                raise RuntimeError(f"{command} did not come up: {said}")
            time.sleep(0.001)


def listens(port: int) -> bool:
    """Whether connections to that port of this machine are accepted."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def tree(pid: int) -> list[int]:
    """Return the process and its descendants."""
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    cores: Sequence[int],
    env: Mapping[str, str] | None = None,
) -> Iterator[Process]:
    """Run a command on these cores only; it has ended when the block is left."""
    # The comparison refuses to run without it; where only its parts are tested, any core will do.
    taskset = shutil.which("taskset")
    pinned = [taskset, "--cpu-list", ",".join(map(str, cores)), *command] if taskset else command
    with tempfile.NamedTemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603
            pinned,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Process(process, Path(output.name))
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then make sure that nothing of its tree is left."""
    _, *children = tree(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
