"""Send one request to the archive and stream its response back, without DICOM or CORS.

Its hooks are plain callables. `rewrite` makes the archive's request, or raises a reply;
`modify_response` makes the client's response.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import httpx

from dicomweb_cors_proxy.http.headers import end_to_end
from dicomweb_cors_proxy.http.replies import HTTPProblem, ResponseAborted
from dicomweb_cors_proxy.proxy.client_stream import ClientDisconnected, ClientStream
from dicomweb_cors_proxy.proxy.context import CONTEXT
from dicomweb_cors_proxy.proxy.relay import Relay
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem, log_reason, upstream_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Receive, Scope, Send

    from dicomweb_cors_proxy.http.extensions import ResponseReceiver
    from dicomweb_cors_proxy.http.messages import BodyFilter, Header
    from dicomweb_cors_proxy.observability.records import RequestRecord
    from dicomweb_cors_proxy.proxy.context import RequestContext
    from dicomweb_cors_proxy.proxy.limits import Limits
    from dicomweb_cors_proxy.upstream.interface import (
        Request,
        SentRequest,
        Timeouts,
        Upstream,
        UpstreamResponse,
    )

    TrySend: TypeAlias = Callable[[Request, Timeouts], SentRequest | None]

logger = logging.getLogger(__name__)

# Methods whose requests have no body.
_WITHOUT_BODY = frozenset({b"GET", b"HEAD", b"OPTIONS"})

# Every request may fail for lack of a descriptor; the log has one line a request for them already.
DESCRIPTOR_WARNING_SECONDS = 1.0


# The part of a request that `rewrite` finds out and `modify_response` needs.
RouteT = TypeVar("RouteT")


@dataclass(slots=True)
class InFlight:
    """The number of requests in progress; shared across reloads."""

    requests: int = 0

    def leave(self) -> None:
        """Count a request less."""
        self.requests -= 1


class ReverseProxy(Generic[RouteT]):
    """An ASGI application that forwards requests to an upstream.

    The headers of a client's connection are stripped here. `modify_response` strips those of the
    archive's.

    Args:
        upstream: sends the requests.
        rewrite: `(scope, headers) -> (Request, route)`; raises `LocalReply` for what is not to be
            sent.
        modify_response: `(scope, route, status, headers) -> (headers, filter)`, from the archive's
            header lines as received to those for the client, the filter None for a body that
            passes as it is; raises `LocalReply` to send that instead.
        limits: time and size.
        load: counts what `max_concurrent_requests` limits.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        rewrite: Callable[[Scope, list[Header]], tuple[Request, RouteT]],
        modify_response: Callable[
            [Scope, RouteT, int, list[Header]], tuple[list[Header], BodyFilter | None]
        ],
        limits: Limits,
        load: InFlight,
    ) -> None:
        self._upstream = upstream
        self._rewrite = rewrite
        self._modify_response = modify_response
        self._limits = limits
        self._timeouts = limits.upstream_timeouts
        self._load = load
        self._next_descriptor_warning = 0.0
        self._try_send: TrySend | None = getattr(upstream, "try_send", None)

    def try_relay(self, scope: Scope, client: ResponseReceiver) -> Relay | None:
        """Send a request without a body, if nothing has to wait for it; otherwise return None.

        Raises:
            LocalReply: the request is rejected.
        """
        load = self._load
        if self._try_send is None or load.requests >= self._limits.max_concurrent_requests:
            return None
        context: RequestContext = scope[CONTEXT]
        request, route = self._outgoing(scope)
        sent = None if request.length != 0 else self._try_send(request, self._timeouts)
        if sent is None:
            return None
        load.requests += 1
        relay = Relay(
            scope,
            sent,
            client,
            modify_response=partial(self._modify_response, scope, route),
            failed=partial(self._failed, request, context.record),
        )
        relay.on_sent = load.leave
        return relay

    def _outgoing(self, scope: Scope) -> tuple[Request, RouteT]:
        """Return the archive's request and its route, made once.

        After a reload they are made again: the old ones may have another archive's credentials.

        Raises:
            LocalReply: the request is rejected.
        """
        context: RequestContext = scope[CONTEXT]
        maker, made = context.outgoing
        if maker is not self:
            made = self._rewrite(scope, _end_to_end(scope))
            context.outgoing = self, made
        outgoing: tuple[Request, RouteT] = made
        return outgoing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, route = self._outgoing(scope)
        load = self._load
        if load.requests >= self._limits.max_concurrent_requests:
            raise HTTPProblem(
                503,
                "The proxy is at its limit of concurrent requests "
                "(server.max_concurrent_requests). Try again shortly.",
                [(b"retry-after", b"1")],
            )
        load.requests += 1
        try:
            with ClientStream(scope, receive, self._limits, has_body=request.length != 0) as client:
                if request.length is None and request.method in _WITHOUT_BODY:
                    request = await _without_body(request, client)
                await self._forward(request, route, client, scope, send)
        finally:
            load.leave()

    async def _forward(
        self, request: Request, route: RouteT, client: ClientStream, scope: Scope, send: Send
    ) -> None:
        context: RequestContext = scope[CONTEXT]
        record = context.record
        asked = perf_counter()
        try:
            response = await self._upstream.send(request, client.request_body, self._timeouts)
        except httpx.HTTPError as error:
            raise self._failed(request, record, error) from None
        except UpstreamProblem as unsent:
            record.upstream_error = unsent.reason
            raise
        record.ttfb = perf_counter() - asked
        record.upstream_status = response.status

        started = False
        try:
            headers, body = self._modify_response(scope, route, response.status, response.headers)
            content, data = (None, b"") if body is None else await _arrived(response, body)
            if content is not None:
                headers.append((b"content-length", b"%d" % len(content)))
            started = True
            await send(
                {"type": "http.response.start", "status": response.status, "headers": headers}
            )
            if content is None:
                content = await _pump(response, body, send, data)
            client.stop_watching()
            await send({"type": "http.response.body", "body": content})
        except OSError:  # ASGI 2.4: `send` raises it once the client has disconnected
            raise ClientDisconnected from None
        except (httpx.HTTPError, HTTPProblem) as error:
            problem = error
            if isinstance(problem, httpx.HTTPError):
                problem = self._failed(request, record, problem)
            elif isinstance(problem, UpstreamProblem):
                record.upstream_error = problem.reason
            else:  # the upload failed (too long, stalled) after the response had begun
                record.event = problem.detail
            if not started:
                raise problem from None
            # Only a cut connection shows the client that the response is incomplete.
            record.event = f"response cut: {record.event}"
            raise ResponseAborted from None
        finally:
            await response.aclose()

    def _failed(
        self, request: Request, record: RequestRecord, error: httpx.HTTPError
    ) -> UpstreamProblem:
        problem = upstream_problem(error, self._timeouts)
        record.upstream_error = problem.reason
        record.event = f"{request.origin}: {log_reason(error)}: {problem.detail}"
        if problem.reason == "descriptors" and perf_counter() >= self._next_descriptor_warning:
            self._next_descriptor_warning = perf_counter() + DESCRIPTOR_WARNING_SECONDS
            logger.warning("%s", problem.detail)
        return problem


def _end_to_end(scope: Scope) -> list[Header]:
    """Return the request's headers without those of the connection; equal heads share them."""
    context: RequestContext = scope[CONTEXT]
    memo = context.incoming.head.memo
    if memo.end_to_end is None:
        memo.end_to_end = end_to_end(scope["headers"])
    return memo.end_to_end


async def _without_body(request: Request, client: ClientStream) -> Request:
    """Wait for the end of a chunked body without content; return the request without a body.

    An archive that does not read the body of a GET would parse it as the next request, unchecked
    (RFC 9110 §9.3.1, RFC 9112 §11.2).
    """
    async with aclosing(client.body()) as body:
        async for _ in body:
            raise body_without_meaning(request.method.decode("ascii"))
    client.has_body = False
    headers = [header for header in request.headers if header[0] != b"transfer-encoding"]
    return request._replace(headers=headers, length=0)


async def _arrived(response: UpstreamResponse, body: BodyFilter) -> tuple[bytes | None, bytes]:
    """Return what becomes of a short body that is here; else None, and what was read of it."""
    if not response.arrived:
        return None, b""
    data = await response.read()
    if len(data) > body.piece:
        return None, data
    return body.whole(data), b""


async def _pump(
    response: UpstreamResponse, body: BodyFilter | None, send: Send, data: bytes
) -> bytes:
    """Stream the body to the client. Return the last chunk, to be sent with more_body=False.

    `data` is the part that was read already.
    """
    while data := data or await response.read():
        is_last = response.complete
        if body is not None:
            *pieces, data = _cut(data, body.piece)
            for piece in pieces:
                if filtered := body.feed(piece):
                    await send({"type": "http.response.body", "body": filtered, "more_body": True})
            data = body.feed(data)
        if is_last:
            return data if body is None else data + body.flush()
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        data = b""
    return b"" if body is None else body.flush()


def _cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def body_without_meaning(method: str) -> HTTPProblem:
    """Return the 400 for a body of a method that has none."""
    return HTTPProblem(
        400,
        f"A {method} request cannot have a body. Send it without one, and without Content-Length.",
    )
