"""Listening sockets, signals, and the limit of open descriptors."""

from __future__ import annotations

import errno
import os
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dicomweb_cors_proxy.http.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Maximum number of connections that wait to be accepted. Linux drops the first packet of a client
# beyond it, and the client repeats that only after a second.
BACKLOG = 2048

# Hosts that mean every address of this machine.
ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104

# Addresses for documentation (RFC 5737, RFC 3849). The route to them begins at our own address.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

# `localhost` may resolve to ::1 where there is no IPv6.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def handling_signals(
    on_stop: Callable[[], None], on_reload: Callable[[], None] | None
) -> Iterator[None]:
    """While the block lasts, SIGTERM, SIGINT and SIGBREAK stop the process, SIGHUP reloads it.

    A process that was started from a terminal is stopped by SIGHUP, because closing the terminal
    sends it. Under nohup, which ignores SIGHUP, the process reloads.
    """
    handlers: dict[int, Callable[[int, FrameType | None], None]] = dict.fromkeys(
        (signal.SIGINT, signal.SIGTERM), lambda _, __: on_stop()
    )
    if hasattr(signal, "SIGBREAK"):  # Ctrl+Break on Windows, and what its service managers send
        handlers[signal.SIGBREAK] = handlers[signal.SIGTERM]
    if on_reload is not None and hasattr(signal, "SIGHUP"):
        is_attached = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
        on_hangup = on_stop if is_attached else on_reload
        handlers[signal.SIGHUP] = lambda _, __: on_hangup()
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def lift_descriptor_limit() -> None:
    """Use as many descriptors as the system lets us have.

    The usual soft limit, 1024, is for programs that `select`; every request takes two.
    """
    if resource is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def bind(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for every address of `host`; `::` means all, IPv4's too.

    With port 0 it is one socket: no port is sure to be free on two addresses. An address that
    this machine does not have is skipped if there is another.

    Raises:
        OSError: an address can't be bound, or the name does not resolve.
    """
    hosts = ALL_INTERFACES[::-1] if host == "::" else (host,)
    sockets: list[socket.socket] = []
    with ExitStack() as bound:
        missing: OSError | None = None
        for family, address in _addresses(hosts, port):
            try:
                listener = bound.enter_context(
                    socket.create_server(address, family=family, backlog=BACKLOG)
                )
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
            else:
                sockets.append(listener)
                if port == 0:
                    break
        if missing and not sockets:
            raise missing
        bound.pop_all()
    return sockets


def _addresses(hosts: Iterable[str], port: int) -> dict[tuple[socket.AddressFamily, Any], None]:
    return dict.fromkeys(
        (family, address)
        for host in hosts
        for family, _, _, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    )


def names_elsewhere(host: str) -> list[str]:
    """Return this machine's name and addresses, by which others may reach a listener on `host`.

    Nothing is sent: connecting a datagram socket only looks up the route. No name server is asked,
    because a slow one would delay the start.
    """
    names = [socket.gethostname().lower()]
    for family, address in _ELSEWHERE if ":" in host else _ELSEWHERE[:1]:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((address, 9))
            names.append(asking.getsockname()[0])
    return [name for name in dict.fromkeys(names) if name and not is_loopback(name)]
