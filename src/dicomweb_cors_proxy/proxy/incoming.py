"""A request as received: its head, target and path."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from dicomweb_cors_proxy.http.extensions import EMPTY_QUERY
from dicomweb_cors_proxy.http.limits import MAX_CACHED_HEAD_BYTES, MAX_CACHED_HEADS
from dicomweb_cors_proxy.http.targets import below_root_path, origin_form

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from starlette.types import Scope

    from dicomweb_cors_proxy.dicomweb.rewriter import URLRewriter
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.http.replies import LocalReply
    from dicomweb_cors_proxy.tokens.verifier import Acceptance


class Negotiated(NamedTuple):
    """The facts about a request on which the changes to its response depend.

    Attributes:
        rewriter: for the URL at which the browser reaches the proxy; None if none is to be used.
        accepts_gzip: whether the response may be compressed.
        knows_changed_etags: whether If-None-Match has an ETag of a body that was changed.
        public_url: the URL at which the browser reaches the proxy.
    """

    rewriter: URLRewriter | None
    accepts_gzip: bool
    knows_changed_etags: bool
    public_url: bytes


@dataclass(slots=True, eq=False)
class HeadMemo:
    """The results that equal heads share. Each one has an owner, which alone reads and writes it.

    Attributes:
        is_sound: `RequestChecks` found nothing wrong.
        is_sound_forwarded: `RequestChecks` found nothing wrong in X-Forwarded-* either.
        preflight: the reply of `CORSMiddleware` to a preflight.
        end_to_end: the lines without those of the connection, by `ReverseProxy`.
        acceptance: of its access token, by `TokenGate`.
        is_forwardable: `OutgoingRequests` found neither a loop nor another method.
        forwarded: lines for the archive and length of the body, by `OutgoingRequests`.
        negotiated: what decides on the changes to responses, by `ResponseAdapter`.
    """

    is_sound: bool = False
    is_sound_forwarded: bool = False
    preflight: LocalReply | None = None
    end_to_end: list[Header] | None = None
    acceptance: Acceptance | None = None
    is_forwardable: bool = False
    forwarded: dict[object, tuple[list[Header], int | None]] = field(default_factory=dict)
    negotiated: dict[object, Negotiated] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """The facts in the header lines of a request.

    Attributes:
        size: of all lines, in bytes.
        host: the first value of Host.
        origin: None without an Origin, and with several, because they contradict each other.
        asks_preflight: whether an OPTIONS request is a CORS preflight: see Fetch, CORS-preflight
            fetch.
        memo: what was derived from these facts.
    """

    hosts: Sequence[bytes]
    origins: Sequence[bytes]
    request_methods: Sequence[bytes]
    request_headers: Sequence[bytes]
    transfer_codings: Sequence[bytes]
    lengths: Sequence[bytes]
    size: int
    host: bytes
    origin: bytes | None
    asks_preflight: bool
    memo: HeadMemo

    @classmethod
    def read(cls, headers: Iterable[Header]) -> RequestHead:
        """Take what is needed out of header lines, whose names are in lower case."""
        hosts: list[bytes] = []
        origins: list[bytes] = []
        request_methods: list[bytes] = []
        request_headers: list[bytes] = []
        transfer_codings: list[bytes] = []
        lengths: list[bytes] = []
        fields = {
            b"host": hosts,
            b"origin": origins,
            b"access-control-request-method": request_methods,
            b"access-control-request-headers": request_headers,
            b"transfer-encoding": transfer_codings,
            b"content-length": lengths,
        }
        size = 0
        for name, value in headers:
            size += len(name) + len(value) + 4
            if (values := fields.get(name)) is not None:
                values.append(value)
        origin = (origins[0] or None) if len(origins) == 1 else None
        return cls(
            hosts,
            origins,
            request_methods,
            request_headers,
            transfer_codings,
            lengths,
            size=size,
            host=hosts[0] if hosts else b"",
            origin=origin,
            asks_preflight=origin is not None and any(request_methods),
            memo=HeadMemo(),
        )


class RequestHeadCache:
    """A cache of request heads, which reads those that it lacks.

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
    """A request as received.

    Attributes:
        path: of the target, byte for byte, `root_path` taken off.
        target: path and query.
        authority: of a target that came in absolute form.
        head: what its header lines say.
    """

    path: bytes
    target: bytes
    authority: bytes | None
    head: RequestHead

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
