"""Write the head, framing and body of one HTTP/1.1 response."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.server.response_head import build_response_head, date_line
from dicomweb_cors_proxy.server.writing import write_parts

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from dicomweb_cors_proxy.http.messages import Header

# Maximum size of a part of a body that is copied behind its head or chunk size, for one system call
# instead of two.
COALESCE_BYTES = 16 * 1024

# For responses sent without running the application (preflights); few distinct ones exist.
cached_response_head = lru_cache(maxsize=256)(build_response_head)


class ResponseWriter:
    """The head, framing and body of one HTTP/1.1 response."""

    # Class-level defaults: most responses change few of them, so a writer is cheap to create.
    ends_with_connection = False
    _chunked = False
    _remaining = 0  # bytes of a Content-Length
    _head = b""  # waits for the first part of the body

    def __init__(self, transport: asyncio.Transport, method: str, version: str) -> None:
        self._transport = transport
        self._is_head_only = method == "HEAD"
        self._version = version

    def write_continue(self) -> None:
        """Send 100 Continue."""
        self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def start(
        self, status: int, headers: Sequence[Header], *, keep_alive: bool, is_repeated: bool
    ) -> bool:
        """Write a head with its framing; return whether the connection is kept alive."""
        if is_repeated:
            head = cached_response_head(status, tuple(headers))
        else:
            head = build_response_head(status, headers)
        _, lines, length, closes, is_dated = head
        if closes:  # "connection: close" of the application
            keep_alive = False
        end = b"\r\n"
        if self._is_head_only or status in (204, 304):
            pass  # no body follows, even if the head has a Content-Length
        elif length is not None:
            self._remaining = length
        elif self._version == "1.0":
            self.ends_with_connection = True
            keep_alive = False
        else:
            self._chunked = True
            end = b"transfer-encoding: chunked\r\n\r\n"
        if not keep_alive:
            end = b"connection: close\r\n" + end
        date = b"" if is_dated else date_line()  # RFC 9110 §6.6.1
        self._head = lines + date + end
        return keep_alive

    def flush_head(self) -> None:
        """Send the head alone, if no part of the body has followed it."""
        if self._head:
            self._transport.write(self._head)
        self._head = b""

    def drop_head(self) -> None:
        """Forget a head that is still waiting for the body."""
        self._head = b""

    def write(self, body: bytes, *, more: bool) -> bool:
        """Send a part of the body; return False if its length does not fit the head."""
        if self._is_head_only:
            body = b""
        if not (self._chunked or self.ends_with_connection):
            self._remaining -= len(body)
            if self._remaining < 0:
                return False
        before, self._head = self._head, b""
        after = b""
        if self._chunked:
            if body:
                before += b"%x\r\n" % len(body)
                after = b"\r\n"
            if not more:
                after += b"0\r\n\r\n"
        if len(body) > COALESCE_BYTES and (before or after):
            write_parts(self._transport, (before, body, after))
        else:
            self._transport.write(before + body + after)
        return more or not self._remaining
