"""`healthcheck`: what the container image's HEALTHCHECK runs."""

from __future__ import annotations

import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

_ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104
_LISTENING = "0A"  # TCP_LISTEN of the kernel's tcp_states.h
_TABLES = {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}
_TIMEOUT = 4.0  # seconds
# What the kernel says of a process, or a descriptor, that is gone between two looks.
_ENDED = (FileNotFoundError, ProcessLookupError)


@click.command(hidden=True)
@click.option("--pid", default=1, show_default=True, help="Process of the `serve` that is meant.")
def healthcheck(pid: int) -> None:
    """Ask the proxy in this container for /healthz.

    Where it listens is asked of the kernel: a configuration may have been changed since, and
    refused. Whether with TLS is tried.

    Exit status: 0 if it serves, else 1.
    """
    failures = []
    try:
        for host, port in _listeners(pid):
            for scheme in ("http", "https"):
                url = f"{scheme}://{host}:{port}/healthz"
                try:
                    # Whom the certificate names is the clients' concern.
                    answer = httpx.get(url, verify=False, trust_env=False, timeout=_TIMEOUT)  # noqa: S501
                    answer.raise_for_status()
                except httpx.HTTPError as error:
                    failures.append(f"{url}: {error}")
                else:
                    return
    except OSError as error:
        failures.append(str(error))
    click.echo("\n".join(failures) or f"Process {pid} does not listen, nor does a child.", err=True)
    sys.exit(1)


def _listeners(pid: int) -> Iterator[tuple[str, int]]:
    """Find host and port, as in a URL, where a process or one below it accepts connections."""
    sockets = set(_descriptors(pid))
    for table, family in _TABLES.items():
        with suppress(FileNotFoundError):  # without IPv6 there is no table for it
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == _LISTENING and f"socket:[{inode}]" in sockets:
                    address, _, port = local.partition(":")
                    yield _host(family, address), int(port, 16)


def _host(family: socket.AddressFamily, address: str) -> str:
    """Return the host in a URL for an address of proc(5), in words of the machine's order."""
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    host = socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))
    if host in _ALL_INTERFACES:
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _descriptors(pid: int) -> Iterator[str]:
    """Return the targets of the descriptors of a process and of all below it."""
    parents = {int(stat.parent.name): _parent(stat) for stat in Path("/proc").glob("[0-9]*/stat")}
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for member in family:
        with suppress(PermissionError, *_ENDED):
            for descriptor in Path(f"/proc/{member}/fd").iterdir():
                with suppress(*_ENDED):
                    yield str(descriptor.readlink())


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
    except _ENDED:
        return None
