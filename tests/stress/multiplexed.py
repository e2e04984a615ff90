"""The clients of `tests.stress.chaos` that speak HTTP/2, several on one connection."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from tests.support.http2 import Client, EndedError, open_client
from tests.support.http2_frames import block, head, headers

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tests.stress.chaos import Plan
    from tests.support.http2 import Response

# Requests after which a connection is left, with all that is open on it.
MOST_REQUESTS: Final = 300


class Shared:
    """A connection that several users share; a new one is opened when it has ended."""

    def __init__(self, port: int, trust: ssl.SSLContext, patience: float) -> None:
        self._port = port
        self._trust = trust
        self._patience = patience
        self._opening = asyncio.Lock()
        self._client: Client | None = None
        self._left: set[Client] = set()
        self._next = 1
        self.since = 0.0  # when it was opened
        self.faults: list[str] = []

    async def begin(self, make: Callable[[int], bytes]) -> tuple[Client, int]:
        """Send the head that `make` returns for the id of a stream."""
        async with self._opening:
            client = self._client
            if client is not None and self._next > 2 * MOST_REQUESTS:
                await self.leave()
                client = None
            if client is None or client.is_closed or client.goaways:
                if client is not None:
                    self.faults += client.faults
                    await client.leave()
                began = time.monotonic()
                client = self._client = await open_client(self._port, tls=self._trust)
                client.patience = self._patience
                self._next, self.since = 1, began
            stream, self._next = self._next, self._next + 2
            client.send(make(stream))
            return client, stream

    async def leave(self) -> None:
        """Close the connection, whatever is open on it."""
        client, self._client = self._client, None
        if client is not None:
            self._left.add(client)
            self.faults += client.faults
            await client.leave()

    def has_left(self, client: Client | None) -> bool:
        """Return whether the users have closed a connection themselves."""
        return client in self._left


class StreamExchange:
    """A request on a stream of its own, and what has come of its response."""

    def __init__(self, planned: Plan) -> None:
        self.plan = planned
        self.began = time.monotonic()
        self.head: Response | None = None
        self.body = b""
        self.client: Client | None = None
        self.since: float | None = None  # when its connection was opened

    def _head(self, stream: int) -> bytes:
        """Return the request's head, from its form in HTTP/1.1."""
        first, *lines = self.plan.head.decode("ascii").split("\r\n\r\n", 1)[0].split("\r\n")
        method, target, _ = first.split(" ")
        pairs = [line.split(": ", 1) for line in lines]
        more = [
            (name.lower().encode(), value.encode())
            for name, value in pairs
            if name not in ("Host", "Origin", "Transfer-Encoding")
        ]
        made = head(method.encode(), target.encode(), *more, scheme=b"https")
        return headers(stream, block(made), end=self.plan.upload is None)

    async def run(self, shared: Shared) -> None:
        """Raises OSError where it breaks."""
        client, stream = await shared.begin(self._head)
        self.client = client
        self.since = shared.since
        response = client.responses[stream]
        response.head_only = self.plan.kind == "head"
        try:
            if self.plan.upload is not None:
                await client.upload(stream, self.plan.upload)
            await client.until(lambda: response.is_done)
            if not response.is_ended:
                raise EndedError(f"reset with {response.reset}")
        finally:
            if response.status >= 200:
                self.head = response
                self.body = response.body
                response.parts.clear()
            client.cancel(stream)
