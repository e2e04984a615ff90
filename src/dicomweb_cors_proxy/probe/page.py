"""A browser's steps for a page's `fetch`: preflight, request, redirects, each step judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.probe.addresses import Space
from dicomweb_cors_proxy.probe.client import NoResponseError, Reason
from dicomweb_cors_proxy.probe.fetch import (
    Request,
    Rule,
    Step,
    follow,
    judge,
    judge_preflight,
    judge_request,
    lacking_names,
)
from dicomweb_cors_proxy.probe.network import OutOfTimeError
from dicomweb_cors_proxy.probe.origins import origin_of

if TYPE_CHECKING:
    from dicomweb_cors_proxy.probe.client import ProbeClient, Received
    from dicomweb_cors_proxy.probe.responses import Headers, Response

__all__ = ["FetchResult", "Page", "Stage"]

_AGENT: Final = "Mozilla/5.0 (compatible; dicomweb-cors-proxy probe)"
_MAX_NAMES: Final = 8  # of which each may be asked for alone


class Stage(StrEnum):
    """The step at which a request was stopped."""

    REQUEST = "request"
    PREFLIGHT = "preflight"
    RESPONSE = "response"
    REDIRECT = "redirect"


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The outcome of one `fetch`.

    Attributes:
        asked: the request as the page made it. Its URL and headers are not for showing.
        request: the same after redirects.
        stage, step: where it was stopped, and by which step; None if the page reads the response.
        no_response: why there was no response, in place of a step.
        response: the last response, that of the preflight if that stopped it.
        granted: the preflight's response, if that let the request pass.
        blocked_headers: names of headers because of which the preflight was rejected.
        body: the beginning of the response's, whether the page can read it or not.
        space: that of the address which sent the last response.
        sent: whether the request itself went out.
        is_away: whether a redirect led to another origin than the one that was asked.
        first_byte, total: seconds until the last response's head had come, and its body.
    """

    asked: Request
    request: Request
    stage: Stage | None = None
    step: Step | None = None
    no_response: NoResponseError | None = None
    response: Response | None = None
    granted: Response | None = None
    blocked_headers: tuple[str, ...] = ()
    body: bytes = b""
    space: Space | None = None
    sent: bool = False
    is_away: bool = False
    first_byte: float = 0.0
    total: float = 0.0

    @property
    def is_blocked(self) -> bool:
        """Return whether the page gets nothing."""
        return self.stage is not None

    @property
    def nearest(self) -> Space:
        """The nearest space to which the exchange may go on."""
        return Space.LOOPBACK if self.space is None else self.space

    @property
    def is_redirected(self) -> bool:
        """Return whether the request was sent on to another URL."""
        return self.request.redirects > 0


class Page:
    """A page on `origin`.

    Args:
        credentials: whether its requests have the credentials mode "include".
        headers: what all its requests carry, in place of those of the same name.
        cookie: what the browser adds on its own to requests with credentials.

    After a redirect to another origin, a browser sends `headers` there if the preflight allows
    them, and repeats a POST. The probe sends the preflight but neither of these, because its user
    has named no other server.
    """

    def __init__(
        self,
        client: ProbeClient,
        origin: str,
        *,
        credentials: bool = False,
        headers: Headers = (),
        cookie: str | None = None,
    ) -> None:
        self.origin = origin
        self.credentials = credentials
        self._client = client
        self._headers = headers
        self._cookie = cookie if credentials else None

    def request(self, method: str, url: str, *headers: tuple[str, str]) -> Request:
        """Make a request that carries `headers` and the page's."""
        own = {name.lower() for name, _ in self._headers}
        kept = tuple(header for header in headers if header[0].lower() not in own)
        return Request(method, url, self.origin, kept + self._headers, self.credentials)

    def fetch(
        self,
        asked: Request,
        *,
        content: bytes | None = None,
        body: int = 0,
        only_ask: bool = False,
    ) -> FetchResult:
        """Do as a browser would, but read `body` bytes of the response's at most.

        With `only_ask` no more than the preflight is sent.
        """
        exchange = FetchResult(asked, asked)
        while True:
            exchange = self._hop(exchange, content, body, only_ask=only_ask)
            if exchange.is_blocked or exchange.response is None:
                return exchange
            match follow(exchange.request, exchange.response):
                case None:
                    return exchange
                case Step() as step:
                    return replace(exchange, stage=Stage.REDIRECT, step=step)
                case Request() as request:
                    content = content if request.method == exchange.request.method else None
                    is_away = exchange.is_away or (
                        origin_of(request.url) != origin_of(exchange.request.url)
                    )
                    only_ask = is_away and request.method not in ("GET", "HEAD")
                    exchange = replace(
                        exchange, request=request, response=None, body=b"", is_away=is_away
                    )

    def _hop(
        self, exchange: FetchResult, content: bytes | None, body: int, *, only_ask: bool
    ) -> FetchResult:
        """Go as far as the next response, or to where the request is stopped."""
        request = exchange.request
        if step := judge_request(request):
            stage = Stage.REDIRECT if exchange.sent else Stage.REQUEST
            return replace(exchange, stage=stage, step=step)
        if request.needs_preflight:
            exchange = self._ask(exchange)
        if exchange.is_blocked or only_ask:
            return exchange
        try:
            received = self._send(exchange, content, body)
        except NoResponseError as error:
            return _without_response(exchange, Stage.RESPONSE, error)
        step = judge(request, received.response)
        return replace(
            exchange,
            stage=Stage.RESPONSE if step else None,
            step=step,
            response=received.response,
            body=received.body,
            space=received.space,
            sent=True,
            first_byte=received.first_byte,
            total=received.total,
        )

    def _ask(self, exchange: FetchResult) -> FetchResult:
        request, nearest = exchange.request, exchange.nearest
        try:
            response = self.preflight(request, nearest).response
        except NoResponseError as error:
            return _without_response(exchange, Stage.PREFLIGHT, error)
        if step := judge_preflight(request, response):
            return replace(
                exchange,
                stage=Stage.PREFLIGHT,
                step=step,
                response=response,
                blocked_headers=self._blocked_headers(request, response, step, nearest),
            )
        return replace(exchange, granted=exchange.granted or response)

    def preflight(self, request: Request, nearest: Space = Space.LOOPBACK) -> Received:
        """Ask whether `request` may be sent; raises NoResponseError."""
        headers = [("Access-Control-Request-Method", request.method)]
        if names := request.unsafe_names:
            headers.append(("Access-Control-Request-Headers", ",".join(names)))
        headers.append(("Accept", "*/*"))
        return self._client.send(
            "OPTIONS", request.url, (*headers, *self._browser_headers(request)), nearest=nearest
        )

    def without_origin(self, request: Request) -> Received:
        """Send `request` as a browser does for a link or an image; raises NoResponseError."""
        headers = (*request.headers, ("User-Agent", _AGENT))
        return self._client.send(request.method, request.url, _with_accept(headers))

    def _send(self, exchange: FetchResult, content: bytes | None, body: int) -> Received:
        request = exchange.request
        headers = [*self._page_headers(exchange), *self._browser_headers(request)]
        if request.method in ("GET", "HEAD") and not request.is_cross_origin:
            headers = [header for header in headers if header[0] != "Origin"]
        if self._cookie is not None and not request.redirects:
            headers.append(("Cookie", self._cookie))
        return self._client.send(
            request.method,
            request.url,
            _with_accept(headers),
            content=content,
            body=body,
            nearest=exchange.nearest,
        )

    def _page_headers(self, exchange: FetchResult) -> Headers:
        """Return the headers that the present server may see."""
        if not exchange.is_away:
            return exchange.request.headers
        own = {name.lower() for name, _ in self._headers}
        return tuple(line for line in exchange.request.headers if line[0].lower() not in own)

    def _browser_headers(self, request: Request) -> Headers:
        return (
            ("Origin", request.origin),
            ("Sec-Fetch-Dest", "empty"),
            ("Sec-Fetch-Mode", "cors"),
            ("Sec-Fetch-Site", "cross-site" if request.is_cross_origin else "same-origin"),
            ("User-Agent", _AGENT),
        )

    def _blocked_headers(
        self, request: Request, response: Response, step: Step, nearest: Space
    ) -> tuple[str, ...]:
        """Return the headers without which a preflight would be granted."""
        if step.rule in (Rule.AUTHORIZATION_NOT_NAMED, Rule.HEADER_NOT_ALLOWED):
            return lacking_names(request, response)
        names = request.unsafe_names
        if not names or len(names) > _MAX_NAMES:
            return ()
        headers = {name.lower(): value for name, value in request.headers}
        try:
            if self._is_rejected(request, (), nearest):
                return ()
            return tuple(
                name
                for name in names
                if self._is_rejected(request, ((name, headers[name]),), nearest)
            )
        except OutOfTimeError:
            return ()  # the refusal itself is still worth a report

    def _is_rejected(self, request: Request, headers: Headers, nearest: Space) -> bool:
        # With credentials, a missing Allow-Credentials would look like a fault of each header.
        probing = replace(request, method="GET", headers=headers, credentials=False)
        try:
            return judge_preflight(probing, self.preflight(probing, nearest).response) is not None
        except NoResponseError:
            return True


def _without_response(exchange: FetchResult, stage: Stage, error: NoResponseError) -> FetchResult:
    if error.reason is Reason.PRIVATE:
        return replace(exchange, stage=Stage.REDIRECT, no_response=error)
    sent = exchange.sent or stage is Stage.RESPONSE
    return replace(exchange, stage=stage, no_response=error, sent=sent)


def _with_accept(headers: list[tuple[str, str]] | Headers) -> Headers:
    if any(name.lower() == "accept" for name, _ in headers):
        return tuple(headers)
    return (*headers, ("Accept", "*/*"))
