"""A record of requests at the servers, with preflights and responses that pages cannot see.

For synthetic data only; the proxy itself keeps nothing of a request.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Header = tuple[bytes, bytes]

MAX_EXCHANGES: Final = 1000

# Cookies of other servers on this host are not shown.
_HIDDEN: Final = frozenset({b"cookie", b"set-cookie"})


@dataclass
class RecordedExchange:
    """A request, as the server `at` got it, and the head of its response.

    Attributes:
        number: of requests in the order in which they began.
        via: whether the request came through the proxy.
        milliseconds: from the request's head to the response's.
        detail: of a response that describes a problem (RFC 9457).
    """

    number: int
    at: str
    via: bool
    method: str
    target: str
    request: list[tuple[str, str]]
    status: int = 0
    answer: list[tuple[str, str]] = field(default_factory=list)
    milliseconds: float = 0
    detail: str = ""


class Recorder:
    """A record of the latest exchanges of the applications that it wraps."""

    def __init__(self) -> None:
        self.latest = 0  # number of the exchange that began last
        self._answered: deque[RecordedExchange] = deque(maxlen=MAX_EXCHANGES)

    def since(self, number: int) -> list[RecordedExchange]:
        """Return the answered exchanges that began after `number`."""
        later = (exchange for exchange in self._answered if exchange.number > number)
        return sorted(later, key=lambda exchange: exchange.number)

    def around(self, app: ASGIApp, *, at: str) -> ASGIApp:
        """Return `app`, with its exchanges recorded."""

        async def recorded(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            begin = time.perf_counter()
            self.latest += 1
            query = scope["query_string"]
            target = scope["raw_path"] + (b"?" + query if query else b"")
            exchange = RecordedExchange(
                number=self.latest,
                at=at,
                via=any(name == b"via" for name, _ in scope["headers"]),
                method=scope["method"],
                target=target.decode("latin-1"),
                request=_readable(scope["headers"]),
            )

            async def send_recorded(message: Message) -> None:
                if message["type"] == "http.response.start":
                    exchange.milliseconds = (time.perf_counter() - begin) * 1000
                    exchange.status = message["status"]
                    exchange.answer = _readable(message["headers"])
                    self._answered.append(exchange)
                elif (
                    message.get("body")  # none in a response to HEAD
                    and ("content-type", "application/problem+json") in exchange.answer
                ):
                    exchange.detail = json.loads(message["body"])["detail"]
                await send(message)

            await app(scope, receive, send_recorded)

        return recorded


def _readable(headers: Iterable[Header]) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name not in _HIDDEN
    ]
