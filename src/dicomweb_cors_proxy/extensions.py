"""What our server and the application tell each other beyond ASGI.

The application may have a method `at_once(scope) -> Answer | None`: the server sends that answer
without running the application, which takes several times as long. The rest stands in
`scope["extensions"]`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ON_LEAVING", "REFUSAL"]

# A `Problem` that the server found while it was reading a head. The application answers with it,
# so that it carries CORS headers like any other answer.
REFUSAL: Final = "dicomweb_cors_proxy.refusal"

# `(callback) -> None`: has it called as soon as the client has left.
ON_LEAVING: Final = "dicomweb_cors_proxy.on_leaving"
