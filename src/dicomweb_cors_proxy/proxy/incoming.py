"""A request as received: its head, target and path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from dicomweb_cors_proxy.http.extensions import EMPTY_QUERY
from dicomweb_cors_proxy.http.limits import MAX_CACHED_HEAD_BYTES, MAX_CACHED_HEADS
from dicomweb_cors_proxy.http.targets import below_root_path, origin_form

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Scope

    from dicomweb_cors_proxy.cors.policy import Decision
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.http.replies import LocalReply


@dataclass(slots=True, eq=False)
class RequestHead:
    """The facts in the header lines of a request.

    Attributes:
        size: of all lines, in bytes.
        host: the first value of Host.
        origin: None without an Origin, and with several, because they contradict each other.
        asks_preflight: whether an OPTIONS request is a CORS preflight: see Fetch, CORS-preflight
            fetch.
        is_sound: whether `RequestChecks` has found nothing wrong.
        is_sound_forwarded: whether it has found nothing wrong in X-Forwarded-* either.
        is_forwardable: whether `OutgoingRequests` found neither a loop nor another method.
        preflight: what it was answered as a preflight.
        end_to_end: the lines without those of the connection; set by `ReverseProxy`.
        sent: what `OutgoingRequests` has made of it, by what else that depends on.
    """

    hosts: list[bytes]
    origins: list[bytes]
    request_methods: list[bytes]
    request_headers: list[bytes]
    transfer_codings: list[bytes]
    lengths: list[bytes]
    size: int = 0
    host: bytes = b""
    origin: bytes | None = None
    asks_preflight: bool = False
    is_sound: bool = False
    is_sound_forwarded: bool = False
    is_forwardable: bool = False
    preflight: LocalReply | None = None
    end_to_end: list[Header] | None = None
    sent: dict[object, tuple[list[Header], int | None]] = field(default_factory=dict)

    @classmethod
    def read(cls, headers: Iterable[Header]) -> RequestHead:
        """Take what is needed out of header lines, whose names are in lower case."""
        head = cls([], [], [], [], [], [])
        fields = {
            b"host": head.hosts,
            b"origin": head.origins,
            b"access-control-request-method": head.request_methods,
            b"access-control-request-headers": head.request_headers,
            b"transfer-encoding": head.transfer_codings,
            b"content-length": head.lengths,
        }
        for name, value in headers:
            head.size += len(name) + len(value) + 4
            if (values := fields.get(name)) is not None:
                values.append(value)
        if head.hosts:
            head.host = head.hosts[0]
        if len(head.origins) == 1 and head.origins[0]:
            head.origin = head.origins[0]
        head.asks_preflight = head.origin is not None and any(head.request_methods)
        return head


class RequestHeadCache:
    """Reads heads, and remembers those that it has read.

    A viewer sends the same lines with each of hundreds of requests for frames: what they mean, and
    what becomes of them, is found out once.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Header, ...], RequestHead] = {}

    def read(self, headers: Iterable[Header]) -> RequestHead:
        """Return the head with these lines."""
        lines = tuple(headers)
        try:
            head = self._known.get(lines)
        except TypeError:  # ASGI lets a server write a line as a list
            lines = tuple((name, value) for name, value in lines)
            head = self._known.get(lines)
        if head is None:
            head = RequestHead.read(lines)
            if head.size <= MAX_CACHED_HEAD_BYTES:
                if len(self._known) >= MAX_CACHED_HEADS:
                    del self._known[next(iter(self._known))]
                self._known[lines] = head
        return head


@dataclass(slots=True, eq=False)
class IncomingRequest:
    """A request as received, in `scope["inbound"]`.

    Attributes:
        path: of the target, byte for byte, `root_path` taken off.
        target: path and query.
        authority: of a target that came in absolute form.
        head: what its header lines say.
        decision: what the CORS policy says; set by the middleware.
    """

    path: bytes
    target: bytes
    authority: bytes | None
    head: RequestHead
    decision: Decision | None = None

    @classmethod
    def read(cls, scope: Scope, heads: RequestHeadCache) -> IncomingRequest:
        """Take what is needed out of an ASGI scope, which may come from any server."""
        path: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
        if root_path := scope.get("root_path"):
            path = below_root_path(root_path, path)
        authority = None
        if not path.startswith(b"/"):
            path, authority = origin_form(path)
        query: bytes = scope["query_string"]
        has_query = query or EMPTY_QUERY in scope.get("extensions", ())
        target = path + b"?" + query if has_query else path
        return cls(path, target, authority, heads.read(scope["headers"]))
