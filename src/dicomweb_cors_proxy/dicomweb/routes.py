"""Match a request path to a DICOMweb resource or an extra path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from dicomweb_cors_proxy.dicomweb.resources import RESOURCES, WADO, Resource, Service
from dicomweb_cors_proxy.http.messages import SAFE_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ResourceTable", "Route", "Text", "extra_path_for", "parse_extra_path"]


class Text(Enum):
    """The cases in which a response may be text in which the archive names itself."""

    ALWAYS = auto()  # search results, store and worklist responses, metadata
    IF_ACCEPTED = auto()  # retrieved instances, if the client asks for JSON or XML
    UNLESS_OTHER = auto()  # paths of the archive's own, unless the client asks for another type
    NEVER = auto()  # bulk data, which nothing may change


@dataclass(frozen=True, slots=True)
class Route:
    """The resource that a path matched, under one configuration.

    Attributes:
        template: the resource's template, or the extra path as it is configured.
        allow: the methods that are forwarded, in the order of the Allow header.
    """

    template: str
    allow: tuple[str, ...]
    _services: Mapping[str, Service | None]
    _service_of_others: Service | None = None

    def service(self, method: str) -> Service | None:
        """Return the service that a request with `method` is for; None if that is a 405."""
        return self._services.get(method, self._service_of_others)

    def may_contain_urls(self, method: str) -> bool:
        """Tell whether the response is always a text in which the archive may name itself.

        That is search results, store and worklist responses, and metadata.
        """
        service = self.service(method)
        return service in _TEXT_SERVICES or (
            service is Service.RETRIEVE and self.template.endswith("/metadata")
        )

    def text(self, method: str) -> Text:
        """Return the case in which the response may be text in which the archive names itself."""
        if self.may_contain_urls(method):
            return Text.ALWAYS
        if self.is_bulk_data:
            return Text.NEVER
        return Text.UNLESS_OTHER if self.service(method) is Service.ROOT else Text.IF_ACCEPTED

    @property
    def is_bulk_data(self) -> bool:
        """Return whether the response is bulk data (PS3.18 §10.4.1.1.5), of any media type."""
        return self.template in _BULK_DATA


_BULK_DATA: Final = frozenset(
    resource.template for resource in RESOURCES if "/bulk" in resource.template
)
_TEXT_SERVICES: Final = frozenset({Service.SEARCH, Service.STORE, Service.WORKLIST})

_NEVER_FORWARDED: Final = MappingProxyType({"CONNECT": None, "TRACE": None})
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class ResourceTable:
    """The paths that one configuration forwards.

    Args:
        read_write: forward every method of a resource, not only GET, HEAD and OPTIONS.
        extra_paths: patterns of further paths, see `parse_extra_path`; the first that matches is
            used. They are for `Service.ROOT`, with any method except CONNECT and TRACE, or with
            GET, HEAD and OPTIONS when not `read_write`. A path that is a resource of the standard
            too stays one, and gets the methods that it lacks. So does one with a slash at the end.
            `wado` does not, because its URL is not below the root.
        wado_uri: whether `wado` is a resource.

    Raises ValueError, with a sentence, for the first of `extra_paths` that is malformed.
    """

    def __init__(
        self, *, read_write: bool, extra_paths: Iterable[str] = (), wado_uri: bool = False
    ) -> None:
        rows = [
            (resource.template.lstrip("/"), _route(resource, read_write=read_write))
            for resource in RESOURCES
            if wado_uri or resource.template != WADO
        ]
        resources: list[Route] = []
        self._match_resource = re.compile(_pattern(rows, resources).encode("ascii")).match
        extras = {path: parse_extra_path(path) + "()" for path in extra_paths}
        self._match_extra = (
            re.compile("|".join(extras.values()).encode("ascii")).match if extras else None
        )
        # By the position of the resource and of the extra path, 0 for none.
        self._routes = {(at, 0): route for at, route in enumerate(resources, start=1)}
        for at, path in enumerate(extras, start=1):
            self._routes[0, at] = _extra_route(path, read_write=read_write)

    def match(self, path: bytes) -> Route | None:
        """Return the route of a path, or None if it is not a resource (404).

        `path` is what follows the base path in the request target, as it came: neither decoded
        nor normalised, without the query. It is empty for the root, else it starts with a slash.
        """
        resource = self._match_resource(path)
        at = (resource and resource.lastindex) or 0
        extra = self._match_extra and self._match_extra(path)
        extra_at = (extra and extra.lastindex) or 0
        if not (at or extra_at) or (
            b"%25" in path and _AT_SECOND_SIGHT.search(unquote_to_bytes(path)) is not None
        ):
            return None
        if not at and path.endswith(b"/"):
            at = self._without_slash(path)
        route = self._routes.get((at, extra_at))
        if route is None:
            route = _widened(self._routes[at, 0], self._routes[0, extra_at])
            self._routes[at, extra_at] = route
        return route

    def _without_slash(self, path: bytes) -> int:
        """Return the position of the resource whose path lacks the slash at the end; 0 for none."""
        resource = self._match_resource(path[:-1])
        at = (resource and resource.lastindex) or 0
        return 0 if at and self._routes[at, 0].template == WADO else at

    def missing_slash_path(self, path: bytes) -> str | None:
        """Return the extra path that would open `path`, a forwarded one with a slash at the end.

        None if it would not be forwarded without the slash either.
        """
        if not path.endswith(b"/") or path.endswith(b"//"):
            return None
        route = self.match(path[:-1])
        if route is None or route.template == WADO:
            return None
        return extra_path_for(route.template).rstrip("/") + "/"


def _route(resource: Resource, *, read_write: bool) -> Route:
    services = {
        method: resource.methods[method]
        for method in _METHODS
        if method in resource.methods and (read_write or method in SAFE_METHODS)
    }
    return Route(resource.template, tuple(services), services)


def _extra_route(path: str, *, read_write: bool) -> Route:
    if read_write:
        return Route(path, _METHODS, _NEVER_FORWARDED, Service.ROOT)
    allow = tuple(method for method in _METHODS if method in SAFE_METHODS)
    return Route(path, allow, dict.fromkeys(allow, Service.ROOT))


def _widened(resource: Route, extra: Route) -> Route:
    """Return the route of a resource with the methods that an extra path adds.

    They go to the service that the resource's other reads, or other writes, go to.
    """
    if resource.template == WADO:
        return resource
    reads = resource.service("OPTIONS")
    writes = extra.service("POST") and next(
        (resource.service(m) for m in resource.allow if m not in SAFE_METHODS), Service.ROOT
    )
    services = {
        method: resource.service(method) or (reads if method in SAFE_METHODS else writes)
        for method in extra.allow
    }
    return Route(resource.template, extra.allow, services | _NEVER_FORWARDED, writes)


def extra_path_for(template: str) -> str:
    """Return the pattern for `access.extra_paths` that covers a resource."""
    path = "/" + template.strip("/")
    return re.sub(r"\{\w+\}", "*", path.replace("{path}", "**"))


_UID: Final = r"[0-9]++(?:\.[0-9]++)*"  # no "..", unlike [0-9.]+

# A dot segment, or what is one for an archive that drops path parameters ("..;x") first.
_DOTS: Final = r"(?:\.|%2[Ee]){1,2}(?:[/;]|%3[Bb]|%2[Ff]|\Z)"
# RFC 3986 §3.3, the unescaped ones, and those that browsers leave unescaped nevertheless (URL
# Standard, "path percent-encode set"; Safari also leaves ^).
_PCHAR: Final = r"[0-9A-Za-z._~!$&'()*+,;=:@^|\[\]-]"
# Of no control, slash or backslash; nor, for archives that decode twice or overlong UTF-8, of what
# becomes one of them or a dot.
_ESCAPE: Final = (
    r"%(?![01]|2[Ff]|5[Cc]|7[Ff]|25(?:2[EeFf]|5[Cc])|[Cc][01]|[Ee]0%[89]|[Ff]0%8)[0-9A-Fa-f]{2}"
)
_SEGMENT: Final = rf"(?!{_DOTS})(?:{_PCHAR}|{_ESCAPE})+"

# The same in a path that was decoded once.
_AT_SECOND_SIGHT: Final = re.compile(
    rf"/{_DOTS}|%(?:[01]|2[Ff]|5[Cc]|7[Ff]|[Cc][01])".encode()
    + rb"|(?:%[Ee]0|\xe0)%[89]|(?:%[Ff]0|\xf0)%8"
)

_VARIABLES: Final = {
    "{study}": _UID,
    "{series}": _UID,
    "{instance}": _UID,
    "{workitem}": _UID,
    "{transaction}": _UID,
    "{uid}": _UID,
    "{frames}": r"[0-9]++(?:(?:,|%2[Cc])[0-9]++)*",  # some clients encode the comma
    "{aet}": _SEGMENT,
    # Segments that an encoded slash may separate, because some archives encode the slashes of a
    # BulkDataURI. A dot segment stands beside neither.
    "{path}": rf"{_SEGMENT}(?:(?:/|%2[Ff]){_SEGMENT})*",
}


def _pattern(rows: Iterable[tuple[str, Route]], routes: list[Route]) -> str:
    """Return one regular expression for many templates, and append their routes to `routes`.

    Common beginnings are matched once, and no two branches fit the same path. Where a template
    ends stands an empty group, in the order of `routes`, so that `Match.lastindex` tells which.
    """
    branches = []
    children: dict[str, list[tuple[str, Route]]] = {}
    for template, route in rows:
        segment, _, rest = template.partition("/")
        if segment:
            children.setdefault(segment, []).append((rest, route))
        else:
            branches.append(r"\Z()")
            routes.append(route)
    if children:
        below = (
            (_VARIABLES.get(segment) or re.escape(segment)) + _pattern(rest, routes)
            for segment, rest in children.items()
        )
        branches.append(f"/(?:{'|'.join(below)})")
    return f"(?:{'|'.join(branches)})"


def parse_extra_path(path: str) -> str:
    """Return the regular expression of an extra path, a pattern such as `/reports/*`.

    `*` is exactly one segment, `**` any number of them, none included. Neither stands for an empty
    segment, a dot segment, or one with an encoded slash, backslash or control character. All else
    stands for itself, byte for byte, and so does a slash at the end. `**` at the end includes one,
    and `/` is the root with and without it.

    Raises ValueError, with a sentence that names the pattern and a remedy.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path!r} doesn't start with a slash: write {'/' + path!r}")
    for segment in path.removesuffix("/").split("/")[1:]:
        for fault, reason in _SEGMENT_FAULTS:
            if fault.search(segment):
                raise ValueError(f"{path!r} has {reason}")

    # Segments between two "**" may be taken where they fit first, and for good: whatever distance
    # is left, the next "**" makes up for. So the groups are atomic, and matching stays linear.
    runs = [
        "".join(
            "/" + (_SEGMENT if segment == "*" else re.escape(segment))
            for segment in run.split("/")[1:]
        )
        for run in ("" if path == "/" else path).split("/**")
    ]
    runs[-1] += r"\Z" if runs[-1] else r"/?\Z"
    return runs[0] + "".join(f"(?>(?:/{_SEGMENT})*?{run})" for run in runs[1:])


_SEGMENT_FAULTS: Final = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"\A\Z", "an empty segment: leave out the doubled slash"),
        (r"[?#]", "a query or a fragment: write the path alone, it matches with any query"),
        (r"\A(?!\*\*?\Z)[^*]*\*", "a * within a segment: let it be the segment, or write %2A"),
        (r"%(?![0-9A-Fa-f]{2})", "a % without two hexadecimal digits: write a literal % as %25"),
        (r"%(?:[01]|2[Ff]|5[Cc]|7[Ff])", "an encoded slash, backslash or control: leave it out"),
        (rf"\A{_DOTS}", "a dot segment: write the path that it resolves to"),
        (rf"[^%](?<!{_PCHAR})", "a character that a URL's path can't hold: percent-encode it"),
    )
)
