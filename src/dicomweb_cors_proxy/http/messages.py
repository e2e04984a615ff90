"""Header lines, body filters, tokens and safe methods."""

from __future__ import annotations

import re
from typing import Final, Protocol, TypeAlias

__all__ = ["SAFE_METHODS", "TCHAR", "TOKEN", "BodyFilter", "Header"]

# One line of a header section: the name and the value, as bytes.
Header: TypeAlias = tuple[bytes, bytes]

# A character of a token, as a regular expression (RFC 9110 §5.6.2).
TCHAR: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
TOKEN: Final = re.compile(rf"{TCHAR}+".encode("ascii"))

# RFC 9110 §9.2.1, without TRACE, which the proxy does not support.
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class BodyFilter(Protocol):
    """A filter of a body: the results of `feed` and, at its end, `flush` are sent instead.

    For a body that has arrived, `whole` does the same in one call. It may compress the same content
    to other bytes.

    Attributes:
        piece: maximum number of bytes for one `feed`. A body that grows is fed in small pieces, so
            that a stalled client holds little of it.
    """

    @property
    def piece(self) -> int: ...

    def feed(self, chunk: bytes) -> bytes: ...

    def flush(self) -> bytes: ...

    def whole(self, body: bytes) -> bytes: ...
