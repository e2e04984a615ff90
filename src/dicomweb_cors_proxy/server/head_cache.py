"""Cache parsed header lines by their bytes."""

from __future__ import annotations

from typing import NamedTuple

from dicomweb_cors_proxy.http.limits import MAX_CACHED_HEAD_BYTES, MAX_CACHED_HEADS


class CachedHead(NamedTuple):
    """The header lines of a request without a body, as parsed."""

    headers: tuple[tuple[bytes, bytes], ...]
    keep_alive: bool


class HeadCache(dict[bytes, CachedHead]):
    """A cache of parsed header lines by their bytes, from the end of the request line on.

    A viewer sends the same lines with each of hundreds of requests, and parsing them takes longer
    than the response to a preflight.
    """

    def remember(self, head: bytes, lines: CachedHead) -> None:
        if len(head) <= MAX_CACHED_HEAD_BYTES:
            if len(self) >= MAX_CACHED_HEADS:
                del self[next(iter(self))]
            self[head[head.find(b"\r\n") :]] = lines
