"""The interface to the archive: requests, responses, timeouts and endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable, Mapping, Sequence

    from dicomweb_cors_proxy.http.messages import Header


class Upstream(Protocol):
    """A sender of requests to the archive; `native.NativeTransport` is one."""

    async def send(
        self, request: Request, body: AsyncIterable[bytes] | None, timeouts: Timeouts
    ) -> UpstreamResponse: ...

    def connections(self) -> Mapping[str, int]: ...

    async def aclose(self) -> None: ...


class UpstreamResponse(Protocol):
    """A response whose head has arrived; see `native.Response`."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> list[Header]: ...

    @property
    def complete(self) -> bool: ...

    @property
    def arrived(self) -> bool: ...

    async def read(self) -> bytes: ...

    async def aclose(self) -> None: ...


class SentRequest(Protocol):
    """A request that was sent, and its response as it arrives; see `native.SentRequest`."""

    @property
    def head(self) -> ResponseHead | None: ...

    @property
    def error(self) -> Exception | None: ...

    @property
    def was_unheard(self) -> bool: ...

    @property
    def arrived(self) -> bool: ...

    @property
    def finished(self) -> bool: ...

    def take(self) -> bytes: ...

    def notify(self, listener: Callable[[], None]) -> None: ...

    def close(self) -> None: ...


class ResolveTimedOut(httpx.ConnectTimeout):
    """The host name was not resolved within the connect timeout."""


class MalformedResponse(httpx.RemoteProtocolError):
    """A response that breaks HTTP. Its text is a clause that names the rule, and no value."""


class Endpoint(NamedTuple):
    """A scheme, host and port; requests with the same three share connections (RFC 6454 §4)."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class Timeouts(NamedTuple):
    """The time limits in seconds, None for no limit; the `timeout` extension of httpx.

    `read` also bounds the wait for an archive that stops taking the bytes of an upload.
    """

    connect: float | None
    read: float | None
    pool: float | None


class Request(NamedTuple):
    """A request to the archive, byte for byte.

    Attributes:
        headers: all lines, Host and the body's framing (RFC 9112 §6) included.
        length: of the body in bytes, 0 for none; None: unknown, it is sent chunked.
    """

    origin: Endpoint
    method: bytes
    target: bytes
    headers: Sequence[Header]
    length: int | None = 0


class ResponseHead(NamedTuple):
    """The status line and header lines as received."""

    http_version: bytes
    status: int
    reason: bytes
    headers: list[Header]
