"""Extensions of ASGI between our server and the application.

The application may have a method `try_preflight(scope) -> LocalReply | None`: the server sends that
reply without running the application, which takes several times as long. The others are keys of
`scope["extensions"]`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EMPTY_QUERY", "ON_DISCONNECT", "REJECTION"]

# Present if the target ends with a question mark: `query_string` is empty then as without one, but
# `/x?` and `/x` are two resources (RFC 3986 §6.2.3).
EMPTY_QUERY: Final = "dicomweb_cors_proxy.empty_query"

# The `HTTPProblem` for which the server rejects a head. The application raises it, so that the
# response has CORS headers like any other.
REJECTION: Final = "dicomweb_cors_proxy.rejection"

# `(callback) -> None`: the server calls `callback` as soon as the client has disconnected.
ON_DISCONNECT: Final = "dicomweb_cors_proxy.on_disconnect"
