"""Adapt responses for browsers: rewrite the archive's URLs and compress text."""

from __future__ import annotations

import logging
import re
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from dicomweb_cors_proxy.dicomweb.archive_urls import ArchiveURLs
from dicomweb_cors_proxy.dicomweb.resources import Service
from dicomweb_cors_proxy.dicomweb.rewriter import URL_HEADERS, URLRewriter
from dicomweb_cors_proxy.dicomweb.routes import Text
from dicomweb_cors_proxy.http.content import (
    Gzip,
    accepts_gzip,
    compressed_headers,
    has_wildcard,
    headers_of_changed_body,
    is_compressible,
    is_text,
    names_text,
    restore_etags,
)
from dicomweb_cors_proxy.http.cookies import unreturnable
from dicomweb_cors_proxy.http.headers import merge_vary, without_cors
from dicomweb_cors_proxy.http.hosts import HOST
from dicomweb_cors_proxy.http.sandbox import sandboxed
from dicomweb_cors_proxy.proxy.context import CONTEXT
from dicomweb_cors_proxy.proxy.incoming import Negotiated
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from starlette.types import Scope

    from dicomweb_cors_proxy.dicomweb.routes import Route
    from dicomweb_cors_proxy.http.forwarding import TrustedProxies
    from dicomweb_cors_proxy.http.messages import BodyFilter, Header
    from dicomweb_cors_proxy.proxy.context import RequestContext

logger = logging.getLogger(__name__)

# Public URLs of one proxy: by every name under which browsers reach it.
_PUBLIC_URLS = 64

# Request headers with which an archive may send something else than the whole text.
_ENCODED = frozenset({b"accept-encoding"})
_PARTIAL = _ENCODED | {b"if-range", b"range"}

_VARY = (b"Accept-Encoding",)

_PREFIX = re.compile(rb"(?:/[0-9A-Za-z._~!$&'()*+,;=:@%-]+)+")


class ResponseFacts(NamedTuple):
    """The facts beside a response's header lines on which the changes to it depend."""

    status: int
    is_head: bool
    template: str
    may_contain_urls: bool
    is_bulk_data: bool
    negotiated: Negotiated


class ResponseAdapter:
    """The changes to responses that one configuration asks for."""

    def __init__(  # noqa: PLR0913  (each is a setting, and a keyword)
        self,
        *,
        service_urls: Mapping[Service, str],
        aliases: Collection[str],
        rewrite_urls: bool,
        compress: bool,
        base_path: str,
        public_url: str | None,
        trusted_proxies: TrustedProxies,
        logs_in: bool,
        requires_token: bool,
        resource_policy: str | None,
    ) -> None:
        urls = dict(service_urls)
        wado_uri = urls.pop(Service.WADO_URI, None)
        archive = ArchiveURLs(dict.fromkeys(urls.values()), wado_uri=wado_uri, aliases=aliases)
        self._rewrite_urls = rewrite_urls
        self._compress = compress
        self._base_path = base_path.rstrip("/").encode("ascii")
        self._public_url = public_url and public_url.encode("ascii")
        self._trusted_proxies = trusted_proxies
        self._urls = archive
        self._rewriter = lru_cache(_PUBLIC_URLS)(
            lambda public, host: URLRewriter(archive.for_public_url(public, hosts=[host]))
        )
        self._logs_in = logs_in
        self._requires_token = requires_token
        self._resource_policy: Header | None = None
        if resource_policy is not None:
            value = resource_policy.encode("ascii")
            self._resource_policy = (b"cross-origin-resource-policy", value)
        self._warned_of_coding = False
        self._warned_of_cors = False
        self._warned_of_cookie = False

    def request_headers(self, headers: list[Header], text: Text) -> list[Header]:
        """Return the request's header lines for the archive.

        Text that may contain URLs is requested whole and uncompressed, because neither a range nor
        a compressed text can be rewritten. A path of the archive's own may be an image too, so a
        range stays a range unless the client asks for text.
        """
        headers = [
            (name, restore_etags(value) if name == b"if-none-match" else value)
            for name, value in headers
        ]
        if not self._rewrite_urls or text is Text.NEVER:
            return headers
        accept = _value(headers, b"accept")
        if text is Text.ALWAYS or names_text(accept):
            dropped = _PARTIAL
        elif text is Text.UNLESS_OTHER and (not accept or has_wildcard(accept)):
            dropped = _ENCODED
        else:
            return headers
        headers = [header for header in headers if header[0] not in dropped]
        headers.append((b"accept-encoding", b"identity"))
        return headers

    def facts(self, scope: Scope, route: Route, status: int) -> ResponseFacts:
        """Return what decides, beside the header lines, on the changes to a response."""
        context: RequestContext = scope[CONTEXT]
        known = context.incoming.head.memo.negotiated
        method: str = scope["method"]
        client = scope.get("client")
        is_trusted = client is not None and client[0] in self._trusted_proxies
        reached = scope["scheme"], scope.get("root_path", ""), is_trusted
        negotiated = known.get(reached)
        if negotiated is None:
            negotiated = known[reached] = self._negotiate(scope, is_trusted=is_trusted)
        return ResponseFacts(
            status,
            method == "HEAD",
            route.template,
            route.may_contain_urls(method),
            route.is_bulk_data,
            negotiated,
        )

    def modify(
        self, facts: ResponseFacts, headers: list[Header]
    ) -> tuple[list[Header], Callable[[], BodyFilter] | None]:
        """Return the headers of a response, and what makes the filter of its body.

        `headers` are the archive's without those of the connection, with names in lower case.
        Without a filter, the body is left as it is. `response_plans` relies on this method: it
        reads no other fields' values than those named in `DECIDING_FIELDS` there.
        """
        status, is_head, template, may_contain_urls, is_bulk_data, negotiated = facts
        self.check_credentials(status)
        headers = self._policy_headers(status, headers)
        fields = dict(headers)
        if len(fields) < len(headers):  # RFC 9110 §5.3
            fields = {name: _value(headers, name) for name in fields}
        if b"set-cookie" in fields:
            self._warn_of_cookie(facts, headers)
        headers = sandboxed(headers, fields)
        names_urls = not URL_HEADERS.isdisjoint(fields)
        # Other resources are text in some archives, or by what the client accepts.
        may_name_urls = may_contain_urls or (
            not is_bulk_data and is_text(fields.get(b"content-type", b""))
        )
        rewriter = negotiated.rewriter
        rewrite: Callable[[], BodyFilter | None] | None = None
        if rewriter is not None and names_urls:
            headers = rewriter.headers(headers)
        if rewriter is not None and may_name_urls:
            if rewriter.body(status, fields) is not None:
                rewrite = partial(rewriter.body, status, fields)
                headers = headers_of_changed_body(headers)
            elif 200 <= status < 300:
                self._warn_of_coding(template, fields)
        if status == 304:
            return self._not_modified(facts, headers), None
        compresses = self._compress and is_compressible(status, fields)
        if compresses:
            headers = merge_vary(headers, _VARY)
            compresses = negotiated.accepts_gzip
        if compresses:
            headers = compressed_headers(headers_of_changed_body(headers))
        has_filter = (rewrite or compresses) and not is_head and status != 204
        return headers, (
            partial(_body_filter, rewrite, compresses=compresses) if has_filter else None
        )

    @property
    def rewrites_urls(self) -> bool:
        """Return whether the archive's URLs become the proxy's."""
        return self._rewrite_urls

    def knows_url(self, url: bytes, host: bytes) -> bool:
        """Return whether a URL is the archive's, for a browser that reaches the proxy at `host`."""
        public = self._public_url or b"http://%b%b" % (host, self._base_path)
        return self._urls.for_public_url(public, hosts=[host]).base(url) is not None

    def check_credentials(self, status: int) -> None:
        """Raise a 502 if the archive rejected our own credentials: a login would not help."""
        if self._logs_in and status in (401, 403):
            raise UpstreamProblem(
                "credentials",
                502,
                "The archive rejected the proxy's own credentials, or they do not cover this "
                "resource. Ask the operator to check upstream.auth.",
            )

    def _policy_headers(self, status: int, headers: list[Header]) -> list[Header]:
        """Return the headers without the archive's CORS headers, with our resource policy."""
        kept = without_cors(headers)
        if len(kept) != len(headers) and not self._warned_of_cors:
            self._warned_of_cors = True
            logger.warning(
                "the archive sends CORS headers of its own; they are stripped, the policy is ours"
            )
        if status == 204:  # RFC 9110 §8.6: no Content-Length
            kept = [header for header in kept if header[0] != b"content-length"]
        if self._requires_token:
            # Otherwise a cache could keep what the archive marks as public, and show it to
            # clients without a token.
            kept = merge_vary(kept, (b"authorization",))
        if self._resource_policy is not None:
            policy = self._resource_policy
            kept = [header for header in kept if header[0] != policy[0]]
            kept.append(policy)
        return kept

    def _not_modified(self, facts: ResponseFacts, headers: list[Header]) -> list[Header]:
        """Give a 304 the ETag and Vary of the 200 (RFC 9110 §15.4.5); it may lack Content-Type."""
        was_changed = facts.negotiated.knows_changed_etags
        if was_changed or (facts.may_contain_urls and self._rewrite_urls):
            headers = headers_of_changed_body(headers)
        if self._compress and (was_changed or facts.may_contain_urls):
            headers = merge_vary(headers, _VARY)
        return headers

    def _negotiate(self, scope: Scope, *, is_trusted: bool) -> Negotiated:
        headers = scope["headers"]
        if_none_match = _value(headers, b"if-none-match")
        public, host = self._public(scope, is_trusted=is_trusted)
        return Negotiated(
            self._rewriter(public, host) if self._rewrite_urls else None,
            accepts_gzip(_value(headers, b"accept-encoding")),
            restore_etags(if_none_match) != if_none_match,
            public,
        )

    def _public(self, scope: Scope, *, is_trusted: bool) -> tuple[bytes, bytes]:
        """Return the URL at which this request's browser reaches the proxy, and the hosts."""
        context: RequestContext = scope[CONTEXT]
        host = name = context.incoming.head.host
        scheme = scope["scheme"].encode("ascii")
        prefix = scope.get("root_path", "").encode("utf-8")
        if is_trusted:
            headers = scope["headers"]
            host = _value(headers, b"x-forwarded-host") or host
            told = _first(headers, b"x-forwarded-proto").lower()
            scheme = told if told in (b"http", b"https") else scheme
            told = _first(headers, b"x-forwarded-host")
            name = told if HOST.fullmatch(told) else name
            told = _first(headers, b"x-forwarded-prefix").rstrip(b"/")
            prefix = told if _PREFIX.fullmatch(told) else prefix
        public = self._public_url or b"%b://%b%b%b" % (scheme, name, prefix, self._base_path)
        return public, host

    def _warn_of_cookie(self, facts: ResponseFacts, headers: list[Header]) -> None:
        """Warn once of a cookie that browsers do not return to the proxy."""
        host, _, path = facts.negotiated.public_url.partition(b"://")[2].partition(b"/")
        for name, value in headers:
            fault = name == b"set-cookie" and unreturnable(value, host=host, path=b"/" + path)
            if fault and not self._warned_of_cookie:
                self._warned_of_cookie = True
                logger.warning(
                    "the archive sets a cookie on %s whose %s does not cover the proxy's URL, so "
                    "browsers do not return it; %s, or log in by Authorization",
                    facts.template,
                    fault,
                    "make server.base_path the path of upstream.url"
                    if fault == "Path"
                    else "have the archive leave Domain out",
                )

    def _warn_of_coding(self, template: str, fields: Mapping[bytes, bytes]) -> None:
        """Warn once of text whose URLs cannot be rewritten because it is compressed."""
        if (
            not self._warned_of_coding
            and fields.get(b"content-encoding", b"identity").lower() != b"identity"
            and is_text(fields.get(b"content-type", b""))
        ):
            self._warned_of_coding = True
            logger.warning(
                "the archive compresses the JSON or XML of %s although it was asked not to, so the "
                "URLs in it are not rewritten; turn off its compression there",
                template,
            )


def _body_filter(
    rewrite: Callable[[], BodyFilter | None] | None, *, compresses: bool
) -> BodyFilter:
    """Return a new filter that rewrites a body, compresses it, or does both."""
    first = rewrite() if rewrite is not None else None
    if first is None:
        return Gzip()
    return _Chain(first, Gzip()) if compresses else first


class _Chain:
    """A filter that feeds another one."""

    def __init__(self, first: BodyFilter, second: BodyFilter) -> None:
        self.piece = first.piece
        self._first = first
        self._second = second

    def feed(self, chunk: bytes) -> bytes:
        chunk = self._first.feed(chunk)
        return self._second.feed(chunk) if chunk else b""

    def flush(self) -> bytes:
        rest = self._first.flush()
        return (self._second.feed(rest) if rest else b"") + self._second.flush()

    def whole(self, body: bytes) -> bytes:
        return self._second.whole(self._first.whole(body))


def _value(headers: Iterable[Header], field: bytes) -> bytes:
    """Return all lines of a field as one value (RFC 9110 §5.3)."""
    return b", ".join([value for name, value in headers if name == field])


def _first(headers: Iterable[Header], field: bytes) -> bytes:
    """Return the first member of a list, which the proxy next to the browser added."""
    return _value(headers, field).partition(b",")[0].strip(b" \t")
