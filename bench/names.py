"""The name server of the chaos run, played inside the proxy's process.

The run writes into a file which addresses the archive's name has and how long a look-up takes. In
the proxy's process, `install` replaces `socket.getaddrinfo` by a function that reads this file at
each look-up. `sitecustomize`, which Python imports at its start, calls it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NAME", "SLOW_SECONDS", "NameServer", "install"]

NAME: Final = "archive.test"
ALIVE: Final = "127.0.0.1"
DEAD: Final = "127.0.0.2"
SLOW_SECONDS: Final = 3.0

_FILE: Final = "CHAOS_NAMES"  # the variable that names the file
_QUEUED: Final = 4  # connections, more than a queue of length 0 takes


class NameServer:
    """The addresses of NAME, one of which drops every connection.

    Args:
        directory: for files of the run.
        port: of the archive; the dead address has it, too.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._file = directory / "names.json"
        self._sockets = ExitStack()
        self._block(port)
        self.answer()

    def _block(self, port: int) -> None:
        """Have the kernel drop what arrives at the dead address, because its queue is full."""
        listener = self._sockets.enter_context(socket.socket())
        listener.bind((DEAD, port))
        listener.listen(0)
        for _ in range(_QUEUED):
            waiting = self._sockets.enter_context(socket.socket())
            waiting.setblocking(False)  # noqa: FBT003  (its only parameter)
            waiting.connect_ex((DEAD, port))

    def answer(self, *, dead_first: bool = True, seconds: float = 0) -> None:
        """Answer so from now on: with the dead address first or last, after `seconds`."""
        addresses = [DEAD, ALIVE] if dead_first else [ALIVE, DEAD]
        made = self._file.with_suffix(".new")
        made.write_text(json.dumps({"addresses": addresses, "seconds": seconds}), encoding="ascii")
        made.replace(self._file)

    def environment(self) -> dict[str, str]:
        """Return the variables with which a Python process asks this name server."""
        start = self._directory / "start"
        start.mkdir(exist_ok=True)
        code = "from bench.names import install\n\ninstall()\n"
        (start / "sitecustomize.py").write_text(code, encoding="ascii")
        folders = [str(start), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        return {
            "PYTHONPATH": os.pathsep.join(filter(None, folders)),
            _FILE: str(self._file),
        }

    def counted(self) -> Counter[str]:
        """Count the look-ups of NAME by what was wrong with them."""
        ledger = _ledger(self._file)
        text = ledger.read_text(encoding="ascii") if ledger.exists() else ""
        return Counter(text.splitlines())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sockets.close()


def install() -> None:
    """Replace `socket.getaddrinfo` if the environment names a file."""
    if file := os.environ.get(_FILE):
        socket.getaddrinfo = _answering(Path(file), socket.getaddrinfo)


def _answering(file: Path, original: Callable[..., Any]) -> Callable[..., Any]:
    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:  # noqa: ANN401
        flags = options.get("flags", arguments[3] if len(arguments) > 3 else 0)
        if host not in (NAME, NAME.encode()) or flags & socket.AI_NUMERICHOST:
            found: list[Any] = original(host, port, *arguments, **options)
            return found
        state = json.loads(file.read_text(encoding="ascii"))
        addresses, seconds = state["addresses"], state["seconds"]
        if addresses[0] == DEAD:
            _note(file, "look-up with a dead address first")
        if seconds:
            _note(file, f"look-up of {seconds:g} s")
            time.sleep(seconds)
        return [info for each in addresses for info in original(each, port, *arguments, **options)]

    return getaddrinfo


def _ledger(file: Path) -> Path:
    return file.with_name("look-ups")


def _note(file: Path, line: str) -> None:
    """Append a line; several processes do."""
    descriptor = os.open(_ledger(file), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode("ascii"))
    finally:
        os.close(descriptor)
