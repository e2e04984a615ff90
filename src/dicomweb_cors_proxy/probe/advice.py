"""Which settings change a browser's mind: of ours, and of nginx."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import urlsplit

from dicomweb_cors_proxy.config.fields import CORSSettings
from dicomweb_cors_proxy.cors.origins import OriginPattern
from dicomweb_cors_proxy.probe.fetch import Rule
from dicomweb_cors_proxy.probe.page import Stage
from dicomweb_cors_proxy.probe.reasons import varies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dicomweb_cors_proxy.probe.page import FetchResult
    from dicomweb_cors_proxy.probe.responses import Response

__all__ = ["MAX_AGE", "NOTHING", "Advice", "Advisor", "nginx_hide"]

Value: TypeAlias = "str | int | bool | list[str]"

MAX_AGE: Final = 7200  # seconds; Chromium's limit
# The headers that viewers read and set most, few enough for one line of a terminal.
NGINX_EXPOSED: Final = "accept-ranges,content-location,content-range,etag,location,warning"
NGINX_ALLOWED: Final = ("accept", "authorization", "content-type", "range")
NGINX_NAMES: Final = 60  # columns of names in one line


@dataclass(frozen=True, slots=True)
class Advice:
    """A change of settings.

    Attributes:
        ours: keys of our configuration, with their values.
        nginx: directives for the archive's location, in place of those that set the same.
        first: what to do, as a sentence goes on after "First, ".
    """

    ours: Mapping[str, Value]
    nginx: tuple[str, ...]
    first: str = ""


NOTHING: Final = Advice({}, ())


class Advisor:
    """The advice for one origin and all that its pages request, so one change is enough.

    Args:
        root: DICOMweb root that was probed.
        origin: of the pages.
        names: request headers, in lower case, for which preflights ask.
    """

    def __init__(self, root: str, origin: str, names: Iterable[str], *, credentials: bool) -> None:
        defaults = CORSSettings()
        self._root = root
        self._origin = origin
        self._asked = tuple(names)
        self._names = sorted({*defaults.allow_headers, *self._asked})
        self._exposed = defaults.expose_headers
        self._credentials = credentials

    def advice(self, exchange: FetchResult) -> Advice:
        """Return what lets the request through."""
        if exchange.step is None:
            return self._on_no_response(exchange)
        rule = exchange.step.rule
        if rule in _ON_REQUESTS and exchange.stage is Stage.REQUEST:
            return _ON_REQUESTS[rule]
        if exchange.response is not None and exchange.response.status == 421:
            host = urlsplit(exchange.request.url).netloc
            return Advice(
                {"server.allowed_hosts": [host]}, (), "have the server serve the URL's host"
            )
        if exchange.stage is Stage.REDIRECT or (
            exchange.response and exchange.response.is_redirect
        ):
            return Advice({}, (), "give the viewer the URL to which the server redirects")
        asked = exchange.stage is Stage.PREFLIGHT
        keys, first = _ON_HEADERS if exchange.blocked_headers else _SETTINGS[rule]
        if (
            rule is Rule.ALLOW_ORIGIN_MISSING
            and not exchange.blocked_headers
            and (varies(exchange.response) or asked)
        ):
            first = _LET_IN if varies(exchange.response) else _ANSWER_PREFLIGHTS
        if first == _LET_IN and self._origin == "null":
            first = _LET_NULL_IN
        first = first.format(origin=self._origin, names=", ".join(exchange.blocked_headers))
        if asked:
            return Advice(self._ours(*keys), self.preflights(exchange.response), first)
        hidden = nginx_hide(_HIDDEN.get(rule, ()))
        return Advice(self._ours(*keys), (*hidden, *self.responses(exchange.response)), first)

    def _on_no_response(self, exchange: FetchResult) -> Advice:
        if exchange.stage is Stage.REDIRECT:
            first = (
                "see why the server redirects to a private address, or follow it with "
                "--follow-private-redirects"
            )
        else:
            first = "see why the server does not respond"
            if self._root.startswith("http:"):
                first += ", and whether it wants https there"
        return Advice({}, (), first)

    def on_responses(self, key: str, response: Response, first: str) -> Advice:
        """Return a setting by our key, with the lines for nginx that every response needs."""
        return Advice(self._ours(key), self.responses(response), first)

    def on_preflights(self, key: str, response: Response, first: str) -> Advice:
        """Return a setting by our key, with the lines for nginx that preflights need."""
        return Advice(self._ours(key), self.preflights(response), first)

    def one_layer(self, lines: tuple[str, ...]) -> Advice:
        """Return what to do where two layers send CORS headers; `lines` are nginx's."""
        return Advice(self._ours(*_ORIGINS), lines, _ONE_LAYER)

    @property
    def everything(self) -> Advice:
        """Return the advice for a server without any CORS."""
        return Advice(
            {"upstream.url": self._root, **self._ours("cors.allow_origins")},
            (*self.preflights(), *self.responses()),
            "put dicomweb-cors-proxy, or nginx with the lines above, before the server, which "
            "sends no CORS headers",
        )

    def responses(self, sent: Response | None = None) -> tuple[str, ...]:
        """Return the lines of a location that every response needs, in place of the one `sent`."""
        lines = [f"add_header Access-Control-Allow-Origin {self._quoted} always;"]
        if self._lets_credentials(sent):
            lines.append("add_header Access-Control-Allow-Credentials true always;")
        lines.append(f"add_header Access-Control-Expose-Headers {NGINX_EXPOSED} always;")
        lines.append("add_header Vary Origin always;")
        return tuple(lines)

    def preflights(self, sent: Response | None = None) -> tuple[str, ...]:
        """Return lines of a location that answer preflights before any login, replacing `sent`."""
        lines = [
            "if ($request_method = OPTIONS) {",
            f"  add_header Access-Control-Allow-Origin {self._quoted};",
        ]
        if self._lets_credentials(sent):
            lines.append("  add_header Access-Control-Allow-Credentials true;")
        names = textwrap.wrap(" ".join(sorted({*NGINX_ALLOWED, *self._asked})), NGINX_NAMES)
        return (
            *lines,
            *(
                f"  add_header Access-Control-Allow-Headers {','.join(line.split())};"
                for line in names
            ),
            f"  add_header Access-Control-Max-Age {MAX_AGE};",
            "  add_header Vary Origin;",
            "  return 204;",
            "}",
        )

    def _lets_credentials(self, sent: Response | None) -> bool:
        # Other pages may need credentials, so a server that allows them keeps doing so.
        return self._credentials or (
            self._origin != "null"
            and sent is not None
            and "true" in sent.lines("access-control-allow-credentials")
        )

    @property
    def _listed(self) -> str:
        return "*" if self._origin == "null" else self._origin

    @property
    def _quoted(self) -> str:
        # A * is ignored with credentials.
        return f'"{self._origin if self._credentials else self._listed}"'

    def _ours(self, *keys: str) -> dict[str, Value]:
        """Return values by key, with what else these need to be accepted."""
        if self._origin == "null" and self._credentials:
            return {}  # no configuration of ours lets sandboxed frames in with credentials
        if "cors.allow_origins" in keys:
            keys = (*keys, *self._beyond_defaults())
        ours = {key: self._value(key) for key in keys}
        if ours.get("cors.allow_credentials") and not _is_secure(self._origin):
            ours["cors.dangerously_allow_insecure_origins"] = True
        return ours

    def _beyond_defaults(self) -> Iterator[str]:
        if self._credentials:
            yield "cors.allow_credentials"
        if not set(self._names) <= set(CORSSettings().allow_headers):
            yield "cors.allow_headers"

    def _value(self, key: str) -> Value:
        values: dict[str, Callable[[], Value]] = {
            "cors.allow_origins": lambda: [self._listed],
            "cors.allow_methods": lambda: ["GET", "HEAD", "DELETE"],
            "cors.allow_headers": lambda: self._names,
            "cors.expose_headers": lambda: list(self._exposed),
            "cors.allow_credentials": lambda: True,
            "cors.max_age": lambda: MAX_AGE,
        }
        return values[key]()


def _is_secure(origin: str) -> bool:
    return OriginPattern.parse(origin).is_secure


def nginx_hide(names: Iterable[str]) -> tuple[str, ...]:
    """Return lines of a location that drop the archive's own headers."""
    return tuple(f"proxy_hide_header {name};" for name in names)


# The archive may send these headers, too: the response does not show which layer added a line.
_HIDDEN: Final = {
    Rule.ALLOW_ORIGIN_SEVERAL: ("Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"),
    Rule.CREDENTIALS_NOT_ALLOWED: ("Access-Control-Allow-Credentials",),
}
_ORIGINS: Final = ("cors.allow_origins",)
_ANSWER_PREFLIGHTS: Final = "have preflights (OPTIONS) answered with 204, before any login"
_ONE_LAYER: Final = "let only one layer send CORS headers, and hide the other's"
_LET_IN: Final = "let {origin} in, letter by letter"
_LET_NULL_IN: Final = "serve the viewer over http or https: pages without an origin need a plain *"
_ON_HEADERS: Final = (("cors.allow_headers",), "name {names} in Access-Control-Allow-Headers")
# Keys of ours, and what to do in words.
_SETTINGS: Final[Mapping[Rule, tuple[tuple[str, ...], str]]] = {
    Rule.ALLOW_ORIGIN_MISSING: (
        _ORIGINS,
        "have every response carry Access-Control-Allow-Origin, errors included",
    ),
    Rule.ALLOW_ORIGIN_SEVERAL: (
        _ORIGINS,
        _ONE_LAYER,
    ),
    Rule.ALLOW_ORIGIN_OTHER: (_ORIGINS, _LET_IN),
    Rule.ALLOW_ORIGIN_ANY_WITH_CREDENTIALS: (
        _ORIGINS,
        "name {origin} in place of *, or let the viewer do without credentials",
    ),
    Rule.CREDENTIALS_NOT_ALLOWED: (
        ("cors.allow_credentials",),
        "allow credentials, or let the viewer do without",
    ),
    Rule.PREFLIGHT_STATUS: (_ORIGINS, _ANSWER_PREFLIGHTS),
    Rule.ALLOW_METHODS_MALFORMED: (
        ("cors.allow_methods",),
        "write Access-Control-Allow-Methods as names with commas between them",
    ),
    Rule.METHOD_NOT_ALLOWED: (("cors.allow_methods",), "allow the method in preflights"),
    Rule.ALLOW_HEADERS_MALFORMED: (
        ("cors.allow_headers",),
        "write Access-Control-Allow-Headers as names with commas between them",
    ),
    Rule.AUTHORIZATION_NOT_NAMED: _ON_HEADERS,
    Rule.HEADER_NOT_ALLOWED: _ON_HEADERS,
}
_ON_REQUESTS: Final = {
    Rule.MIXED_CONTENT: Advice(
        {"server.tls_cert_file": "FILE", "server.tls_key_file": "FILE"},
        ("listen 443 ssl;", "ssl_certificate FILE;", "ssl_certificate_key FILE;"),
        "give the server https, and the viewer its https URL",
    ),
    Rule.BAD_PORT: Advice(
        {"server.port": 8080}, ("listen 8080;",), "move the server to another port"
    ),
}
