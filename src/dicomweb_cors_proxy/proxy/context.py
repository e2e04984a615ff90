"""The state of one request, in its ASGI scope."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicomweb_cors_proxy.cors.policy import Decision
    from dicomweb_cors_proxy.observability.records import RequestRecord
    from dicomweb_cors_proxy.proxy.incoming import IncomingRequest

# The key in the scope.
CONTEXT = "dicomweb_cors_proxy.context"


@dataclass(slots=True, eq=False)
class RequestContext:
    """The state of one request, in `scope[CONTEXT]`.

    Attributes:
        record: for log and metrics; set by `AccessLog`, completed by later parts.
        incoming: the request as received; set by `CORSMiddleware`.
        decision: on its origin; set by `CORSMiddleware`, except for a preflight replied to early.
    """

    record: RequestRecord
    # Not in the repr, which would fail before they are set, and show the request's target after.
    incoming: IncomingRequest = field(init=False, repr=False)
    decision: Decision = field(init=False, repr=False)
