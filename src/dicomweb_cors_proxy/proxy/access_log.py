"""Write one log line for each request, and count it."""

from __future__ import annotations

import logging
import re
from functools import lru_cache, partial
from random import getrandbits
from time import perf_counter
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.cors.origins import MAX_ORIGIN_BYTES, Origin, is_hostless
from dicomweb_cors_proxy.http.extensions import REJECTION
from dicomweb_cors_proxy.http.forwarding import client_address
from dicomweb_cors_proxy.http.headers import with_request_id
from dicomweb_cors_proxy.http.replies import LocalReply, without_body
from dicomweb_cors_proxy.observability.records import (
    EVENT_REQUEST,
    METHOD_OTHER,
    UNMATCHED,
    RequestRecord,
    request_id,
)
from dicomweb_cors_proxy.proxy.context import CONTEXT, Outcome, RequestContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Message, Receive, Scope, Send

    from dicomweb_cors_proxy.cors.policy import Decision
    from dicomweb_cors_proxy.http.extensions import ResponseReceiver
    from dicomweb_cors_proxy.http.forwarding import TrustedProxies
    from dicomweb_cors_proxy.observability.metrics import Metrics
    from dicomweb_cors_proxy.proxy.cors_middleware import CORSMiddleware
    from dicomweb_cors_proxy.proxy.incoming import IncomingRequest
    from dicomweb_cors_proxy.proxy.relay import Relay

logger = logging.getLogger(__name__)


# RFC 9110 §9.1 and RFC 5789. What else a client may call its method is not ours to repeat.
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)

# Methods of requests that can be relayed: they have no body.
_RELAYED = frozenset({"GET", "HEAD"})

# A UUID, with or without its hyphens: what nginx, Envoy and cloud load balancers make. Anything
# freer could be a name or a UID.
_REQUEST_ID = re.compile(rb"[0-9A-Fa-f]{8}(-?)(?:[0-9A-Fa-f]{4}\1){3}[0-9A-Fa-f]{12}")

# nginx's status for a client that disconnected before its response.
CLIENT_CLOSED_REQUEST = 499


class AccessLog:
    """ASGI middleware that writes one log line for every request, and counts it.

    Puts a `RequestContext` with the record, which the application completes, into the scope. Puts
    the request's id into every response except a preflight's, which no page can read.

    Args:
        metrics: counts it.
        resource: the template of the resource at a path, None if it is none.
        trusted_proxies: peers whose X-Request-ID and X-Forwarded-For are believed.
    """

    def __init__(
        self,
        app: CORSMiddleware,
        *,
        metrics: Metrics,
        resource: Callable[[bytes], str | None],
        trusted_proxies: TrustedProxies,
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._resource = resource
        self._trusted_proxies = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        context = self._context(scope)
        record = context.record
        if scope["method"] == "HEAD":
            send = without_body(send)
        outcome = Outcome.DISCONNECTED

        async def send_recorded(message: Message) -> None:
            nonlocal outcome
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if not record.cors.startswith("preflight"):
                    message["headers"] = with_request_id(message["headers"], record.request_id)
                await send(message)
                return
            await send(message)
            record.bytes_out += len(message.get("body", b""))
            if not message.get("more_body", False):
                outcome = Outcome.COMPLETE

        token = request_id.set(record.request_id)
        self._metrics.in_progress += 1
        try:
            await self.app(scope, receive, send_recorded)
        except BaseException:
            if outcome is not Outcome.COMPLETE:
                outcome = Outcome.CUT
            raise
        finally:
            self._end(scope, context, outcome)
            request_id.reset(token)

    def try_relay(self, scope: Scope, client: ResponseReceiver) -> Relay | None:
        """Begin to relay a request, if nothing has to wait for it; otherwise None."""
        if scope["method"] not in _RELAYED:
            return None
        context = self._context(scope)
        try:
            relay = self.app.try_relay(scope, client)
        except Exception:  # noqa: BLE001  (the application raises it again, and reports it)
            return None
        if relay is not None:
            self._metrics.in_progress += 1
            relay.on_end = partial(self._end, scope, context)
        return relay

    def try_preflight(self, scope: Scope) -> LocalReply | None:
        """Return the reply to a preflight, and log it before it is sent; otherwise None."""
        if scope["method"] != "OPTIONS":
            return None
        context = self._context(scope)
        record = context.record
        try:
            reply = self.app.try_preflight(scope)
        except Exception:  # noqa: BLE001  (the application raises it again, and reports it)
            return None
        if reply is not None:
            record.status = reply.status
            record.bytes_out = len(reply.body)
            record.duration = perf_counter() - context.started
            self._finish(scope, context, logging.INFO)
        return reply

    def _context(self, scope: Scope) -> RequestContext:
        """Return the context of a request, which begins now unless a short cut has begun it."""
        context: RequestContext | None = scope.get(CONTEXT)
        if context is None:
            context = scope[CONTEXT] = RequestContext(self._record(scope), perf_counter())
        return context

    def _record(self, scope: Scope) -> RequestRecord:
        method: str = scope["method"]
        client = scope.get("client")
        peer = client[0] if client else None
        identity = None
        if peer in self._trusted_proxies:
            identity = _request_id(scope)
            peer = client_address(scope["headers"], peer=peer, trusted=self._trusted_proxies)
        record = RequestRecord(
            method=method if method in _METHODS else METHOD_OTHER,
            request_id=identity or f"{getrandbits(128):032x}",
            client=peer,
        )
        if (version := scope["http_version"]) != record.http_version:
            record.http_version = version
        return record

    def _end(self, scope: Scope, context: RequestContext, outcome: Outcome) -> None:
        """Log and count a request that has ended."""
        self._metrics.in_progress -= 1
        if outcome is Outcome.REPEATED:
            return
        scope.pop(CONTEXT, None)  # the scope may be served once more
        record = context.record
        record.duration = perf_counter() - context.started
        level = logging.INFO
        if outcome is Outcome.CUT:
            level = logging.WARNING
            record.status = record.status or 500
            if record.event == EVENT_REQUEST:
                record.event = "response cut"
        elif outcome is Outcome.DISCONNECTED:
            record.status = record.status or CLIENT_CLOSED_REQUEST
            record.event = "client disconnected"
        self._finish(scope, context, level)

    def _finish(self, scope: Scope, context: RequestContext, level: int) -> None:
        record = context.record
        # A bug may have kept the middleware from setting it.
        incoming: IncomingRequest | None = getattr(context, "incoming", None)
        if incoming is not None:
            # The server puts another target in the place of one that it rejects.
            if record.resource == UNMATCHED and REJECTION not in scope.get("extensions", {}):
                record.resource = self._resource(incoming.path) or UNMATCHED
            origin = incoming.head.origin
            if origin is not None:
                record.origin = _printable_origin(origin[: MAX_ORIGIN_BYTES + 1])
                decision: Decision | None = getattr(context, "decision", None)
                if decision is not None and record.event == EVENT_REQUEST:
                    record.event = decision.reason or EVENT_REQUEST
        self._metrics.observe(record)
        if record.status >= 500:
            level = logging.WARNING
        record.log(logger, level)


def _request_id(scope: Scope) -> str | None:
    """Return the id that came with a request, if it is a UUID."""
    values = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(values) == 1 and _REQUEST_ID.fullmatch(values[0]):
        return str(values[0], "ascii")
    return None


@lru_cache(maxsize=1024)
def _printable_origin(origin: bytes) -> str:
    """Return an Origin for the log; a malformed one may hold anything, so it is not shown."""
    if origin == b"null" or is_hostless(origin) or Origin.parse(origin) is not None:
        return str(origin, "ascii")
    return "malformed"
