"""An archive that answers each request in the manner that its query asks for, bad ones included.

    python -m tests.stress.rogue PORT LEDGER [CERTIFICATE]

CERTIFICATE is a PEM file with its key: TLS is spoken. What is stored is only compared with what
the request's number stands for. LEDGER is a file to which a line is added for each write that
begins, and for each that arrives as it should or otherwise; it outlives a kill.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

import uvloop

from tests.support.sockets import Wire

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.sockets import Head

__all__ = [
    "BROKEN",
    "EARLY",
    "HANGING",
    "TINY",
    "UNTIL_CLOSE",
    "WHOLE",
    "Order",
    "content",
    "in_tiny_chunks",
    "read_ledger",
]

NAME: Final = b"http://pacs.internal/dicom-web"  # by which its searches call the archive

# What a client may take for whole. The last leaves a connection behind that is dead when it is
# used again, the one before says more than it was asked.
UNTIL_CLOSE: Final = "until-close"
TINY: Final = "tiny"
WHOLE: Final = ("length", "chunked", "interim", "slow", TINY, UNTIL_CLOSE, "surplus", "last")
# What must be seen to have failed.
HANGING: Final = "hang"
BROKEN: Final = ("cut", "cut-chunked", "reset", "reset-chunked", "silence", "garbage", HANGING)
# An upload refused before it is read.
EARLY: Final = "early"

_NOISE: Final = random.Random(9).randbytes(1 << 21)
_ORDER: Final = re.compile(rb"n=(\d+)&size=(\d+)&manner=([a-z-]+)")


class Order(NamedTuple):
    """What a request asks for: `size` bytes of content in that manner."""

    number: int
    size: int
    manner: str

    @property
    def query(self) -> str:
        return f"n={self.number}&size={self.size}&manner={self.manner}"

    @property
    def stored(self) -> bytes:
        """The response to a write that has arrived."""
        return b"stored %d" % self.number

    @property
    def found(self) -> bytes:
        """The response to a search: JSON of about `size` bytes with the archive's name in it."""
        match = b'{"00081190":{"vr":"UR","Value":["%b/studies/1.%d"]}}' % (NAME, self.number)
        return b"[" + b",".join([match] * (1 + self.size // len(match))) + b"]"


def content(number: int, size: int) -> bytes:
    """The bytes that a number stands for, in either direction; up to 1 MiB."""
    start = number * 7919 % (len(_NOISE) - size)
    return _NOISE[start : start + size]


def in_tiny_chunks(body: bytes) -> bytes:
    """Return a body in chunks of 2 bytes, but for the last chunk."""
    pairs = (body[at : at + 2] for at in range(0, len(body), 2))
    return b"".join([b"%x\r\n%b\r\n" % (len(pair), pair) for pair in pairs])


def read_ledger(ledger: Path) -> dict[str, list[int]]:
    """The numbers of the writes that have `begun`, were `stored`, and arrived `wrong`."""
    seen: dict[str, list[int]] = {"begun": [], "stored": [], "wrong": []}
    for line in ledger.read_text(encoding="ascii").splitlines():
        what, number = line.split()
        seen[what].append(int(number))
    return seen


class Rogue:
    """Serves connections; `ledger` is a descriptor."""

    def __init__(self, ledger: int) -> None:
        self._ledger = ledger

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        try:
            while not writer.is_closing():
                await self._obey(wire, await wire.head())
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            pass  # the request was cut
        finally:
            writer.close()

    def _note(self, what: str, order: Order) -> None:
        os.write(self._ledger, f"{what} {order.number}\n".encode())

    async def _obey(self, wire: Wire, head: Head) -> None:
        method, target, _ = head.first_line.split()
        if (asked := _ORDER.search(target)) is None:
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        order = Order(int(asked[1]), int(asked[2]), asked[3].decode())
        kind = b"application/octet-stream"
        if method == b"POST":
            self._note("begun", order)
            if order.manner == EARLY:
                await wire.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
                wire.writer.close()
                return
            whole = await wire.body(head) == content(order.number, order.size)
            self._note("stored" if whole else "wrong", order)
            body = order.stored
        elif target.partition(b"?")[0].endswith(b"/studies"):
            kind, body = b"application/dicom+json", order.found
        else:
            body = content(order.number, order.size)
        start = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n" % kind
        if method == b"HEAD":
            await wire.send(start + b"Content-Length: %d\r\n\r\n" % len(body))
            return
        await _answer(wire, order.manner, start, body)


async def _answer(wire: Wire, manner: str, start: bytes, body: bytes) -> None:
    plain = start + b"Content-Length: %d\r\n\r\n" % len(body)
    match manner:
        case "length":
            await wire.send(plain + body)
        case "chunked":
            await wire.send(*_chunked(start, body), b"0\r\nTrailer: dropped\r\n\r\n")
        case "tiny":
            head = start + b"Transfer-Encoding: chunked\r\n\r\n"
            await wire.send(head, *map(in_tiny_chunks, _halves(body)), b"0\r\n\r\n")
        case "interim":
            await wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", plain, body)
        case "slow":
            for piece in (plain, *_halves(body)):
                await wire.send(piece)
                await asyncio.sleep(0.01)
        case "surplus":
            await wire.send(plain + body + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
        case "last":
            await wire.send(plain + body)
            wire.writer.close()
        case "until-close":
            await wire.send(start + b"\r\n" + body)
            wire.writer.close()
        case _:
            await _break_off(wire, manner, start, body)


async def _break_off(wire: Wire, manner: str, start: bytes, body: bytes) -> None:
    match manner:
        case "cut" | "reset":
            await wire.send(start + b"Content-Length: %d\r\n\r\n" % len(body), *_halves(body)[:1])
        case "cut-chunked" | "reset-chunked":
            await wire.send(*_chunked(start, body)[:2])
        case "garbage":
            await wire.send(b"220 pacs.internal ESMTP\r\n")
        case "hang":
            await wire.closed()
    if manner.startswith("reset"):
        wire.reset()
    wire.writer.close()


def _halves(body: bytes) -> list[bytes]:
    half = len(body) // 2
    return [body[:half], body[half:]]


def _chunked(start: bytes, body: bytes) -> list[bytes]:
    """Head and chunks, but for the last."""
    chunks = [b"%x\r\n%b\r\n" % (len(half), half) for half in _halves(body)]
    return [start + b"Transfer-Encoding: chunked\r\n\r\n", *chunks]


async def _serve(port: int, ledger: str, certificate: str | None) -> None:
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = await asyncio.start_server(
        Rogue(descriptor), "127.0.0.1", port, ssl=context, backlog=1024
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), sys.argv[2], next(iter(sys.argv[3:]), None)))
