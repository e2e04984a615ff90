"""Parse the head of a request with httptools, and note what is wrong with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httptools

from dicomweb_cors_proxy.http.limits import head_too_large, target_too_long, too_many_headers
from dicomweb_cors_proxy.http.messages import TCHAR
from dicomweb_cors_proxy.http.replies import HTTPProblem

if TYPE_CHECKING:
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.server.limits import ServerLimits

_BODY_HEADERS = frozenset({b"content-length", b"expect", b"transfer-encoding"})

_METHOD = re.compile(rf"[\r\n]*({TCHAR}{{1,64}}) ".encode("ascii"))


class HeadParser:
    """A parser for one head after the other. It is never given a body.

    Attributes:
        is_complete: True if the head is complete.
        is_malformed: True if the last bytes cannot be parsed. The parser then takes no more.
        is_tunnel: True if the bytes behind the head are not HTTP.
        has_body: True if a body follows the complete head.
        problem: what to reject a head for that can be parsed.
        line_bytes: a lower bound for the size of the incomplete line.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self._max_target_bytes = limits.max_target_bytes
        self._max_header_bytes = limits.max_header_bytes
        self._max_headers = limits.max_headers
        self._unknown_method: bytes | None = None
        self.problem: HTTPProblem | None = None
        self.is_malformed = False
        self.is_tunnel = False
        self.restart()

    def begin(self) -> None:
        """Forget the last head."""
        self.is_complete = False
        self.has_body = False
        self.method = b"GET"
        self.version = "1.1"
        self.target = b""
        self.headers: list[Header] = []
        self.keep_alive = False
        self.expects_continue = False
        self.length = 0  # of a body that is not chunked
        self.is_chunked = False
        self.problem = None
        self.line_bytes = 0
        self._header_bytes = 0

    def restart(self) -> None:
        """Begin a head, although the body of the last one was not parsed."""
        self._parser = httptools.HttpRequestParser(self)
        self.begin()

    def close(self) -> None:
        """Drop httptools' parser, which forms a reference cycle with this object."""
        del self._parser

    def feed(self, data: bytes) -> None:
        """Parse a piece of a head that ends where the head ends, or before."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self.is_complete:
                self.is_tunnel = True  # CONNECT, or a head that is rejected
            else:
                self.feed(self._head_without_upgrade())
        except httptools.HttpParserInvalidMethodError:
            # The parser has a list of methods, but HTTP allows any token (RFC 9110 §9.1). Parse
            # the request as a GET, and report its own method.
            method = _METHOD.match(data)
            if method is None or self._unknown_method is not None:
                self.is_malformed = True
                return
            self._unknown_method = method[1]
            self.restart()
            self.feed(b"GET" + data[method.end(1) :])
        except httptools.HttpParserError:
            self.is_malformed = True

    def _head_without_upgrade(self) -> bytes:
        """Return the head without Upgrade, to parse it again.

        Servers may ignore Upgrade (RFC 9110 §7.8), but the parser then skips the body.
        """
        method = self._parser.get_method()
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (method, self.target, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.restart()
        return b"\r\n".join([*lines, b"", b""])

    # httptools callbacks

    def on_url(self, url: bytes) -> None:
        """Append a part of the target."""
        if len(self.target) + len(url) <= self._max_target_bytes:
            self.target += url
        else:
            self.problem = target_too_long(self._max_target_bytes)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a header line."""
        self.line_bytes = 0
        name = name.lower()
        value = value.rstrip(b" \t")
        self._header_bytes += len(name) + len(value) + 4
        if self.problem is None:
            self.headers.append((name, value))
            if self._header_bytes > self._max_header_bytes:
                self.problem = head_too_large(self._max_header_bytes)
            elif len(self.headers) > self._max_headers:
                self.problem = too_many_headers(self._max_headers)
            elif name in _BODY_HEADERS:
                self._read_body_header(name, value)
        elif name == b"origin":
            self.headers.append((name, value))

    def _read_body_header(self, name: bytes, value: bytes) -> None:
        if name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        elif name == b"content-length":
            self.length = int(value)  # the parser accepts only digits
        elif self._parser.get_http_version() == "1.0":  # RFC 9112 §6.1
            self.problem = HTTPProblem(
                400, "HTTP/1.0 has no Transfer-Encoding. Send Content-Length, or use HTTP/1.1."
            )
        else:  # the parser rejects one that does not end in `chunked`
            self.is_chunked = True

    def on_headers_complete(self) -> None:
        """Complete the head, unless it must be parsed again without its Upgrade."""
        parser = self._parser
        method = parser.get_method()
        version = parser.get_http_version()
        if method == b"CONNECT":
            self.problem = self.problem or HTTPProblem(
                405, "CONNECT is not supported.", [(b"allow", b"GET, HEAD, OPTIONS")]
            )
        elif version not in ("1.0", "1.1"):
            self.problem = HTTPProblem(
                400, "The request has another version than HTTP/1.0 or HTTP/1.1. Use HTTP/1.1."
            )
        elif parser.should_upgrade() and self.problem is None:
            return  # feed catches HttpParserUpgrade
        if self._unknown_method is not None:
            method, self._unknown_method = self._unknown_method, None
        self.method = method
        self.version = version
        self.keep_alive = parser.should_keep_alive()
        self.is_complete = True
        self.has_body = True  # until on_message_complete

    def on_message_complete(self) -> None:
        """Note that no body follows."""
        self.has_body = False
