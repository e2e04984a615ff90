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

# The id of the request that is being served, for whatever is logged meanwhile.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


@dataclass(init=False)
class RequestRecord:
    """The facts of a request that log and metrics may show; filled in as they become known.

    Attributes:
        method: one of HTTP's, else `METHOD_OTHER`.
        client: the address it came from, or for which a trusted proxy speaks.
        event: `EVENT_REQUEST`, or in a sentence of ours what became of it.
        resource: the template of the path, `studies/{study}/series`, else `UNMATCHED`.
        status: that the client was sent; 499 if it left before.
        upstream_status: the archive's; None if it was not asked, or never answered.
        upstream_error: the kind of its failure; see `failures.UPSTREAM_ERRORS`.
        origin: of the page, if there is one and it is well-formed.
        cors: what the policy said.
        duration: seconds until the last byte was handed to the server.
        ttfb: seconds until the archive's head was here, waiting for a connection included.
        bytes_in: of the request's body, as far as it was read.
        bytes_out: of the response's body, as far as it was sent.
    """

    method: str
    request_id: str
    client: str | None
    event: str = EVENT_REQUEST
    resource: str = UNMATCHED
    status: int = 0
    upstream_status: int | None = None
    upstream_error: str | None = None
    origin: str | None = None
    cors: str = "none"
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
        # What is not known yet stays with the class: most requests never learn half of it.
        self.method = method
        self.request_id = request_id
        self.client = client
        if others:
            vars(self).update(others)

    def log(self, logger: logging.Logger, level: int) -> None:
        """Write the line."""
        if logger.isEnabledFor(level):
            logger.handle(RequestLine(logger.name, level, self))


_BLANK: Final = vars(logging.LogRecord("", 0, "", 0, "", None, None))


class RequestLine(logging.LogRecord):
    """A request's. What else a logger finds out, such as the place in the code, costs as much."""

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
    """Type and frames of an exception, innermost first, without its message and values."""
    if isinstance(exc, BaseExceptionGroup):
        return ", ".join(map(traceback_summary, exc.exceptions))
    # A recursion without end has a thousand frames, of which the innermost tell enough.
    frames = traceback.extract_tb(exc.__traceback__, limit=-PLACE_FRAMES)
    return " < ".join(
        [type(exc).__name__]
        + [f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in reversed(frames)]
    )
