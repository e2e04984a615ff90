"""Why a browser said no, in plain words, and which settings change its mind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from dicomweb_cors_proxy.config import CORSSettings
from dicomweb_cors_proxy.fetch import Rule
from dicomweb_cors_proxy.probe.page import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dicomweb_cors_proxy.fetch import Answer
    from dicomweb_cors_proxy.probe.page import Exchange

__all__ = ["NOTHING", "Advice", "Advisor"]

Value: TypeAlias = "str | int | bool | list[str]"

MAX_AGE: Final = 7200  # seconds; Chromium's limit
# What viewers read most; short, for a line of a terminal.
NGINX_EXPOSED: Final = "accept-ranges,content-location,content-range,etag,location,warning"


@dataclass(frozen=True, slots=True)
class Advice:
    """What to change: keys of our configuration with their values, lines for an nginx location."""

    ours: Mapping[str, Value]
    nginx: tuple[str, ...]


NOTHING: Final = Advice({}, ())


class Advisor:
    """Knows the origin and everything that its pages ask for, so that one round of changes is all.

    Args:
        root: DICOMweb root that was probed.
        origin: of the pages.
        names: request headers, in lower case, for which preflights ask.
    """

    def __init__(self, root: str, origin: str, names: Iterable[str], *, credentials: bool) -> None:
        defaults = CORSSettings()
        self._root = root
        self._origin = origin
        self._listed = "*" if origin == "null" else origin
        self._names = sorted({*defaults.allow_headers, *names})
        self._exposed = defaults.expose_headers
        self._credentials = credentials

    def why(self, exchange: Exchange, *, succeeded: bool) -> str:
        """Say in a sentence what stopped a request; `succeeded`: others were let through."""
        if exchange.no_answer is not None:
            before = "The preflight (OPTIONS): " if exchange.stage is Stage.PREFLIGHT else ""
            return f"{before}{exchange.no_answer}"
        if exchange.step is None:
            return ""
        if exchange.culprits:
            return _preflight_culprits(exchange)
        if exchange.stage is Stage.PREFLIGHT and exchange.answer is not None:
            return self._why_preflight(exchange.step.rule, exchange.answer)
        what = self._what(exchange.step.rule, exchange.answer)
        status = exchange.answer.status if exchange.answer else 0
        if succeeded and exchange.step.rule is Rule.ALLOW_ORIGIN_MISSING and status >= 400:
            return f"CORS headers come on success only: the {status} {what}."
        if exchange.step.rule in _REQUEST_FAULTS:
            return _REQUEST_FAULTS[exchange.step.rule]
        if exchange.step.rule in _REDIRECT_FAULTS:
            return _REDIRECT_FAULTS[exchange.step.rule]
        subject = (
            "The redirect" if exchange.answer and exchange.answer.is_redirect else "The answer"
        )
        return f"{subject} ({status}) {what}."

    def _why_preflight(self, rule: Rule, answer: Answer) -> str:
        status = answer.status
        if status in (401, 403) and rule in (Rule.ALLOW_ORIGIN_MISSING, Rule.PREFLIGHT_STATUS):
            if status == 401 or answer.lines("www-authenticate"):
                return (
                    f"The preflight (OPTIONS) was answered {status}: the server asks for a login "
                    "before it looks at the method, and a preflight never carries one."
                )
            return f"The preflight (OPTIONS) was refused with {status}, most likely for its origin."
        if rule is Rule.PREFLIGHT_REDIRECTED:
            return (
                f"The preflight (OPTIONS) was redirected ({status}), and browsers follow no "
                "redirect of a preflight. Give the viewer the final URL, scheme and slashes "
                "included."
            )
        if rule is Rule.PREFLIGHT_STATUS:
            return f"The preflight (OPTIONS) was answered {status}; only 200 to 299 grant anything."
        if rule is Rule.ALLOW_ORIGIN_MISSING and not answer.is_ok:
            return (
                f"The preflight (OPTIONS) was answered {status}, without "
                "Access-Control-Allow-Origin: the server does not know preflights."
            )
        return f"The answer to the preflight (OPTIONS, {status}) {self._what(rule, answer)}."

    def _what(self, rule: Rule, answer: Answer | None) -> str:
        match rule:
            case Rule.ALLOW_ORIGIN_MISSING:
                return "has no Access-Control-Allow-Origin"
            case Rule.ALLOW_ORIGIN_SEVERAL:
                lines = answer.lines("access-control-allow-origin") if answer else ()
                if len(lines) > 1:
                    return (
                        f"has Access-Control-Allow-Origin {_times(len(lines))}: two layers set it, "
                        "the archive and what stands before it"
                    )
                return "lists several origins in Access-Control-Allow-Origin, which takes only one"
            case Rule.ALLOW_ORIGIN_ANY_WITH_CREDENTIALS:
                return "lets * in, which counts for nothing when credentials are sent"
            case Rule.ALLOW_ORIGIN_OTHER:
                value = answer.lines("access-control-allow-origin")[0] if answer else ""
                return f"lets another origin in: {_difference(value, self._origin)}"
            case Rule.CREDENTIALS_NOT_ALLOWED:
                return (
                    "does not say Access-Control-Allow-Credentials: true, in exactly one line "
                    "and in lower case"
                )
            case Rule.ALLOW_METHODS_MALFORMED:
                return "has an Access-Control-Allow-Methods that is no list of names"
            case Rule.ALLOW_HEADERS_MALFORMED:
                return "has an Access-Control-Allow-Headers that is no list of names"
            case Rule.METHOD_NOT_ALLOWED:
                return "does not allow the method"
        return "is one that browsers stop at"

    def advice(self, exchange: Exchange) -> Advice:
        """Return the settings that let the request through."""
        if exchange.step is None:
            return NOTHING
        rule = exchange.step.rule
        if rule in _ADVICE_ON_REQUESTS:
            return _ADVICE_ON_REQUESTS[rule]
        if exchange.stage is Stage.REDIRECT:
            return NOTHING
        keys = _SETTINGS[rule]
        if exchange.culprits:
            keys = ("cors.allow_headers",)
        ours = {key: self._value(key) for key in keys}
        if rule is Rule.ALLOW_ORIGIN_SEVERAL:
            return Advice(ours, ("proxy_hide_header Access-Control-Allow-Origin;", *self.answers))
        return Advice(ours, self.preflights if exchange.stage is Stage.PREFLIGHT else self.answers)

    def to_set(self, *keys: str) -> Advice:
        """Return settings by our keys, with the lines for nginx that do the same."""
        nginx = self.preflights if {"cors.max_age"} & set(keys) else self.answers
        return Advice({key: self._value(key) for key in keys}, nginx)

    @property
    def answers(self) -> tuple[str, ...]:
        """Lines of a location: what every answer needs."""
        lines = [f"add_header Access-Control-Allow-Origin {self._quoted} always;"]
        if self._credentials:
            lines.append("add_header Access-Control-Allow-Credentials true always;")
        lines.append(f"add_header Access-Control-Expose-Headers {NGINX_EXPOSED} always;")
        lines.append("add_header Vary Origin always;")
        return tuple(lines)

    @property
    def preflights(self) -> tuple[str, ...]:
        """Lines of a location: what answers preflights, before any login."""
        lines = [
            "if ($request_method = OPTIONS) {",
            f"  add_header Access-Control-Allow-Origin {self._quoted};",
        ]
        if self._credentials:
            lines.append("  add_header Access-Control-Allow-Credentials true;")
        return (
            *lines,
            f"  add_header Access-Control-Allow-Headers {_comma(self._names)};",
            f"  add_header Access-Control-Max-Age {MAX_AGE};",
            "  add_header Vary Origin;",
            "  return 204;",
            "}",
        )

    @property
    def _quoted(self) -> str:
        return f'"{self._listed}"'

    def _value(self, key: str) -> Value:
        values: dict[str, Callable[[], Value]] = {
            "upstream.url": lambda: self._root,
            "cors.allow_origins": lambda: [self._listed],
            "cors.allow_methods": lambda: ["GET", "HEAD", "DELETE"],
            "cors.allow_headers": lambda: self._names,
            "cors.expose_headers": lambda: list(self._exposed),
            "cors.allow_credentials": lambda: True,
            "cors.max_age": lambda: MAX_AGE,
        }
        return values[key]()


_ORIGINS: Final = ("cors.allow_origins",)
_SETTINGS: Final = {
    Rule.ALLOW_ORIGIN_MISSING: _ORIGINS,
    Rule.ALLOW_ORIGIN_SEVERAL: _ORIGINS,
    Rule.ALLOW_ORIGIN_OTHER: _ORIGINS,
    Rule.ALLOW_ORIGIN_ANY_WITH_CREDENTIALS: ("cors.allow_origins", "cors.allow_credentials"),
    Rule.CREDENTIALS_NOT_ALLOWED: ("cors.allow_credentials",),
    Rule.PREFLIGHT_REDIRECTED: ("upstream.url", "cors.allow_origins"),
    Rule.PREFLIGHT_STATUS: ("upstream.url", "cors.allow_origins"),
    Rule.ALLOW_METHODS_MALFORMED: ("cors.allow_methods",),
    Rule.METHOD_NOT_ALLOWED: ("cors.allow_methods",),
    Rule.ALLOW_HEADERS_MALFORMED: ("cors.allow_headers",),
    Rule.AUTHORIZATION_NOT_NAMED: ("cors.allow_headers",),
    Rule.HEADER_NOT_ALLOWED: ("cors.allow_headers",),
}
_ADVICE_ON_REQUESTS: Final = {
    Rule.MIXED_CONTENT: Advice(
        {"server.tls_cert_file": "FILE", "server.tls_key_file": "FILE"},
        ("listen 443 ssl;", "ssl_certificate FILE;", "ssl_certificate_key FILE;"),
    ),
    Rule.BAD_PORT: Advice({"server.port": 8080}, ("listen 8080;",)),
}
_REQUEST_FAULTS: Final = {
    Rule.MIXED_CONTENT: (
        "The page is on https and the URL on plain http: mixed content, which browsers don't even "
        "ask for."
    ),
    Rule.BAD_PORT: "The URL's port is one that browsers never connect to.",
}
_REDIRECT_FAULTS: Final = {
    Rule.REDIRECT_NOT_HTTP: "The answer redirects to what is no http or https URL.",
    Rule.REDIRECT_WITH_CREDENTIALS: "The answer redirects to a URL with a user name in it.",
    Rule.REDIRECT_LOOP: "The answer redirects for ever.",
}


def _preflight_culprits(exchange: Exchange) -> str:
    names = ", ".join(exchange.culprits)
    if exchange.step and exchange.step.rule is Rule.AUTHORIZATION_NOT_NAMED:
        return (
            "The answer to the preflight (OPTIONS) does not name authorization in "
            "Access-Control-Allow-Headers; a * there never covers it (Chrome still lets it pass)."
        )
    star = exchange.answer and "*" in exchange.answer.lines("access-control-allow-headers")
    if star and exchange.asked.credentials:
        return (
            f"The answer to the preflight (OPTIONS) does not allow {names}: with credentials, a * "
            "in Access-Control-Allow-Headers is a name like any other."
        )
    return f"The answer to the preflight (OPTIONS) does not allow the request's {names}."


def _difference(value: str, origin: str) -> str:
    """Say how an allowed origin differs from the page's, without repeating what came."""
    scheme, _, rest = origin.partition("://")
    there, _, other = value.partition("://")
    if value == "null":
        return "it says null"
    if value.lower() == origin.lower():
        return "it is written in other letters, and capitals count"
    if value.rstrip("/") == origin:
        return "it ends with a slash, and no origin does"
    if other and other == rest and there != scheme:
        return f"its scheme is not {scheme}"
    if "*" in value:
        return "it is a pattern, and browsers know none"
    if not other:
        return "it is no origin, which has scheme, host and port"
    if other.partition(":")[0] == rest.partition(":")[0] and there == scheme:
        return "its port is another"
    return "its host is another"


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


def _comma(names: Iterable[str]) -> str:
    return ",".join(names)
