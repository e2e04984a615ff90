"""A client and an archive of which one side does not read."""

from __future__ import annotations

import asyncio
import socket

import httpx

from tests.support.sockets import Wire

GIB = 2**30
PIECE = bytes(2**18)
STALLED = 1.0  # seconds without a byte taken


async def send_while_taken(wire: Wire, total: int) -> int:
    """Send zeros until nobody takes any more; how many were not sent."""
    while total:
        piece = PIECE[:total]
        wire.writer.write(piece)
        total -= len(piece)
        try:
            async with asyncio.timeout(STALLED):
                await wire.writer.drain()
        except TimeoutError:
            break
    return total


async def connect(root: str) -> Wire:
    """A client with little room for what it doesn't read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
    client.setblocking(False)
    url = httpx.URL(root)
    await asyncio.get_running_loop().sock_connect(client, (url.host, url.port))
    return Wire(*await asyncio.open_connection(sock=client))
