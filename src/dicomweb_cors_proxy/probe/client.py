"""The requests of a probe: raw heads, without cookies or redirects, and whole responses.

All requests of a client share one deadline; see `network`.

Nothing that an archive sends, nor a library's message about it, gets into an error's text.
"""

from __future__ import annotations

import socket
import ssl
import zlib
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

import httpcore
import httpx

from dicomweb_cors_proxy.probe.addresses import Space
from dicomweb_cors_proxy.probe.links import shown_origin
from dicomweb_cors_proxy.probe.network import (
    Network,
    OutOfTimeError,
    PrivateAddressError,
    space_of,
)
from dicomweb_cors_proxy.probe.responses import Response, combined

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicomweb_cors_proxy.probe.responses import Headers

__all__ = ["NoResponseError", "ProbeClient", "Reason", "Received"]

MAX_SECONDS: Final = 120  # for all requests of a probe
CONNECT_TIMEOUT: Final = 10.0  # seconds
READ_TIMEOUT: Final = 30.0  # seconds

_ZLIB_CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_ZLIB_OR_GZIP: Final = zlib.MAX_WBITS | 32  # has zlib look which of both it is

# OpenSSL's codes (X509_V_ERR_…) and what they mean for a browser.
_CERTIFICATE_FAULTS: Final = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed",
    19: "it is signed by an authority that is not trusted here",
    20: "it is signed by an authority that is not trusted here, or the chain is incomplete",
    21: "it is signed by an authority that is not trusted here, or the chain is incomplete",
    62: "it is for another name",
    64: "it is for another address",
}


class Reason(StrEnum):
    """The reason why no response came."""

    NAME = "name-unknown"
    REFUSED = "connection-refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    HANGS = "no-answer"
    CERTIFICATE = "certificate"
    TLS = "tls"
    CLOSED = "no-http-answer"
    PRIVATE = "private-redirect"
    URL = "url"


# OpenSSL's names for what went wrong in a handshake.
_TLS_FAULTS: Final = {
    "WRONG_VERSION_NUMBER": "The server speaks plain http at that port.",
    "HTTP_REQUEST": "The server speaks plain http at that port.",
    "UNSUPPORTED_PROTOCOL": "The server offers no TLS newer than 1.1, and browsers want 1.2.",
    "TLSV1_ALERT_PROTOCOL_VERSION": "The server and browsers have no version of TLS in common.",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "The server broke off the TLS handshake: it has no cipher in common with browsers, or asks "
        "for a client certificate, which no preflight carries."
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "The server asks for a client certificate, which no preflight carries."
    ),
}

# The innermost cause is the one that tells; the last row is of what has none of those before.
_FAULTS: Final[tuple[tuple[tuple[type[BaseException], ...], Reason, str], ...]] = (
    (
        (ssl.SSLError,),
        Reason.TLS,
        "The TLS handshake failed. Check that the server expects https on this port.",
    ),
    ((socket.gaierror,), Reason.NAME, "The server's name does not resolve."),
    (
        (ConnectionRefusedError,),
        Reason.REFUSED,
        "The connection was refused: nothing listens at that port.",
    ),
    (
        (httpcore.ConnectTimeout,),
        Reason.TIMEOUT,
        f"No connection within {CONNECT_TIMEOUT:.0f} seconds.",
    ),
    (
        (httpcore.ReadTimeout,),
        Reason.HANGS,
        f"The connection stands, but no response came within {READ_TIMEOUT:.0f} seconds.",
    ),
    (
        (httpx.InvalidURL, httpcore.UnsupportedProtocol, UnicodeError),
        Reason.URL,
        "The URL is none that can be asked.",
    ),
    ((ConnectionResetError, BrokenPipeError), Reason.CLOSED, "The server closed the connection."),
    ((OSError,), Reason.UNREACHABLE, "The server can't be reached."),
)


_ERRORS: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    httpx.InvalidURL,
    OSError,
    ValueError,
)


class NoResponseError(Exception):
    """A request without a response; the text says why, without anything that the peer sent."""

    def __init__(self, reason: Reason, text: str) -> None:
        self.reason = reason
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Received:
    """A response, as much of its body as was asked for, and the space that it came from.

    Attributes:
        first_byte, total: seconds from the start until the head had come, and the body.
    """

    response: Response
    body: bytes
    space: Space | None
    first_byte: float = 0.0
    total: float = 0.0


class ProbeClient:
    """A client with one request per connection, which ignores HTTP_PROXY and the like.

    Args:
        ca_file: authorities to trust beside the system's, PEM.
        verify: whether a certificate has to be one that a browser takes.
        max_seconds: time from now to the deadline of all requests; also an attribute.
        follow_private: whether `nearest` is disregarded.

    Raises OSError (ssl.SSLError is one) for a `ca_file` that can't be read.
    """

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        verify: bool = True,
        max_seconds: float = MAX_SECONDS,
        follow_private: bool = False,
    ) -> None:
        context = ssl.create_default_context()
        context.hostname_checks_common_name = False  # browsers don't look there
        if ca_file is not None:
            context.load_verify_locations(ca_file)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self.max_seconds = max_seconds
        self._follow_private = follow_private
        self._network = Network(max_seconds=max_seconds)
        self._pool = httpcore.ConnectionPool(
            ssl_context=context, max_keepalive_connections=0, network_backend=self._network
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def send(  # noqa: PLR0913  (the parts of a request, and two limits)
        self,
        method: str,
        url: str,
        headers: Headers,
        *,
        content: bytes | None = None,
        body: int = 0,
        nearest: Space = Space.LOOPBACK,
    ) -> Received:
        """Send a request; read `body` bytes of the response's at most.

        Raises NoResponseError, also if all addresses of the host are nearer than `nearest`, and
        OutOfTimeError after the deadline.
        """
        self._network.check_time()
        self._network.nearest = Space.LOOPBACK if self._follow_private else nearest
        try:
            request = httpx.Request(
                method,
                url,
                headers=[(name.encode("latin-1"), v.encode("latin-1")) for name, v in headers],
                content=content,
                extensions={
                    "timeout": {
                        "connect": CONNECT_TIMEOUT,
                        "read": READ_TIMEOUT,
                        "write": READ_TIMEOUT,
                        "pool": CONNECT_TIMEOUT,
                    }
                },
            )
            start = monotonic()
            raw = self._pool.handle_request(_of_httpcore(request))
            first_byte = monotonic() - start
            try:
                head = _head(raw)
                beginning = _beginning(raw, head, body)
                total = monotonic() - start
                return Received(head, beginning, space_of(raw.extensions), first_byte, total)
            finally:
                raw.close()
        except PrivateAddressError as error:
            raise NoResponseError(Reason.PRIVATE, _private(url, error.space)) from None
        except _ERRORS as error:
            self._network.check_time()
            raise _no_response(error) from None


def _of_httpcore(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _head(raw: httpcore.Response) -> Response:
    return Response(
        raw.status,
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw.headers),
    )


def _beginning(raw: httpcore.Response, head: Response, limit: int) -> bytes:
    """Read `limit` bytes of a body at most, without its gzip or deflate coding."""
    coding = (combined(head, "content-encoding") or "").strip().lower()
    inflate = zlib.decompressobj(_ZLIB_OR_GZIP) if coding in _ZLIB_CODINGS else None
    body = bytearray()
    end = monotonic() + READ_TIMEOUT
    try:
        for chunk in raw.iter_stream() if limit else ():
            # The limit keeps a small chunk from becoming a large part of memory.
            body += inflate.decompress(chunk, limit - len(body)) if inflate else chunk
            if len(body) >= limit or monotonic() > end:
                break
    except (*_ERRORS, zlib.error, OutOfTimeError):
        pass  # a cut body still has a beginning
    return bytes(body[:limit])


def _private(url: str, space: Space) -> str:
    there = shown_origin(url) or "another server"
    where = "this machine" if space is Space.LOOPBACK else "a private network"
    return (
        f"The response redirects to {there}, an address of {where}, from a server that is farther "
        "away. The probe does not ask there without --follow-private-redirects."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_response(error: BaseException) -> NoResponseError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            fault = _CERTIFICATE_FAULTS.get(cause.verify_code, "it does not verify")
            text = f"No browser takes the server's certificate: {fault}."
            return NoResponseError(Reason.CERTIFICATE, text)
        if isinstance(cause, ssl.SSLError) and cause.reason in _TLS_FAULTS:
            return NoResponseError(Reason.TLS, _TLS_FAULTS[cause.reason])
        for kinds, reason, text in _FAULTS:
            if isinstance(cause, kinds):
                return NoResponseError(reason, text)
    return NoResponseError(
        Reason.CLOSED, "The server did not send HTTP, or closed the connection before its response."
    )
