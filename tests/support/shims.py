"""A server in front of an archive that lacks something, or adds something."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from tests.support.servers import LOOPBACK, Reply, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def shim(archive: str, answer: Callable[[str], Reply | None]) -> Iterator[str]:
    """Relay GETs to the root `archive` unless `answer` has a reply to their path below the root."""
    parts = urlsplit(archive)
    origin, root = f"{parts.scheme}://{parts.netloc}", parts.path

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply = answer(self.path.removeprefix(root)) or self._relayed()
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.status != 204:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def _relayed(self) -> Reply:
            headers = {"Accept": self.headers["Accept"] or "*/*", "Accept-Encoding": "identity"}
            # As the archive was called itself, so that its URLs lead through us.
            headers["Host"] = self.headers["Host"]
            got = httpx.get(origin + self.path, headers=headers, trust_env=False, timeout=60)
            return Reply(
                got.status_code, {"Content-Type": got.headers.get("Content-Type", "")}, got.content
            )

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def log_message(self, *_: object) -> None: ...

    with serving(Handler) as port:
        yield f"http://{LOOPBACK}:{port}{root}"
