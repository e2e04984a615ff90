"""How much memory a process needs."""

from __future__ import annotations

from pathlib import Path

import pytest

measured = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc"
)


class Memory:
    """The most memory that a process has had since it was idle, in bytes beyond what it had."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        (self._process / "clear_refs").write_text("5")  # the peak starts anew
        self._idle = self._peak()

    def _peak(self) -> int:
        status = (self._process / "status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    @property
    def growth(self) -> int:
        return self._peak() - self._idle
