"""The replies to requests that exceed a limit, and the bounds of caches of request heads."""

from __future__ import annotations

from typing import Final

# Of the request heads in a cache: how many, and the bytes of one.
MAX_CACHED_HEADS: Final = 512
MAX_CACHED_HEAD_BYTES: Final = 4096
