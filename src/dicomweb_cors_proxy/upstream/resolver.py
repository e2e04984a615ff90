"""Look-ups of host names, cached for seconds and shared by all requests that need the same name."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Address", "ResolveTimeout", "Resolver"]

FRESH_SECONDS: Final = 10.0
FRESH_FAILURE_SECONDS: Final = 1.0

# Older addresses are used at once while a look-up runs, so that a slow name server delays no
# request. After this time a request waits for the look-up.
STALE_SECONDS: Final = 60.0


class Address(NamedTuple):
    """An address to connect to, as `socket.connect` takes it."""

    family: int
    sockaddr: tuple[str, int]


class ResolveTimeout(TimeoutError):  # noqa: N818  (like httpx.ConnectTimeout)
    """A look-up that did not end before its deadline."""


@dataclass(slots=True)
class _Name:
    """The last result for one name, and the look-up that is in progress."""

    addresses: Sequence[Address] = ()
    error: OSError | None = None
    looked_up_at: float = -math.inf
    lookup: asyncio.Future[None] | None = None


class Resolver:
    """A cache of host addresses for the event loop in which it was created."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._names: dict[tuple[str, int], _Name] = {}

    async def resolve(
        self,
        host: str,
        port: int,
        *,
        deadline: float | None = None,
        max_age: float = STALE_SECONDS,
    ) -> Sequence[Address]:
        """Return the addresses of a host in the order of the operating system.

        Args:
            host: a name, or an address, which needs no look-up.
            port: goes into the addresses.
            deadline: loop time until which to wait for the look-up.
            max_age: seconds since the look-up that brought the addresses.

        Raises:
            ResolveTimeout: the look-up did not end before the deadline.
            OSError: the look-up failed; `socket.gaierror` for most causes.
        """
        with suppress(socket.gaierror):
            return _look_up(host, port, socket.AI_NUMERICHOST)
        name = self._names.setdefault((host, port), _Name())
        age = self.loop.time() - name.looked_up_at
        fresh_seconds = FRESH_FAILURE_SECONDS if name.error else FRESH_SECONDS
        if age >= min(fresh_seconds, max_age):
            lookup = name.lookup or self._start(host, port, name)
            if name.error or age >= max_age:
                await self._wait(lookup, deadline)
        if name.error is not None:
            # Each request gets an exception of its own, because raising adds to its traceback.
            raise type(name.error)(*name.error.args)
        return name.addresses

    def refresh(self, host: str, port: int) -> None:
        """Start a look-up of a cached name, unless its addresses are very new."""
        name = self._names.get((host, port))
        if name is not None and name.lookup is None:
            age = self.loop.time() - name.looked_up_at
            if age >= FRESH_FAILURE_SECONDS:
                self._start(host, port, name)

    async def _wait(self, lookup: asyncio.Future[None], deadline: float | None) -> None:
        timeout = None if deadline is None else max(0.0, deadline - self.loop.time())
        # Unlike `await`, this cancels the look-up neither at the timeout nor with the request.
        done, _ = await asyncio.wait([lookup], timeout=timeout)
        if not done:
            raise ResolveTimeout

    def _start(self, host: str, port: int, name: _Name) -> asyncio.Future[None]:
        """Look a name up in a thread of its own.

        The event loop's thread pool has few threads, and the interpreter waits for them at exit.
        """
        lookup = name.lookup = self.loop.create_future()

        def finish(addresses: Sequence[Address], error: OSError | None) -> None:
            self._store(name, addresses, error)
            name.lookup = None
            lookup.set_result(None)

        def run() -> None:
            addresses: Sequence[Address] = ()
            error = None
            try:
                addresses = _look_up(host, port)
            except OSError as exc:
                error = exc.with_traceback(None)
            with suppress(RuntimeError):  # the event loop has been closed
                self.loop.call_soon_threadsafe(finish, addresses, error)

        try:
            threading.Thread(target=run, name="name look-up", daemon=True).start()
        except RuntimeError as exc:
            self.loop.call_soon(finish, (), OSError(str(exc)))
        return lookup

    def _store(self, name: _Name, addresses: Sequence[Address], error: OSError | None) -> None:
        now = self.loop.time()
        # If the name server is in trouble, the addresses that it gave before may still be right.
        keeps_former = (
            error is not None
            and not _says_unknown(error)
            and now - name.looked_up_at < STALE_SECONDS
            and name.error is None
        )
        if not keeps_former:
            name.addresses, name.error, name.looked_up_at = addresses, error, now


def _look_up(host: str, port: int, flags: int = 0) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:  # a label of more than 63 characters
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    return [Address(family, _sockaddr(address)) for family, _, _, _, address in found]


def _sockaddr(address: Sequence[object]) -> tuple[str, int]:
    """Return host and port; the host includes the scope, which uvloop's `sock_connect` drops."""
    host, port = str(address[0]), int(str(address[1]))
    if len(address) == 4 and address[3]:
        host = f"{host}%{address[3]}"
    return host, port


def _says_unknown(error: OSError) -> bool:
    """Return whether a name server says that there is no such name."""
    return isinstance(error, socket.gaierror) and error.errno in _UNKNOWN


_UNKNOWN: Final = frozenset(
    getattr(socket, code) for code in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, code)
)
