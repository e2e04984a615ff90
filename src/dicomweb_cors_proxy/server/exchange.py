"""One request and its response: `receive` and `send` of an ASGI application, or a relay."""

from __future__ import annotations

import asyncio
import logging
import typing
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.http.extensions import ON_DISCONNECT, PUSH_BODY
from dicomweb_cors_proxy.http.replies import HTTPProblem, ResponseAborted
from dicomweb_cors_proxy.observability.records import traceback_summary
from dicomweb_cors_proxy.server.body_push import BodyPush
from dicomweb_cors_proxy.server.relayed_response import RelayedResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.types import ASGIApp, Message, Scope

    from dicomweb_cors_proxy.http.extensions import BodyReceiver
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.http.replies import LocalReply
    from dicomweb_cors_proxy.server.relayed_response import TryRelay
    from dicomweb_cors_proxy.server.turns import Turns
    from dicomweb_cors_proxy.server.writable import Writable

logger = logging.getLogger(__name__)

# Seconds for an application to end by itself after its client has disconnected.
DISCONNECT_GRACE_SECONDS = 0.25


class ExchangeOwner(typing.Protocol):
    """The connection, or the stream of one, that an exchange belongs to.

    Attributes:
        turns: the queue for further pieces of a body in tiny chunks.
        writable: set unless the client is behind with reading.
    """

    turns: Turns
    writable: Writable

    def response_sent(self, exchange: Exchange) -> None:
        """Go on after the response of an exchange."""

    def cut(self, *, reset: bool) -> None:
        """End the response visibly incomplete."""

    def regulate_reading(self) -> None:
        """Read from the client again, if there is room for more of the body."""

    def relay_ended(self, exchange: Exchange) -> None:
        """Note that the request is not relayed any more."""

    def run_application(self, exchange: Exchange) -> None:
        """Run the application for a request that could not be relayed."""


class BodySource(typing.Protocol):
    """The body of a request, decoded only when it is read."""

    more: bool
    is_laborious: bool

    @property
    def has_unread(self) -> bool:
        """Return whether bytes have arrived that are not used yet."""

    def may_be_whole(self) -> bool:
        """Return whether the end of the body may have arrived."""

    def read(self) -> bytes:
        """Return the content that has arrived, or b"". Raise HTTPProblem if it is malformed."""


class ResponseSink(typing.Protocol):
    """The writer of one response.

    Attributes:
        ends_with_connection: True if only the end of the connection ends the body.
    """

    ends_with_connection: bool

    def write_continue(self) -> None:
        """Ask the client for the body of the request."""

    def start(
        self, status: int, headers: Sequence[Header], *, keep_alive: bool, is_repeated: bool
    ) -> bool:
        """Take the head of the response; return whether the connection is kept alive.

        `is_repeated` tells that equal heads are frequent.
        """

    def flush_head(self) -> None:
        """Send the head, if it is still waiting for the body."""

    def drop_head(self) -> None:
        """Forget a head that is still waiting for the body."""

    def write(self, body: bytes, *, more: bool) -> bool:
        """Send a part of the body; return False if its length does not fit the head."""


class Exchange:
    """One request and its response: `receive` and `send` of an ASGI application."""

    # Class-level defaults: most requests never change them, so an Exchange is cheap to create.
    is_running = False
    task: asyncio.Task[None] | None = None
    relayed: RelayedResponse | None = None
    _body_ended = False  # the application has received all of it
    _content = b""  # of the body; the application has not received it yet
    _failure: HTTPProblem | None = None
    _disconnected = False
    _on_disconnect: Callable[[], object] | None = None
    _news: asyncio.Future[None] | None = None  # awaited in `receive`
    _push: BodyPush | None = None  # takes the body, instead of `receive`
    _started = False
    _complete = False

    def __init__(  # noqa: PLR0913
        self,
        connection: ExchangeOwner,
        body: BodySource,
        writer: ResponseSink,
        scope: Scope,
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self._connection = connection
        self._body = body
        self._writer = writer
        self._expects_continue = expects_continue

    def reply_at_once(self, try_preflight: Callable[[Scope], LocalReply | None]) -> bool:
        """Send the reply of `try_preflight`, if it has one. Return whether it has."""
        if not self._connection.writable.is_set():
            return False
        reply = try_preflight(self.scope)
        if reply is None:
            return False
        self.send_head(reply.status, reply.headers, is_repeated=True)
        self.send_body(reply.body, more=False)
        return True

    def begin_relay(self, try_relay: TryRelay) -> bool:
        """Have a request without a body relayed, if nothing has to wait. Return whether it is."""
        writable = self._connection.writable
        if self._body.more or not writable.is_set():
            return False
        relayed = RelayedResponse(self, writable)
        self.relayed = relayed if relayed.begin(try_relay) else None
        return self.relayed is not None

    def relay_ended(self) -> None:
        """Note that the request is not relayed any more."""
        self._connection.relay_ended(self)

    def run_application(self) -> None:
        """Run the application, because the request could not be relayed."""
        self._connection.run_application(self)

    def run(self, app: ASGIApp) -> asyncio.Task[None]:
        """Run the application in a task, and return that."""
        self.scope["extensions"][ON_DISCONNECT] = self._call_on_disconnect
        self.task = asyncio.get_running_loop().create_task(self._run(app))
        return self.task

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except ResponseAborted:
            pass
        except Exception as exc:  # noqa: BLE001  (its message may hold patient data)
            logger.error("bug: %s", traceback_summary(exc))  # noqa: TRY400
        finally:
            # Break the reference cycle. Otherwise the collector takes 10 % of the CPU of a search.
            self.scope["extensions"].pop(ON_DISCONNECT, None)
            self.scope["extensions"].pop(PUSH_BODY, None)
            self._on_disconnect = None
            if not self._complete:
                self.cut()

    def flush_head(self) -> None:
        """Send the head of the response, if it is still waiting for the body."""
        self._writer.flush_head()

    def cut(self) -> None:
        """End the response visibly incomplete."""
        self._writer.flush_head()
        self._connection.cut(reset=self._writer.ends_with_connection)

    # The request

    def _call_on_disconnect(self, callback: Callable[[], object]) -> None:
        self._on_disconnect = callback
        if self._disconnected:
            callback()

    def client_disconnected(self) -> None:
        """Tell the application, and cancel it if it does not end by itself."""
        if not self._disconnected:
            self._disconnected = True
            self._writer.drop_head()
            self.wake()
            if self.relayed is not None:
                self.relayed.client_disconnected()
            if self._on_disconnect is not None:
                self._on_disconnect()
            if self.task is not None:
                self.task.get_loop().call_later(DISCONNECT_GRACE_SECONDS, self.task.cancel)

    async def receive(self) -> Message:
        """Return the next part of the body, which is decoded only now."""
        if self._expects_continue:
            self._ask_for_body()
        elif self._body.is_laborious:
            await self._connection.turns.wait()
        while (part := self.next_part()) is None:
            if self._disconnected or self._complete:
                return {"type": "http.disconnect"}
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        return {"type": "http.request", "body": part[0], "more_body": part[1]}

    def offer_push(self) -> None:
        """Let the application have the body pushed."""
        if self._body.more:
            self.scope["extensions"][PUSH_BODY] = self._push_body

    def _push_body(self, receiver: BodyReceiver) -> BodyPush:
        """Hand the body to `receiver` from now on; see `PUSH_BODY`."""
        if self._expects_continue:
            self._ask_for_body()
        self._push = BodyPush(self, receiver)
        return self._push

    def end_push(self) -> None:
        """Leave what is still to come of the body to `receive`."""
        self._push = None
        self._connection.regulate_reading()

    def next_turn(self) -> asyncio.Future[None] | None:
        """Return a future to await before the next part, if reading that takes long."""
        return self._connection.turns.take() if self._body.is_laborious else None

    def next_part(self) -> tuple[bytes, bool] | None:
        """Return a part of the body, and whether more may follow; None if there is none now.

        Raises:
            HTTPProblem: the body is malformed, and no response has begun.
        """
        if self._disconnected or self._complete:
            return None
        source = self._body
        if source.more and not self._content:
            self._read_body()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            if not self._started:
                raise failure
            self.client_disconnected()
        elif self._content or not (source.more or self._body_ended):
            content, self._content = self._content, b""
            self._body_ended = not source.more
            return content, source.more
        return None

    def _ask_for_body(self) -> None:
        """Send 100 Continue: the body is wanted from now on (RFC 9110 §10.1.1)."""
        self._expects_continue = False
        source = self._body
        if source.more and not (source.has_unread or self._content or self._disconnected):
            self._writer.write_continue()

    def _read_body(self) -> None:
        try:
            self._content = self._body.read()
        except HTTPProblem as problem:
            self.keep_alive = False
            self._failure = problem
            self.wake()
        else:
            self._connection.regulate_reading()

    @property
    def is_waiting(self) -> bool:
        """Return whether `receive` waits, or is about to go on, or the body is pushed."""
        return self._news is not None or (self._push is not None and self._push.is_waiting)

    def wake(self) -> None:
        """Have `receive`, or the push of the body, look again."""
        if self._push is not None:
            self._push.go_on()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # The response

    async def send(self, message: Message) -> None:
        """Send a message of the application, once the client has room for it."""
        if not self._connection.writable.is_set():
            await self._connection.writable.wait()
        if self._disconnected or self._complete:
            return
        if not self._started:
            self.send_head(message["status"], message["headers"], is_repeated=False)
        else:
            self.send_body(message.get("body", b""), more=message.get("more_body", False))

    def send_head(self, status: int, headers: Sequence[Header], *, is_repeated: bool) -> None:
        self._started = True
        self._expects_continue = False
        if self._body.more:
            if not self._content and self._body.may_be_whole():
                self._read_body()
            if self._body.more:
                self.keep_alive = False  # nothing is going to read the rest of the body
        self.keep_alive = self._writer.start(
            status, headers, keep_alive=self.keep_alive, is_repeated=is_repeated
        )
        if self.task is not None:
            self.task.get_loop().call_soon(self._writer.flush_head)

    def send_body(self, body: bytes, *, more: bool) -> None:
        if not self._writer.write(body, more=more):
            self._break_off()
        elif not more:
            self._complete = True
            self.wake()
            self._connection.response_sent(self)

    def _break_off(self) -> None:
        """Abort, because the body is not as long as its head said."""
        self._writer.flush_head()
        self.client_disconnected()
        self._connection.cut(reset=False)
