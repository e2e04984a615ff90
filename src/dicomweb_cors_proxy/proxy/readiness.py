"""Liveness and readiness, for monitoring."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from starlette.responses import PlainTextResponse, Response

from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem, upstream_problem

if TYPE_CHECKING:
    from starlette import requests

    from dicomweb_cors_proxy.proxy.limits import Limits
    from dicomweb_cors_proxy.proxy.outgoing import OutgoingRequests
    from dicomweb_cors_proxy.proxy.responses import ResponseAdapter
    from dicomweb_cors_proxy.upstream.interface import Request, Timeouts, Upstream

# Seconds for which a result is kept, so that probes can't load the archive.
CACHE_TTL = 2.0

# Seconds to wait for a response. The archive has nothing to look up for it, and monitors give up
# early.
READ_TIMEOUT_MAX = 10.0

LOOP = 508


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """The state of one base URL of the archive.

    Attributes:
        status: of its response; None if there was none.
        problem: what is wrong and what to do, "" if nothing.
    """

    url: str
    status: int | None
    problem: str


@dataclass(frozen=True, slots=True)
class ReadinessCheck:
    """The archive as readiness sees it: `OPTIONS` on the root of every configured service."""

    requests: OutgoingRequests
    adapter: ResponseAdapter
    upstream: Upstream
    limits: Limits

    @property
    def timeouts(self) -> Timeouts:
        """Return the timeouts of other requests, with a shorter one for the response."""
        read = min(self.limits.read_timeout, READ_TIMEOUT_MAX)
        return self.limits.upstream_timeouts._replace(read=read)

    async def check_all(self, *, except_for: str | None = None) -> list[ServiceStatus]:
        """Ask every base URL at the same time, without the one that is checked otherwise."""
        requests = self.requests.readiness_requests()
        requests.pop(except_for or "", None)
        return await asyncio.gather(*(self._ask(url, out) for url, out in requests.items()))

    async def _ask(self, url: str, request: Request) -> ServiceStatus:
        timeouts = self.timeouts
        try:
            response = await self.upstream.send(request, None, timeouts)
        except (httpx.HTTPError, UpstreamProblem) as error:
            return ServiceStatus(url, None, archive_failure(error, timeouts))
        await response.aclose()
        status = response.status
        try:
            self.adapter.check_credentials(status)
        except HTTPProblem as rejected:
            return ServiceStatus(url, status, rejected.detail)
        problem = ""
        if status == LOOP:
            problem = (
                "A URL under upstream points back to the proxy itself. Set it to the archive's."
            )
        elif status >= 500:
            problem = f"The archive responded {status}. See its log."
        return ServiceStatus(url, status, problem)


def archive_failure(error: httpx.HTTPError | UpstreamProblem, timeouts: Timeouts) -> str:
    """Say why there is no response, and what to do."""
    if isinstance(error, UpstreamProblem):
        return error.detail
    if isinstance(error, httpx.ReadTimeout):
        return (
            f"The archive accepted a connection, but did not respond within {timeouts.read:g} s. "
            "Check that it does not hang."
        )
    return upstream_problem(error, timeouts).detail


class HealthEndpoints:
    """`/healthz` and `/readyz`."""

    def __init__(self, archive: ReadinessCheck) -> None:
        self._archive = archive
        self._asking = asyncio.Lock()
        self._problems: list[str] = []
        self._expires = 0.0

    async def live(self, _: requests.Request) -> Response:
        """Return 200, because the process serves."""
        return PlainTextResponse("ok\n")

    async def ready(self, _: requests.Request) -> Response:
        """Return 200 if the archive responds at every base URL; otherwise raise a 503."""
        async with self._asking:
            if time.monotonic() >= self._expires:
                statuses = await self._archive.check_all()
                self._problems = sorted({status.problem for status in statuses if status.problem})
                self._expires = time.monotonic() + CACHE_TTL
        if self._problems:
            raise HTTPProblem(503, " ".join(self._problems))
        return PlainTextResponse("ok\n")
