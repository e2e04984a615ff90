"""The state of one request, in its ASGI scope."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dicomweb_cors_proxy.cors.policy import Decision
    from dicomweb_cors_proxy.observability.records import RequestRecord
    from dicomweb_cors_proxy.proxy.incoming import IncomingRequest

# The key in the scope.
CONTEXT = "dicomweb_cors_proxy.context"


class Outcome(Enum):
    """The end of a request."""

    COMPLETE = auto()  # with all of its response
    CUT = auto()  # by us, in the middle of the response
    DISCONNECTED = auto()  # by the client
    REPEATED = auto()  # it is sent to the archive again, and logged then


@dataclass(slots=True, eq=False)
class RequestContext:
    """The state of one request, in `scope[CONTEXT]`.

    Attributes:
        record: for log and metrics; set by `AccessLog`, completed by later parts.
        started: `perf_counter` at the beginning of the request.
        incoming: the request as received; set by `CORSMiddleware`.
        decision: on its origin; set by `CORSMiddleware`, except for a preflight replied to early.
        outgoing: the `ReverseProxy` that set it, and the archive's request with its route.
    """

    record: RequestRecord
    started: float
    # Not in the repr, which would fail before they are set, and show the request's target after.
    incoming: IncomingRequest = field(init=False, repr=False)
    decision: Decision = field(init=False, repr=False)
    outgoing: tuple[object, Any] = field(default=(None, None), init=False, repr=False)
