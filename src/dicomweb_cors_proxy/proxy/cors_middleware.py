"""Reply to preflights, and put the policy's headers on every other response."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from dicomweb_cors_proxy.http.replies import HTTPProblem, LocalReply, ResponseAborted
from dicomweb_cors_proxy.proxy.context import CONTEXT
from dicomweb_cors_proxy.proxy.incoming import IncomingRequest, RequestHeadCache
from dicomweb_cors_proxy.proxy.problems import internal_error, note_problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from dicomweb_cors_proxy.cors.engine import CORSEngine
    from dicomweb_cors_proxy.http.extensions import ResponseReceiver
    from dicomweb_cors_proxy.observability.records import RequestRecord
    from dicomweb_cors_proxy.proxy.checks import RequestChecks
    from dicomweb_cors_proxy.proxy.context import RequestContext
    from dicomweb_cors_proxy.proxy.incoming import RequestHead
    from dicomweb_cors_proxy.proxy.relay import Relay

    TryRelay: TypeAlias = Callable[[Scope, ResponseReceiver], Relay | None]


class CORSMiddleware:
    """ASGI middleware that replies to preflights and puts CORS headers on all other responses.

    Every response of the application below gets them, even after a bug: a script must be able to
    read why its request failed.
    """

    def __init__(self, app: ASGIApp, *, cors: CORSEngine, checks: RequestChecks) -> None:
        self.app = app
        # A token has to be verified first, which may take a while.
        self._try_relay: TryRelay | None = getattr(app, "try_relay", None)
        self._cors = cors
        self._checks = checks
        self._heads = RequestHeadCache()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context: RequestContext = scope[CONTEXT]
        record = context.record
        incoming = context.incoming = IncomingRequest.read(scope, self._heads)
        decision = context.decision = self._cors.decide(incoming.head.origin)
        record.cors = decision.outcome
        started = False

        def send_with_cors(message: Message) -> Awaitable[None]:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = decision.added_to(message["headers"])
            return send(message)

        try:
            try:
                self._checks.check(scope, incoming)
                if _is_preflight(scope, incoming):
                    await self._preflight_reply(incoming.head, record).send(send)
                    return
                await self.app(scope, receive, send_with_cors)
            except LocalReply as reply:
                note_problem(record, reply)
                await reply.send(send_with_cors)
        except ResponseAborted:
            raise
        except (Exception, asyncio.CancelledError) as exc:
            problem = internal_error(exc)
            if not started:
                record.event = problem.detail
                await problem.send(send_with_cors)
            if isinstance(exc, asyncio.CancelledError):
                raise
            if started:
                raise ResponseAborted from None

    def try_relay(self, scope: Scope, client: ResponseReceiver) -> Relay | None:
        """Begin to relay a request, if nothing has to wait; otherwise None.

        Raises:
            LocalReply: the request is rejected.
        """
        if self._try_relay is None:
            return None
        context: RequestContext = scope[CONTEXT]
        incoming = context.incoming = IncomingRequest.read(scope, self._heads)
        decision = context.decision = self._cors.decide(incoming.head.origin)
        context.record.cors = decision.outcome
        self._checks.check(scope, incoming)
        return self._try_relay(scope, client)

    def try_preflight(self, scope: Scope) -> LocalReply | None:
        """Return the reply to a valid preflight; None for all other requests."""
        context: RequestContext = scope[CONTEXT]
        incoming = context.incoming = IncomingRequest.read(scope, self._heads)
        if not _is_preflight(scope, incoming):
            return None
        try:
            self._checks.check(scope, incoming)
        except HTTPProblem:
            return None
        return self._preflight_reply(incoming.head, context.record)

    def _preflight_reply(self, head: RequestHead, record: RequestRecord) -> LocalReply:
        """Return the reply to a preflight with this head."""
        reply = head.memo.preflight
        if reply is None:
            judged = self._cors.preflight(
                head.origins[0], b", ".join(head.request_methods), head.request_headers
            )
            reply = head.memo.preflight = (
                HTTPProblem(403, judged.reason, judged.headers)
                if judged.status == 403
                else LocalReply(204, judged.headers, detail=judged.reason)
            )
        if reply.detail:
            record.cors = "preflight-refused"
            record.event = reply.detail
        else:
            record.cors = "preflight-allowed"
        return reply


def _is_preflight(scope: Scope, incoming: IncomingRequest) -> bool:
    return scope["method"] == "OPTIONS" and incoming.head.asks_preflight
