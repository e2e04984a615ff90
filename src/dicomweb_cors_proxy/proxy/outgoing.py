"""Map DICOMweb requests to the archive, and its responses back."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from dicomweb_cors_proxy.dicomweb.accept import repair_accept
from dicomweb_cors_proxy.dicomweb.resources import RESOURCES, Service
from dicomweb_cors_proxy.dicomweb.routes import ResourceTable, Route
from dicomweb_cors_proxy.http import forwarding
from dicomweb_cors_proxy.http import headers as fields
from dicomweb_cors_proxy.http.limits import body_too_large
from dicomweb_cors_proxy.http.messages import SAFE_METHODS, Header
from dicomweb_cors_proxy.http.replies import HTTPProblem, LocalReply
from dicomweb_cors_proxy.proxy.reverse_proxy import body_without_meaning
from dicomweb_cors_proxy.proxy.routing import BaseURL
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem
from dicomweb_cors_proxy.upstream.interface import Request

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from starlette.types import Scope

    from dicomweb_cors_proxy.http.forwarding import TrustedProxies
    from dicomweb_cors_proxy.http.messages import BodyFilter
    from dicomweb_cors_proxy.observability.records import RequestRecord
    from dicomweb_cors_proxy.proxy.incoming import IncomingRequest, RequestHead
    from dicomweb_cors_proxy.proxy.responses import ResponseAdapter

logger = logging.getLogger(__name__)

# Where the URL of a service stands, if there is none for all of them.
_URL_KEYS = {
    Service.ROOT: "upstream.url",
    Service.STORE: "upstream.stow_url",
    Service.WORKLIST: "upstream.ups_url",
    Service.WADO_URI: "upstream.wado_uri_url",
}

_FOR_NO_RESOURCE = frozenset({"CONNECT", "TRACE"})

# Headers that override the request method.
_OVERRIDES = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
_METHOD_KEY = re.compile(rb"(?:\A|[&;?])_method=", re.IGNORECASE)

# What an extra path takes in read-write mode, of the methods that are known.
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})

# Host and X-Request-ID are replaced, and our server has handled Expect. X-Original-URL,
# X-Rewrite-URL and, behind gunicorn or Daphne, the last four can make an archive serve a path that
# was not checked. Proxy becomes the variable HTTP_PROXY under CGI (CVE-2016-5385).
_NOT_FORWARDED = frozenset(
    {
        b"host",
        b"expect",
        b"x-request-id",
        b"x-original-url",
        b"x-rewrite-url",
        b"proxy",
        b"daphne-root-path",
        b"path-info",
        b"script-name",
        b"x-script-name",
    }
)

# Some archives read an underscore as a hyphen, as CGI made both the same: so written, these would
# reach them past us.
_UNDERSCORE_SENSITIVE = _NOT_FORWARDED | {b"content-length", b"transfer-encoding"}


class Gateway:
    """`rewrite` and `modify_response` of the reverse proxy, for one configuration."""

    def __init__(  # noqa: PLR0913  (each is a setting, and a keyword)
        self,
        *,
        base_path: str,
        service_urls: Mapping[Service, str],
        read_write: bool,
        extra_paths: Collection[str],
        instance_name: str,
        trusted_proxies: TrustedProxies,
        max_body_bytes: int | None,
        repair_accept: bool,
        logs_in: bool,
        authorization: Header | None,
        resource_policy: str | None,
        contents: ResponseAdapter,
    ) -> None:
        self._base_path = base_path.rstrip("/").encode("ascii")
        self._upstreams = {service: BaseURL(url) for service, url in service_urls.items()}
        self._read_write = read_write
        self._resources = ResourceTable(
            read_write=self._read_write,
            extra_paths=extra_paths,
            wado_uri=True,  # known, even where none is configured: its 404 says what to set
        )
        self._instance_name = instance_name
        self.trusted_proxies = trusted_proxies
        self._max_body_bytes = max_body_bytes
        self._repair_accept = repair_accept
        self._logs_in = logs_in
        self._authorization = authorization
        self._not_forwarded = _NOT_FORWARDED | ({b"authorization"} if self._logs_in else set())
        self._resource_policy: Header | None = None
        if resource_policy is not None:
            value = resource_policy.encode("ascii")
            self._resource_policy = (b"cross-origin-resource-policy", value)
        self._contents = contents
        self._warned_of_cors = False

    def rewrite(self, scope: Scope) -> Request:
        """Return the archive's request for a client's.

        Raises `LocalReply` for 508, 404, 405, 403, 413, the 400 to a body that means nothing, and
        the 204 to `Max-Forwards: 0`.
        """
        inbound: IncomingRequest = scope["inbound"]
        record: RequestRecord = scope["record"]
        method: str = scope["method"]
        head = inbound.head
        if not head.is_forwardable and fields.passed_through(scope["headers"], self._instance_name):
            raise HTTPProblem(
                508,
                "The request has been through this proxy already: does the archive's URL in "
                "upstream point back to it? Chained proxies need different server.instance_name.",
            )
        route, path = self._route(inbound.path, method)
        inbound.route = route
        record.resource = route.template
        upstream = self._upstream(route, method)
        _refuse_override(scope, head)
        head.is_forwardable = True
        if method not in SAFE_METHODS:
            self._refuse_foreign_write(inbound)
        sent, length = self._forwarded_headers(scope, head, route)
        if length and method in SAFE_METHODS:  # a chunked one may be empty: `proxy` looks
            raise body_without_meaning(method)
        headers = [upstream.host, *sent, (b"x-request-id", record.request_id.encode("ascii"))]
        if method == "OPTIONS":
            headers = self._decrement_max_forwards(headers, route)
        query = inbound.target[len(inbound.path) :]
        if route.service("GET") is Service.WADO_URI:  # its URL is the endpoint itself, not a root
            path = b""
        return Request(
            upstream.origin,
            method.encode("ascii"),
            upstream.target(path) + query,
            headers,
            length,
        )

    def resource(self, path: bytes) -> str | None:
        """Return the template of the resource at a path; None if there is none."""
        route, _ = self._match(path)
        return None if route is None else route.template

    def _match(self, path: bytes) -> tuple[Route | None, bytes]:
        base = self._base_path
        below = path[len(base) :]
        if not base and below == b"/":
            below = b""
        return self._resources.match(below) if path.startswith(base) else None, below

    def _route(self, path: bytes, method: str) -> tuple[Route, bytes]:
        route, below = self._match(path)
        if route is not None:
            return route, below
        if method in _FOR_NO_RESOURCE:
            raise HTTPProblem(
                405, f"{method} is answered nowhere here.", [(b"allow", b"GET, HEAD, OPTIONS")]
            )
        raise HTTPProblem(
            404,
            "Not a DICOMweb resource. The DICOMweb root is "
            f"{self._base_path.decode('ascii') or '/'} (server.base_path); other paths of the "
            "archive are forwarded only if access.extra_paths lists them. UIDs are digits and "
            "dots, and no slash stands at the end.",
        )

    def _upstream(self, route: Route, method: str) -> BaseURL:
        service = route.service(method)
        upstream = self._upstreams.get(service) if service else None
        if upstream is not None:
            return upstream
        allow = self._allow(route)
        if service is None and (allow or method in _FOR_NO_RESOURCE):
            remedy = ""
            if self._writes(route, method):
                remedy = " Writing needs access.mode: read-write."
            elif method == "GET" and route.template == "/":
                remedy = " It is the DICOMweb root, which has no page: ask for …/studies?limit=1."
            raise HTTPProblem(
                405, f"This method is not allowed on {route.template}.{remedy}", [(b"allow", allow)]
            )
        key = _URL_KEYS.get(service) if service else None
        remedy = f"set {key}" if key else "see the URLs under upstream"
        raise HTTPProblem(
            404,
            f"No archive is configured for {route.template} with this method: {remedy} in the "
            "proxy's configuration.",
        )

    def _writes(self, route: Route, method: str) -> bool:
        """Return whether read-write mode would allow the method."""
        if self._read_write:
            return False
        written = next((r.methods for r in RESOURCES if r.template == route.template), _WRITES)
        return method in written

    def _allow(self, route: Route) -> bytes:
        """Return the methods of a resource that an archive is configured for; b"" for none."""
        return ", ".join(
            method for method in route.allow if route.service(method) in self._upstreams
        ).encode("ascii")

    def _refuse_foreign_write(self, inbound: IncomingRequest) -> None:
        decision = inbound.decision
        if decision is not None and decision.outcome == "refused":
            raise HTTPProblem(
                403,
                "Pages of this origin may not write to the archive: no entry of "
                "cors.allow_origins covers it.",
            )

    def _refuse_announced_body(self, head: RequestHead) -> None:
        limit = self._max_body_bytes
        if limit is not None and any(int(length) > limit for length in head.lengths):
            raise body_too_large(limit)

    def _forwarded_headers(
        self, scope: Scope, head: RequestHead, route: Route
    ) -> tuple[list[Header], int | None]:
        """Return the archive's header lines except Host and the id, and the length of the body."""
        client = scope.get("client")
        peer = client[0] if client else None
        is_trusted = peer in self.trusted_proxies
        is_chunked = _is_chunked(scope, head)
        may_contain_urls = route.may_contain_urls(scope["method"])
        key = is_trusted, scope["scheme"], scope["http_version"], is_chunked, may_contain_urls
        if key not in head.sent:
            self._refuse_announced_body(head)
            headers = self._headers(
                scope,
                head,
                is_trusted=is_trusted,
                is_chunked=is_chunked,
                may_contain_urls=may_contain_urls,
            )
            head.sent[key] = headers, _body_length(headers)
        headers, length = head.sent[key]
        return forwarding.with_peer(headers, peer), length

    def _headers(
        self,
        scope: Scope,
        head: RequestHead,
        *,
        is_trusted: bool,
        is_chunked: bool,
        may_contain_urls: bool,
    ) -> list[Header]:
        headers = fields.end_to_end(
            (name, repair_accept(value))
            if name == b"accept" and self._repair_accept
            else (name, value)
            for name, value in scope["headers"]
            if not (name in self._not_forwarded or _is_underscore_alias(name))
        )
        headers = self._contents.request_headers(headers, may_contain_urls=may_contain_urls)
        if is_chunked:
            # RFC 9112 §6.3: of two framings, the length goes.
            headers = [header for header in headers if header[0] != b"content-length"]
            headers.append((b"transfer-encoding", b"chunked"))
        if self._authorization:
            headers.append(self._authorization)
        headers.append(fields.via(scope["http_version"], self._instance_name))
        return forwarding.forwarded(
            headers, scheme=scope["scheme"], host=head.host, trusted=is_trusted
        )

    def _decrement_max_forwards(self, headers: list[Header], route: Route) -> list[Header]:
        forwards = fields.max_forwards(headers)
        if forwards is None:
            return headers
        if forwards == 0:
            raise LocalReply(204, [(b"allow", self._allow(route))])
        return fields.with_max_forwards(headers, forwards - 1)

    def readiness_requests(self) -> dict[str, Request]:
        """Return the readiness request for each base URL of the archive."""
        own = [self._authorization] if self._authorization else []
        via = fields.via("1.1", self._instance_name)
        return {
            upstream.base_url: Request(
                upstream.origin, b"OPTIONS", upstream.target(b""), [upstream.host, *own, via]
            )
            for upstream in self._upstreams.values()
        }

    def modify_response(
        self, scope: Scope, status: int, headers: list[Header]
    ) -> tuple[list[Header], BodyFilter | None]:
        """Return the client's headers and body filter for the archive's response."""
        self.refuse_our_credentials(status)
        received = [(name.lower(), value) for name, value in fields.end_to_end_response(headers)]
        answered = fields.without_cors(received)
        if len(answered) != len(received):
            self._warn_of_cors()
        if status == 204:  # RFC 9110 §8.6: no Content-Length
            answered = [header for header in answered if header[0] != b"content-length"]
        if self._resource_policy is not None:
            policy = self._resource_policy
            answered = [header for header in answered if header[0] != policy[0]]
            answered.append(policy)
        inbound: IncomingRequest = scope["inbound"]
        route = inbound.route
        assert route is not None  # noqa: S101  (`rewrite` has set it)
        return self._contents.modify(
            scope,
            status,
            answered,
            may_contain_urls=route.may_contain_urls(scope["method"]),
            is_bulk_data=route.is_bulk_data,
        )

    def refuse_our_credentials(self, status: int) -> None:
        """Raise a 502 if the archive rejected our own credentials: a login would not help."""
        if self._logs_in and status in (401, 403):
            raise UpstreamProblem(
                "credentials",
                502,
                "The archive refused the proxy's own credentials, or doesn't let them see this "
                "resource. The operator should check upstream.auth.",
            )

    def _warn_of_cors(self) -> None:
        if not self._warned_of_cors:
            self._warned_of_cors = True
            logger.warning(
                "the archive sends CORS headers of its own; they are stripped, the policy is ours"
            )


def _refuse_override(scope: Scope, head: RequestHead) -> None:
    """Raise a 405 for a request that names another method for the archive to use.

    Orthanc and many frameworks use it, so a GET, which any page can send, would be a DELETE.
    """
    query = scope["query_string"]
    if b"%" in query:
        query = unquote_to_bytes(query)
    if (query and _METHOD_KEY.search(query)) or (
        not head.is_forwardable
        and any(name.replace(b"_", b"-") in _OVERRIDES for name, _ in scope["headers"])
    ):
        raise HTTPProblem(
            405,
            "The request names another method than its own, in a header or as _method in its "
            "query. Send that method itself.",
            [(b"allow", b"GET, HEAD, OPTIONS")],
        )


def _is_underscore_alias(name: bytes) -> bool:
    return b"_" in name and name.replace(b"_", b"-") in _UNDERSCORE_SENSITIVE


def _is_chunked(scope: Scope, head: RequestHead) -> bool:
    """Return whether a body of unknown length may follow; HTTP/2 does not announce it."""
    if scope["http_version"].startswith("1"):
        return bool(head.transfer_codings)
    return scope["method"] not in SAFE_METHODS and not head.lengths


def _body_length(headers: list[Header]) -> int | None:
    """Return the length in bytes of the body that a request announces; None for chunked."""
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            return int(value)
    return 0
