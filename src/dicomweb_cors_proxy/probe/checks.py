"""The checks of a probe, in the order in which they are reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from uuid import uuid4

from dicomweb_cors_proxy.fetch import (
    DEFAULT_MAX_AGE,
    Answer,
    combined,
    exposes,
    judge_request,
    max_age,
    origin_of,
)
from dicomweb_cors_proxy.probe.addresses import Space, space_of_address, space_of_origin
from dicomweb_cors_proxy.probe.advice import MAX_AGE, NOTHING, Advice, Advisor
from dicomweb_cors_proxy.probe.client import NoAnswerError, Reason
from dicomweb_cors_proxy.probe.links import Instance, instance_of, links
from dicomweb_cors_proxy.probe.page import Page, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dicomweb_cors_proxy.fetch import Headers, Request
    from dicomweb_cors_proxy.probe.client import Client
    from dicomweb_cors_proxy.probe.page import Exchange

__all__ = ["Finding", "Report", "Target", "Verdict", "probe"]

_JSON: Final = ("Accept", "application/dicom+json")
_FRAMES: Final = ("Accept", 'multipart/related; type="application/octet-stream"; transfer-syntax=*')
_INSTANCES: Final = (
    "Content-Type",
    'multipart/related; type="application/dicom"; boundary=probe',
)
_RANGE: Final = ("Range", "bytes=0-63")
MAX_BODY: Final = 4 * 2**20  # bytes of an answer that are searched for UIDs and URLs

_ASKED_FOR: Final = ("accept", "content-type")

_CHROMIUM_MAX_AGE: Final = MAX_AGE
_SINGLE: Final = ("access-control-allow-credentials", "access-control-max-age")
# The server was not reached at all: nothing else is worth asking.
_OUT_OF_REACH: Final = frozenset(Reason) - {Reason.CLOSED}


class Verdict(StrEnum):
    """Of a check: only FAIL blocks a page."""

    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "FAIL"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Target:
    """What is probed, and as whom.

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
        request: method and template of the path, if the check is of a request.
        status: of the answer that decided.
        rule: `fetch.Rule` or `client.Reason` that was broken.
        step: where the Fetch standard says so.
        first: what to do about it, as a sentence goes on after "First, ".
    """

    check: str
    verdict: Verdict
    text: str
    request: str | None = None
    status: int | None = None
    rule: str | None = None
    step: str | None = None
    advice: Advice = NOTHING
    first: str = ""


@dataclass(slots=True)
class Report:
    """What came out; the exchanges hold what must not be shown."""

    target: Target
    findings: list[Finding] = field(default_factory=list)
    exchanges: dict[str, Exchange] = field(default_factory=dict)

    @property
    def is_blocked(self) -> bool:
        """Whether a browser would keep something from the page."""
        return any(finding.verdict is Verdict.FAIL for finding in self.findings)

    @property
    def first(self) -> str:
        """One sentence: what to do first."""
        for verdict in (Verdict.FAIL, Verdict.WARN):
            for finding in self.findings:
                if finding.verdict is verdict and finding.first:
                    start = "" if verdict is Verdict.FAIL else "Nothing is blocked. "
                    return f"{start}First, {finding.first}, then probe again."
        return "Nothing to do: pages on this origin can use the archive."


def probe(
    target: Target, client: Client, *, tell: Callable[[Finding], None] | None = None
) -> Report:
    """Ask `target` all that a viewer asks; `tell` gets each finding as it is made."""
    checks = _Checks(target, client)
    for finding in checks.run():
        checks.report.findings.append(finding)
        if tell:
            tell(finding)
    return checks.report


@dataclass(frozen=True, slots=True)
class _Wish:
    """What a viewer wants: a name, words for what a page does, and a path's template."""

    check: str
    does: str
    method: str
    template: str


_SEARCH: Final = _Wish("search", "search", "GET", "studies?limit=1")
_INSTANCE: Final = "studies/{study}/series/{series}/instances/{instance}"
_METADATA: Final = _Wish("metadata", "read metadata", "GET", f"{_INSTANCE}/metadata")
_FRAME: Final = _Wish("frames", "read frames", "GET", f"{_INSTANCE}/frames/1")
_STORE: Final = _Wish("store", "store", "POST", "studies")
_ERROR: Final = _Wish("errors", "read errors", "GET", "studies/{study}/metadata")
_NOWHERE: Final = _Wish("errors", "read errors", "GET", "no-such-resource")
_PART: Final = _Wish("range", "read parts of frames", "GET", f"{_INSTANCE}/frames/1")


class _Checks:
    def __init__(self, target: Target, client: Client) -> None:
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
        self._advisor = Advisor(
            target.root,
            target.origin,
            {*_ASKED_FOR, *unsafe},
            credentials=target.credentials,
        )
        self._succeeded = False

    @property
    def _exchanges(self) -> dict[str, Exchange]:
        return self.report.exchanges

    def run(self) -> Iterator[Finding]:
        target = self._target
        if stopped := self._stopped():
            yield stopped
            return
        search = self._fetch(_SEARCH, {}, _JSON)
        if search.no_answer is not None and search.no_answer.reason in _OUT_OF_REACH:
            yield self._out_of_reach(search.no_answer)
            return
        yield from self._about_the_server(search)
        yield self._judged(_SEARCH, search)

        uids = self._instance(search)
        yield self._judged(_METADATA, self._fetch(_METADATA, uids, _JSON))
        frames = self._fetch(_FRAME, uids, _FRAMES)
        yield self._judged(_FRAME, frames)
        yield self._store()
        yield self._errors()
        if origin_of(target.root) != target.origin:
            yield from self._ranges(frames, uids)
            yield from self._preflight_cache()
            yield from self._vary(search)
            yield from self._doubled()
        yield from self._links()

    def _stopped(self) -> Finding | None:
        """What keeps every request from being sent."""
        request = self._request(_SEARCH, {}, _JSON)
        step = judge_request(request)
        if step is None:
            return None
        exchange = self._page.fetch(request)  # ends before anything is sent
        self._exchanges[_SEARCH.check] = exchange
        advice = self._advisor.advice(exchange)
        return Finding(
            step.rule.value,
            Verdict.FAIL,
            f"A page can't ask at all. {self._advisor.why(exchange, succeeded=False)}",
            rule=step.rule,
            step=_place(exchange),
            advice=advice,
            first=_FIRST_OF_ALL[step.rule],
        )

    def _out_of_reach(self, error: NoAnswerError) -> Finding:
        first = _FIRST_ON.get(error.reason, "see that the server runs and that the URL is right")
        return Finding(
            "reach", Verdict.FAIL, f"Nothing was asked. {error}", rule=error.reason, first=first
        )

    def _about_the_server(self, search: Exchange) -> Iterator[Finding]:
        target = self._target
        if origin_of(target.root) == target.origin:
            text = "Page and archive have the same origin: browsers ask for no CORS."
            yield Finding("same-origin", Verdict.NOTE, text)
        if target.root.startswith("https:") and not target.verify:
            text = "The certificate was not checked (--insecure); browsers will check it."
            yield Finding("certificate", Verdict.NOTE, text)
        page = space_of_origin(target.origin)
        if search.address is None or search.is_redirected:
            return
        server = space_of_address(search.address)
        if server is Space.PUBLIC or (page is not None and page <= server):
            return
        where = "this machine's own" if server is Space.LOOPBACK else "a private one"
        plain = target.origin.startswith("http:") and page is None
        consequence = (
            "plain http from farther away" if plain else "farther away without asking its user"
        )
        text = (
            f"The server's address is {where}. Chrome lets no page from {consequence} ask it "
            "(Local Network Access), and no header changes that."
        )
        yield Finding("local-network", Verdict.NOTE, text)

    def _judged(self, wish: _Wish, exchange: Exchange, *, only_asked: bool = False) -> Finding:
        request = f"{wish.method} {wish.template}"
        if exchange.is_blocked:
            advice = self._advisor.advice(exchange)
            why = self._advisor.why(exchange, succeeded=self._succeeded)
            return Finding(
                wish.check,
                Verdict.FAIL,
                f"A page can't {wish.does}. {why}",
                request,
                exchange.answer.status if exchange.answer else None,
                _rule(exchange),
                _place(exchange),
                advice,
                _first(exchange, advice),
            )
        if only_asked or exchange.answer is None:
            text = "A page may store: the preflight is granted. Nothing was sent; --write does."
            return Finding(wish.check, Verdict.PASS, text, request)
        self._succeeded = True
        status = exchange.answer.status
        moved = " It was redirected; the final URL saves the viewer a request." * (
            exchange.is_redirected
        )
        if status < 400 or wish.check == _ERROR.check:
            text = f"A page can {wish.does} ({status}).{moved}"
        else:
            hint = _HINTS.get((wish.check, status), "") or _HINTS.get(("", status), "")
            text = f"CORS is right, the server refuses: a page reads its {status}.{hint}{moved}"
        return Finding(wish.check, Verdict.PASS, text, request, status)

    def _instance(self, search: Exchange) -> dict[str, str]:
        """UIDs of an instance that is there, else of one that isn't."""
        found = instance_of(search.body)
        if found.study and not (found.series and found.instance):
            wish = _Wish("instance", "", "GET", "studies/{study}/instances?limit=1")
            below = self._page.fetch(
                self._request(wish, {"study": found.study}, _JSON), body=MAX_BODY
            )
            more = instance_of(below.body)
            found = Instance(found.study, more.series, more.instance)
        made_up = _made_up()
        if not (found.study and found.series and found.instance):
            return dict.fromkeys(("study", "series", "instance"), made_up)
        return {"study": found.study, "series": found.series, "instance": found.instance}

    def _store(self) -> Finding:
        target = self._target
        request = self._request(_STORE, {}, _INSTANCES)
        if not request.needs_preflight and not target.write:
            text = "A page may try to store: no preflight is needed. Nothing was sent."
            return Finding(_STORE.check, Verdict.PASS, text, f"{_STORE.method} {_STORE.template}")
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

    def _ranges(self, frames: Exchange, uids: dict[str, str]) -> Iterator[Finding]:
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
            yield Finding(_PART.check, Verdict.PASS, text, status=answer.status)
            return
        does = "answers Range" if answered else "announces Accept-Ranges"
        yield Finding(
            _PART.check,
            Verdict.FAIL if answered else Verdict.WARN,
            f"The server {does}, but a page can't see Content-Range: viewers take a part of an "
            "image for the whole. Access-Control-Expose-Headers does not list it.",
            f"{_PART.method} {_PART.template}",
            answer.status,
            "content-range-not-exposed",
            "Fetch, main fetch, step 14",
            self._advisor.to_set("cors.expose_headers"),
            "expose Content-Range (cors.expose_headers, or nginx's Access-Control-Expose-Headers)",
        )

    def _preflight_cache(self) -> Iterator[Finding]:
        granted = next((e.granted for e in self._exchanges.values() if e.granted), None)
        if granted is None:
            return
        seconds = max_age(granted)
        value = combined(granted, "access-control-max-age")
        check = "max-age"
        if value is None or not value.isdecimal() or seconds == 0:
            why = "has no" if value is None else "has an unreadable"
            if value is not None and seconds == 0 and value.isdecimal():
                why = "forbids to keep it by its"
            kept = (
                "so browsers ask before every request"
                if value is not None and value.isdecimal()
                else f"so browsers forget it after {DEFAULT_MAX_AGE} seconds"
            )
            yield Finding(
                check,
                Verdict.WARN,
                f"The answer to the preflight {why} Access-Control-Max-Age, {kept}: a round trip "
                "more for nearly every frame.",
                rule="max-age",
                step="Fetch, CORS-preflight fetch, step 7.9",
                advice=self._advisor.to_set("cors.max_age"),
                first="let browsers keep preflights (cors.max_age, or nginx's "
                "Access-Control-Max-Age)",
            )
        elif seconds > _CHROMIUM_MAX_AGE:
            text = (
                f"Preflights may be kept for {seconds} seconds; Chrome stops at {MAX_AGE}, Firefox "
                "at 86400, Safari at 600."
            )
            yield Finding(check, Verdict.NOTE, text)
        else:
            yield Finding(check, Verdict.PASS, f"Browsers keep preflights for {seconds} seconds.")

    def _vary(self, search: Exchange) -> Iterator[Finding]:
        answer = search.answer
        if search.is_blocked or answer is None or search.is_redirected:
            return
        allowed = combined(answer, "access-control-allow-origin")
        if allowed == "*" or _may_not_be_kept(answer):
            return
        if not _varies(answer):
            try:
                other = self._page.without_origin(search.request).answer
            except NoAnswerError:
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
                    advice=self._advisor.to_set("cors.allow_origins"),
                    first="add Vary: Origin to every answer (ours has it by cors.allow_origins, "
                    "nginx's line is above)",
                )
                return
        yield Finding("vary", Verdict.PASS, "Caches can't mix up the answers for two origins.")

    def _doubled(self) -> Iterator[Finding]:
        answers = [
            answer
            for exchange in self._exchanges.values()
            for answer in (exchange.answer, exchange.granted)
            if answer is not None
        ]
        doubled = sorted(
            {name for name in _SINGLE for answer in answers if len(answer.lines(name)) > 1}
        )
        if not doubled or any(
            f.rule in ("credentials-not-allowed", "allow-origin-several")
            for f in self.report.findings
        ):
            return
        names = " and ".join(name.title() for name in doubled)
        yield Finding(
            "doubled",
            Verdict.WARN,
            f"{names} comes twice, so it counts for nothing: two layers set it, the archive and "
            "what stands before it.",
            rule="doubled",
            advice=Advice(
                {"cors.allow_origins": [self._target.origin]},
                tuple(f"proxy_hide_header {name.title()};" for name in doubled),
            ),
            first="let only one layer send CORS headers (ours drops the archive's own; in nginx, "
            "proxy_hide_header)",
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
        origins = sorted({link.origin for link in found if link.origin})
        where = ", ".join(origins[:3]) or "a URL that can't be read"
        if origins == [origin_of(target.root)]:
            where = f"another path of {origins[0]}"
        effect = (
            "a page on https can't follow them (mixed content)."
            if mixed
            else "a page that follows them leaves the root, and may reach nothing."
        )
        path = urlsplit(target.root).path
        aliases = [f"{origin}{path}" for origin in origins[:3]]
        yield Finding(
            "links",
            Verdict.FAIL if mixed else Verdict.WARN,
            f"URLs in the answers ({attributes}) lead to {where}: {effect}",
            rule="links-elsewhere",
            advice=Advice(
                {"rewrite_urls": True, "upstream.aliases": aliases},
                (
                    "proxy_set_header Host $http_host;",
                    "proxy_set_header X-Forwarded-Host $http_host;",
                    "proxy_set_header X-Forwarded-Proto $scheme;",
                ),
            ),
            first="make the archive name itself by the URL that pages use (rewrite_urls and "
            "upstream.aliases, or nginx's proxy_set_header)",
        )

    def _request(self, wish: _Wish, uids: dict[str, str], *headers: tuple[str, str]) -> Request:
        url = f"{self._target.root}/{wish.template.format(**uids)}"
        return self._page.request(wish.method, url, *headers)

    def _fetch(self, wish: _Wish, uids: dict[str, str], *headers: tuple[str, str]) -> Exchange:
        body = MAX_BODY if _JSON in headers else 0
        exchange = self._page.fetch(self._request(wish, uids, *headers), body=body)
        self._exchanges[wish.check] = exchange
        return exchange


_FIRST_OF_ALL: Final = {
    "mixed-content": "give the archive https (server.tls_cert_file here, listen 443 ssl in nginx)",
    "bad-port": "move the archive to another port (server.port here, listen in nginx)",
}
_FIRST_ON: Final = {
    Reason.NAME: "check the host name in the URL",
    Reason.REFUSED: "start the server, or correct the port in the URL",
    Reason.CERTIFICATE: (
        "give the server a certificate that browsers trust (server.tls_cert_file here, "
        "ssl_certificate in nginx; --ca-file takes an authority of your own)"
    ),
    Reason.TLS: "check the URL's scheme and port",
}
_HINTS: Final = {
    ("", 401): " Give a login by --header to see more.",
    ("search", 404): " Is this the DICOMweb root?",
}


def _made_up() -> str:
    return f"2.25.{uuid4().int}"


def _rule(exchange: Exchange) -> str | None:
    if exchange.no_answer is not None:
        return exchange.no_answer.reason
    return exchange.step.rule if exchange.step else None


def _place(exchange: Exchange) -> str | None:
    if exchange.step is None:
        return None
    return f"Fetch, {exchange.step.section}, step {exchange.step.number}"


def _first(exchange: Exchange, advice: Advice) -> str:
    if not advice.ours:
        if exchange.stage is Stage.REDIRECT:
            return "give the viewer the final URL, without a redirect"
        return "see why the server does not answer"
    keys = " and ".join(advice.ours)
    layer = "preflights" if exchange.stage is Stage.PREFLIGHT else "answers"
    return f"set {keys} (or, in nginx, what {layer} get)"


def _varies(answer: Answer) -> bool:
    names = {name.strip().lower() for name in (combined(answer, "vary") or "").split(",")}
    return bool(names & {"origin", "*"})


def _may_not_be_kept(answer: Answer) -> bool:
    return "no-store" in (combined(answer, "cache-control") or "").lower()
