"""Small HTTP servers of the tests' own, on loopback."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from email.message import Message
    from ssl import SSLContext

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    handler: Callable[..., BaseHTTPRequestHandler],
    tls: SSLContext | None = None,
    *,
    host: str = LOOPBACK,
) -> Iterator[int]:
    """Serve with `handler` from threads; yields the port."""
    with ThreadingHTTPServer((host, 0), handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def silence() -> Iterator[str]:
    """Yield the URL of a server that takes connections and never answers."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"


@contextmanager
def stalled(start: bytes) -> Iterator[str]:
    """Yield the URL of a server that sends only `start` of each response."""

    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(start)
            self.rfile.read()  # until the client is gone

    with serving(Handler) as port:
        yield f"http://{LOOPBACK}:{port}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a stub archive answers."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Stub:
    """An archive with fixed responses, and the requests that reached it.

    `own` are those that the proxy makes for itself: its checks of the archive.
    """

    url: str
    requests: list[tuple[str, str, Message]] = field(default_factory=list)
    own: list[tuple[str, str, Message]] = field(default_factory=list)


@contextmanager
def stub(reply: Reply) -> Iterator[Stub]:
    """Serve `reply` to every request."""
    arrived = Stub("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            is_own = "Via" in self.headers and "X-Request-ID" not in self.headers
            kind = arrived.own if is_own else arrived.requests
            kind.append((self.command, self.path, self.headers))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_OPTIONS = answer  # noqa: N815

        def handle(self) -> None:
            with suppress(ConnectionError):  # who has read enough leaves
                super().handle()

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as port:
        yield replace(arrived, url=f"http://{LOOPBACK}:{port}")
