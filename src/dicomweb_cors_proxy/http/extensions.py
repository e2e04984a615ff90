"""Extensions of ASGI between our server and the application.

The application may have a method `try_preflight(scope) -> LocalReply | None`: the server sends that
reply without running the application, which takes several times as long. The others are keys of
`scope["extensions"]`.
"""

from __future__ import annotations

from typing import Final, Protocol

__all__ = [
    "EMPTY_QUERY",
    "HAS_BODY",
    "ON_DISCONNECT",
    "PUSH_BODY",
    "REJECTION",
    "BodyFlow",
    "BodyReceiver",
]

# Present if the target ends with a question mark: `query_string` is empty then as without one, but
# `/x?` and `/x` are two resources (RFC 3986 §6.2.3).
EMPTY_QUERY: Final = "dicomweb_cors_proxy.empty_query"

# Present if a body may follow an HTTP/2 request, which need not announce it in its head.
HAS_BODY: Final = "dicomweb_cors_proxy.has_body"

# The `HTTPProblem` for which the server rejects a head. The application raises it, so that the
# response has CORS headers like any other.
REJECTION: Final = "dicomweb_cors_proxy.rejection"

# `(callback) -> None`: the server calls `callback` as soon as the client has disconnected.
ON_DISCONNECT: Final = "dicomweb_cors_proxy.on_disconnect"

# `(BodyReceiver) -> BodyFlow`: the server hands the parts of the request's body to the receiver as
# they arrive, instead of through `receive`. It begins with `BodyFlow.resume`.
PUSH_BODY: Final = "dicomweb_cors_proxy.push_body"


class BodyReceiver(Protocol):
    """The receiver of a body that is pushed."""

    def take_part(self, part: bytes) -> None:
        """Take a part of the body, at least one byte."""

    def end_body(self) -> None:
        """Take note that the body is complete. No other call follows."""

    def fail_body(self, error: Exception) -> None:
        """Take note that the rest of the body does not come. No other call follows."""


class BodyFlow(Protocol):
    """The control of a body that is pushed, for its receiver."""

    def pause(self) -> None:
        """Push nothing until `resume`."""

    def resume(self) -> None:
        """Begin to push, or go on. The receiver may be called before this returns."""

    def stop(self) -> None:
        """Push nothing any more."""
