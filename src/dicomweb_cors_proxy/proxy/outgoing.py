"""Make the archive's request for a client's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from dicomweb_cors_proxy.dicomweb.accept import repair_accept
from dicomweb_cors_proxy.dicomweb.resources import Service
from dicomweb_cors_proxy.dicomweb.routes import Text
from dicomweb_cors_proxy.http import forwarding
from dicomweb_cors_proxy.http import headers as fields
from dicomweb_cors_proxy.http.extensions import HAS_BODY
from dicomweb_cors_proxy.http.limits import body_too_large
from dicomweb_cors_proxy.http.messages import SAFE_METHODS, Header
from dicomweb_cors_proxy.http.replies import HTTPProblem, LocalReply
from dicomweb_cors_proxy.proxy.context import CONTEXT
from dicomweb_cors_proxy.proxy.reverse_proxy import body_without_meaning
from dicomweb_cors_proxy.upstream.interface import Request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

    from dicomweb_cors_proxy.cors.policy import Decision
    from dicomweb_cors_proxy.dicomweb.routes import Route
    from dicomweb_cors_proxy.http.forwarding import TrustedProxies
    from dicomweb_cors_proxy.proxy.context import RequestContext
    from dicomweb_cors_proxy.proxy.incoming import RequestHead
    from dicomweb_cors_proxy.proxy.responses import ResponseAdapter
    from dicomweb_cors_proxy.proxy.routing import Router

# Headers that override the request method.
_OVERRIDES = frozenset({b"x-http-method", b"x-http-method-override", b"x-method-override"})
_METHOD_KEY = re.compile(rb"(?:\A|[&;?])_method=", re.IGNORECASE)

# Host and X-Request-ID are replaced, and our server has handled Expect. Origin was judged by our
# policy; a CORS filter of the archive could reject a page that we allow. X-Original-URL,
# X-Rewrite-URL and, behind gunicorn or Daphne, the last four can make an archive serve a path that
# was not checked. Proxy becomes the variable HTTP_PROXY under CGI (CVE-2016-5385).
_NOT_FORWARDED = frozenset(
    {
        b"host",
        b"expect",
        b"origin",
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

# Some archives read an underscore as a hyphen, as CGI does. Spelled with an underscore, these
# headers would bypass our checks.
_UNDERSCORE_SENSITIVE = _NOT_FORWARDED | {b"content-length", b"transfer-encoding"}


class _Facts(NamedTuple):
    """The facts beside a request's head on which its header lines for the archive depend."""

    is_trusted: bool
    scheme: str
    http_version: str
    is_chunked: bool
    text: Text


class OutgoingRequests:
    """The requests to the archive of one configuration.

    Args:
        router: finds the resource and its base URL.
        adapter: knows which headers a response needs to be adapted.
        instance_name: the proxy's name in Via.
        trusted_proxies: peers whose X-Forwarded-* are believed.
        max_body_bytes: of a request; None for no limit.
        repair_accept: complete Accept headers that archives reject.
        drops_authorization: do not forward the client's Authorization.
        authorization: the proxy's own, if it is fixed.
    """

    def __init__(  # noqa: PLR0913  (each is a setting, and a keyword)
        self,
        router: Router,
        adapter: ResponseAdapter,
        *,
        instance_name: str,
        trusted_proxies: TrustedProxies,
        max_body_bytes: int | None,
        repair_accept: bool,
        drops_authorization: bool,
        authorization: Header | None,
    ) -> None:
        self._router = router
        self._adapter = adapter
        self._instance_name = instance_name
        self._trusted_proxies = trusted_proxies
        self._max_body_bytes = max_body_bytes
        self._repair_accept = repair_accept
        self._authorization = authorization
        self._not_forwarded = _NOT_FORWARDED
        if drops_authorization:
            self._not_forwarded |= {b"authorization"}

    def rewrite(self, scope: Scope, headers: list[Header]) -> tuple[Request, Route]:
        """Return the archive's request for a client's, and the route of its resource.

        `headers` are the client's without those of the connection. Raises `LocalReply` for 508,
        404, 405, 403, 413, the 400 for a body without meaning, and the 204 to `Max-Forwards: 0`.
        """
        context: RequestContext = scope[CONTEXT]
        record = context.record
        incoming = context.incoming
        method: str = scope["method"]
        head = incoming.head
        if not head.memo.is_forwardable:
            self.reject_loop(scope["headers"])
        route, path = self._router.match(incoming.path, method)
        record.resource = route.template
        upstream = self._router.upstream(route, method)
        _reject_override(scope, head)
        head.memo.is_forwardable = True
        if method not in SAFE_METHODS:
            _reject_foreign_write(context.decision)
        lines, length = self._forwarded_headers(scope, head, headers, route)
        if length and method in SAFE_METHODS:  # a chunked one may be empty: `proxy` looks
            raise body_without_meaning(method)
        lines = [upstream.host, *lines, (b"x-request-id", record.request_id.encode("ascii"))]
        if method == "OPTIONS":
            lines = self._decrement_max_forwards(lines, route)
        query = incoming.target[len(incoming.path) :]
        if route.service("GET") is Service.WADO_URI:  # its URL is the endpoint itself, not a root
            path = b""
        target = upstream.target(path) + query
        return Request(upstream.origin, method.encode("ascii"), target, lines, length), route

    def reject_loop(self, headers: Iterable[Header]) -> None:
        """Raise the 508 for a request that has passed through this proxy."""
        if fields.passed_through(headers, self._instance_name):
            raise HTTPProblem(
                508,
                "The request has been through this proxy already. Check that no URL under upstream "
                "points back to the proxy; chained proxies need different server.instance_name.",
            )

    def _reject_announced_body(self, head: RequestHead) -> None:
        limit = self._max_body_bytes
        if limit is not None and any(int(length) > limit for length in head.lengths):
            raise body_too_large(limit)

    def _forwarded_headers(
        self, scope: Scope, head: RequestHead, headers: list[Header], route: Route
    ) -> tuple[list[Header], int | None]:
        """Return the archive's header lines except Host and the id, and the length of the body."""
        client = scope.get("client")
        peer = client[0] if client else None
        facts = _Facts(
            peer in self._trusted_proxies,
            scope["scheme"],
            scope["http_version"],
            _is_chunked(scope, head),
            route.text(scope["method"]),
        )
        forwarded = head.memo.forwarded
        if facts not in forwarded:
            self._reject_announced_body(head)
            lines = self._headers(headers, head.host, facts)
            forwarded[facts] = lines, _body_length(lines)
        lines, length = forwarded[facts]
        return forwarding.with_peer(lines, peer), length

    def _headers(self, headers: list[Header], host: bytes, facts: _Facts) -> list[Header]:
        headers = [
            (name, repair_accept(value))
            if name == b"accept" and self._repair_accept
            else (name, value)
            for name, value in headers
            if not (name in self._not_forwarded or _is_underscore_alias(name))
        ]
        headers = self._adapter.request_headers(headers, facts.text)
        if facts.is_chunked:
            # RFC 9112 §6.3: of two framings, the length goes.
            headers = [header for header in headers if header[0] != b"content-length"]
            headers.append((b"transfer-encoding", b"chunked"))
        if self._authorization:
            headers.append(self._authorization)
        headers.append(fields.via(facts.http_version, self._instance_name))
        return forwarding.forwarded(
            headers, scheme=facts.scheme, host=host, trusted=facts.is_trusted
        )

    def _decrement_max_forwards(self, headers: list[Header], route: Route) -> list[Header]:
        forwards = fields.max_forwards(headers)
        if forwards is None:
            return headers
        if forwards == 0:
            raise LocalReply(204, [(b"allow", self._router.allow(route))])
        return fields.with_max_forwards(headers, forwards - 1)

    def readiness_requests(self) -> dict[str, Request]:
        """Return the readiness request for each base URL of the archive."""
        own = [self._authorization] if self._authorization else []
        via = fields.via("1.1", self._instance_name)
        return {
            upstream.base_url: Request(
                upstream.origin, b"OPTIONS", upstream.target(b""), [upstream.host, *own, via]
            )
            for upstream in self._router.upstreams
        }

    def search_request(self, host: bytes, scheme: str) -> tuple[str, Request]:
        """Return a viewer's search for one study, and the root that it is sent to.

        `host` and `scheme` are those by which browsers reach the proxy.
        """
        upstream = self._router.service(Service.SEARCH)
        lines = [upstream.host, (b"accept", b"application/dicom+json")]
        lines += self._adapter.request_headers([], Text.ALWAYS)
        if self._authorization:
            lines.append(self._authorization)
        lines.append(fields.via("1.1", self._instance_name))
        lines = forwarding.forwarded(lines, scheme=scheme, host=host, trusted=True)
        target = upstream.target(b"/studies") + b"?limit=1"
        return upstream.base_url, Request(upstream.origin, b"GET", target, lines)


def _reject_foreign_write(decision: Decision) -> None:
    if decision.outcome == "refused":
        raise HTTPProblem(
            403,
            "Pages of this origin may not write to the archive: no entry of cors.allow_origins "
            "covers it.",
        )


def _reject_override(scope: Scope, head: RequestHead) -> None:
    """Raise a 405 for a request that names another method for the archive to use.

    Orthanc and many frameworks use it, so a GET, which any page can send, would be a DELETE.
    """
    query = scope["query_string"]
    if b"%" in query:
        query = unquote_to_bytes(query)
    if (query and _METHOD_KEY.search(query)) or (
        not head.memo.is_forwardable
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
    if HAS_BODY in scope.get("extensions", ()):
        return not head.lengths
    return scope["method"] not in SAFE_METHODS and not head.lengths


def _body_length(headers: list[Header]) -> int | None:
    """Return the length in bytes of the body that a request announces; None for chunked."""
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            return int(value)
    return 0
