"""A `serve` under attack: raw bytes go in, and what came of them shows on both sides of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support import proxy as process
from tests.support.sockets import ORIGIN, Archive, Head, Wire, answer, archive, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[Wire, Head], Awaitable[None]]

HOST_LINE = b"Host: proxy.example"
ORIGIN_LINE = b"Origin: " + ORIGIN
PATIENCE = 10.0  # seconds until a test is stuck

# Sent behind every attack: who gets its response still has a connection in step.
LAST = request("GET", "/dicom-web/studies?last")
BARRIER = request("GET", "/dicom-web/studies?barrier")


class Outcome(NamedTuple):
    """What came of an attack.

    Attributes:
        answers: their statuses, and whether the connection is then `open` or `closed`; a `cut` is
            a response that lacks its end.
        reached: the archive's requests, each with its body.
        cors: whether the page can read the responses: yes, no, some.
    """

    answers: str
    reached: tuple[str, ...] = ()
    cors: str = "yes"


@dataclass
class Recorder:
    """An archive that notes all that reaches it, and answers with it."""

    seen: list[str] = field(default_factory=list)

    async def __call__(self, wire: Wire, head: Head) -> None:
        method, target, _ = head.first_line.decode("latin-1").split(" ")
        noted = [f"{method} {target}"]
        body = b""
        try:
            if head.get(b"transfer-encoding") or head.get(b"content-length"):
                body = await wire.body(head)
                noted.append(body.decode("latin-1"))
        except asyncio.IncompleteReadError:
            noted.append("(cut)")
            raise
        finally:
            self.seen.append(" ".join(filter(None, noted)))
        await wire.send(answer(head.first_line + body))


@dataclass
class Front:
    """A proxy in a process of its own, and the archive behind it."""

    port: int
    process: process.Proxy
    archive: Archive
    recorder: Recorder

    async def connect(self, source: str = "127.0.0.1") -> Wire:
        """A connection that comes from the address `source`."""
        local = (source, 0)
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port, local_addr=local))

    async def ask(
        self, raw: bytes, *, source: str = "127.0.0.1", patience: float = PATIENCE
    ) -> tuple[Head, bytes]:
        """Send raw bytes on a connection of their own; the response to the first request."""
        async with asyncio.timeout(patience), await self.connect(source) as wire:
            await wire.send(raw)
            return await read_answer(wire)

    async def attack(self, raw: bytes, *, reaching: int = 0) -> Outcome:
        """Send raw bytes, and `LAST` behind them; `reaching`: the requests to be waited for."""
        self.recorder.seen.clear()
        answers: list[str] = []
        readable: set[bool] = set()
        then = "closed"
        async with asyncio.timeout(PATIENCE), await self.connect() as wire:
            wire.writer.write(raw + LAST)
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while then != "open":
                    head = await wire.head()
                    answers.append(f"{head.status} cut")
                    body = b"" if head.status in (204, 304) else await wire.body(head)
                    if body.startswith(b"GET /pacs/studies?last "):
                        answers.pop()
                        then = "open"
                        break
                    answers[-1] = str(head.status)
                    readable.add(head.get(b"access-control-allow-origin") == ORIGIN)
            if then == "open":
                wire.writer.write_eof()
                assert await wire.closed()
        return Outcome(
            " ".join([*answers, then]),
            await self._reached(reaching),
            {(True,): "yes", (False,): "no", (): "yes"}.get(tuple(readable), "some"),
        )

    async def _reached(self, expected: int) -> tuple[str, ...]:
        await self.ask(BARRIER)
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while len(self._attacks()) < expected:  # noqa: ASYNC110  (no event tells)
                    await asyncio.sleep(0.01)
        return self._attacks()

    def _attacks(self) -> tuple[str, ...]:
        ours = {"GET /pacs/studies?last", "GET /pacs/studies?barrier"}
        return tuple(seen for seen in self.recorder.seen if seen not in ours)


async def read_answer(wire: Wire) -> tuple[Head, bytes]:
    """The next response but for interim ones; not for HEAD."""
    head = await wire.head()
    while head.status < 200:
        head = await wire.head()
    return head, b"" if head.status in (204, 304) else await wire.body(head)


@asynccontextmanager
async def standing(
    directory: Path, handle: Handler | None = None, **sections: dict[str, Any]
) -> AsyncIterator[Front]:
    """A proxy for `ORIGIN` with further settings, in front of `handle`, else of a recorder."""
    recorder = Recorder()
    async with archive(handle or recorder) as a:
        settings = process.fronting(a.url, ORIGIN.decode()) | {"logging": {"level": "error"}}
        for name, section in sections.items():
            settings[name] = settings.get(name, {}) | section
        with process.serving(settings, directory) as p:
            yield Front(int(p.root.rpartition(":")[2]), p, a, recorder)
