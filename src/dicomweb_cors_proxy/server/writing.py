"""Write to a transport within its buffer limit, on every version of Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

__all__ = ["ignores_limit", "write_parts"]


def ignores_limit(version: tuple[int, int, int]) -> bool:
    """Return whether asyncio's `writelines` never pauses the protocol (CVE-2024-12254).

    With such a version the whole response would wait in memory for a slow client.
    """
    return (3, 12) <= version < (3, 12, 9) or (3, 13) <= version < (3, 13, 2)


_IGNORES_LIMIT: Final = ignores_limit(sys.version_info[:3])


def write_parts(transport: asyncio.Transport, parts: Sequence[bytes]) -> None:
    """Send parts in order; the transport pauses its protocol if its buffer is full."""
    if _IGNORES_LIMIT and type(transport).__module__ == "asyncio.selector_events":
        transport.write(b"".join(parts))
    else:
        transport.writelines(parts)
