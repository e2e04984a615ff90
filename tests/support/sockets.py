"""Real sockets on both sides of the proxy: an archive that does as it is told, a client that sees
every byte. All of it runs in the test's own event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from dicomweb_cors_proxy import Settings, create_app
from dicomweb_cors_proxy.operations.certificates import Certificates
from dicomweb_cors_proxy.server.listening import bind
from dicomweb_cors_proxy.server.uvicorn_server import Server, ServerConfig
from tests.support.transport import TRANSPORT, WARM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from ssl import SSLContext

    import httpx
    from starlette.types import ASGIApp

    from dicomweb_cors_proxy.config.fields import ServerSettings

ORIGIN = b"https://viewer.example"


@dataclass(slots=True)
class Head:
    """A request's or a response's head."""

    first_line: bytes
    headers: list[tuple[bytes, bytes]]
    raw: bytes = b""  # both of them, as they came

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]

    def get(self, name: bytes) -> bytes | None:
        values = self.all(name)
        assert len(values) < 2, (name, values)
        return values[0] if values else None

    @property
    def status(self) -> int:
        return int(self.first_line.split()[1])


class Wire:
    """One end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.writer.write(chunk)
            await self.writer.drain()

    async def head(self) -> Head:
        raw = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].split(b"\r\n")
        headers = []
        for line in lines:
            name, _, value = line.partition(b":")
            headers.append((name, value.strip()))
        return Head(first, headers, raw)

    async def chunk(self) -> bytes:
        """One chunk of a chunked body; b"" for the last."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size)
        assert await self.reader.readexactly(2) == b"\r\n"
        return data

    async def body(self, head: Head) -> bytes:
        """A whole body; raises IncompleteReadError where it is cut."""
        if head.get(b"transfer-encoding") == b"chunked":
            body = b""
            while chunk := await self.chunk():
                body += chunk
            return body
        length = head.get(b"content-length")
        if length is None:
            return await self.reader.read()
        return await self.reader.readexactly(int(length))

    async def closed(self) -> bool:
        """Wait until the other end has closed; whether it did so without another byte."""
        with suppress(ConnectionError):
            return await self.reader.read() == b""
        return True

    def reset(self) -> None:
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def end_without_close_notify(self) -> None:
        """Close this side of a connection with TLS as whoever is on the way could."""
        fileno = self.writer.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(fileno)) as sock:
            sock.shutdown(socket.SHUT_WR)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def is_check(head: Head) -> bool:
    """Return whether `serve` sent this on its own account, to check the archive."""
    is_search = b"/studies?limit=1 " in head.first_line
    return is_search and bool(head.all(b"via")) and not head.all(b"x-request-id")


@dataclass
class Archive:
    """`connections` are those that the proxy has opened, `requests` the heads it has sent.

    The search with which `serve` checks an archive after its start is not among them.
    """

    port: int
    scheme: str = "http"
    host: str = "127.0.0.1"
    connections: list[Wire] = field(default_factory=list)
    requests: list[Head] = field(default_factory=list)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/pacs"


@asynccontextmanager
async def archive(
    handle: Callable[[Wire, Head], Awaitable[None]],
    *,
    tls: SSLContext | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Archive]:
    """An archive that calls `handle` for each request head, until the connection ends.

    What `handle` raises, a failed assertion for one, is raised when the block ends.
    """
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        wire = Wire(reader, writer)
        scripted.connections.append(wire)
        try:
            while not writer.is_closing():
                head = await wire.head()
                if is_check(head):
                    await wire.send(answer(b"[]"))
                    continue
                scripted.requests.append(head)
                await handle(wire, head)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    # asyncio sets it on none of this listener's connections; each small write would wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    scripted = Archive(listener.getsockname()[1], "https" if tls else "http", host)
    server = await asyncio.start_server(serve, sock=listener, ssl=tls)
    try:
        yield scripted
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        for failure in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(failure, Exception):
                raise failure


@dataclass
class Proxy:
    server: Server
    port: int

    async def connect(self) -> Wire:
        return Wire(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, request: bytes) -> tuple[Head, bytes]:
        """Send raw bytes on a connection of their own; the response to the first request."""
        async with await self.connect() as wire:
            await wire.send(request)
            head = await wire.head()
            bodyless = request.startswith(b"HEAD ") or head.status in (204, 304)
            return head, b"" if bodyless else await wire.body(head)


def settings(upstream: str, /, **changes: object) -> Settings:
    """A read-only policy for `ORIGIN` in front of `upstream`, changed section by section."""
    sections: dict[str, Any] = {
        "upstream": {"url": upstream, "transport": TRANSPORT},
        "cors": {"allow_origins": [ORIGIN.decode()]},
        "server": {"port": 0},
    }
    for name, change in changes.items():
        sections[name] = sections.get(name, {}) | change if isinstance(change, dict) else change
    return Settings(**sections)


class PromptServer(Server):
    """A server that shuts down at once; uvicorn looks at `should_exit` ten times a second."""

    def __init__(self, config: ServerConfig) -> None:
        self._told_to_exit = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        return self._told_to_exit.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._told_to_exit.set()

    async def main_loop(self) -> None:
        await self._told_to_exit.wait()


def create_server(app: ASGIApp, settings: ServerSettings) -> Server:
    """A server as `serve` makes it, with the certificate that the settings name."""
    context = None
    if settings.tls_cert_file is not None and settings.tls_key_file is not None:
        files = settings.tls_cert_file, settings.tls_key_file
        context = Certificates(*files, http2=settings.http2).context
    return PromptServer(ServerConfig(app, settings, context))


@asynccontextmanager
async def proxy(
    configuration: Settings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    warm: bool = WARM,
) -> AsyncIterator[Proxy]:
    """The proxy as `serve` runs it, but for the signals; if `warm`, with open connections."""
    sockets = bind("127.0.0.1", 0)
    app = create_app(configuration, transport=transport)
    server = create_server(app, configuration.server)
    running = asyncio.create_task(server.serve(sockets))
    try:
        await server.ready.wait()
        if warm:
            with suppress(TimeoutError):
                await asyncio.wait_for(app.check_archive(), 1)
        yield Proxy(server, sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await running


def request(
    method: str = "GET",
    target: str = "/dicom-web/studies",
    *lines: str,
    body: bytes = b"",
    origin: bytes | None = ORIGIN,
) -> bytes:
    """A request head, and `body` with its length if there is one."""
    head = [f"{method} {target} HTTP/1.1", "Host: proxy.example", *lines]
    if origin is not None:
        head.append(f"Origin: {origin.decode()}")
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def answer(
    body: bytes = b"", *lines: bytes, status: bytes = b"200 OK", length: int | None = None
) -> bytes:
    """A response with a Content-Length: that of `body`, or another one."""
    size = len(body) if length is None else length
    return b"\r\n".join([b"HTTP/1.1 " + status, *lines, b"Content-Length: %d" % size, b"", body])
