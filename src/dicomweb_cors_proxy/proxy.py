"""Moving one request to the archive and its answer back. Knows HTTP, and nothing of DICOM or CORS.

The seams are plain callables. `rewrite` makes the request that the archive gets from the one that
came, or raises an `Answer`; `modify_response` makes the headers that the client gets.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Self, cast

import httpx

from dicomweb_cors_proxy.answers import Problem, ResponseAborted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from types import TracebackType

    from starlette.types import Receive, Scope, Send

    from dicomweb_cors_proxy.logs import Record

Header = tuple[bytes, bytes]

_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class OutboundRequest:
    """What the archive is sent.

    Attributes:
        url: scheme, host and port to connect to.
        target: the request target, byte for byte (RFC 9112 §3.2).
        headers: all header lines, Host and the framing (Content-Length or Transfer-Encoding)
            included; a body is sent if and only if they announce one.
    """

    url: httpx.URL
    method: str
    target: bytes
    headers: list[Header]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes; see the settings of the same names."""

    connect_timeout: float
    read_timeout: float
    pool_timeout: float
    body_timeout: float
    max_body_bytes: int | None
    max_concurrent_requests: int

    @property
    def upstream_timeouts(self) -> dict[str, float]:
        """The `timeout` extension of httpx."""
        return {
            "connect": self.connect_timeout,
            "read": self.read_timeout,
            "write": self.read_timeout,
            "pool": self.pool_timeout,
        }


class ClientLeft(Exception):  # noqa: N818  (an event, nobody's error)
    """The client closed its connection before it had its answer."""


class ReverseProxy:
    """An ASGI application that answers with what an upstream says.

    Args:
        transport: sends the requests.
        rewrite: `(scope) -> OutboundRequest`; raises `Answer` for what is not to be sent.
        modify_response: `(status, headers) -> headers`; raises `Answer` to send that
            instead.
        limits: time and size.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        *,
        rewrite: Callable[[Scope], OutboundRequest],
        modify_response: Callable[[int, list[Header]], list[Header]],
        limits: Limits,
    ) -> None:
        self._transport = transport
        self._rewrite = rewrite
        self._modify_response = modify_response
        self._limits = limits
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outbound = self._rewrite(scope)
        record: Record = scope["record"]
        if self._in_progress >= self._limits.max_concurrent_requests:
            raise Problem(
                503,
                "The proxy is at its limit of concurrent requests "
                "(server.max_concurrent_requests). Try again shortly.",
                [(b"retry-after", b"1")],
            )
        self._in_progress += 1
        try:
            async with Client(receive, outbound, self._limits, record) as client:
                await self._forward(outbound, client, send, record)
        finally:
            self._in_progress -= 1

    async def _forward(
        self, outbound: OutboundRequest, client: Client, send: Send, record: Record
    ) -> None:
        request = httpx.Request(
            outbound.method,
            outbound.url,
            headers=outbound.headers,
            stream=client if client.has_body else httpx.ByteStream(b""),
            extensions={"target": outbound.target, "timeout": self._limits.upstream_timeouts},
        )
        asked = perf_counter()
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.HTTPError as error:
            raise self._failed(error, outbound, record) from None
        record.ttfb = perf_counter() - asked
        record.upstream_status = response.status_code

        body = cast("httpx.AsyncByteStream", response.stream)
        started = False
        try:
            headers = self._modify_response(response.status_code, response.headers.raw)
            _refuse_unsendable(response.status_code, headers)
            started = True
            await send(
                {
                    "type": "http.response.start",
                    "status": response.status_code,
                    "headers": headers,
                }
            )
            async for chunk in body:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            client.may_leave()
            await send({"type": "http.response.body", "body": b""})
        except OSError:  # ASGI 2.4: `send` raises it once the client has left
            raise ClientLeft from None
        except httpx.HTTPError as error:
            # All that is left is to cut the connection, so that nobody takes half for the whole.
            problem = self._failed(error, outbound, record)
            if started:
                record.event = f"answer cut: {record.event}"
                raise ResponseAborted from None
            raise problem from None
        except UpstreamProblem as problem:
            record.upstream_error = problem.reason
            raise
        except Problem as problem:
            # The upload failed (too long, stalled) after the archive had begun to answer.
            if started:
                record.event = f"answer cut: {problem.detail}"
                raise ResponseAborted from None
            raise
        finally:
            await body.aclose()

    def _failed(
        self, error: httpx.HTTPError, outbound: OutboundRequest, record: Record
    ) -> UpstreamProblem:
        problem = upstream_problem(error, self._limits)
        record.upstream_error = problem.reason
        record.event = f"{outbound.url}: {_reason(error)}: {problem.detail}"
        return problem


class Client(httpx.AsyncByteStream):
    """The client's side of one request: first its body, then word of its leaving.

    As a context manager it ends the block when the client leaves, at whatever the block is
    waiting for; the archive's request is cancelled on the way out.
    """

    def __init__(
        self, receive: Receive, outbound: OutboundRequest, limits: Limits, record: Record
    ) -> None:
        self._receive = receive
        self._record = record
        self._limits = limits
        self._task: asyncio.Task[None]
        self._watcher: asyncio.Task[None] | None = None
        self._left = False
        self._over = False
        self.has_body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in outbound.headers
        )

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (asyncio runs ASGI applications in tasks)
        self._task = task
        if not self.has_body:
            self._watch()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.may_leave()
        if isinstance(exc, asyncio.CancelledError) and self._left:
            return self._task.uncancel() == 0
        return isinstance(exc, ClientLeft)

    def may_leave(self) -> None:
        """Stop watching: the answer is read to its end, and its client owes us nothing more."""
        self._over = True
        if self._watcher is not None:
            self._watcher.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        limit = self._limits.max_body_bytes
        timeout = self._limits.body_timeout
        try:
            while True:
                try:
                    async with asyncio.timeout(timeout):
                        message = await self._receive()
                except TimeoutError:
                    raise Problem(
                        408,
                        f"No byte of the request's body came for {timeout:g} s "
                        "(server.body_timeout).",
                        [(b"connection", b"close")],
                    ) from None
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk = message.get("body", b"")
                self._record.bytes_in += len(chunk)
                if limit is not None and self._record.bytes_in > limit:
                    raise body_too_large(limit)
                if chunk:
                    yield chunk
                if not message.get("more_body", False):
                    return
        finally:
            self._watch()

    def _watch(self) -> None:
        if not self._over:
            self._watcher = asyncio.create_task(self._cancel_on_leaving())

    async def _cancel_on_leaving(self) -> None:
        # What still comes of the body is dropped: the archive has answered without it.
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._over:
            self._left = True
            self._task.cancel()


def body_too_large(limit: int) -> Problem:
    """The 413 that names the setting."""
    return Problem(413, f"The request's body is larger than {limit} bytes (server.max_body_bytes).")


def _refuse_unsendable(status: int, headers: list[Header]) -> None:
    """A 502 for a head that no HTTP server could send on, or that would split the answer."""
    if not 200 <= status <= 599:
        detail = "The archive answered with a status outside 200 to 599."
    elif any(
        not _FIELD_NAME.fullmatch(name) or _FORBIDDEN_IN_VALUE.search(value)
        for name, value in headers
    ):
        detail = "The archive answered with control characters in a header."
    else:
        return
    raise UpstreamProblem("protocol", 502, detail)


# Why the archive's answer could not be had.
UPSTREAM_ERRORS = (
    "pool_timeout",
    "connect_timeout",
    "write_timeout",
    "read_timeout",
    "tls",
    "connect",
    "protocol",
    "credentials",
)


class UpstreamProblem(Problem):
    """A problem that the archive is to blame for, or the way to it.

    Attributes:
        reason: one of `UPSTREAM_ERRORS`.
    """

    def __init__(
        self, reason: str, status: int, detail: str, headers: Iterable[Header] = ()
    ) -> None:
        super().__init__(status, detail, headers)
        self.reason = reason


def upstream_problem(error: httpx.HTTPError, limits: Limits) -> UpstreamProblem:
    """The one place that says which failure is which status, and what to do about it."""
    headers: list[Header] = []
    match error:
        case httpx.PoolTimeout():
            reason, status = "pool_timeout", 503
            headers.append((b"retry-after", b"1"))
            detail = (
                f"All connections to the archive stayed busy for {limits.pool_timeout:g} s. "
                "Try again shortly; the operator can raise upstream.max_connections."
            )
        case httpx.ConnectTimeout():
            reason, status = "connect_timeout", 504
            detail = (
                "The archive did not accept a connection within "
                f"{limits.connect_timeout:g} s (upstream.connect_timeout). Is its address "
                "right, and does a firewall drop the packets?"
            )
        case httpx.WriteTimeout():
            reason, status = "write_timeout", 504
            detail = (
                f"The archive took nothing of the upload for {limits.read_timeout:g} s "
                "(upstream.read_timeout)."
            )
        case httpx.TimeoutException():
            reason, status = "read_timeout", 504
            detail = (
                f"The archive sent nothing for {limits.read_timeout:g} s. If it stages images "
                "from tape or slow storage, raise upstream.read_timeout."
            )
        case httpx.ConnectError() if any(isinstance(e, ssl.SSLError) for e in _causes(error)):
            reason, status = "tls", 502
            detail = (
                "TLS with the archive failed: it speaks plain http there. Write http:// in "
                "upstream.url, or the port of its https."
                if any(getattr(e, "reason", "") == "WRONG_VERSION_NUMBER" for e in _causes(error))
                else "TLS with the archive failed. For a private certificate authority set "
                "upstream.ca_file; is the host name of upstream.url in the certificate?"
            )
        case httpx.ConnectError() if any(isinstance(e, socket.gaierror) for e in _causes(error)):
            reason, status = "connect", 502
            detail = "The archive's name does not resolve. Is the host in upstream.url right?"
        case httpx.ConnectError():
            reason, status = "connect", 502
            detail = (
                "The archive could not be reached: nothing listens at its address, or a firewall "
                "refuses. Is it running, and are host and port in upstream.url right?"
            )
        case _:
            reason, status = "protocol", 502
            detail = (
                "The archive closed the connection before its answer was complete, or "
                "answered with something that is not HTTP. See the archive's own log."
            )
    return UpstreamProblem(reason, status, detail, headers)


def _reason(error: httpx.HTTPError) -> str:
    """What the log says of a failure.

    What a library says in the middle of an answer may quote it; about connecting it can't.
    """
    if isinstance(error, httpx.ConnectError) or error.__cause__ is None:
        return str(error)
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
