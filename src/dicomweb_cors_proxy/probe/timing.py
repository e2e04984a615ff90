"""Tell how long the server takes, because viewers wait for search and metadata first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomweb_cors_proxy.probe.findings import Finding, Verdict
from dicomweb_cors_proxy.probe.session import MAX_BODY, METADATA, SEARCH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dicomweb_cors_proxy.probe.page import FetchResult
    from dicomweb_cors_proxy.probe.session import ProbeSession

__all__ = ["check_time", "timed"]


def timed(exchanges: Mapping[str, FetchResult]) -> dict[str, FetchResult]:
    """Return the outcomes of search and metadata, as far as the server has sent them."""
    return {
        check: result
        for check in (SEARCH.check, METADATA.check)
        if (result := exchanges.get(check)) is not None
        and result.sent
        and result.response is not None
        and result.response.is_ok
    }


def check_time(session: ProbeSession) -> Iterator[Finding]:
    """Report the times of search and metadata."""
    sentences = [
        f"{check.title()}: first byte after {result.first_byte:.2f} s, "
        f"{_end(result)} after {result.total:.2f} s."
        for check, result in timed(session.exchanges).items()
    ]
    if sentences:
        text = f"{' '.join(sentences)} Each request has opened a connection."
        yield Finding("time", Verdict.NOTE, text)


def _end(result: FetchResult) -> str:
    return "all" if len(result.body) < MAX_BODY else f"the first {MAX_BODY >> 20} MiB"
