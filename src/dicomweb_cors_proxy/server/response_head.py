"""Write the head of a response."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER_LINE = b"server: dicomweb-cors-proxy\r\n"

_STATUS_LINES = {status: b"HTTP/1.1 %d \r\n" % status for status in range(200, 600)} | {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

# The head of a response, without the lines that depend on the time and on the connection: status,
# lines, Content-Length, whether the connection closes after it, and whether it has a Date.
ResponseHead: TypeAlias = tuple[int, bytes, "int | None", bool, bool]


def build_response_head(status: int, headers: Sequence[tuple[bytes, bytes]]) -> ResponseHead:
    """Write the head of a response."""
    known = dict(headers)
    closes = False
    if (option := known.get(b"connection")) is not None:
        closes = option.lower() == b"close"
        headers = [header for header in headers if header[0] != b"connection"]
    lines = [_STATUS_LINES[status], *[b"%b: %b\r\n" % header for header in headers]]
    if b"server" not in known:
        lines.append(SERVER_LINE)
    length = known.get(b"content-length")
    size = None if length is None else int(length)
    return status, b"".join(lines), size, closes, b"date" in known


_date = (0, b"")


def date_line() -> bytes:
    """Return the Date line for the current time (RFC 9110 §5.6.7, §6.6.1)."""
    global _date  # noqa: PLW0603  (one clock for the process)
    now = int(time.time())
    if _date[0] != now:
        _date = now, b"date: %b\r\n" % formatdate(now, usegmt=True).encode("ascii")
    return _date[1]
