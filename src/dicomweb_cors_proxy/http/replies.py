"""Responses of the proxy itself: raised anywhere, sent with CORS headers on top."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from starlette.types import Message, Send

    from dicomweb_cors_proxy.http.messages import Header

# RFC 9110 renamed these; Python's phrases follow only from 3.13 on.
_TITLES = {413: "Content Too Large", 414: "URI Too Long"}


class LocalReply(Exception):  # noqa: N818  (not every reply is an error)
    """A reply of the proxy itself, raised to end a request; `detail` is for the log."""

    def __init__(
        self, status: int, headers: Iterable[Header] = (), body: bytes = b"", *, detail: str = ""
    ) -> None:
        super().__init__(status)
        self.detail = detail
        self.status = status
        self.headers = list(headers)
        self.body = body

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


class HTTPProblem(LocalReply):
    """A problem details reply (RFC 9457).

    `detail` is read by a viewer's developer and an operator: it says what to do, names settings,
    and holds nothing of the request but its origin. No cache may keep it: 404, 405 and 414 could
    be (RFC 9110 §15.1), and one client's malformed request would be what all others get (Nguyen
    2019, Cache-Poisoned Denial of Service).
    """

    def __init__(self, status: int, detail: str, headers: Iterable[Header] = ()) -> None:
        title = _TITLES.get(status) or HTTPStatus(status).phrase
        body = json.dumps({"title": title, "status": status, "detail": detail}).encode()
        super().__init__(
            status,
            [
                *headers,
                (b"cache-control", b"no-store"),
                (b"content-type", b"application/problem+json"),
                (b"content-length", b"%d" % len(body)),
            ],
            body,
            detail=detail,
        )


class ResponseAborted(Exception):  # noqa: N818  (says what is being done)
    """A response that cannot be completed after its head: the server must cut the connection.

    A return instead would end the body as if it were whole.
    """


def without_body(send: Send) -> Send:
    """Send what a HEAD may get (RFC 9110 §9.3.2): granian leaves no body out in HTTP/2."""

    def send_head(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.body":
            message["body"] = b""
        return send(message)

    return send_head
