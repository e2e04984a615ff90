"""A name server that tests play, in place of the operating system's resolver."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from tests.support.upstream import turns, until

if TYPE_CHECKING:
    import pytest

Found = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]


class NameServer:
    """Knows some names in place of `socket.getaddrinfo`, which threads call.

    Attributes:
        names: the addresses of each name, in order; an exception is raised.
        asked: the names that were looked up.
        responding: clear it to have look-ups wait.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: dict[str, list[str] | Exception] = {}
        self.asked: list[str] = []
        self.responding = threading.Event()
        self.responding.set()
        self._original = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: str, port: int, *args: int, **options: int) -> Found:
        if host not in self.names:
            return self._original(host, port, *args, **options)
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        self.asked.append(host)
        self.responding.wait()
        found = self.names[host]
        if isinstance(found, Exception):
            raise found
        return [
            info
            for address in found
            for info in self._original(
                address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        ]

    async def idle(self, count: int) -> None:
        """Wait until `count` look-ups have been made in all, and the last has had its effect."""
        await until(lambda: len(self.asked) == count)
        await until(lambda: all(t.name != "name look-up" for t in threading.enumerate()))
        await turns(3)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.responding.set()  # no thread waits on
