"""The ASGI shell of the CORS engine."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.answers import Answer, Problem, ResponseAborted
from dicomweb_cors_proxy.headers import merge_vary
from dicomweb_cors_proxy.inbound import Inbound, Screen
from dicomweb_cors_proxy.observability import place

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from dicomweb_cors_proxy.cors import CORS

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        inbound = scope["inbound"] = Inbound.read(scope)
        decision = inbound.decision = self._cors.decide(inbound.origin)
        started = False

        async def send_with_cors(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message["headers"], *decision.headers]
                message = {**message, "headers": merge_vary(headers, decision.vary)}
            await send(message)

        try:
            try:
                self._screen.check(scope, inbound)
                if scope["method"] == "OPTIONS" and inbound.asks_preflight:
                    await self._preflight(inbound).send(send)
                    return
                await self.app(scope, receive, send_with_cors)
            except Answer as answer:
                await answer.send(send_with_cors)
        except ResponseAborted:
            raise
        except Exception as exc:  # noqa: BLE001
            logger.error("bug: %s", place(exc))  # noqa: TRY400  (its message may quote a name)
            if started:
                raise ResponseAborted from None
            problem = Problem(500, "A bug in the proxy. Its log says where; please report it.")
            await problem.send(send_with_cors)

    def _preflight(self, inbound: Inbound) -> Answer:
        preflight = self._cors.preflight(
            inbound.origins[0], b", ".join(inbound.request_methods), inbound.request_headers
        )
        if preflight.allowed:
            return Answer(204, preflight.headers)
        logger.info("preflight refused: %s", preflight.reason)
        return Problem(403, preflight.reason, preflight.headers)
