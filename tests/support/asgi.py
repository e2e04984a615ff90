"""The application called without a server, for what no HTTP/1.1 client can send."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Scope

Header = tuple[bytes, bytes]


def scope(
    method: str = "GET",
    path: bytes = b"/dicom-web/studies",
    headers: Iterable[Header] = (),
    **others: object,
) -> Scope:
    """An HTTP scope with a Host."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"proxy.example"), *headers],
        "client": ("192.0.2.1", 50000),
        "server": ("192.0.2.2", 8080),
        **others,
    }


async def call(app: ASGIApp, scope: Scope, *body: bytes) -> tuple[int, list[Header], bytes]:
    """Status, headers and body of the response to a client that stays until it has it."""
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in body
    ]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    coming = iter(messages)
    sent: list[Any] = []

    async def receive() -> Message:
        if (message := next(coming, None)) is None:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *rest = sent
    return start["status"], start["headers"], b"".join(message["body"] for message in rest)
