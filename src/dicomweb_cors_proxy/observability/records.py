"""The record of one request, and the log line made of it."""

from __future__ import annotations

import logging
import time
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

__all__ = [
    "EVENT_REQUEST",
    "METHOD_OTHER",
    "UNMATCHED",
    "RequestLine",
    "RequestRecord",
    "request_id",
    "traceback_summary",
]

PLACE_FRAMES: Final = 30

EVENT_REQUEST: Final = "request"  # the event of a request that ended as it should
UNMATCHED: Final = "unmatched"  # the resource of a path that is none
METHOD_OTHER: Final = "OTHER"  # an unknown method

# The id of the request that is being served, for all lines that are logged meanwhile.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


@dataclass(init=False)
class RequestRecord:
    """The facts of a request for log and metrics, set as they become known.

    Attributes:
        method: one of HTTP's, else `METHOD_OTHER`.
        http_version: of the request: 1.0, 1.1 or 2.
        client: the address of the client, as a trusted proxy forwards it.
        event: `EVENT_REQUEST`, or a sentence of ours about a failure.
        resource: the template of the path, `studies/{study}/series`, else `UNMATCHED`.
        status: sent to the client; 499 if it disconnected before.
        upstream_status: the archive's; None if no request was sent, or no response came.
        upstream_error: the reason of the archive's failure; see `failures.UPSTREAM_ERRORS`.
        origin: of the page; None if absent or malformed.
        cors: the decision of the policy.
        authentication: the outcome for its access token, one of `metrics.TOKEN_OUTCOMES`; None if
            none is required.
        duration: seconds until the last byte was handed to the server.
        ttfb: seconds until the archive's head arrived, waiting for a connection included.
        bytes_in: of the request's body, as far as it was read.
        bytes_out: of the response's body, as far as it was sent.
    """

    method: str
    request_id: str
    client: str | None
    http_version: str = "1.1"
    event: str = EVENT_REQUEST
    resource: str = UNMATCHED
    status: int = 0
    upstream_status: int | None = None
    upstream_error: str | None = None
    origin: str | None = None
    cors: str = "none"
    authentication: str | None = None
    duration: float = 0.0
    ttfb: float | None = None
    bytes_in: int = 0
    bytes_out: int = 0

    def __init__(
        self,
        *,
        method: str,
        request_id: str,
        client: str | None,
        **others: Any,  # noqa: ANN401
    ) -> None:
        # Defaults stay on the class; only known values are stored per request.
        self.method = method
        self.request_id = request_id
        self.client = client
        if others:
            vars(self).update(others)

    def log(self, logger: logging.Logger, level: int) -> None:
        """Write the log line of the request."""
        if logger.isEnabledFor(level):
            logger.handle(RequestLine(logger.name, level, self))


_BLANK: Final = vars(logging.LogRecord("", 0, "", 0, "", None, None))


class RequestLine(logging.LogRecord):
    """The log record of a request, without the place in the code, which takes long to find."""

    def __init__(self, name: str, level: int, request: RequestRecord) -> None:
        created = time.time()
        self.__dict__.update(
            _BLANK,
            name=name,
            levelno=level,
            levelname=logging.getLevelName(level),
            created=created,
            msecs=created % 1 * 1000,
            msg=request.event,
            request=request,
        )


def traceback_summary(exc: BaseException) -> str:
    """Return type and frames of an exception, innermost first, without message and values."""
    if isinstance(exc, BaseExceptionGroup):
        return ", ".join(map(traceback_summary, exc.exceptions))
    # An endless recursion has a thousand frames; the innermost are enough.
    frames = traceback.extract_tb(exc.__traceback__, limit=-PLACE_FRAMES)
    return " < ".join(
        [type(exc).__name__]
        + [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)]
    )
