"""Replies in place of failed responses, and what the log says about them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.observability.records import EVENT_REQUEST, traceback_summary

if TYPE_CHECKING:
    from dicomweb_cors_proxy.http.replies import LocalReply
    from dicomweb_cors_proxy.observability.records import RequestRecord

logger = logging.getLogger(__name__)


def note_problem(record: RequestRecord, reply: LocalReply) -> None:
    """Name the problem in the log line, unless that names another one already."""
    if isinstance(reply, HTTPProblem) and record.event == EVENT_REQUEST:
        record.event = reply.detail


def internal_error(exc: BaseException) -> HTTPProblem:
    """Return the reply in place of a response that failed; a bug is logged as well."""
    if isinstance(exc, asyncio.CancelledError):
        return HTTPProblem(
            503,
            "The proxy is shutting down and could not wait for the archive. Try again shortly.",
            [(b"retry-after", b"1")],
        )
    log_bug(exc)
    return HTTPProblem(500, "The proxy has a bug. Its log says where; please report it.")


def log_bug(exc: BaseException) -> None:
    """Log where an exception was raised, without its message, which may quote a name."""
    logger.error("bug: %s", traceback_summary(exc))
