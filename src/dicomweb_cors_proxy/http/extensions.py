"""Extensions of ASGI between our server and the application.

The application may have a method `try_preflight(scope) -> LocalReply | None`: the server sends that
reply without running the application, which takes several times as long.

It may also have a method `try_relay(scope, ResponseReceiver) -> RelayedRequest | None`. If that
returns a request, the server does not run the application: the response comes by callbacks.

The others are keys of `scope["extensions"]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomweb_cors_proxy.http.messages import Header

__all__ = [
    "EMPTY_QUERY",
    "HAS_BODY",
    "ON_DISCONNECT",
    "PUSH_BODY",
    "REJECTION",
    "BodyFlow",
    "BodyReceiver",
    "RelayedRequest",
    "ResponseReceiver",
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


class RelayedRequest(Protocol):
    """A request without a body whose response comes by callbacks; its control for the server."""

    def resume(self) -> None:
        """Go on, because the client has room again."""

    def client_disconnected(self) -> None:
        """End, because the client has disconnected. No callback follows."""

    def cancel(self) -> None:
        """End with a reply, or by `ResponseReceiver.abort` if the response has begun."""


class ResponseReceiver(Protocol):
    """The receiver of the response to a request that is relayed."""

    @property
    def is_writable(self) -> bool:
        """Return whether the client has room for more. If not, `resume` is called once it has."""

    def start_response(self, status: int, headers: Sequence[Header]) -> None:
        """Take the head. It may wait for the first part of the body."""

    def flush_head(self) -> None:
        """Send the head, because the body takes a while."""

    def send_body(self, body: bytes, *, more: bool) -> None:
        """Take a part of the body. Without `more` it is the last, and no other call follows."""

    def abort(self) -> None:
        """End the response visibly incomplete. No other call follows."""

    def run_application(self) -> None:
        """Run the application for the request after all. No other call follows."""
