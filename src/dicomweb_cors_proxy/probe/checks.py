"""The checks of a probe, in the order in which they are reported."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from uuid import uuid4

from dicomweb_cors_proxy.probe.addresses import Space, space_of_origin
from dicomweb_cors_proxy.probe.advice import MAX_AGE, NOTHING, Advice, Advisor, nginx_hide
from dicomweb_cors_proxy.probe.client import NoAnswerError, Reason
from dicomweb_cors_proxy.probe.fetch import (
    DEFAULT_MAX_AGE,
    Response,
    combined,
    exposes,
    judge_request,
    max_age,
    origin_of,
)
from dicomweb_cors_proxy.probe.findings import Finding, Report, Target, Verdict
from dicomweb_cors_proxy.probe.links import Instance, instance_of, is_dicom_json, links
from dicomweb_cors_proxy.probe.network import OutOfTimeError
from dicomweb_cors_proxy.probe.page import Page
from dicomweb_cors_proxy.probe.reasons import varies, why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dicomweb_cors_proxy.probe.client import ProbeClient
    from dicomweb_cors_proxy.probe.fetch import Request
    from dicomweb_cors_proxy.probe.links import Link
    from dicomweb_cors_proxy.probe.page import FetchResult

__all__ = ["probe"]

_JSON: Final = ("Accept", "application/dicom+json")
_FRAMES: Final = ("Accept", 'multipart/related; type="application/octet-stream"; transfer-syntax=*')
_INSTANCES: Final = (
    "Content-Type",
    'multipart/related; type="application/dicom"; boundary=probe',
)
_RANGE: Final = ("Range", "bytes=0-63")
MAX_BODY: Final = 4 * 2**20  # bytes of a response that are searched for UIDs and URLs
SHORT: Final = 60  # seconds; a preflight kept for less is asked again while its reader looks

_SINGLE: Final = ("Access-Control-Allow-Credentials", "Access-Control-Max-Age")
_DOUBLES: Final = ("credentials-not-allowed", "allow-origin-several")  # has been said, then
# The server was not reached at all: nothing else is worth asking.
_OUT_OF_REACH: Final = frozenset(Reason) - {Reason.CLOSED, Reason.PRIVATE}


def probe(
    target: Target, client: ProbeClient, *, tell: Callable[[Finding], None] | None = None
) -> Report:
    """Ask `target` all that a viewer asks; `tell` gets each finding as it is made.

    The client's deadline ends it early, with a finding that says so.
    """
    checks = _Checks(target, client)
    for finding in _until_the_deadline(checks, client):
        checks.report.findings.append(finding)
        if tell:
            tell(finding)
    return checks.report


def _until_the_deadline(checks: _Checks, client: ProbeClient) -> Iterator[Finding]:
    try:
        yield from checks.run()
    except OutOfTimeError:
        yield Finding(
            "deadline",
            Verdict.FAIL,
            f"The probe stopped after {client.max_seconds:g} seconds, before it had asked "
            "everything. The server is slow, or sends an answer without an end.",
            rule="deadline",
            advice=_first("see why the server is slow, or allow more time with --timeout"),
        )


@dataclass(frozen=True, slots=True)
class _PlannedRequest:
    """A request that a viewer sends: a name, words for its purpose, and a path's template."""

    check: str
    does: str
    method: str
    template: str

    def __str__(self) -> str:
        return f"{self.method} {self.template}"


_SEARCH: Final = _PlannedRequest("search", "search", "GET", "studies?limit=1")
_INSTANCE: Final = "studies/{study}/series/{series}/instances/{instance}"
_METADATA: Final = _PlannedRequest("metadata", "read metadata", "GET", f"{_INSTANCE}/metadata")
_FRAME: Final = _PlannedRequest("frames", "read frames", "GET", f"{_INSTANCE}/frames/1")
_STORE: Final = _PlannedRequest("store", "store", "POST", "studies")
_ERROR: Final = _PlannedRequest("errors", "read errors", "GET", "studies/{study}/metadata")
_NOWHERE: Final = _PlannedRequest("errors", "read errors", "GET", "no-such-resource")
_PART: Final = _PlannedRequest("range", "read parts of frames", "GET", f"{_INSTANCE}/frames/1")
_BELOW: Final = _PlannedRequest("instance", "", "GET", "studies/{study}/instances?limit=1")


class _Checks:
    def __init__(self, target: Target, client: ProbeClient) -> None:
        self.report = Report(target)
        self._target = target
        self._page = Page(
            client,
            target.origin,
            credentials=target.credentials,
            headers=target.headers,
            cookie=target.cookie,
        )
        unsafe = self._page.request("POST", target.root, _FRAMES, _INSTANCES).unsafe_names
        self._advisor = Advisor(target.root, target.origin, unsafe, credentials=target.credentials)
        self._succeeded = False
        self._made_up = False
        self._hinted = _NO_HINT  # said last, not to be repeated

    @property
    def _exchanges(self) -> dict[str, FetchResult]:
        return self.report.exchanges

    def run(self) -> Iterator[Finding]:
        target = self._target
        if stopped := self._stopped():
            yield stopped
            return
        search = self._fetch(_SEARCH, {}, _JSON)
        if search.no_answer is not None and search.no_answer.reason in _OUT_OF_REACH:
            yield _out_of_reach(search.no_answer)
            return
        same = origin_of(target.root) == target.origin
        if same:
            text = "Page and archive have the same origin: browsers ask for no CORS."
            yield Finding("same-origin", Verdict.NOTE, text)
        yield self._judged(_SEARCH, search)

        uids = self._instance(search)
        yield self._judged(_METADATA, self._fetch(_METADATA, uids, _JSON))
        frames = self._fetch(_FRAME, uids, _FRAMES)
        yield self._judged(_FRAME, frames)
        yield self._store()
        yield self._errors()
        if not same:
            yield from self._ranges(frames, uids)
            yield from self._preflight_cache()
            yield from self._vary(search)
            yield from self._doubled()
        yield from self._links()
        yield from self._of_the_connection(search)

    def _stopped(self) -> Finding | None:
        """Return the finding that blocks every request."""
        request = self._request(_SEARCH, {}, _JSON)
        step = judge_request(request)
        if step is None:
            return None
        exchange = self._page.fetch(request)  # ends before anything is sent
        self._exchanges[_SEARCH.check] = exchange
        return Finding(
            step.rule.value,
            Verdict.FAIL,
            f"A page can't ask at all. {self._why(exchange)}",
            rule=step.rule,
            step=_place(exchange),
            advice=self._advisor.advice(exchange),
        )

    def _of_the_connection(self, search: FetchResult) -> Iterator[Finding]:
        target = self._target
        if target.root.startswith("https:") and not target.verify:
            text = "The certificate was not checked (--insecure); browsers will check it."
            yield Finding("certificate", Verdict.NOTE, text)
        if search.space is None or search.is_redirected:
            return
        page, server = space_of_origin(target.origin), search.space
        if server is Space.PUBLIC or (page is not None and page <= server):
            return
        where = "this machine's own" if server is Space.LOOPBACK else "a private one"
        does = (
            "lets no page on plain http from elsewhere reach it"
            if target.origin.startswith("http:") and page is None
            else "asks its user before a page from elsewhere may reach it"
        )
        text = (
            f"The server's address is {where}. Chrome {does} (Local Network Access); no header "
            "changes that."
        )
        yield Finding("local-network", Verdict.NOTE, text)

    def _why(self, exchange: FetchResult) -> str:
        return why(exchange, origin=self._target.origin, succeeded=self._succeeded)

    def _judged(
        self, wish: _PlannedRequest, exchange: FetchResult, *, only_asked: bool = False
    ) -> Finding:
        if exchange.is_blocked:
            return self._blocked(wish, exchange)
        if exchange.is_away and exchange.answer is None:
            text = (
                f"A page may try to {wish.does}. The answer redirects to another origin, which the "
                "page may ask; the probe does not repeat a POST there."
            )
            return Finding(wish.check, Verdict.PASS, text, str(wish))
        if only_asked or exchange.answer is None:
            text = (
                "A page may try to store: the preflight is granted. Nothing was sent; whether the "
                "server takes it, --write tells."
            )
            return Finding(wish.check, Verdict.PASS, text, str(wish))
        self._succeeded = True
        status = exchange.answer.status
        text, advice = f"A page can {wish.does} ({status}).", NOTHING
        if status >= 400 and wish.check != _ERROR.check:
            does = "fails" if status >= 500 else "refuses"
            text = f"CORS is right, the server {does}: a page reads its {status}."
            hint = self._hint(wish, status)
            text += hint.text * (hint is not self._hinted)
            advice = hint.advice
            self._hinted = hint
        elif wish is _SEARCH and status == 200 and not is_dicom_json(exchange.body):
            text += f" But what it reads is no DICOM JSON.{_NO_ROOT.text}"
            advice = _NO_ROOT.advice
        if exchange.is_redirected:
            text += " It was redirected; the final URL saves the viewer a request."
            if exchange.is_away and self._target.headers:
                text += " The values of --header were not sent to the other origin."
        return Finding(wish.check, Verdict.PASS, text, str(wish), status, advice=advice)

    def _blocked(self, wish: _PlannedRequest, exchange: FetchResult) -> Finding:
        advice = self._advisor.advice(exchange)
        text = f"A page can't {wish.does}. {self._why(exchange)}"
        if _rule(exchange) == Reason.PRIVATE:
            text = f"It is not known if a page can {wish.does}. {self._why(exchange)}"
        if wish is _SEARCH and self._is_without_cors(exchange):
            advice = self._advisor.everything
            hint = _HINTS.get((wish.check, exchange.answer.status if exchange.answer else 0))
            if hint is not None:  # it may be another URL that belongs into the configuration
                text += hint.text
                ours = {k: v for k, v in advice.ours.items() if k != "upstream.url"}
                advice = replace(advice, ours=ours)
        return Finding(
            wish.check,
            Verdict.FAIL,
            text,
            str(wish),
            exchange.answer.status if exchange.answer else None,
            _rule(exchange),
            _place(exchange),
            advice,
        )

    def _is_without_cors(self, exchange: FetchResult) -> bool:
        """Return whether no response and no preflight shows any CORS header."""
        answer = exchange.answer
        if answer is None or answer.is_redirect or exchange.blocked_headers or varies(answer):
            return False
        try:
            preflight = self._page.preflight(exchange.asked).answer
        except (NoAnswerError, OutOfTimeError):
            return False
        heads = (*answer.headers, *preflight.headers)
        return not any(name.lower().startswith("access-control-") for name, _ in heads)

    def _hint(self, wish: _PlannedRequest, status: int) -> _Hint:
        if status == 404 and self._made_up and wish is not _SEARCH:
            return _MADE_UP
        if status == 401 and any(n.lower() == "authorization" for n, _ in self._target.headers):
            return _REFUSED_LOGIN
        return _HINTS.get((wish.check, status)) or _HINTS.get(("", status)) or _NO_HINT

    def _instance(self, search: FetchResult) -> dict[str, str]:
        """UIDs of an instance that is there, else of one that isn't."""
        found = instance_of(search.body)
        if found.study and not (found.series and found.instance):
            request = self._request(_BELOW, {"study": found.study}, _JSON)
            more = instance_of(self._page.fetch(request, body=MAX_BODY).body)
            found = Instance(found.study, more.series, more.instance)
        if not (found.study and found.series and found.instance):
            self._made_up = True
            return dict.fromkeys(("study", "series", "instance"), _made_up())
        return {"study": found.study, "series": found.series, "instance": found.instance}

    def _store(self) -> Finding:
        target = self._target
        request = self._request(_STORE, {}, _INSTANCES)
        if not request.needs_preflight and not target.write:
            text = "A page may try to store: no preflight is needed. Nothing was sent."
            return Finding(_STORE.check, Verdict.PASS, text, str(_STORE))
        exchange = self._page.fetch(request, content=b"", only_ask=not target.write)
        self._exchanges[_STORE.check] = exchange
        return self._judged(_STORE, exchange, only_asked=not target.write)

    def _errors(self) -> Finding:
        wish = _ERROR
        exchange = self._fetch(wish, {"study": _made_up()}, _JSON)
        if exchange.answer is not None and exchange.answer.is_ok:
            wish = _NOWHERE
            exchange = self._fetch(wish, {}, _JSON)
        return self._judged(wish, exchange)

    def _ranges(self, frames: FetchResult, uids: dict[str, str]) -> Iterator[Finding]:
        if frames.is_blocked or frames.answer is None or not frames.answer.is_ok:
            return
        part = self._fetch(_PART, uids, _FRAMES, _RANGE)
        if part.is_blocked:
            yield self._judged(_PART, part)
            return
        answer = part.answer or frames.answer
        answered = answer.status == 206
        announced = "bytes" in (combined(frames.answer, "accept-ranges") or "").lower()
        if not answered and not announced:
            return
        if exposes(part.request, answer, "content-range"):
            text = "A page that asks for a part sees which part it got (Content-Range)."
            yield Finding(_PART.check, Verdict.PASS, text, str(_PART), answer.status)
            return
        does = "answers Range" if answered else "announces Accept-Ranges"
        yield Finding(
            _PART.check,
            Verdict.FAIL if answered else Verdict.WARN,
            f"The server {does}, but a page can't see Content-Range: viewers take a part of an "
            "image for the whole. Access-Control-Expose-Headers does not list it.",
            str(_PART),
            answer.status,
            "content-range-not-exposed",
            "Fetch, main fetch, step 14",
            self._advisor.on_answers(
                "cors.expose_headers", answer, "expose Content-Range to pages"
            ),
        )

    def _preflight_cache(self) -> Iterator[Finding]:
        granted = next((e.granted for e in self._exchanges.values() if e.granted), None)
        if granted is None:
            return
        seconds = max_age(granted)
        if fault := _max_age_fault(combined(granted, "access-control-max-age"), seconds):
            yield Finding(
                "max-age",
                Verdict.WARN,
                f"The answer to the preflight {fault}: a round trip more for nearly every frame.",
                rule="max-age",
                step="Fetch, CORS-preflight fetch, step 7.9",
                advice=self._advisor.on_preflights(
                    "cors.max_age", granted, "let browsers keep preflights (Access-Control-Max-Age)"
                ),
            )
        elif seconds > MAX_AGE:
            text = (
                f"Preflights may be kept for {seconds} seconds; Chrome stops at {MAX_AGE}, Firefox "
                "at 86400, Safari at 600."
            )
            yield Finding("max-age", Verdict.NOTE, text)
        else:
            text = f"Browsers keep preflights for {seconds} seconds."
            yield Finding("max-age", Verdict.PASS, text)

    def _vary(self, search: FetchResult) -> Iterator[Finding]:
        answer = search.answer
        if search.is_blocked or answer is None or search.is_redirected:
            return
        allowed = combined(answer, "access-control-allow-origin")
        if allowed == "*" or _is_uncacheable(answer):
            return
        if not varies(answer):
            try:
                other = self._page.without_origin(search.request).answer
            except NoAnswerError:
                return
            if other.status != answer.status:  # a session by cookie, say: another answer anyway
                return
            if combined(other, "access-control-allow-origin") != allowed:
                yield Finding(
                    "vary",
                    Verdict.WARN,
                    "The answer depends on the origin and doesn't say so: a browser that has it in "
                    "its cache for another page, or for an image, blocks this one. It lacks Vary: "
                    "Origin.",
                    rule="vary-missing",
                    step="Fetch, CORS protocol and HTTP caches",
                    advice=self._advisor.on_answers(
                        "cors.allow_origins", answer, "add Vary: Origin to every answer"
                    ),
                )
                return
        yield Finding("vary", Verdict.PASS, "Caches can't mix up the answers for two origins.")

    def _doubled(self) -> Iterator[Finding]:
        if any(finding.rule in _DOUBLES for finding in self.report.findings):
            return
        exchanges = self._exchanges.values()
        preflights = [e.granted for e in exchanges if e.granted and _doubles(e.granted)]
        answers = [e.answer for e in exchanges if e.answer and _doubles(e.answer)]
        if not preflights and not answers:
            return
        names = sorted({name for head in (*preflights, *answers) for name in _doubles(head)})
        lines = [
            *nginx_hide(names),
            *(self._advisor.preflights(preflights[0]) if preflights else ()),
            *(self._advisor.answers(answers[0]) if answers else ()),
        ]
        yield Finding(
            "doubled",
            Verdict.WARN,
            f"{' and '.join(names)} comes twice, so it counts for nothing: two layers set it, the "
            "archive and what stands before it.",
            rule="doubled",
            advice=self._advisor.one_layer(tuple(lines)),
        )

    def _links(self) -> Iterator[Finding]:
        target = self._target
        found = {
            link
            for check in (_SEARCH.check, _METADATA.check)
            for exchange in (self._exchanges[check],)
            for link in links(
                exchange.body, url=exchange.request.url, root=target.root, origin=target.origin
            )
        }
        if not found:
            return
        mixed = any(link.is_mixed for link in found)
        attributes = " and ".join(sorted({link.attribute for link in found}))
        effect = (
            "a page on https can't follow them (mixed content)."
            if mixed
            else "a page that follows them leaves the root, and may reach nothing."
        )
        yield Finding(
            "links",
            Verdict.FAIL if mixed else Verdict.WARN,
            f"URLs in the answers ({attributes}) lead to "
            f"{_destinations(found, target.root)}: {effect} "
            "If it is dicomweb-cors-proxy that answers, behind another server, its public_url has "
            "to be the root above.",
            rule="links-elsewhere",
            advice=Advice(
                {"rewrite_urls": True, "upstream.aliases": _aliases(found, target.root)},
                _NGINX_NAMES,
                "have the archive name itself by the URL that pages use",
            ),
        )

    def _request(
        self, wish: _PlannedRequest, uids: dict[str, str], *headers: tuple[str, str]
    ) -> Request:
        url = f"{self._target.root}/{wish.template.format(**uids)}"
        return self._page.request(wish.method, url, *headers)

    def _fetch(
        self, wish: _PlannedRequest, uids: dict[str, str], *headers: tuple[str, str]
    ) -> FetchResult:
        body = MAX_BODY if _JSON in headers else 0
        exchange = self._page.fetch(self._request(wish, uids, *headers), body=body)
        self._exchanges[wish.check] = exchange
        return exchange


@dataclass(frozen=True, slots=True)
class _Hint:
    """Return the verdict on a status that a page can read."""

    text: str
    advice: Advice = NOTHING


def _first(text: str) -> Advice:
    return Advice({}, (), text)


_NO_HINT: Final = _Hint("")
_LOGIN: Final = "get a login for --header 'Authorization: …'"
_NO_ROOT: Final = _Hint(
    " Is this the DICOMweb root?",
    _first(
        "see whether the URL, or upstream.url of the dicomweb-cors-proxy there, is that of the "
        "DICOMweb root"
    ),
)
_HINTS: Final = {
    ("", 401): _Hint(" With a login it tells more (--header).", _first(_LOGIN)),
    ("search", 400): _NO_ROOT,
    ("search", 404): _NO_ROOT,
    ("frames", 406): _Hint(" It has no frames of the media type asked for."),
    ("store", 405): _Hint(
        " dicomweb-cors-proxy takes stores only where that is set.",
        Advice({"access.mode": "read-write"}, (), "have the server accept stores"),
    ),
}
_MADE_UP: Final = _Hint(" The search showed no instance, so a made-up one was asked for.")
_REFUSED_LOGIN: Final = _Hint(
    " It does not take the login.", _first("get a login that the server takes")
)
# Most archives build their URLs from one of these.
_NGINX_NAMES: Final = (
    "proxy_set_header Host $http_host;",
    "proxy_set_header X-Forwarded-Host $http_host;",
    "proxy_set_header X-Forwarded-Proto $scheme;",
    'proxy_set_header Forwarded "host=$http_host;proto=$scheme";',
)
_FIRST_ON: Final = {
    Reason.NAME: "check the host name in the URL",
    Reason.REFUSED: "start the server, or correct the port in the URL",
    Reason.CERTIFICATE: "give the server a certificate that browsers trust",
    Reason.TLS: "check the URL's scheme and port, and the server's TLS",
    Reason.HANGS: (
        "see whether the server answers at all, or waits for an archive behind it "
        "(dicomweb-cors-proxy's command check asks that archive)"
    ),
}
_TLS: Final = Advice(
    {"server.tls_cert_file": "FILE", "server.tls_key_file": "FILE"},
    ("ssl_certificate FILE;", "ssl_certificate_key FILE;"),
)


def _out_of_reach(error: NoAnswerError) -> Finding:
    advice = _TLS if error.reason is Reason.CERTIFICATE else NOTHING
    first = _FIRST_ON.get(error.reason, "see that the server runs and that the URL is right")
    return Finding(
        "reach",
        Verdict.FAIL,
        f"A page can't ask at all. {error}",
        rule=error.reason,
        advice=replace(advice, first=first),
    )


def _made_up() -> str:
    return f"2.25.{uuid4().int}"


def _rule(exchange: FetchResult) -> str | None:
    if exchange.no_answer is not None:
        return exchange.no_answer.reason
    return exchange.step.rule if exchange.step else None


def _place(exchange: FetchResult) -> str | None:
    if exchange.step is None:
        return None
    return f"Fetch, {exchange.step.section}, step {exchange.step.number}"


def _max_age_fault(value: str | None, seconds: int) -> str | None:
    name = "Access-Control-Max-Age"
    if value is None:
        return f"has no {name}, so browsers forget it after {DEFAULT_MAX_AGE} seconds"
    if re.fullmatch("0+|-[0-9]+", value):
        return f"has a {name} that forbids to keep it"
    if not re.fullmatch("[0-9]+", value):
        return f"has an unreadable {name}, so browsers forget it after {DEFAULT_MAX_AGE} seconds"
    return f"lets browsers keep it for {seconds} seconds only ({name})" if seconds < SHORT else None


def _doubles(head: Response) -> list[str]:
    return [name for name in _SINGLE if len(head.lines(name.lower())) > 1]


def _is_uncacheable(answer: Response) -> bool:
    return "no-store" in (combined(answer, "cache-control") or "").lower()


def _destinations(found: set[Link], root: str) -> str:
    origins = sorted({link.origin for link in found if link.origin})
    if origins == [origin_of(root)]:
        return f"another path of {origins[0]}"
    return ", ".join(origins[:3]) or "a URL that can't be read"


def _aliases(found: set[Link], root: str) -> list[str]:
    """Return the base URL by which the archive calls itself; other paths may be anything."""
    path = urlsplit(root).path
    names = {
        f"{link.origin}{path if link.keeps_path else '/PATH'}" for link in found if link.origin
    }
    return sorted(names)[:3]
