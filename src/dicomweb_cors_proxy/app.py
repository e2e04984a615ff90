"""The only place that wires."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from dicomweb_cors_proxy.http.replies import Answer, Problem, without_body
from dicomweb_cors_proxy.observability.log_setup import flush
from dicomweb_cors_proxy.observability.metrics import CONTENT_TYPE, REFRESH, Metrics, metrics
from dicomweb_cors_proxy.proxy.cors_middleware import AccessLog, CORSMiddleware
from dicomweb_cors_proxy.proxy.incoming import Screen
from dicomweb_cors_proxy.proxy.outgoing import Gateway
from dicomweb_cors_proxy.proxy.readiness import Archive, Health
from dicomweb_cors_proxy.proxy.reverse_proxy import UPSTREAM_ERRORS, Limits, Load, ReverseProxy
from dicomweb_cors_proxy.upstream.httpx_adapter import HTTPXUpstream
from dicomweb_cors_proxy.upstream.native import Transport
from dicomweb_cors_proxy.upstream.oauth import Client, LoggedIn, Tokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from starlette import requests
    from starlette.types import Receive, Scope, Send

    from dicomweb_cors_proxy.config.settings import Settings, UpstreamSettings
    from dicomweb_cors_proxy.proxy.reverse_proxy import Upstream


def create_app(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> Application:
    """The proxy as an ASGI application.

    Args:
        settings: a valid configuration.
        transport: what sends requests to the archive, closed at shutdown; default: our own.
    """
    return Application(settings, transport)


class Site:
    """All that one configuration makes, and that goes with it when it is reloaded."""

    def __init__(self, settings: Settings, upstream: Upstream, load: Load) -> None:
        server = settings.server
        limits = create_limits(settings)
        self.upstream = upstream
        self.gateway = Gateway(settings)
        self.archive = Archive(self.gateway, upstream, limits)
        self.handle = CORSMiddleware(
            ReverseProxy(
                upstream,
                rewrite=self.gateway.rewrite,
                modify_response=self.gateway.modify_response,
                limits=limits,
                load=load,
            ),
            cors=settings.cors_engine(),
            screen=Screen(
                max_target_bytes=server.max_target_bytes,
                max_header_bytes=server.max_header_bytes,
                max_headers=server.max_headers,
                allowed_hosts=server.allowed_hosts,
                trusted_proxies=self.gateway.trusted_proxies,
            ),
        )


class Application(Starlette):
    """The proxy, and beside it the endpoints for its operator.

    Attributes:
        draining: set it before the listener closes; `/readyz` then says so.
    """

    def __init__(
        self, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        super().__init__(
            routes=[
                Route("/healthz", self._live, methods=["GET"]),
                Route("/readyz", self._ready, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
            ],
            exception_handlers={Answer: _response, 405: _not_allowed},
            lifespan=self._lifespan,
        )
        self._paths = {route.path for route in self.routes if isinstance(route, Route)}
        upstream = create_upstream(settings.upstream, transport)
        self._load = Load()
        self._site = Site(settings, upstream, self._load)
        self._retired: list[Upstream] = []
        self._health = Health(self._site.archive)
        self._metrics = metrics(upstream_errors=UPSTREAM_ERRORS, connections=self._connections)
        # Starlette would match decoded paths, and redirect to a Location made from Host where
        # only a slash is missing.
        self.router.redirect_slashes = False
        self.router.default = self._proxied = self._access_log()
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's own way to the default takes longer than our answer to a preflight.
        if scope["type"] == "http" and not (scope["path"] in self._paths or scope["root_path"]):
            await self._proxied(scope, receive, send)
        else:
            is_head = scope.get("method") == "HEAD"
            await super().__call__(scope, receive, without_body(send) if is_head else send)

    def at_once(self, scope: Scope) -> Answer | None:
        """The answer to a preflight; None for other requests, and below a server's root path."""
        if scope["path"] in self._paths or scope["root_path"]:
            return None
        return self._proxied.at_once(scope)

    async def reload(self, settings: Settings) -> None:
        """Answer by another configuration from the next request on.

        Requests that are running end as they began; the connections that they use are closed
        behind them.
        """
        old = self._site
        self._site = Site(settings, create_upstream(settings.upstream), self._load)
        self._health = Health(self._site.archive)
        self._proxied = self.router.default = self._access_log()
        self._retired = [each for each in self._retired if each.connections().get("active")]
        self._retired.append(old.upstream)
        await old.upstream.aclose()

    def _access_log(self) -> AccessLog:
        gateway = self._site.gateway
        return AccessLog(
            self._site.handle,
            metrics=self._metrics,
            resource=gateway.resource,
            trusted_proxies=gateway.trusted_proxies,
        )

    def _connections(self) -> dict[str, int]:
        counts = Counter[str](self._site.upstream.connections())
        for retired in self._retired:
            counts.update(retired.connections())
        return counts

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        refreshing = None
        if self._metrics.is_shared:
            refreshing = asyncio.create_task(_refresh(self._metrics))
        try:
            yield
        finally:
            if refreshing is not None:
                refreshing.cancel()
            await self._site.upstream.aclose()
            await asyncio.to_thread(flush)  # some servers end their processes at once

    async def _live(self, request: requests.Request) -> Response:
        return await self._health.live(request)

    async def _ready(self, request: requests.Request) -> Response:
        if self.draining:
            raise Problem(503, "The proxy is about to stop.")
        return await self._health.ready(request)

    def _show_metrics(self, _: requests.Request) -> Response:
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)


async def _refresh(metrics: Metrics) -> None:
    while True:
        metrics.refresh()
        await asyncio.sleep(REFRESH)


def _response(_: requests.Request, answer: Exception) -> Response:
    """An answer of the operational endpoints."""
    answer = cast("Answer", answer)  # Starlette looks handlers up by the type
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response


def _not_allowed(request: requests.Request, _: Exception) -> Response:
    detail = "This path is for GET and HEAD."
    return _response(request, Problem(405, detail, [(b"allow", b"GET, HEAD")]))


def adapt(transport: httpx.AsyncBaseTransport) -> Upstream:
    """The reverse proxy's view of a transport."""
    return transport if isinstance(transport, Transport) else HTTPXUpstream(transport)


def create_upstream(
    settings: UpstreamSettings, transport: httpx.AsyncBaseTransport | None = None
) -> Upstream:
    """What sends requests to the archive, by `transport` or what the settings ask for."""
    upstream = _engine(settings) if transport is None else adapt(transport)
    auth = settings.auth
    if auth.token_url is None or auth.client_id is None or auth.client_secret is None:
        return upstream
    secret = auth.client_secret.get_secret_value()
    client = Client(auth.token_url, auth.client_id, secret, auth.scope)
    return LoggedIn(upstream, Tokens(client, ssl_context=_token_context(settings)))


def _engine(upstream: UpstreamSettings) -> Upstream:
    context = _ssl_context(upstream)
    if upstream.transport == "httpx":
        from dicomweb_cors_proxy.upstream.httpx_client import HTTPXTransport  # noqa: PLC0415  (slow)

        transport = HTTPXTransport(max_connections=upstream.max_connections, ssl_context=context)
        return HTTPXUpstream(transport, connections=transport.connections)
    return Transport(max_connections=upstream.max_connections, ssl_context=context)


def create_limits(settings: Settings) -> Limits:
    """The settings that bound a request's time and size."""
    return Limits(
        connect_timeout=settings.upstream.connect_timeout,
        read_timeout=settings.upstream.read_timeout,
        pool_timeout=settings.upstream.pool_timeout,
        body_timeout=settings.server.body_timeout,
        max_body_bytes=settings.server.max_body_bytes,
        max_concurrent_requests=settings.server.max_concurrent_requests,
    )


def _ssl_context(upstream: UpstreamSettings) -> ssl.SSLContext | None:
    """How the archive's certificate is judged, and which one we show; None without https."""
    if not upstream.uses_tls:
        return None
    context = ssl.create_default_context(cafile=upstream.ca_file)
    if not upstream.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _introduce(context, upstream)
    return context


def _token_context(upstream: UpstreamSettings) -> ssl.SSLContext:
    """How the token endpoint's certificate is judged: it gets a secret, so always.

    It may be the cloud's while the archive's authority is a private one: either will do.
    """
    context = ssl.create_default_context()
    if upstream.ca_file is not None:
        context.load_verify_locations(upstream.ca_file)
    _introduce(context, upstream)
    return context


def _introduce(context: ssl.SSLContext, upstream: UpstreamSettings) -> None:
    """Say which protocol we speak, and show our certificate to who asks for one."""
    context.set_alpn_protocols(["http/1.1"])
    if upstream.client_cert_file is not None:
        context.load_cert_chain(upstream.client_cert_file, upstream.client_key_file)
