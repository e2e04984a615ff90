"""Answer preflights, and put the policy's headers on every other response."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.http.headers import merge_vary
from dicomweb_cors_proxy.http.replies import Answer, Problem, ResponseAborted
from dicomweb_cors_proxy.observability.records import REQUEST, Record, place
from dicomweb_cors_proxy.proxy.incoming import Heads, Inbound

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from dicomweb_cors_proxy.cors.engine import CORS
    from dicomweb_cors_proxy.proxy.checks import Screen
    from dicomweb_cors_proxy.proxy.incoming import Head

logger = logging.getLogger(__name__)


class CORSMiddleware:
    """Answers preflights itself and puts the policy's headers on everything else.

    Whatever the application below does, its answer leaves with CORS headers: a script must be able
    to read why it failed, be it a bug of ours.
    """

    def __init__(self, app: ASGIApp, *, cors: CORS, screen: Screen) -> None:
        self.app = app
        self._cors = cors
        self._screen = screen
        self._heads = Heads()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record: Record = scope["record"]
        inbound = scope["inbound"] = Inbound.read(scope, self._heads)
        decision = inbound.decision = self._cors.decide(inbound.head.origin)
        record.cors = decision.outcome
        started = False

        def send_with_cors(message: Message) -> Awaitable[None]:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message["headers"], *decision.headers]
                message["headers"] = merge_vary(headers, decision.vary)
            return send(message)

        try:
            try:
                self._screen.check(scope, inbound)
                if _is_preflight(scope, inbound):
                    await self._answer(inbound.head, record).send(send)
                    return
                await self.app(scope, receive, send_with_cors)
            except Answer as answer:
                _name(record, answer)
                await answer.send(send_with_cors)
        except ResponseAborted:
            raise
        except (Exception, asyncio.CancelledError) as exc:
            problem = _unforeseen(exc)
            if not started:
                record.event = problem.detail
                await problem.send(send_with_cors)
            if isinstance(exc, asyncio.CancelledError):
                raise
            if started:
                raise ResponseAborted from None

    def preflight(self, scope: Scope) -> Answer | None:
        """The answer to a preflight that is sound; None for all other requests."""
        inbound = scope["inbound"] = Inbound.read(scope, self._heads)
        if not _is_preflight(scope, inbound):
            return None
        try:
            self._screen.check(scope, inbound)
        except Problem:
            return None
        return self._answer(inbound.head, scope["record"])

    def _answer(self, head: Head, record: Record) -> Answer:
        """The answer to a preflight with this head."""
        answer = head.preflight
        if answer is None:
            judged = self._cors.preflight(
                head.origins[0], b", ".join(head.request_methods), head.request_headers
            )
            answer = head.preflight = (
                Answer(204, judged.headers)
                if judged.allowed
                else Problem(403, judged.reason, judged.headers)
            )
        if isinstance(answer, Problem):
            record.cors = "preflight-refused"
            record.event = answer.detail
        else:
            record.cors = "preflight-allowed"
        return answer


def _name(record: Record, answer: Answer) -> None:
    """Have the log say which problem it was, unless it says so already."""
    if isinstance(answer, Problem) and record.event == REQUEST:
        record.event = answer.detail


def _unforeseen(exc: BaseException) -> Problem:
    """What there is to say of an answer that doesn't come; a bug is told to the log as well."""
    if isinstance(exc, asyncio.CancelledError):
        return Problem(
            503,
            "The proxy stops, and can't wait any longer for the answer. Try again shortly.",
            [(b"retry-after", b"1")],
        )
    logger.error("bug: %s", place(exc))  # its message may quote a name
    return Problem(500, "A bug in the proxy. Its log says where; please report it.")


def _is_preflight(scope: Scope, inbound: Inbound) -> bool:
    return scope["method"] == "OPTIONS" and inbound.head.asks_preflight
