"""The service manager's end of sd_notify(3)."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Iterator


class Manager:
    """`address` is what stands in $NOTIFY_SOCKET."""

    def __init__(self, address: str, listener: socket.socket) -> None:
        self.address = address
        self._socket = listener

    def next(self) -> str:
        """Wait for a message."""
        self._socket.settimeout(30)
        return self._socket.recv(4096).decode()

    def pending(self) -> list[str]:
        """The messages that are there by now."""
        self._socket.setblocking(False)
        messages = []
        try:
            while True:
                messages.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return messages


@contextmanager
def listening(*, is_path: bool = True) -> Iterator[Manager]:
    """A manager at a path, or in the abstract namespace."""
    with (
        TemporaryDirectory() as folder,  # a socket's path has to be shorter than pytest's are
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        name = str(Path(folder, "notify") if is_path else uuid4())
        listener.bind(name if is_path else f"\0{name}")
        yield Manager(name if is_path else f"@{name}", listener)
