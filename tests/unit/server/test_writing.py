from __future__ import annotations

import asyncio
import socket

import pytest

from dicomweb_cors_proxy.server import writing
from dicomweb_cors_proxy.server.writing import ignores_limit, write_parts
from tests.support.upstream import until

MIB = 2**20


class Sender(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_paused = False

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False


@pytest.mark.parametrize(
    ("version", "ignores"),
    [
        ((3, 11, 7), False),
        ((3, 12, 0), True),
        ((3, 12, 8), True),
        ((3, 12, 9), False),
        ((3, 13, 0), True),
        ((3, 13, 1), True),
        ((3, 13, 2), False),
        ((3, 14, 0), False),
    ],
)
def test_versions_without_the_limit(version: tuple[int, int, int], *, ignores: bool) -> None:
    assert ignores_limit(version) == ignores


async def test_write_parts_pauses_the_protocol_until_the_client_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some versions of asyncio have a `writelines` that does not; see above."""

    def never_pauses(transport: asyncio.WriteTransport, parts: object) -> None:
        pytest.fail(f"{transport} {parts}")

    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        transport, sender = await loop.create_connection(Sender, sock=ours)
        monkeypatch.setattr(writing, "_IGNORES_LIMIT", True)
        monkeypatch.setattr(type(transport), "writelines", never_pauses, raising=False)
        write_parts(transport, (b"head", bytes(8 * MIB), b"end"))
        assert sender.is_paused
        received = bytearray()
        while not received.endswith(b"end"):
            received += await loop.sock_recv(theirs, MIB)
        assert len(received) == 8 * MIB + 7
        await until(lambda: not sender.is_paused)
        transport.abort()
