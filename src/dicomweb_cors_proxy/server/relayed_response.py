"""The response to a request that the application relays without a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import Scope

    from dicomweb_cors_proxy.http.extensions import RelayedRequest, ResponseReceiver
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.server.writable import Writable

    TryRelay: TypeAlias = Callable[[Scope, ResponseReceiver], RelayedRequest | None]

__all__ = ["RelayedResponse"]


class RelayedExchange(Protocol):
    """The part of an Exchange that a relayed response uses."""

    scope: Scope
    relayed: RelayedResponse | None

    def send_head(self, status: int, headers: Sequence[Header], *, is_repeated: bool) -> None: ...

    def flush_head(self) -> None: ...

    def send_body(self, body: bytes, *, more: bool) -> None: ...

    def cut(self) -> None: ...

    def relay_ended(self) -> None: ...

    def run_application(self) -> None: ...


class RelayedResponse:
    """The response to one request that is relayed: a `ResponseReceiver`."""

    __slots__ = ("_exchange", "_request", "_writable")

    def __init__(self, exchange: RelayedExchange, writable: Writable) -> None:
        self._exchange = exchange
        self._writable = writable
        self._request: RelayedRequest | None = None

    def begin(self, try_relay: TryRelay) -> bool:
        """Have the application relay the request. Return whether it does."""
        request = self._request = try_relay(self._exchange.scope, self)
        if request is not None:
            self._writable.listener = request.resume
        return request is not None

    # For the server

    def client_disconnected(self) -> None:
        """End the request, because no client reads the response."""
        if self._request is not None:
            self._request.client_disconnected()
            self._end()

    def cancel(self) -> None:
        """End the request, because the server stops."""
        if self._request is not None:
            self._request.cancel()

    # For the application

    @property
    def is_writable(self) -> bool:
        """Return whether the client has room for more of the response."""
        return self._writable.is_set()

    def start_response(self, status: int, headers: Sequence[Header]) -> None:
        """Take the head of the response."""
        self._exchange.send_head(status, headers, is_repeated=False)

    def flush_head(self) -> None:
        """Send the head, if it is still waiting for the body."""
        self._exchange.flush_head()

    def send_body(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body."""
        if not more:
            self._end()
        self._exchange.send_body(body, more=more)

    def abort(self) -> None:
        """End the response visibly incomplete."""
        self._end()
        self._exchange.cut()

    def run_application(self) -> None:
        """Run the application instead."""
        self._drop()
        self._exchange.run_application()

    def _end(self) -> None:
        if self._request is not None:
            self._drop()
            self._exchange.relay_ended()

    def _drop(self) -> None:
        """Break the reference cycle."""
        self._request = self._writable.listener = self._exchange.relayed = None
