"""Write the head of a response."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVER_NAME = b"dicomweb-cors-proxy"
SERVER_LINE = b"server: %b\r\n" % SERVER_NAME

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


_date = (0, b"", b"")


def date_value() -> bytes:
    """Return the current time as a value of Date (RFC 9110 §5.6.7, §6.6.1)."""
    return _current_date()[1]


def date_line() -> bytes:
    """Return the Date line for the current time."""
    return _current_date()[2]


def _current_date() -> tuple[int, bytes, bytes]:
    global _date  # noqa: PLW0603  (one clock for the process)
    now = int(time.time())
    if _date[0] != now:
        value = formatdate(now, usegmt=True).encode("ascii")
        _date = now, value, b"date: %b\r\n" % value
    return _date
