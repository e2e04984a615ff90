"""One request and its response: `receive` and `send` of an ASGI application."""

from __future__ import annotations

import asyncio
import logging
import typing
from functools import lru_cache
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.http.extensions import ON_LEAVING
from dicomweb_cors_proxy.http.replies import HTTPProblem, ResponseAborted
from dicomweb_cors_proxy.observability.records import traceback_summary
from dicomweb_cors_proxy.server.response_head import ResponseHead, answer_head, date_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Scope

    from dicomweb_cors_proxy.http.replies import LocalReply
    from dicomweb_cors_proxy.server.turns import Turns

logger = logging.getLogger(__name__)


# Bytes of a body up to which it is copied behind its head, for one system call instead of two.
COALESCE_MAX = 16 * 1024

# Seconds for an application to end by itself when its client has left.
DISCONNECT_GRACE = 0.25

# For responses sent without running the application (preflights); few distinct ones exist.
known_answer_head = lru_cache(maxsize=256)(answer_head)


class ExchangeOwner(typing.Protocol):
    """The connection of an exchange, as far as the exchange uses it."""

    is_laborious: bool
    transport: asyncio.Transport
    turns: Turns
    writable: asyncio.Event

    def answered(self, exchange: Exchange) -> None: ...

    def cut(self, *, reset: bool) -> None: ...

    @property
    def has_unread(self) -> bool: ...

    def may_have_whole_body(self) -> bool: ...

    def read_body(self) -> bytes: ...


class Exchange:
    """One request and its response: `receive` and `send` of an ASGI application."""

    # Class-level defaults: most requests never change them, so an Exchange is cheap to create.
    more_body = True  # to be read from the connection
    is_running = False
    task: asyncio.Task[None] | None = None
    _body_ended = False  # all of it was given
    _content = b""  # of the body, read but not given
    _failure: HTTPProblem | None = None
    _left = False
    _on_leaving: Callable[[], object] | None = None
    _news: asyncio.Future[None] | None = None  # of whoever waits in `receive`
    _started = False
    _complete = False
    _chunked = False
    _until_close = False  # the response ends where the connection does
    _remaining = 0  # bytes of a Content-Length
    _head = b""  # of the response, while it waits for the first of the body

    def __init__(
        self, connection: ExchangeOwner, scope: Scope, *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self._connection = connection
        self._expects_continue = expects_continue

    def start(
        self, app: ASGIApp, try_preflight: Callable[[Scope], LocalReply | None] | None
    ) -> None:
        """Send the reply of `try_preflight`, or run the application in a task."""
        if try_preflight is not None and self._connection.writable.is_set():
            answer = try_preflight(self.scope)
            if answer is not None:
                self._send_head(known_answer_head(answer.status, tuple(answer.headers)))
                self._send_body(answer.body, more=False)
                return
        self.scope["extensions"][ON_LEAVING] = self._call_on_leaving
        self.task = asyncio.get_running_loop().create_task(self._run(app))

    async def _run(self, app: ASGIApp) -> None:
        try:
            await app(self.scope, self.receive, self.send)
        except ResponseAborted:
            pass
        except Exception as exc:  # noqa: BLE001  (its message may hold patient data)
            logger.error("bug: %s", traceback_summary(exc))  # noqa: TRY400
        finally:
            # Break the reference cycle. Otherwise the collector takes 10 % of the CPU of a search.
            self.scope["extensions"].pop(ON_LEAVING, None)
            self._on_leaving = None
            if not self._complete:
                self._flush_head()
                self._connection.cut(reset=self._until_close)

    # The request

    def body_failed(self, problem: HTTPProblem) -> None:
        self.keep_alive = False
        self._failure = problem
        self.wake()

    def _call_on_leaving(self, callback: Callable[[], object]) -> None:
        self._on_leaving = callback
        if self._left:
            callback()

    def client_left(self) -> None:
        """Tell the application, also when it next asks; end it if it doesn't end by itself."""
        if not self._left:
            self._left = True
            self.wake()
            if self._on_leaving is not None:
                self._on_leaving()
            if self.task is not None:
                self.task.get_loop().call_later(DISCONNECT_GRACE, self.task.cancel)

    async def receive(self) -> Message:
        """Return the next part of the body, which is decoded only now."""
        connection = self._connection
        if self._expects_continue:  # RFC 9110 §10.1.1: only now is the body wanted
            self._expects_continue = False
            if self.more_body and not (connection.has_unread or self._content or self._left):
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        elif connection.is_laborious:
            await connection.turns.wait()
        while True:
            if self._left or self._complete:
                return {"type": "http.disconnect"}
            if self.more_body and not self._content:
                self._content = connection.read_body()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                if self._started:
                    self.client_left()
                    continue
                raise failure
            if self._content or not (self.more_body or self._body_ended):
                body, self._content = self._content, b""
                self._body_ended = not self.more_body
                return {"type": "http.request", "body": body, "more_body": self.more_body}
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None

    @property
    def is_waiting(self) -> bool:
        """Return whether `receive` waits, or is about to go on."""
        return self._news is not None

    def wake(self) -> None:
        """Have `receive` look again."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # The response

    async def send(self, message: Message) -> None:
        if not self._connection.writable.is_set():
            await self._connection.writable.wait()
        if self._left or self._complete:
            return
        if not self._started:
            self._send_head(answer_head(message["status"], message["headers"]))
        else:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))

    def _send_head(self, head: ResponseHead) -> None:
        status, lines, length, closes, is_dated = head
        self._started = True
        self._expects_continue = False
        if closes:
            self.keep_alive = False
        date = b"" if is_dated else date_line()  # RFC 9110 §6.6.1
        self._head = lines + date + self._framing(status, length)
        if self.task is not None:
            self.task.get_loop().call_soon(self._flush_head)

    def _flush_head(self) -> None:
        """Send the head alone: no body has followed it at once."""
        if self._head and not self._left:
            self._connection.transport.write(self._head)
        self._head = b""

    def _framing(self, status: int, length: int | None) -> bytes:
        """Decide where the response ends, and return the end of the head, which says so."""
        end = b"\r\n"
        if self.scope["method"] == "HEAD" or status in (204, 304):
            pass  # whatever the head announces, no body follows
        elif length is not None:
            self._remaining = length
        elif self.scope["http_version"] == "1.0":
            self._until_close = True
            self.keep_alive = False
        else:
            self._chunked = True
            end = b"transfer-encoding: chunked\r\n\r\n"
        if self.more_body and not self._content and self._connection.may_have_whole_body():
            self._content = self._connection.read_body()
        if self.more_body:
            self.keep_alive = False  # the rest of it is not going to be read
        if not self.keep_alive:
            end = b"connection: close\r\n" + end
        return end

    def _send_body(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        if not (self._chunked or self._until_close):
            self._remaining -= len(body)
            if self._remaining < 0:
                self._break_off()
                return
        self._write_body(body, more=more)
        if more:
            return
        if self._remaining:
            self._break_off()
            return
        self._complete = True
        self.wake()
        self._connection.answered(self)

    def _write_body(self, body: bytes, *, more: bool) -> None:
        """Write it with its framing, behind a head that waits."""
        before, self._head = self._head, b""
        after = b""
        if self._chunked:
            if body:
                before += b"%x\r\n" % len(body)
                after = b"\r\n"
            if not more:
                after += b"0\r\n\r\n"
        transport = self._connection.transport
        if len(body) > COALESCE_MAX and (before or after):
            transport.writelines([before, body, after])
        else:
            transport.write(before + body + after)

    def _break_off(self) -> None:
        """Abort, because the body is not as long as its head said."""
        self._flush_head()
        self.client_left()
        self._connection.cut(reset=False)
