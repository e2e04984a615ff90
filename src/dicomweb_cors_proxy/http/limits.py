"""The replies to requests that exceed a limit, and the bounds of caches of request heads."""

from __future__ import annotations

from typing import Final

from dicomweb_cors_proxy.http.replies import HTTPProblem

# Of the request heads in a cache: how many, and the bytes of one.
MAX_CACHED_HEADS: Final = 512
MAX_CACHED_HEAD_BYTES: Final = 4096


def target_too_long(limit: int) -> HTTPProblem:
    """Return the 414 that names the setting."""
    return HTTPProblem(
        414,
        f"The request target is longer than {limit} bytes (server.max_target_bytes). "
        "Shorten the query, or ask the operator to raise the limit.",
    )


def too_many_headers(limit: int) -> HTTPProblem:
    """Return the 431 for the number of lines."""
    return HTTPProblem(
        431,
        f"The request has more than {limit} header lines (server.max_headers). "
        "Send fewer, or ask the operator to raise the limit.",
    )


def head_too_large(limit: int) -> HTTPProblem:
    """Return the 431 for the size of the lines."""
    return HTTPProblem(
        431,
        f"The request's head is larger than {limit} bytes (server.max_header_bytes). "
        "Shorten headers, or ask the operator to raise the limit.",
    )


def body_too_large(limit: int) -> HTTPProblem:
    """Return the 413 that names the setting."""
    return HTTPProblem(
        413,
        f"The request's body is larger than {limit} bytes (server.max_body_bytes). "
        "Send less at a time, or ask the operator to raise the limit.",
    )
