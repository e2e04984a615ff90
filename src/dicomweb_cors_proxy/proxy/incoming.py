"""The head of a request as it came, and what is wrong with it before anybody reads its meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from dicomweb_cors_proxy.http.extensions import EMPTY_QUERY, REFUSAL
from dicomweb_cors_proxy.http.limits import MAX_CACHED_HEAD_BYTES, MAX_CACHED_HEADS
from dicomweb_cors_proxy.http.replies import Problem
from dicomweb_cors_proxy.http.targets import target_problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starlette.types import Scope

    from dicomweb_cors_proxy.cors.policy import Decision
    from dicomweb_cors_proxy.dicomweb.resources import Route
    from dicomweb_cors_proxy.http.headers import TrustedProxies
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.http.replies import Answer

# RFC 9110 §7.2: uri-host [ ":" port ], of which names in use have no more than these characters.
HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

# RFC 1035 §2.3.4: 255 bytes for a name, and 6 for a colon and a port. Each URL in a response is
# rewritten to one that begins with the host: a longer host would multiply the response.
MAX_HOST_BYTES = 261

# All lines of one X-Forwarded-* header together, for the same reason.
MAX_FORWARDED_BYTES = 1024

_FORWARDED_HOST = b"x-forwarded-host"
_FORWARDED_NAMES = {
    _FORWARDED_HOST: "X-Forwarded-Host",
    b"x-forwarded-port": "X-Forwarded-Port",
    b"x-forwarded-prefix": "X-Forwarded-Prefix",
    b"x-forwarded-proto": "X-Forwarded-Proto",
}

# More bytes than 18 digits can tell there are nowhere.
_LENGTH = re.compile(rb"[0-9]{1,18}")

# How a target begins: origin form, absolute form, asterisk form (RFC 9112 §3.2).
_TARGET_FORMS = (b"/", b"http://", b"https://", b"*")


@dataclass(slots=True, eq=False)
class Head:
    """What the header lines of a request say.

    Attributes:
        size: of all lines, in bytes.
        host: the first value of Host.
        origin: None without an Origin, and with several: nobody can say which one is meant.
        asks_preflight: whether an OPTIONS request is a CORS preflight: see Fetch, CORS-preflight
            fetch.
        is_sound: whether `Screen` has found nothing wrong.
        is_sound_forwarded: whether it has found nothing wrong in X-Forwarded-* either.
        is_forwardable: whether the gateway has found neither a loop nor another method in it.
        preflight: what it was answered as a preflight.
        sent: what the gateway has made of it for the archive, by what else that depends on.
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
    preflight: Answer | None = None
    sent: dict[object, tuple[list[Header], int | None]] = field(default_factory=dict)

    @classmethod
    def read(cls, headers: Iterable[Header]) -> Head:
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


class Heads:
    """Reads heads, and remembers those that it has read.

    A viewer sends the same lines with each of hundreds of requests for frames: what they mean, and
    what becomes of them, is found out once.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Header, ...], Head] = {}

    def read(self, headers: Iterable[Header]) -> Head:
        """The head with these lines."""
        lines = tuple(headers)
        try:
            head = self._known.get(lines)
        except TypeError:  # ASGI lets a server write a line as a list
            lines = tuple((name, value) for name, value in lines)
            head = self._known.get(lines)
        if head is None:
            head = Head.read(lines)
            if head.size <= MAX_CACHED_HEAD_BYTES:
                if len(self._known) >= MAX_CACHED_HEADS:
                    del self._known[next(iter(self._known))]
                self._known[lines] = head
        return head


@dataclass(slots=True, eq=False)
class Inbound:
    """What is known of a request before anybody answers it. Stands in `scope["inbound"]`.

    Attributes:
        path: of the target, byte for byte, `root_path` taken off.
        target: path and query.
        authority: of a target that came in absolute form.
        head: what its header lines say.
        decision: what the CORS policy says; set by the middleware.
        route: which resource it is; set by the gateway.
    """

    path: bytes
    target: bytes
    authority: bytes | None
    head: Head
    decision: Decision | None = None
    route: Route | None = None

    @classmethod
    def read(cls, scope: Scope, heads: Heads) -> Inbound:
        """Take what is needed out of an ASGI scope, which may come from any server."""
        path: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
        if root_path := scope.get("root_path"):
            path = _below(root_path, path)
        authority = None
        if not path.startswith(b"/"):
            path, authority = origin_form(path)
        query: bytes = scope["query_string"]
        has_query = query or EMPTY_QUERY in scope.get("extensions", ())
        target = path + b"?" + query if has_query else path
        return cls(path, target, authority, heads.read(scope["headers"]))


def _below(root_path: str, raw_path: bytes) -> bytes:
    """What the client sent, without the root path that a server has put in front of it."""
    # Some servers put it there as it is, some percent-encoded.
    for root in (root_path.encode(), quote(root_path).encode()):
        below = raw_path.removeprefix(root)
        if below != raw_path and (not below or below.startswith(_TARGET_FORMS)):
            return below or b"/"
    return raw_path


def origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """The path of a target, and the authority if it came in absolute form (RFC 9112 §3.2.2)."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return target, None
    authority, slash, path = rest.partition(b"/")
    return slash + path or b"/", authority


class Screen:
    """Refuses heads that break HTTP or the configured limits, by raising `Problem`."""

    def __init__(
        self,
        *,
        max_target_bytes: int,
        max_header_bytes: int,
        max_headers: int,
        allowed_hosts: Collection[str],
        trusted_proxies: TrustedProxies,
    ) -> None:
        self._max_target_bytes = max_target_bytes
        self._max_header_bytes = max_header_bytes
        self._max_headers = max_headers
        self._allowed_hosts = frozenset(host.encode("ascii") for host in allowed_hosts)
        self._trusted_proxies = trusted_proxies

    def check(self, scope: Scope, inbound: Inbound) -> None:
        """Raise `Problem` for 400, 414, 431 or 421."""
        if (refusal := scope.get("extensions", {}).get(REFUSAL)) is not None:
            raise refusal
        head = inbound.head
        if not head.is_sound:
            self._check_meaning(head)
        if inbound.authority is not None and inbound.authority.lower() != head.host.lower():
            raise Problem(400, "The request target names another host than the Host header.")
        if inbound.target == b"*":
            raise Problem(400, "OPTIONS * asks about no resource; name the DICOMweb root.")
        if len(inbound.target) > self._max_target_bytes:
            raise target_too_long(self._max_target_bytes)
        if (problem := target_problem(inbound.target)) is not None:
            raise Problem(400, problem)
        if not head.is_sound:
            self._check_limits(head, len(scope["headers"]))
            head.is_sound = True
        if not head.is_sound_forwarded:
            client = scope.get("client")
            if client and client[0] in self._trusted_proxies:
                self._check_forwarded(scope["headers"])
                head.is_sound_forwarded = True

    @staticmethod
    def _check_meaning(head: Head) -> None:
        if not head.hosts:
            raise Problem(400, "The request has no Host header.")
        if len(head.hosts) > 1:
            raise Problem(400, "The request has more than one Host header.")
        if len(head.host) > MAX_HOST_BYTES:
            raise Problem(400, f"The Host header is longer than {MAX_HOST_BYTES} bytes.")
        if not HOST.fullmatch(head.host):
            raise Problem(400, "The Host header is malformed.")
        if any(coding.lower() != b"chunked" for coding in head.transfer_codings):
            # The server takes off the chunks alone: the archive would store a compressed body.
            raise Problem(400, "The only transfer coding understood is chunked.")
        if head.lengths and not _LENGTH.fullmatch(b",".join(head.lengths)):
            raise Problem(400, "The Content-Length is no number, or there is more than one.")
        if len(head.origins) > 1:
            raise Problem(400, "The request has more than one Origin header.")

    def _check_limits(self, head: Head, lines: int) -> None:
        if lines > self._max_headers:
            raise too_many_headers(self._max_headers)
        if head.size > self._max_header_bytes:
            raise head_too_large(self._max_header_bytes)
        self._check_allowed(head.host, "Host")

    def _check_forwarded(self, headers: Iterable[Header]) -> None:
        """Check the headers by which a trusted peer says how the browser reached it."""
        values: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in _FORWARDED_NAMES:
                values[name] = b"%b,%b" % (values[name], value) if name in values else value
        for name, value in values.items():
            if len(value) > MAX_FORWARDED_BYTES:
                raise Problem(
                    400,
                    f"The {_FORWARDED_NAMES[name]} header is longer than "
                    f"{MAX_FORWARDED_BYTES} bytes.",
                )
        hosts = [host.strip(b" \t") for host in values.get(_FORWARDED_HOST, b"").split(b",")]
        for host in filter(None, hosts):
            if len(host) > MAX_HOST_BYTES:
                raise Problem(
                    400,
                    f"The X-Forwarded-Host header has a host longer than {MAX_HOST_BYTES} bytes.",
                )
            self._check_allowed(host, "X-Forwarded-Host")

    def _check_allowed(self, host: bytes, header: str) -> None:
        if self._allowed_hosts and host.lower() not in self._allowed_hosts:
            raise Problem(
                421,
                f"This proxy does not serve the host that the {header} header names. "
                "The operator can add it, with its port, to server.allowed_hosts.",
            )


def target_too_long(limit: int) -> Problem:
    """The 414 that names the setting."""
    return Problem(
        414, f"The request target is longer than {limit} bytes (server.max_target_bytes)."
    )


def too_many_headers(limit: int) -> Problem:
    """The 431 for the number of lines."""
    return Problem(431, f"The request has more than {limit} header lines (server.max_headers).")


def head_too_large(limit: int) -> Problem:
    """The 431 for their size."""
    return Problem(
        431, f"The request's head is larger than {limit} bytes (server.max_header_bytes)."
    )
