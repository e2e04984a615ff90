"""The ASGI shells: of the CORS engine, and around it of log and metrics."""

from __future__ import annotations

import asyncio
import logging
import re
from functools import lru_cache
from random import getrandbits
from time import perf_counter
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.cors.policy import MAX_ORIGIN_BYTES, Origin
from dicomweb_cors_proxy.http.extensions import REFUSAL
from dicomweb_cors_proxy.http.headers import client_address, merge_vary
from dicomweb_cors_proxy.http.replies import Answer, Problem, ResponseAborted, without_body
from dicomweb_cors_proxy.observability.log_setup import (
    OTHER,
    REQUEST,
    UNMATCHED,
    Record,
    place,
    request_id,
)
from dicomweb_cors_proxy.proxy.incoming import Heads, Inbound, Screen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from dicomweb_cors_proxy.cors.policy import CORS
    from dicomweb_cors_proxy.http.headers import TrustedProxies
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.observability.metrics import Metrics
    from dicomweb_cors_proxy.proxy.incoming import Head

logger = logging.getLogger(__name__)

# RFC 9110 §9.1 and RFC 5789. What else a client may call its method is not ours to repeat.
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"}
)

# A UUID, with or without its hyphens: what nginx, Envoy and cloud load balancers make. Anything
# freer could be a name or a UID.
_REQUEST_ID = re.compile(rb"[0-9A-Fa-f]{8}(-?)(?:[0-9A-Fa-f]{4}\1){3}[0-9A-Fa-f]{12}")

# nginx's status for a client that did not wait for its answer.
CLIENT_LEFT = 499


class AccessLog:
    """Writes one line for every request, and counts it.

    Puts a `Record` into `scope["record"]`, which the application completes, and the request's id
    into every answer but a preflight's, where nobody could read it.

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
        began = perf_counter()
        record = scope["record"] = self._begin(scope)
        if scope["method"] == "HEAD":
            send = without_body(send)
        complete = aborted = False

        async def send_recorded(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                record.status = message["status"]
                if not record.cors.startswith("preflight"):
                    message["headers"] = _identified(message["headers"], record)
                await send(message)
                return
            await send(message)
            record.bytes_out += len(message.get("body", b""))
            complete = not message.get("more_body", False)

        token = request_id.set(record.request_id)
        self._metrics.in_progress += 1
        try:
            await self.app(scope, receive, send_recorded)
        except BaseException:
            aborted = not complete
            raise
        finally:
            self._metrics.in_progress -= 1
            record.duration = perf_counter() - began
            if aborted:
                record.status = record.status or 500
                if record.event == REQUEST:
                    record.event = "answer cut"
            elif not complete:
                record.status = record.status or CLIENT_LEFT
                record.event = "client left"
            self._tell(scope, record, logging.WARNING if aborted else logging.INFO)
            request_id.reset(token)

    def at_once(self, scope: Scope) -> Answer | None:
        """The answer to a preflight, which goes out as soon as it is told of; else None."""
        if scope["method"] != "OPTIONS":
            return None
        began = perf_counter()
        record = scope["record"] = self._begin(scope)
        try:
            answer = self.app.preflight(scope)
        except Exception:  # noqa: BLE001  (when the application is run, it is told of)
            return None
        if answer is not None:
            record.status = answer.status
            record.bytes_out = len(answer.body)
            record.duration = perf_counter() - began
            self._tell(scope, record, logging.INFO)
        return answer

    def _begin(self, scope: Scope) -> Record:
        method: str = scope["method"]
        client = scope.get("client")
        peer = client[0] if client else None
        identity = None
        if peer in self._trusted_proxies:
            identity = _request_id(scope)
            peer = client_address(scope["headers"], peer=peer, trusted=self._trusted_proxies)
        return Record(
            method=method if method in _METHODS else OTHER,
            request_id=identity or f"{getrandbits(128):032x}",
            client=peer,
        )

    def _tell(self, scope: Scope, record: Record, level: int) -> None:
        inbound: Inbound | None = scope.get("inbound")
        if inbound is not None:
            # The server puts another target in the place of one that it refuses.
            if record.resource == UNMATCHED and REFUSAL not in scope.get("extensions", {}):
                record.resource = self._resource(inbound.path) or UNMATCHED
            origin = inbound.head.origin
            if origin is not None:
                record.origin = _printable_origin(origin[: MAX_ORIGIN_BYTES + 1])
        self._metrics.observe(record)
        if record.status >= 500:
            level = logging.WARNING
        record.log(logger, level)


def _identified(headers: Iterable[Header], record: Record) -> list[Header]:
    """The head of an answer with our request id, and without another."""
    if b"x-request-id" in dict(headers):
        headers = [header for header in headers if header[0] != b"x-request-id"]
    return [*headers, (b"x-request-id", record.request_id.encode("ascii"))]


def _request_id(scope: Scope) -> str | None:
    """The id that came with a request, if it is one and can be nothing else."""
    values = [value for name, value in scope["headers"] if name == b"x-request-id"]
    if len(values) == 1 and _REQUEST_ID.fullmatch(values[0]):
        return str(values[0], "ascii")
    return None


@lru_cache(maxsize=1024)
def _printable_origin(origin: bytes) -> str:
    """An Origin as the log may show it: what no browser would have written could be anything."""
    if origin == b"null" or Origin.parse(origin) is not None:
        return str(origin, "ascii")
    return "malformed"


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
