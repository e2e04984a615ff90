"""The findings of a probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.probe.advice import NOTHING, Advice

if TYPE_CHECKING:
    from dicomweb_cors_proxy.probe.page import FetchResult
    from dicomweb_cors_proxy.probe.responses import Headers

__all__ = ["Finding", "Report", "Target", "Verdict"]


class Verdict(StrEnum):
    """The outcome of a check; only FAIL keeps something from a page."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "FAIL"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Target:
    """The root that is probed, and the page that asks.

    Attributes:
        root: DICOMweb root, without a slash at its end.
        origin: of the page, as browsers write it.
        headers: what the page sets on every request.
        cookie: what the browser sends by itself with `credentials`.
        write: whether a store is really sent, with an empty body.
        verify: whether the server's certificate has to be valid.
    """

    root: str
    origin: str
    credentials: bool = False
    headers: Headers = ()
    cookie: str | None = None
    write: bool = False
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; nothing in it comes from a patient.

    Attributes:
        check: a short name, for scripts.
        text: what a page can and can't do, and why.
        advice: what changes it, and what to do first.
        request: method and template of the path, if the check is of a request.
        status: of the response that decided.
        rule: `fetch.Rule` or `client.Reason` that was broken.
        step: where the Fetch standard says so.
    """

    check: str
    verdict: Verdict
    text: str
    request: str | None = None
    status: int | None = None
    rule: str | None = None
    step: str | None = None
    advice: Advice = NOTHING


@dataclass(slots=True)
class Report:
    """The result of a probe; its exchanges hold data that must not be shown."""

    target: Target
    findings: list[Finding] = field(default_factory=list)
    exchanges: dict[str, FetchResult] = field(default_factory=dict)

    @property
    def is_blocked(self) -> bool:
        """Return whether a browser would keep something from the page."""
        return any(finding.verdict is Verdict.FAIL for finding in self.findings)

    @property
    def has_first(self) -> bool:
        """Return whether there is anything to do."""
        return self._first is not None

    @property
    def first(self) -> str:
        """One sentence: what to do first."""
        if self._first is None and self._failing:
            action = "fails" if self._failing >= 500 else "refuses"
            return (
                f"Browsers block nothing, but the server {action} ({self._failing}): see what the "
                "page reads, its log and the archive's (dicomweb-cors-proxy's command check names "
                "the cause), then probe again."
            )
        if self._first is None:
            return "Nothing to do: pages on this origin can use the archive."
        start = "First" if self.is_blocked else "Nothing is blocked, but first"
        return f"{start}, {self._first}, then probe again."

    @property
    def _failing(self) -> int | None:
        """The status of a search, if it brought nothing."""
        statuses = [finding.status for finding in self.findings if finding.check == "search"]
        return next((status for status in statuses if status and status >= 400), None)

    @property
    def _first(self) -> str | None:
        # A passed check that leaves much unseen, such as one without a login, precedes warnings.
        for verdict in (Verdict.FAIL, Verdict.PASS, Verdict.WARN):
            for finding in self.findings:
                if finding.verdict is verdict and finding.advice.first:
                    return finding.advice.first
        return None
