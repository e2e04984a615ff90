"""The only place that wires."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from dicomweb_cors_proxy.answers import Answer, Problem
from dicomweb_cors_proxy.gateway import Gateway
from dicomweb_cors_proxy.health import Archive, Health
from dicomweb_cors_proxy.inbound import Screen
from dicomweb_cors_proxy.metrics import CONTENT_TYPE, REFRESH, Metrics
from dicomweb_cors_proxy.middleware import AccessLog, CORSMiddleware
from dicomweb_cors_proxy.proxy import UPSTREAM_ERRORS, Limits, ReverseProxy
from dicomweb_cors_proxy.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from starlette.requests import Request

    from dicomweb_cors_proxy.config import Settings, UpstreamSettings


def create_app(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> Starlette:
    """The proxy as an ASGI application.

    Args:
        settings: a valid configuration.
        transport: what sends requests to the archive, closed at shutdown; default: our own.
    """
    server = settings.server
    transport = transport or create_transport(settings.upstream)
    gateway = Gateway(settings)
    limits = create_limits(settings)
    proxy = ReverseProxy(
        transport,
        rewrite=gateway.rewrite,
        modify_response=gateway.modify_response,
        limits=limits,
    )
    health = Health(Archive(gateway, transport, limits))
    metrics = Metrics(
        upstream_errors=UPSTREAM_ERRORS,
        connections=transport.connections if isinstance(transport, Transport) else dict,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        refreshing = asyncio.create_task(_refresh(metrics)) if metrics.is_shared else None
        try:
            yield
        finally:
            if refreshing is not None:
                refreshing.cancel()
            await transport.aclose()

    def show_metrics(_: Request) -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    app = Starlette(
        routes=[
            Route("/healthz", health.live, methods=["GET"]),
            Route("/readyz", health.ready, methods=["GET"]),
            Route("/metrics", show_metrics, methods=["GET"]),
        ],
        exception_handlers={Answer: _response, 405: _not_allowed},
        lifespan=lifespan,
    )
    # Everything else goes to the proxy by its raw path. Starlette would match decoded paths, and
    # redirect to a Location made from Host where only a slash is missing.
    app.router.redirect_slashes = False
    app.router.default = AccessLog(
        CORSMiddleware(
            proxy,
            cors=settings.cors_engine(),
            screen=Screen(
                max_target_bytes=server.max_target_bytes,
                max_header_bytes=server.max_header_bytes,
                max_headers=server.max_headers,
                allowed_hosts=server.allowed_hosts,
            ),
        ),
        metrics=metrics,
        resource=gateway.resource,
        trusted_proxies=gateway.trusted_proxies,
    )
    return app


async def _refresh(metrics: Metrics) -> None:
    while True:
        metrics.refresh()
        await asyncio.sleep(REFRESH)


def _response(_: Request, answer: Exception) -> Response:
    """An answer of the operational endpoints."""
    answer = cast("Answer", answer)  # Starlette looks handlers up by the type
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response


def _not_allowed(request: Request, _: Exception) -> Response:
    detail = "This path is for GET and HEAD."
    return _response(request, Problem(405, detail, [(b"allow", b"GET, HEAD")]))


def create_transport(upstream: UpstreamSettings) -> Transport:
    """What sends requests to the archive."""
    return Transport(max_connections=upstream.max_connections, ssl_context=_ssl_context(upstream))


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
    if upstream.client_cert_file is not None:
        context.load_cert_chain(upstream.client_cert_file, upstream.client_key_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
