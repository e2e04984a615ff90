"""Build the objects of the proxy from its settings; the only module that knows both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicomweb_cors_proxy.proxy.checks import Screen
from dicomweb_cors_proxy.proxy.cors_middleware import CORSMiddleware
from dicomweb_cors_proxy.proxy.outgoing import Gateway
from dicomweb_cors_proxy.proxy.readiness import Archive
from dicomweb_cors_proxy.proxy.reverse_proxy import Limits, Load, ReverseProxy
from dicomweb_cors_proxy.upstream.httpx_adapter import HTTPXUpstream
from dicomweb_cors_proxy.upstream.native import Transport
from dicomweb_cors_proxy.upstream.oauth import Client, LoggedIn, Tokens
from dicomweb_cors_proxy.upstream.tls import archive_context, token_context

if TYPE_CHECKING:
    import httpx

    from dicomweb_cors_proxy.config.settings import Settings, UpstreamSettings
    from dicomweb_cors_proxy.upstream.interface import Upstream


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


def adapt(transport: httpx.AsyncBaseTransport) -> Upstream:
    """The reverse proxy's view of a transport."""
    return transport if isinstance(transport, Transport) else HTTPXUpstream(transport)


def create_upstream(
    settings: UpstreamSettings, transport: httpx.AsyncBaseTransport | None = None
) -> Upstream:
    """What sends requests to the archive, by `transport` or what the settings ask for."""
    upstream = create_transport(settings) if transport is None else adapt(transport)
    auth = settings.auth
    if auth.token_url is None or auth.client_id is None or auth.client_secret is None:
        return upstream
    secret = auth.client_secret.get_secret_value()
    client = Client(auth.token_url, auth.client_id, secret, auth.scope)
    return LoggedIn(upstream, Tokens(client, ssl_context=token_context(settings)))


def create_transport(upstream: UpstreamSettings) -> Upstream:
    """Create the client that the settings ask for."""
    context = archive_context(upstream)
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
