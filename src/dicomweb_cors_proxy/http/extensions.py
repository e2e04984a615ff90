"""Extensions of ASGI between our server and the application.

The application may have a method `try_preflight(scope) -> LocalReply | None`: the server sends that
answer without running the application, which takes several times as long. The rest stands in
`scope["extensions"]`.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EMPTY_QUERY", "ON_LEAVING", "REFUSAL"]

# Present if the target ends with a question mark: `query_string` is empty then as without one, but
# `/x?` and `/x` are two resources (RFC 3986 §6.2.3).
EMPTY_QUERY: Final = "dicomweb_cors_proxy.empty_query"

# An `HTTPProblem` that the server found while it was reading a head. The application answers with
# it, so that it carries CORS headers like any other answer.
REFUSAL: Final = "dicomweb_cors_proxy.refusal"

# `(callback) -> None`: has it called as soon as the client has left.
ON_LEAVING: Final = "dicomweb_cors_proxy.on_leaving"
