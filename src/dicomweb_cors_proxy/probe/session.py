"""The requests of one probe, their outcomes, and the findings that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.probe.advice import NOTHING, Advisor
from dicomweb_cors_proxy.probe.client import NoResponseError, Reason
from dicomweb_cors_proxy.probe.findings import Finding, Report, Verdict
from dicomweb_cors_proxy.probe.hints import (
    HINTS,
    MADE_UP,
    NO_HINT,
    NO_ROOT,
    REJECTED_LOGIN,
    Hint,
)
from dicomweb_cors_proxy.probe.links import is_dicom_json
from dicomweb_cors_proxy.probe.network import OutOfTimeError
from dicomweb_cors_proxy.probe.origins import origin_of
from dicomweb_cors_proxy.probe.page import Page
from dicomweb_cors_proxy.probe.reasons import varies, why

if TYPE_CHECKING:
    from dicomweb_cors_proxy.probe.client import ProbeClient
    from dicomweb_cors_proxy.probe.fetch import Request
    from dicomweb_cors_proxy.probe.findings import Target
    from dicomweb_cors_proxy.probe.page import FetchResult

__all__ = [
    "BELOW",
    "ERROR",
    "FRAME",
    "FRAMES",
    "INSTANCES",
    "JSON",
    "MAX_BODY",
    "METADATA",
    "NOWHERE",
    "PART",
    "SEARCH",
    "SERIES_BELOW",
    "SERIES_INSTANCES",
    "STORE",
    "STUDIES",
    "PlannedRequest",
    "ProbeSession",
    "rule_of",
    "step_of",
]

JSON: Final = ("Accept", "application/dicom+json")
FRAMES: Final = ("Accept", 'multipart/related; type="application/octet-stream"; transfer-syntax=*')
INSTANCES: Final = (
    "Content-Type",
    'multipart/related; type="application/dicom"; boundary=probe',
)
MAX_BODY: Final = 4 * 2**20  # bytes of a response that are searched for UIDs and URLs


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """A request that a viewer sends: a name, words for its purpose, and a path's template."""

    check: str
    purpose: str
    method: str
    template: str

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


SEARCH: Final = PlannedRequest("search", "search", "GET", "studies?limit=1")
_INSTANCE: Final = "studies/{study}/series/{series}/instances/{instance}"
METADATA: Final = PlannedRequest("metadata", "read metadata", "GET", f"{_INSTANCE}/metadata")
FRAME: Final = PlannedRequest("frames", "read frames", "GET", f"{_INSTANCE}/frames/1")
STORE: Final = PlannedRequest("store", "store", "POST", "studies")
ERROR: Final = PlannedRequest("errors", "read errors", "GET", "studies/{study}/metadata")
NOWHERE: Final = PlannedRequest("errors", "read errors", "GET", "no-such-resource")
PART: Final = PlannedRequest("range", "read parts of frames", "GET", f"{_INSTANCE}/frames/1")
STUDIES: Final = PlannedRequest("studies", "", "GET", "studies?limit=10")
BELOW: Final = PlannedRequest("instance", "", "GET", "studies/{study}/instances?limit=1")
SERIES_BELOW: Final = PlannedRequest("series", "", "GET", "studies/{study}/series?limit=1")
SERIES_INSTANCES: Final = PlannedRequest(
    "instance", "", "GET", "studies/{study}/series/{series}/instances?limit=1"
)


class ProbeSession:
    """One probe of a target: the page that asks, the outcomes, and the findings so far."""

    def __init__(self, target: Target, client: ProbeClient) -> None:
        self.target = target
        self.report = Report(target)
        self.page = Page(
            client,
            target.origin,
            credentials=target.credentials,
            headers=target.headers,
            cookie=target.cookie,
        )
        unsafe = self.page.request("POST", target.root, FRAMES, INSTANCES).unsafe_names
        self.advisor = Advisor(target.root, target.origin, unsafe, credentials=target.credentials)
        self.is_over = False  # no later check could tell anything
        self.is_cross_origin = origin_of(target.root) != target.origin
        self.uids: dict[str, str] = {}
        self.is_made_up = False  # the UIDs are, because the search showed no instance
        self._succeeded = False
        self._last_hint = NO_HINT

    @property
    def exchanges(self) -> dict[str, FetchResult]:
        """Return the outcome of each check's request."""
        return self.report.exchanges

    def request(
        self, planned: PlannedRequest, uids: dict[str, str], *headers: tuple[str, str]
    ) -> Request:
        """Return the request that the page makes for `planned`."""
        url = f"{self.target.root}/{planned.template.format(**uids)}"
        return self.page.request(planned.method, url, *headers)

    def fetch(
        self, planned: PlannedRequest, uids: dict[str, str], *headers: tuple[str, str]
    ) -> FetchResult:
        """Send a planned request as a page would, and keep the outcome for the report."""
        body = MAX_BODY if JSON in headers else 0
        exchange = self.page.fetch(self.request(planned, uids, *headers), body=body)
        self.exchanges[planned.check] = exchange
        return exchange

    def why(self, exchange: FetchResult) -> str:
        """Return the reason, in words, why a page cannot read the response."""
        return why(exchange, origin=self.target.origin, succeeded=self._succeeded)

    def judged(
        self, planned: PlannedRequest, exchange: FetchResult, *, only_asked: bool = False
    ) -> Finding:
        """Return the finding for a request, by its status or by the step that stopped it."""
        if exchange.is_blocked:
            return self._blocked(planned, exchange)
        if exchange.is_away and exchange.response is None:
            text = (
                f"A page may try to {planned.purpose}. The response redirects to another origin, "
                "which the page may ask; the probe does not repeat a POST there."
            )
            return Finding(planned.check, Verdict.PASS, text, str(planned))
        if only_asked or exchange.response is None:
            text = (
                "A page may try to store: the preflight is granted. Nothing was sent; whether the "
                "server takes it, --write tells (dicomweb-cors-proxy does only with "
                "access.mode: read-write)."
            )
            return Finding(planned.check, Verdict.PASS, text, str(planned))
        self._succeeded = True
        status = exchange.response.status
        text, advice = f"A page can {planned.purpose} ({status}).", NOTHING
        if status >= 400 and planned.check != ERROR.check:
            action = "fails" if status >= 500 else "refuses"
            text = f"CORS is right, the server {action}: a page reads its {status}."
            hint = self._hint(planned, status)
            text += hint.text * (hint is not self._last_hint)
            advice = hint.advice
            self._last_hint = hint
        elif planned is SEARCH and status == 200 and not is_dicom_json(exchange.body):
            text += f" But what it reads is no DICOM JSON.{NO_ROOT.text}"
            advice = NO_ROOT.advice
        if exchange.is_redirected:
            text += " It was redirected; the final URL saves the viewer a request."
            if exchange.is_away and self.target.headers:
                text += " The values of --header were not sent to the other origin."
        return Finding(planned.check, Verdict.PASS, text, str(planned), status, advice=advice)

    def _blocked(self, planned: PlannedRequest, exchange: FetchResult) -> Finding:
        advice = self.advisor.advice(exchange)
        text = f"A page can't {planned.purpose}. {self.why(exchange)}"
        if rule_of(exchange) == Reason.PRIVATE:
            text = f"It is not known if a page can {planned.purpose}. {self.why(exchange)}"
        if planned is SEARCH and self._is_without_cors(exchange):
            advice = self.advisor.everything
            hint = HINTS.get((planned.check, exchange.response.status if exchange.response else 0))
            if hint is not None:  # it may be another URL that belongs into the configuration
                text += hint.text
                ours = {k: v for k, v in advice.ours.items() if k != "upstream.url"}
                advice = replace(advice, ours=ours)
        return Finding(
            planned.check,
            Verdict.FAIL,
            text,
            str(planned),
            exchange.response.status if exchange.response else None,
            rule_of(exchange),
            step_of(exchange),
            advice,
        )

    def _is_without_cors(self, exchange: FetchResult) -> bool:
        """Return whether no response and no preflight shows any CORS header."""
        response = exchange.response
        if response is None or response.is_redirect or exchange.blocked_headers or varies(response):
            return False
        try:
            preflight = self.page.preflight(exchange.asked).response
        except (NoResponseError, OutOfTimeError):
            return False
        heads = (*response.headers, *preflight.headers)
        return not any(name.lower().startswith("access-control-") for name, _ in heads)

    def _hint(self, planned: PlannedRequest, status: int) -> Hint:
        if status == 404 and self.is_made_up and planned is not SEARCH:
            return MADE_UP
        if status == 401 and any(n.lower() == "authorization" for n, _ in self.target.headers):
            return REJECTED_LOGIN
        return HINTS.get((planned.check, status)) or HINTS.get(("", status)) or NO_HINT


def rule_of(exchange: FetchResult) -> str | None:
    """Return the rule that stopped a request, or why there was no response."""
    if exchange.no_response is not None:
        return exchange.no_response.reason
    return exchange.step.rule if exchange.step else None


def step_of(exchange: FetchResult) -> str | None:
    """Return the step of the Fetch standard that stopped a request, in words."""
    if exchange.step is None:
        return None
    return f"Fetch, {exchange.step.section}, step {exchange.step.number}"
