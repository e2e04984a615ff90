"""Reasons why a browser blocks a request, in words that repeat nothing a server sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urljoin

from dicomweb_cors_proxy.probe.fetch import Rule
from dicomweb_cors_proxy.probe.links import shown_origin
from dicomweb_cors_proxy.probe.origins import origin_of
from dicomweb_cors_proxy.probe.page import Stage
from dicomweb_cors_proxy.probe.responses import combined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dicomweb_cors_proxy.probe.page import FetchResult
    from dicomweb_cors_proxy.probe.responses import Response

    Fault: TypeAlias = "str | Callable[[Response, str], str]"

__all__ = ["varies", "why"]


def why(exchange: FetchResult, *, origin: str, succeeded: bool) -> str:
    """Say in a sentence what stopped a request; `succeeded`: others were let through."""
    if exchange.no_response is not None:
        before = "The preflight (OPTIONS): " if exchange.stage is Stage.PREFLIGHT else ""
        return f"{before}{exchange.no_response}"
    if exchange.step is None:
        return ""
    rule, response = exchange.step.rule, exchange.response
    if rule in _UNASKED or response is None:
        url = "redirect's target" if exchange.stage is Stage.REDIRECT else "URL"
        return _UNASKED[rule].format(url=url)
    if exchange.blocked_headers:
        return _blocked_headers(exchange, response)
    if exchange.stage is Stage.PREFLIGHT:
        return _of_preflight(exchange, rule, response, origin)
    return _of_response(rule, response, origin, url=exchange.request.url, succeeded=succeeded)


def _of_response(rule: Rule, response: Response, origin: str, *, url: str, succeeded: bool) -> str:
    fault = _fault(rule, response, origin)
    if response.is_redirect:
        return (
            f"The response is a redirect ({response.status}){_there(url, response)}, and {fault}."
        )
    if succeeded and rule is Rule.ALLOW_ORIGIN_MISSING and response.status >= 400:
        return f"CORS headers come on success only: the {response.status} {fault}."
    return f"The response ({response.status}) {fault}."


def _of_preflight(exchange: FetchResult, rule: Rule, response: Response, origin: str) -> str:
    for applies, sentence in _PREFLIGHT_FAULTS:
        if applies(rule, response):
            there = _there(exchange.request.url, response)
            said = sentence.format(status=response.status, there=there)
            return f"The preflight (OPTIONS) {said}"
    fault = _fault(rule, response, origin)
    return f"The response to the preflight (OPTIONS, {response.status}) {fault}."


def _asks_for_login(rule: Rule, response: Response) -> bool:
    return rule in (Rule.ALLOW_ORIGIN_MISSING, Rule.PREFLIGHT_STATUS) and (
        response.status == 401
        or (response.status == 403 and bool(response.lines("www-authenticate")))
    )


_PREFLIGHT_FAULTS: Final[tuple[tuple[Callable[[Rule, Response], bool], str], ...]] = (
    (
        _asks_for_login,
        (
            "got {status}: the server asks for a login before it looks at the method, and "
            "a preflight never carries one."
        ),
    ),
    (
        lambda rule, response: rule is Rule.ALLOW_ORIGIN_MISSING and response.status == 403,
        "was refused with {status}, most likely for its origin.",
    ),
    (
        lambda rule, _: rule is Rule.PREFLIGHT_REDIRECTED,
        "was redirected ({status}){there}, and browsers follow no redirect of a preflight.",
    ),
    (
        lambda _, response: response.status == 421,
        "got 421: the server does not serve the host in the URL.",
    ),
    (
        lambda rule, _: rule is Rule.PREFLIGHT_STATUS,
        "got {status}; only 200 to 299 grant anything.",
    ),
    (
        lambda rule, response: rule is Rule.ALLOW_ORIGIN_MISSING and not response.is_ok,
        ("got {status}, without Access-Control-Allow-Origin: the server does not know preflights."),
    ),
)


def _there(url: str, response: Response) -> str:
    """Say where a redirect from `url` leads, but no path: it could be anything."""
    if not response.is_redirect:
        return ""
    try:
        there = shown_origin(urljoin(url, response.lines("location")[0]))
    except ValueError:
        there = None
    if there is None:
        return ""
    return " to another path" if there == origin_of(url) else f" to {there}"


def _fault(rule: Rule, response: Response, origin: str) -> str:
    fault = _FAULTS[rule]
    return fault if isinstance(fault, str) else fault(response, origin)


def _several_origins(response: Response, _: str) -> str:
    lines = response.lines("access-control-allow-origin")
    if len(lines) == 1:
        return "lists several origins in Access-Control-Allow-Origin, which takes only one"
    times = "twice" if len(lines) == 2 else f"{len(lines)} times"
    return (
        f"has Access-Control-Allow-Origin {times}: two layers set it, the archive and what stands "
        "before it"
    )


def _other_origin(response: Response, origin: str) -> str:
    value = response.lines("access-control-allow-origin")[0]
    return f"lets another origin in: {_difference(value, origin)}"


def _no_origin(response: Response, _: str) -> str:
    fault = "has no Access-Control-Allow-Origin"
    if varies(response):
        return f"{fault}, though it depends on the origin (Vary): this one is not let in"
    return fault


_FAULTS: Final[Mapping[Rule, Fault]] = {
    Rule.ALLOW_ORIGIN_MISSING: _no_origin,
    Rule.ALLOW_ORIGIN_SEVERAL: _several_origins,
    Rule.ALLOW_ORIGIN_ANY_WITH_CREDENTIALS: (
        "lets * in, which counts for nothing when credentials are sent"
    ),
    Rule.ALLOW_ORIGIN_OTHER: _other_origin,
    Rule.CREDENTIALS_NOT_ALLOWED: (
        "does not say Access-Control-Allow-Credentials: true, in exactly one line and in lower case"
    ),
    Rule.ALLOW_METHODS_MALFORMED: "has an Access-Control-Allow-Methods that is no list of names",
    Rule.ALLOW_HEADERS_MALFORMED: "has an Access-Control-Allow-Headers that is no list of names",
    Rule.METHOD_NOT_ALLOWED: "does not allow the method",
}
# These rules block a request whatever its response says, if it gets any.
_UNASKED: Final = {
    Rule.MIXED_CONTENT: (
        "The page is on https and the {url} on plain http: mixed content, which browsers don't "
        "even ask for."
    ),
    Rule.BAD_PORT: "The {url} has a port to which browsers never connect.",
    Rule.REDIRECT_NOT_HTTP: "The response redirects to a URL that is not http or https.",
    Rule.REDIRECT_WITH_CREDENTIALS: "The response redirects to a URL with a user name in it.",
    Rule.REDIRECT_LOOP: "The response redirects in an endless loop.",
}


def varies(response: Response | None) -> bool:
    """Return whether a response says that it depends on the page's origin."""
    value = combined(response, "vary") if response else None
    names = {name.strip().lower() for name in (value or "").split(",")}
    return bool(names & {"origin", "*"})


def _blocked_headers(exchange: FetchResult, response: Response) -> str:
    subject = "The response to the preflight (OPTIONS) does not"
    names = ", ".join(exchange.blocked_headers)
    star = "*" in response.lines("access-control-allow-headers")
    if exchange.step and exchange.step.rule is Rule.AUTHORIZATION_NOT_NAMED and star:
        return (
            f"{subject} name authorization in Access-Control-Allow-Headers; a * there never covers "
            "it (Chrome still lets it pass)."
        )
    if star and exchange.asked.credentials:
        return (
            f"{subject} allow {names}: with credentials, a * in Access-Control-Allow-Headers is a "
            "name like any other."
        )
    return (
        f"{subject} allow the request's {names} header{'s' * (len(exchange.blocked_headers) > 1)}."
    )


def _difference(value: str, origin: str) -> str:
    """Say how an allowed origin differs from the page's, without repeating what came."""
    return next(text for differs, text in _DIFFERENCES if differs(value, origin))


def _host(origin: str) -> str:
    return origin.partition("://")[2].partition(":")[0]


_DIFFERENCES: Final[tuple[tuple[Callable[[str, str], bool], str], ...]] = (
    (lambda value, _: value == "null", "it says null"),
    (
        lambda value, origin: value.lower() == origin.lower(),
        "it is written in other letters, and capitals count",
    ),
    (
        lambda value, origin: value.rstrip("/") == origin,
        "it ends with a slash, and no origin does",
    ),
    (lambda value, _: "*" in value, "it is a pattern, and browsers know none"),
    (lambda value, _: "://" not in value, "it is no origin, which has scheme, host and port"),
    (
        lambda value, origin: value.partition("://")[2] == origin.partition("://")[2],
        "its scheme is another",
    ),
    (
        lambda value, _: "/" in value.partition("://")[2],
        "it has a path, and no origin does",
    ),
    (lambda value, origin: _host(value) == _host(origin), "its port is another"),
    (lambda *_: True, "its host is another"),
)
