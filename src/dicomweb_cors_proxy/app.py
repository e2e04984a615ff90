"""The ASGI application: proxying, the endpoints for operators, reload."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from dicomweb_cors_proxy.http.replies import HTTPProblem, LocalReply, without_body
from dicomweb_cors_proxy.observability.log_setup import flush
from dicomweb_cors_proxy.observability.metrics import CONTENT_TYPE, REFRESH_SECONDS
from dicomweb_cors_proxy.proxy.access_log import AccessLog
from dicomweb_cors_proxy.proxy.readiness import HealthEndpoints
from dicomweb_cors_proxy.proxy.reverse_proxy import InFlight
from dicomweb_cors_proxy.wiring import Pipeline, create_metrics, create_upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from starlette import requests
    from starlette.types import Receive, Scope, Send

    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.http.extensions import RelayedRequest, ResponseReceiver
    from dicomweb_cors_proxy.observability.metrics import Metrics
    from dicomweb_cors_proxy.proxy.archive_check import Verdict
    from dicomweb_cors_proxy.upstream.interface import Upstream


def create_app(
    settings: Settings, *, transport: httpx.AsyncBaseTransport | None = None
) -> Application:
    """Return the proxy as an ASGI application.

    Args:
        settings: a valid configuration.
        transport: what sends requests to the archive, closed at shutdown; default: our own.
    """
    return Application(settings, transport)


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
            exception_handlers={LocalReply: _response, 405: _not_allowed},
            lifespan=self._lifespan,
        )
        self._paths = {route.path for route in self.routes if isinstance(route, Route)}
        upstream = create_upstream(settings.upstream, transport)
        self._load = InFlight()
        self._site = Pipeline(settings, upstream, self._load)
        self._retired: list[Upstream] = []
        self._health = HealthEndpoints(self._site.archive)
        self._metrics = create_metrics(self._connections)
        # Starlette would match decoded paths, and redirect to a Location made from Host where
        # only a slash is missing.
        self.router.redirect_slashes = False
        self.router.default = self._proxied = self._access_log()
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's own way to the default takes longer than our reply to a preflight.
        if scope["type"] == "http" and not (scope["path"] in self._paths or scope["root_path"]):
            await self._proxied(scope, receive, send)
        else:
            is_head = scope.get("method") == "HEAD"
            await super().__call__(scope, receive, without_body(send) if is_head else send)

    def try_preflight(self, scope: Scope) -> LocalReply | None:
        """Return the reply to a preflight; None for other requests, and below a root path."""
        if scope["path"] in self._paths or scope["root_path"]:
            return None
        return self._proxied.try_preflight(scope)

    def try_relay(self, scope: Scope, client: ResponseReceiver) -> RelayedRequest | None:
        """Begin to relay a request, if nothing has to wait for it; None below a root path."""
        if scope["path"] in self._paths or scope["root_path"]:
            return None
        return self._proxied.try_relay(scope, client)

    async def reload(self, settings: Settings) -> None:
        """Serve by another configuration from the next request on.

        Requests that are running end as they began; the connections that they use are closed
        behind them.
        """
        old = self._site
        self._site = Pipeline(settings, create_upstream(settings.upstream), self._load, old)
        self._fetch_keys()
        self._health = HealthEndpoints(self._site.archive)
        self._proxied = self.router.default = self._access_log()
        self._retired = [each for each in self._retired if each.connections().get("active")]
        self._retired.append(old.upstream)
        await old.upstream.aclose()

    async def check_archive(self) -> list[Verdict]:
        """Check path, login and names of the archive."""
        return await self._site.archive_check.check_all()

    def _access_log(self) -> AccessLog:
        return AccessLog(
            self._site.handle,
            metrics=self._metrics,
            resource=self._site.router.resource,
            trusted_proxies=self._site.trusted_proxies,
        )

    def _fetch_keys(self) -> None:
        """Fetch the identity provider's keys before the first request needs them."""
        if self._site.verifier is not None:
            self._site.verifier.keys.refresh_if_old()

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
        self._fetch_keys()
        try:
            yield
        finally:
            if refreshing is not None:
                refreshing.cancel()
            if self._site.verifier is not None:
                await self._site.verifier.keys.aclose()
            await self._site.upstream.aclose()
            await asyncio.to_thread(flush)  # some servers end their processes at once

    async def _live(self, request: requests.Request) -> Response:
        return await self._health.live(request)

    async def _ready(self, request: requests.Request) -> Response:
        if self.draining:
            raise HTTPProblem(503, "The proxy is shutting down. Send requests to another instance.")
        return await self._health.ready(request)

    def _show_metrics(self, _: requests.Request) -> Response:
        return Response(self._metrics.exposition(), media_type=CONTENT_TYPE)


async def _refresh(metrics: Metrics) -> None:
    while True:
        metrics.refresh()
        await asyncio.sleep(REFRESH_SECONDS)


def _response(_: requests.Request, reply: Exception) -> Response:
    """Return a local reply as a response of the operational endpoints."""
    reply = cast("LocalReply", reply)  # Starlette looks handlers up by the type
    response = Response(reply.body, reply.status)
    response.raw_headers = reply.headers
    return response


def _not_allowed(request: requests.Request, _: Exception) -> Response:
    detail = "This path is for GET and HEAD."
    return _response(request, HTTPProblem(405, detail, [(b"allow", b"GET, HEAD")]))
