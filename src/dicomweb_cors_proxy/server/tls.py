"""TLS on accepted sockets, with read buffers of a bounded size.

The TLS protocols of asyncio and uvloop read up to 256 KiB at a time into a buffer of each
connection. They copy all of it into another one. A client that sends fast would keep 600 KiB.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import sslproto
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket
    import ssl

__all__ = ["start_tls_on_accepted"]

# One TLS record (RFC 8446 §5.1), at most, is read at a time.
TLS_READ_BYTES = 16 * 1024

# Methods of a protocol that have nothing to do with its buffer.
_OTHER_METHODS = ("eof_received", "pause_writing", "resume_writing")


class Negotiable(Protocol):
    """A protocol for HTTP/1.1 that may be replaced by one for HTTP/2."""

    def as_http2(self) -> asyncio.BufferedProtocol:
        """Return the protocol to use in place of this one."""


class _Forwarder(asyncio.BufferedProtocol):
    """A protocol that hands decrypted bytes on to another one, until the connection is lost.

    It asks for the protocol for HTTP/2 if the handshake has chosen that.

    The TLS protocols keep bound methods of their application's protocol. Without this class they
    would keep the connection itself, in a reference cycle, until a garbage collection.
    """

    def __init__(self, protocol: Any) -> None:  # noqa: ANN401  (both of a protocol's interfaces)
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            self._protocol = self._protocol.as_http2()
        for name in _OTHER_METHODS:
            setattr(self, name, getattr(self._protocol, name))
        self._protocol.connection_made(transport)

    def get_buffer(self, sizehint: int) -> Any:  # noqa: ANN401  (a writable buffer)
        return self._protocol.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        self._protocol.buffer_updated(nbytes)

    def connection_lost(self, exc: Exception | None) -> None:
        protocol = self._protocol
        vars(self).clear()
        protocol.connection_lost(exc)


class _SSLProtocol(sslproto.SSLProtocol):
    """The TLS protocol of asyncio, with a smaller buffer."""

    max_size = TLS_READ_BYTES


class _SmallReads(asyncio.BufferedProtocol):
    """The TLS protocol of uvloop, given a part of its buffer only.

    Pages of the buffer that are never written take no memory.
    """

    def __init__(self, tls: Any) -> None:  # noqa: ANN401  (uvloop has no type for it)
        self._get_buffer = tls.get_buffer
        # Methods of this class would take the time of another call per read.
        for name in ("buffer_updated", "connection_lost", "connection_made", *_OTHER_METHODS):
            setattr(self, name, getattr(tls, name))

    def get_buffer(self, sizehint: int) -> Any:  # noqa: ANN401  (a writable buffer)
        return self._get_buffer(sizehint)[:TLS_READ_BYTES]


async def start_tls_on_accepted(
    sock: socket.socket,
    protocol: asyncio.BufferedProtocol,
    context: ssl.SSLContext,
    *,
    handshake_timeout: float,
    shutdown_timeout: float,
) -> None:
    """Run the server side of a TLS handshake, then connect `protocol` to what is inside.

    Raises:
        OSError: The handshake failed or took longer than `handshake_timeout` seconds.
    """
    loop = asyncio.get_running_loop()
    uvloop = sys.modules.get("uvloop.loop")
    is_uvloop = uvloop is not None and isinstance(loop, uvloop.Loop)
    handshake = loop.create_future()
    # uvloop has no types, and typeshed takes the timeouts for integers.
    make: Any = uvloop.SSLProtocol if uvloop is not None and is_uvloop else _SSLProtocol
    tls = make(
        loop,
        _Forwarder(protocol),
        context,
        handshake,
        server_side=True,
        ssl_handshake_timeout=handshake_timeout,
        ssl_shutdown_timeout=shutdown_timeout,
    )
    outer = _SmallReads(tls) if is_uvloop else tls
    transport, _ = await loop.connect_accepted_socket(lambda: outer, sock)
    try:
        await handshake
    except BaseException:
        transport.abort()
        raise
