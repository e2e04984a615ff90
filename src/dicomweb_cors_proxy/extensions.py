"""What our server tells the application beyond ASGI, in `scope["extensions"]`."""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["ON_LEAVING", "REFUSAL", "in_task"]

# A `Problem` that the server found while it was reading a head. The application answers with it,
# so that it carries CORS headers like any other answer.
REFUSAL: Final = "dicomweb_cors_proxy.refusal"

# `(callback) -> None`: has it called as soon as the client has left.
ON_LEAVING: Final = "dicomweb_cors_proxy.on_leaving"


async def in_task() -> None:
    """Go on in a task: our server runs an application without one up to its first wait."""
    if asyncio.current_task() is None:
        await asyncio.sleep(0)
