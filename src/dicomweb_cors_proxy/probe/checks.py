"""The checks of a probe, in the order in which they are reported.

A check is a function in `CHECKS`: it takes the session and yields its findings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.probe.addresses import Space, space_of_origin
from dicomweb_cors_proxy.probe.advice import MAX_AGE, Advice, nginx_hide
from dicomweb_cors_proxy.probe.client import NoResponseError
from dicomweb_cors_proxy.probe.fetch import DEFAULT_MAX_AGE, exposes, judge_request, max_age
from dicomweb_cors_proxy.probe.findings import Finding, Report, Target, Verdict
from dicomweb_cors_proxy.probe.hints import OUT_OF_REACH, first, out_of_reach
from dicomweb_cors_proxy.probe.instances import find_instance, made_up_uid
from dicomweb_cors_proxy.probe.links import aliases, destinations, links
from dicomweb_cors_proxy.probe.network import OutOfTimeError
from dicomweb_cors_proxy.probe.presence import check_presence
from dicomweb_cors_proxy.probe.reasons import varies
from dicomweb_cors_proxy.probe.responses import Response, combined
from dicomweb_cors_proxy.probe.session import (
    ERROR,
    FRAME,
    FRAMES,
    INSTANCES,
    JSON,
    METADATA,
    NOWHERE,
    PART,
    SEARCH,
    STORE,
    ProbeSession,
    step_of,
)
from dicomweb_cors_proxy.probe.timing import check_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dicomweb_cors_proxy.probe.client import ProbeClient

__all__ = ["CHECKS", "probe", "run_checks"]

_RANGE: Final = ("Range", "bytes=0-63")
SHORT: Final = 60  # seconds; a preflight kept for less is asked again while its reader looks

_SINGLE: Final = ("Access-Control-Allow-Credentials", "Access-Control-Max-Age")
# Rules whose findings have already named a doubled header.
_DOUBLES: Final = ("credentials-not-allowed", "allow-origin-several")
# Most archives build their URLs from one of these.
_NGINX_NAMES: Final = (
    "proxy_set_header Host $http_host;",
    "proxy_set_header X-Forwarded-Host $http_host;",
    "proxy_set_header X-Forwarded-Proto $scheme;",
    'proxy_set_header Forwarded "host=$http_host;proto=$scheme";',
)


def probe(
    target: Target, client: ProbeClient, *, tell: Callable[[Finding], None] | None = None
) -> Report:
    """Ask `target` all that a viewer asks; `tell` gets each finding as it is made.

    The client's deadline ends it early, with a finding that says so.
    """
    return run_checks(ProbeSession(target, client), client, tell)


def run_checks(
    session: ProbeSession, client: ProbeClient, tell: Callable[[Finding], None] | None = None
) -> Report:
    """Run all checks of a session; otherwise as `probe`."""
    for finding in _until_the_deadline(session, client):
        session.report.findings.append(finding)
        if tell:
            tell(finding)
    return session.report


def _until_the_deadline(session: ProbeSession, client: ProbeClient) -> Iterator[Finding]:
    try:
        for check in CHECKS:
            yield from check(session)
            if session.is_over:
                return
    except OutOfTimeError:
        yield Finding(
            "deadline",
            Verdict.FAIL,
            f"The probe stopped after {client.max_seconds:g} seconds, before it had asked "
            "everything. The server is slow, or sends a response without an end.",
            rule="deadline",
            advice=first("see why the server is slow, or allow more time with --timeout"),
        )


def _check_request(session: ProbeSession) -> Iterator[Finding]:
    """Report a rule by which browsers block every request, before anything is sent."""
    request = session.request(SEARCH, {}, JSON)
    step = judge_request(request)
    if step is None:
        return
    exchange = session.page.fetch(request)  # ends before anything is sent
    session.exchanges[SEARCH.check] = exchange
    session.is_over = True
    yield Finding(
        step.rule.value,
        Verdict.FAIL,
        f"A page can't ask at all. {session.why(exchange)}",
        rule=step.rule,
        step=step_of(exchange),
        advice=session.advisor.advice(exchange),
    )


def _check_search(session: ProbeSession) -> Iterator[Finding]:
    search = session.fetch(SEARCH, {}, JSON)
    if search.no_response is not None and search.no_response.reason in OUT_OF_REACH:
        session.is_over = True
        yield out_of_reach(search.no_response)
        return
    if not session.is_cross_origin:
        text = "Page and archive have the same origin: browsers ask for no CORS."
        yield Finding("same-origin", Verdict.NOTE, text)
    yield session.judged(SEARCH, search)


def _check_metadata(session: ProbeSession) -> Iterator[Finding]:
    session.uids = find_instance(session)
    yield session.judged(METADATA, session.fetch(METADATA, session.uids, JSON))


def _check_frames(session: ProbeSession) -> Iterator[Finding]:
    yield session.judged(FRAME, session.fetch(FRAME, session.uids, FRAMES))


def _check_store(session: ProbeSession) -> Iterator[Finding]:
    target = session.target
    request = session.request(STORE, {}, INSTANCES)
    if not request.needs_preflight and not target.write:
        text = "A page may try to store: no preflight is needed. Nothing was sent."
        yield Finding(STORE.check, Verdict.PASS, text, str(STORE))
        return
    exchange = session.page.fetch(request, content=b"", only_ask=not target.write)
    session.exchanges[STORE.check] = exchange
    yield session.judged(STORE, exchange, only_asked=not target.write)


def _check_errors(session: ProbeSession) -> Iterator[Finding]:
    planned = ERROR
    exchange = session.fetch(planned, {"study": made_up_uid()}, JSON)
    if exchange.response is not None and exchange.response.is_ok:
        planned = NOWHERE
        exchange = session.fetch(planned, {}, JSON)
    yield session.judged(planned, exchange)


def _check_range(session: ProbeSession) -> Iterator[Finding]:
    frames = session.exchanges[FRAME.check]
    if (
        not session.is_cross_origin
        or frames.is_blocked
        or frames.response is None
        or not frames.response.is_ok
    ):
        return
    part = session.fetch(PART, session.uids, FRAMES, _RANGE)
    if part.is_blocked:
        yield session.judged(PART, part)
        return
    response = part.response or frames.response
    is_partial = response.status == 206
    announced = "bytes" in (combined(frames.response, "accept-ranges") or "").lower()
    if not is_partial and not announced:
        return
    if exposes(part.request, response, "content-range"):
        text = "A page that asks for a part sees which part it got (Content-Range)."
        yield Finding(PART.check, Verdict.PASS, text, str(PART), response.status)
        return
    action = "supports Range" if is_partial else "announces Accept-Ranges"
    yield Finding(
        PART.check,
        Verdict.FAIL if is_partial else Verdict.WARN,
        f"The server {action}, but a page can't see Content-Range: viewers take a part of an "
        "image for the whole. Access-Control-Expose-Headers does not list it.",
        str(PART),
        response.status,
        "content-range-not-exposed",
        "Fetch, main fetch, step 14",
        session.advisor.on_responses(
            "cors.expose_headers", response, "expose Content-Range to pages"
        ),
    )


def _check_preflight_cache(session: ProbeSession) -> Iterator[Finding]:
    if not session.is_cross_origin:
        return
    granted = next((e.granted for e in session.exchanges.values() if e.granted), None)
    if granted is None:
        return
    seconds = max_age(granted)
    if fault := _max_age_fault(combined(granted, "access-control-max-age"), seconds):
        yield Finding(
            "max-age",
            Verdict.WARN,
            f"The response to the preflight {fault}: a round trip more for nearly every frame.",
            rule="max-age",
            step="Fetch, CORS-preflight fetch, step 7.9",
            advice=session.advisor.on_preflights(
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


def _check_vary(session: ProbeSession) -> Iterator[Finding]:
    search = session.exchanges[SEARCH.check]
    response = search.response
    if not session.is_cross_origin or search.is_blocked or response is None or search.is_redirected:
        return
    allowed = combined(response, "access-control-allow-origin")
    if allowed == "*" or _is_uncacheable(response):
        return
    if not varies(response):
        try:
            other = session.page.without_origin(search.request).response
        except NoResponseError:
            return
        if other.status != response.status:  # a session by cookie, say: another response anyway
            return
        if combined(other, "access-control-allow-origin") != allowed:
            yield Finding(
                "vary",
                Verdict.WARN,
                "The response depends on the origin and doesn't say so: a browser that has it in "
                "its cache for another page, or for an image, blocks this one. It lacks Vary: "
                "Origin.",
                rule="vary-missing",
                step="Fetch, CORS protocol and HTTP caches",
                advice=session.advisor.on_responses(
                    "cors.allow_origins", response, "add Vary: Origin to every response"
                ),
            )
            return
    yield Finding("vary", Verdict.PASS, "Caches cannot mix up the responses for two origins.")


def _check_doubled_headers(session: ProbeSession) -> Iterator[Finding]:
    if not session.is_cross_origin or any(
        finding.rule in _DOUBLES for finding in session.report.findings
    ):
        return
    exchanges = session.exchanges.values()
    preflights = [e.granted for e in exchanges if e.granted and _doubles(e.granted)]
    responses = [e.response for e in exchanges if e.response and _doubles(e.response)]
    if not preflights and not responses:
        return
    names = sorted({name for head in (*preflights, *responses) for name in _doubles(head)})
    lines = [
        *nginx_hide(names),
        *(session.advisor.preflights(preflights[0]) if preflights else ()),
        *(session.advisor.responses(responses[0]) if responses else ()),
    ]
    yield Finding(
        "doubled",
        Verdict.WARN,
        f"{' and '.join(names)} comes twice, so it counts for nothing: two layers set it, the "
        "archive and what stands before it.",
        rule="doubled",
        advice=session.advisor.one_layer(tuple(lines)),
    )


def _check_links(session: ProbeSession) -> Iterator[Finding]:
    target = session.target
    found = {
        link
        for check in (SEARCH.check, METADATA.check)
        for exchange in (session.exchanges[check],)
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
        f"URLs in the responses ({attributes}) lead to "
        f"{destinations(found, target.root)}: {effect} "
        "If dicomweb-cors-proxy runs there, behind another server, its public_url has "
        "to be the root above.",
        rule="links-elsewhere",
        advice=Advice(
            {"rewrite_urls": True, "upstream.aliases": aliases(found, target.root)},
            _NGINX_NAMES,
            "have the archive name itself by the URL that pages use",
        ),
    )


def _check_certificate(session: ProbeSession) -> Iterator[Finding]:
    target = session.target
    if target.root.startswith("https:") and not target.verify:
        text = "The certificate was not checked (--insecure); browsers will check it."
        yield Finding("certificate", Verdict.NOTE, text)


def _check_local_network(session: ProbeSession) -> Iterator[Finding]:
    target, search = session.target, session.exchanges[SEARCH.check]
    if search.space is None or search.is_redirected:
        return
    page, server = space_of_origin(target.origin), search.space
    if server is Space.PUBLIC or (page is not None and page <= server):
        return
    where = "this machine's own" if server is Space.LOOPBACK else "a private one"
    action = (
        "lets no page on plain http from elsewhere reach it"
        if target.origin.startswith("http:") and page is None
        else "asks its user before a page from elsewhere may reach it"
    )
    text = (
        f"The server's address is {where}. Chrome {action} (Local Network Access); no header "
        "changes that."
    )
    yield Finding("local-network", Verdict.NOTE, text)


CHECKS: Final[tuple[Callable[[ProbeSession], Iterator[Finding]], ...]] = (
    _check_request,
    _check_search,
    _check_metadata,
    _check_frames,
    _check_store,
    _check_errors,
    check_presence,
    _check_range,
    _check_preflight_cache,
    _check_vary,
    _check_doubled_headers,
    _check_links,
    _check_certificate,
    check_time,
    _check_local_network,
)


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


def _is_uncacheable(response: Response) -> bool:
    return "no-store" in (combined(response, "cache-control") or "").lower()
