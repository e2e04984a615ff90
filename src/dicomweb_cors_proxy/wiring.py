"""Build the objects of the proxy from its settings; the only module that knows both."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicomweb_cors_proxy.config.surroundings import in_container
from dicomweb_cors_proxy.http.forwarding import TrustedProxies
from dicomweb_cors_proxy.observability.metrics import Metrics
from dicomweb_cors_proxy.proxy.archive_check import ArchiveCheck
from dicomweb_cors_proxy.proxy.checks import RequestChecks
from dicomweb_cors_proxy.proxy.cors_middleware import CORSMiddleware
from dicomweb_cors_proxy.proxy.limits import Limits
from dicomweb_cors_proxy.proxy.outgoing import OutgoingRequests
from dicomweb_cors_proxy.proxy.readiness import ReadinessCheck
from dicomweb_cors_proxy.proxy.response_plans import ResponsePlans
from dicomweb_cors_proxy.proxy.responses import ResponseAdapter
from dicomweb_cors_proxy.proxy.reverse_proxy import InFlight, ReverseProxy
from dicomweb_cors_proxy.proxy.routing import Router
from dicomweb_cors_proxy.upstream.cloud import azure_tokens, google_tokens
from dicomweb_cors_proxy.upstream.failures import UPSTREAM_ERRORS
from dicomweb_cors_proxy.upstream.httpx_adapter import HTTPXUpstream
from dicomweb_cors_proxy.upstream.native import NativeTransport
from dicomweb_cors_proxy.upstream.oauth import ClientCredentials, TokenEndpoint
from dicomweb_cors_proxy.upstream.tls import archive_context, token_context
from dicomweb_cors_proxy.upstream.token_cache import TokenCache, TokenUpstream
from dicomweb_cors_proxy.upstream.token_file import TokenFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx
    from starlette.types import ASGIApp

    from dicomweb_cors_proxy.config.fields import UpstreamAuth, UpstreamSettings
    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.tokens.verifier import TokenVerifier
    from dicomweb_cors_proxy.upstream.interface import Upstream
    from dicomweb_cors_proxy.upstream.token_cache import Tokens


class Pipeline:
    """Everything built from one configuration; replaced as a whole on reload."""

    def __init__(
        self,
        settings: Settings,
        upstream: Upstream,
        load: InFlight,
        former: Pipeline | None = None,
    ) -> None:
        server = settings.server
        limits = create_limits(settings)
        self.upstream = upstream
        self.trusted_proxies = TrustedProxies(server.trusted_proxies)
        self.router = create_router(settings)
        adapter = create_adapter(settings, self.trusted_proxies)
        requests = create_requests(settings, self.router, adapter, self.trusted_proxies)
        self.archive = ReadinessCheck(requests, adapter, upstream, limits)
        self.archive_check = create_archive_check(settings, self.archive)
        proxied = ReverseProxy(
            upstream,
            rewrite=requests.rewrite,
            modify_response=ResponsePlans(adapter).adapt,
            limits=limits,
            load=load,
        )
        self.access_auth = settings.access.auth
        self.verifier = create_verifier(settings)
        # The provider may not respond now, and then the keys are needed more than ever.
        if self.verifier and former and former.verifier and former.access_auth == self.access_auth:
            self.verifier.keys.adopt(former.verifier.keys)
        self.handle = CORSMiddleware(
            require_tokens(proxied, self.verifier, settings, requests),
            cors=settings.cors_engine(),
            checks=RequestChecks(
                max_target_bytes=server.max_target_bytes,
                max_header_bytes=server.max_header_bytes,
                max_headers=server.max_headers,
                allowed_hosts=server.allowed_hosts,
                trusted_proxies=self.trusted_proxies,
            ),
        )


def adapt(transport: httpx.AsyncBaseTransport) -> Upstream:
    """Return a transport as the reverse proxy's upstream."""
    return transport if isinstance(transport, NativeTransport) else HTTPXUpstream(transport)


def create_upstream(
    settings: UpstreamSettings, transport: httpx.AsyncBaseTransport | None = None
) -> Upstream:
    """Return the upstream for `transport`, or for the settings if that is None."""
    upstream = create_transport(settings) if transport is None else adapt(transport)
    tokens = create_tokens(settings)
    return upstream if tokens is None else TokenUpstream(upstream, tokens)


def create_tokens(settings: UpstreamSettings) -> Tokens | None:
    """Return the proxy's tokens if they change; None if Authorization is fixed, or not ours."""
    auth = settings.auth
    if auth.token_file is not None:
        return TokenFile(auth.token_file)
    if auth.type == "google":
        return TokenCache(google_tokens(auth.scope))
    if auth.type == "azure":
        return TokenCache(azure_tokens(auth.client_id, auth.scope))
    if auth.token_url is None or auth.client_id is None or auth.client_secret is None:
        return None
    secret = auth.client_secret.get_secret_value()
    client = ClientCredentials(auth.token_url, auth.client_id, secret, auth.scope, auth.audience)
    context = token_context(
        ca_file=settings.ca_file,
        client_certificate=settings.client_cert_file,
        client_key=settings.client_key_file,
    )
    return TokenCache(TokenEndpoint(client, ssl_context=context))


def create_transport(upstream: UpstreamSettings) -> Upstream:
    """Create the client that the settings ask for."""
    context = None
    if upstream.uses_tls:
        context = archive_context(
            ca_file=upstream.ca_file,
            verify=upstream.verify_tls,
            client_certificate=upstream.client_cert_file,
            client_key=upstream.client_key_file,
            openssl_conf=Path(conf) if (conf := os.environ.get("OPENSSL_CONF")) else None,
        )
    if upstream.transport == "httpx":
        from dicomweb_cors_proxy.upstream.httpx_client import HTTPXTransport  # noqa: PLC0415  (slow)

        transport = HTTPXTransport(max_connections=upstream.max_connections, ssl_context=context)
        return HTTPXUpstream(transport, connections=transport.connections)
    return NativeTransport(max_connections=upstream.max_connections, ssl_context=context)


def create_verifier(settings: Settings) -> TokenVerifier | None:
    """Create the verifier of the clients' access tokens, if they need any."""
    auth = settings.access.auth
    if auth.type == "none":
        return None
    # PyJWT takes 20 ms to import, which most proxies save.
    from dicomweb_cors_proxy.tokens.provider import IdentityProvider  # noqa: PLC0415
    from dicomweb_cors_proxy.tokens.verifier import TokenVerifier  # noqa: PLC0415

    context = token_context(
        ca_file=settings.upstream.ca_file, client_certificate=None, client_key=None
    )
    return TokenVerifier(
        IdentityProvider(auth.issuer, auth.jwks_url, ssl_context=context),
        issuer=auth.issuer,
        audience=auth.audience,
        required_scopes=auth.required_scopes,
        algorithms=auth.algorithms,
        leeway=auth.leeway,
    )


def require_tokens(
    app: ASGIApp, verifier: TokenVerifier | None, settings: Settings, requests: OutgoingRequests
) -> ASGIApp:
    """Return the application behind the verifier, or as it is without one."""
    if verifier is None:
        return app
    from dicomweb_cors_proxy.proxy.token_gate import TokenGate  # noqa: PLC0415  (imports PyJWT)

    return TokenGate(
        app,
        verifier=verifier,
        reject_loop=requests.reject_loop,
        required_scopes=settings.access.auth.required_scopes,
    )


def create_limits(settings: Settings) -> Limits:
    """Return the settings that limit a request's time and size."""
    return Limits(
        connect_timeout=settings.upstream.connect_timeout,
        read_timeout=settings.upstream.read_timeout,
        pool_timeout=settings.upstream.pool_timeout,
        body_timeout=settings.server.body_timeout,
        max_body_bytes=settings.server.max_body_bytes,
        max_concurrent_requests=settings.server.max_concurrent_requests,
    )


def create_router(settings: Settings) -> Router:
    """Create what finds the resource of a request and its base URL."""
    return Router(
        base_path=settings.server.base_path,
        service_urls=settings.service_urls(),
        read_write=settings.access.mode == "read-write",
        extra_paths=settings.access.extra_paths,
    )


def create_adapter(settings: Settings, trusted_proxies: TrustedProxies) -> ResponseAdapter:
    """Create what adapts the archive's responses for browsers."""
    return ResponseAdapter(
        service_urls=settings.service_urls(),
        aliases=settings.upstream.aliases,
        rewrite_urls=settings.rewrite_urls,
        compress=settings.compress,
        base_path=settings.server.base_path,
        public_url=settings.public_url,
        trusted_proxies=trusted_proxies,
        logs_in=settings.upstream.auth.type != "none",
        requires_token=settings.access.auth.type != "none",
        resource_policy=settings.cross_origin_resource_policy,
    )


def create_archive_check(settings: Settings, readiness: ReadinessCheck) -> ArchiveCheck:
    """Create what checks path, login and names of the archive."""
    server, upstream = settings.server, settings.upstream
    public = urlsplit(settings.public_url or "")
    host = f"[{server.host}]" if ":" in server.host else server.host
    return ArchiveCheck(
        readiness,
        url_key="upstream.url" if upstream.qido_url is None else "upstream.qido_url",
        aliases=upstream.aliases,
        host=(public.netloc or f"{host}:{server.port}").encode("ascii"),
        scheme=public.scheme or ("http" if server.tls_cert_file is None else "https"),
        logs_in=upstream.auth.type != "none",
        is_in_container=in_container(),
    )


def create_requests(
    settings: Settings, router: Router, adapter: ResponseAdapter, trusted_proxies: TrustedProxies
) -> OutgoingRequests:
    """Create what makes the requests to the archive."""
    return OutgoingRequests(
        router,
        adapter,
        instance_name=settings.server.instance_name,
        trusted_proxies=trusted_proxies,
        max_body_bytes=settings.server.max_body_bytes,
        repair_accept=settings.repair_accept,
        drops_authorization=drops_authorization(settings),
        authorization=authorization(settings.upstream.auth),
    )


def drops_authorization(settings: Settings) -> bool:
    """Return whether the client's Authorization ends here."""
    auth = settings.access.auth
    return settings.upstream.auth.type != "none" or (auth.type != "none" and not auth.forward)


def authorization(auth: UpstreamAuth) -> Header | None:
    """Return the fixed Authorization of all requests (RFC 7617, RFC 6750); see `oauth`."""
    if auth.password is not None:
        credentials = f"{auth.username}:{auth.password.get_secret_value()}".encode()
        return b"authorization", b"Basic " + base64.b64encode(credentials)
    if auth.token is not None:
        return b"authorization", b"Bearer " + auth.token.get_secret_value().encode("ascii")
    return None


def create_metrics(connections: Callable[[], Mapping[str, int]]) -> Metrics:
    """Create metrics, which several processes share if PROMETHEUS_MULTIPROC_DIR is set.

    Args:
        connections: counts the connections to the archive by their state.
    """
    kind = Metrics
    if directory := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        # Imported only here, because one process needs no prometheus_client until it is scraped.
        from dicomweb_cors_proxy.observability.shared_metrics import SharedMetrics  # noqa: PLC0415

        Path(directory).mkdir(parents=True, exist_ok=True)
        kind = SharedMetrics
    return kind(upstream_errors=UPSTREAM_ERRORS, connections=connections)
