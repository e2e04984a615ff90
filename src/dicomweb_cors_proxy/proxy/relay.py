"""Relay a request without a body and its response by callbacks, without a task.

`ReverseProxy` does the same by awaiting, for all requests and under any server. Our own server
prefers a relay where nothing has to wait before the request is sent. That saves the task, its
futures, the messages of ASGI, and most pauses of the archive: up to a fifth of a frame's CPU.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

import httpx

from dicomweb_cors_proxy.http.headers import with_request_id
from dicomweb_cors_proxy.observability.records import request_id
from dicomweb_cors_proxy.proxy.context import CONTEXT, Outcome
from dicomweb_cors_proxy.proxy.problems import internal_error, log_bug, note_problem
from dicomweb_cors_proxy.upstream.failures import UpstreamProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import Scope

    from dicomweb_cors_proxy.http.extensions import ResponseReceiver
    from dicomweb_cors_proxy.http.messages import BodyFilter, Header
    from dicomweb_cors_proxy.http.replies import LocalReply
    from dicomweb_cors_proxy.proxy.context import RequestContext
    from dicomweb_cors_proxy.upstream.interface import ResponseHead, SentRequest


class Relay:
    """One request that was sent to the archive, and its response on its way to the client.

    Args:
        scope: of the request.
        sent: the request at the archive.
        client: gets the response.
        modify_response: `(status, headers) -> (headers, filter)`; see `ReverseProxy`.
        failed: notes a failure of the archive in the record, and returns the reply.

    Attributes:
        on_sent: called once the archive's part has ended.
        on_end: called at the end, after `on_sent`.
    """

    on_sent: Callable[[], None]
    on_end: Callable[[Outcome], None]

    def __init__(
        self,
        scope: Scope,
        sent: SentRequest,
        client: ResponseReceiver,
        *,
        modify_response: Callable[[int, list[Header]], tuple[list[Header], BodyFilter | None]],
        failed: Callable[[httpx.HTTPError], UpstreamProblem],
    ) -> None:
        context: RequestContext = scope[CONTEXT]
        self._is_head = scope["method"] == "HEAD"
        self._record = context.record
        self._decision = context.decision
        self._sent: SentRequest | None = sent
        self._client = client
        self._modify_response = modify_response
        self._failed = failed
        self._asked = perf_counter()
        self._started = False
        self._filter: BodyFilter | None = None
        self._rest = b""  # of the body, taken from the archive, to be filtered
        sent.notify(self.resume)

    def resume(self) -> None:
        """Go on, because something has arrived or the client has room."""
        sent = self._sent
        if sent is None:
            return
        token = request_id.set(self._record.request_id)
        try:
            self._go_on(sent)
        except UpstreamProblem as problem:
            self._record.upstream_error = problem.reason
            self._reply_or_abort(problem)
        except Exception as exc:  # noqa: BLE001  (a bug; its message may hold patient data)
            self._fail_internally(exc)
        finally:
            request_id.reset(token)

    def client_disconnected(self) -> None:
        """End the archive's request, because no client reads the response."""
        if self._sent is not None:
            self._end(Outcome.DISCONNECTED)

    def cancel(self) -> None:
        """Reply that the proxy is shutting down, or cut the response."""
        if self._sent is not None:
            self._fail_internally(asyncio.CancelledError())

    def _go_on(self, sent: SentRequest) -> None:
        if not self._started:
            head = sent.head
            if head is None:
                self._wait(sent)
                return
            self._start(sent, head)
        client, body = self._client, self._filter
        while self._sent is not None and client.is_writable:
            data = self._rest or sent.take()
            is_last = sent.finished
            if not (data or is_last):
                self._wait(sent)
                return
            if body is not None:
                self._rest = data[body.piece :]
                if data:
                    data = body.feed(data[: body.piece])
                if is_last and not self._rest:
                    data += body.flush()
            if is_last and not self._rest:
                self._finish(data)
            elif data:
                self._record.bytes_out += len(data)
                client.send_body(data, more=True)

    def _wait(self, sent: SentRequest) -> None:
        """Wait for the archive, unless the exchange has failed."""
        error = sent.error
        if error is not None:
            self._fail(sent, error)
            return
        if self._started:
            self._client.flush_head()
        sent.notify(self.resume)

    def _start(self, sent: SentRequest, head: ResponseHead) -> None:
        """Send the head of the response, or all of a short one."""
        record = self._record
        record.ttfb = perf_counter() - self._asked
        record.upstream_status = head.status
        headers, body = self._modify_response(head.status, head.headers)
        whole = None
        if body is not None and sent.arrived:
            data = sent.take()
            if len(data) <= body.piece:
                whole = body.whole(data)
                headers.append((b"content-length", b"%d" % len(whole)))
            else:
                self._rest = data
        self._filter = body
        self._send_head(head.status, headers)
        if whole is not None:
            self._finish(whole)

    def _send_head(self, status: int, headers: list[Header]) -> None:
        self._started = True
        self._record.status = status
        headers = self._decision.added_to(headers)
        self._client.start_response(status, with_request_id(headers, self._record.request_id))

    def _finish(self, last: bytes) -> None:
        """Send the last bytes of the body."""
        self._record.bytes_out += len(last)
        self._give_back()
        self._client.send_body(last, more=False)
        self._end(Outcome.COMPLETE)

    def _give_back(self) -> None:
        """Give the connection back first, so that the client's next request can have it."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.close()
            self.on_sent()

    def _end(self, outcome: Outcome) -> None:
        """Call `on_end`. What that raises is a bug, and must not end the request again."""
        self._give_back()
        try:
            self.on_end(outcome)
        except Exception as exc:  # noqa: BLE001
            log_bug(exc)

    # Failures

    def _fail(self, sent: SentRequest, error: Exception) -> None:
        # The error is not raised again: its traceback would hold a frame that holds the error.
        may_repeat = isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))
        if sent.was_unheard and may_repeat:
            # The connection was dead before. The application sends the request again.
            self._end(Outcome.REPEATED)
            self._client.run_application()
        elif not isinstance(error, httpx.HTTPError):
            self._fail_internally(error)
        else:
            self._reply_or_abort(self._failed(error))

    def _fail_internally(self, exc: BaseException) -> None:
        problem = internal_error(exc)
        if not self._started:
            self._record.event = problem.detail
        self._reply_or_abort(problem)

    def _reply_or_abort(self, reply: LocalReply) -> None:
        """Send a reply in place of the archive's response, or cut that if it has begun."""
        if self._started:
            if isinstance(reply, UpstreamProblem):
                # Only a cut connection shows the client that the response is incomplete.
                self._record.event = f"response cut: {self._record.event}"
            self._end(Outcome.CUT)
            self._client.abort()
        else:
            note_problem(self._record, reply)
            self._send_head(reply.status, reply.headers)
            self._finish(b"" if self._is_head else reply.body)
