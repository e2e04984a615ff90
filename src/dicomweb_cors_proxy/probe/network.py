"""The connections of a probe: to checked addresses only, and only until its deadline.

A host name is resolved once for each connection, and the connection goes to an address that was
checked. If it went to the name, a second look-up could return another address (DNS rebinding).
"""

from __future__ import annotations

import queue
import socket
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import httpcore

from dicomweb_cors_proxy.probe.addresses import Space, space_of_address

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    Resolve: TypeAlias = "Callable[[str], list[str]]"
    Classify: TypeAlias = "Callable[[str], Space]"

__all__ = ["Network", "OutOfTimeError", "PrivateAddressError", "resolve", "space_of"]

_SPACE: Final = "dicomweb_cors_proxy.space"  # key of `get_extra_info`


class OutOfTimeError(Exception):
    """The deadline of the probe has passed."""


class PrivateAddressError(Exception):
    """All addresses of a host are nearer than a redirect may lead; `space` is the nearest."""

    def __init__(self, space: Space) -> None:
        self.space = space
        super().__init__(space.name)


def resolve(host: str) -> list[str]:
    """Return the addresses of a host name; raise OSError or UnicodeError without any."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Network(httpcore.SyncBackend):
    """A network backend for httpcore.

    Args:
        max_seconds: time from now to the deadline, after which OutOfTimeError is raised.
        resolve: returns the addresses of a host name.
        classify: returns the space of an address.

    Attributes:
        nearest: the nearest address space to which connections may go.
    """

    def __init__(
        self,
        *,
        max_seconds: float,
        resolve: Resolve = resolve,
        classify: Classify = space_of_address,
    ) -> None:
        self._deadline = monotonic() + max_seconds
        self._resolve = resolve
        self._classify = classify
        self._reached: set[str] = set()
        self.nearest = Space.LOOPBACK

    def check_time(self) -> None:
        """Raise OutOfTimeError after the deadline."""
        self.within(None)

    def within(self, seconds: float | None) -> float:
        """Return `seconds`, or what is left until the deadline if that is less."""
        left = self._deadline - monotonic()
        if left <= 0:
            raise OutOfTimeError
        return left if seconds is None else min(seconds, left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that accepts and that is not too near."""
        end = monotonic() + self.within(timeout)
        addresses = self._checked(self._addresses(host, end - monotonic()))
        for position, address in enumerate(addresses, 1):
            # Without its share of the time, one dead address would use up all of it.
            share = max(end - monotonic(), 0.001) / (len(addresses) - position + 1)
            try:
                stream = super().connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if position == len(addresses):
                    raise
            else:
                self._reached.add(address)
                return _Stream(stream, self, self._classify(address))
        raise AssertionError("a host name without addresses raises in `resolve`")

    def _addresses(self, host: str, seconds: float) -> list[str]:
        """Resolve a name in a thread, because getaddrinfo has no timeout of its own."""
        outcomes: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                outcomes.put(self._resolve(host))
            except (OSError, UnicodeError) as error:
                outcomes.put(error)

        threading.Thread(target=look_up, daemon=True).start()
        try:
            outcome = outcomes.get(timeout=seconds)
        except queue.Empty:
            raise httpcore.ConnectTimeout("the look-up did not end in time") from None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _checked(self, addresses: list[str]) -> list[str]:
        """Return the addresses that are not too near, those that were reached before first."""
        spaces = {address: self._classify(address) for address in addresses}
        allowed = [address for address, space in spaces.items() if space >= self.nearest]
        if not allowed:
            raise PrivateAddressError(min(spaces.values()))
        return sorted(allowed, key=lambda address: address not in self._reached)


class _Stream(httpcore.NetworkStream):
    """A connection that no operation keeps beyond the deadline."""

    def __init__(self, stream: httpcore.NetworkStream, network: Network, space: Space) -> None:
        self._stream = stream
        self._network = network
        self._space = space

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.within(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._network.within(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._network.within(timeout)
        stream = self._stream.start_tls(ssl_context, server_hostname, seconds)
        return _Stream(stream, self._network, self._space)

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401
        return self._space if info == _SPACE else self._stream.get_extra_info(info)


def space_of(extensions: Mapping[str, Any]) -> Space | None:
    """Return the space of the address that a response of httpcore's came from."""
    stream = extensions.get("network_stream")
    return stream.get_extra_info(_SPACE) if stream else None
