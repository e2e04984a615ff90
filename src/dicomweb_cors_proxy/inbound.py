"""The head of a request as it came, and what is wrong with it before anybody reads its meaning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from dicomweb_cors_proxy.answers import Problem
from dicomweb_cors_proxy.extensions import REFUSAL
from dicomweb_cors_proxy.targets import target_problem

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import Scope

    from dicomweb_cors_proxy.cors import Decision
    from dicomweb_cors_proxy.dicomweb import Route

# RFC 9110 §7.2: uri-host [ ":" port ], of which names in use have no more than these characters.
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

# More bytes than 18 digits can tell there are nowhere.
_LENGTH = re.compile(rb"[0-9]{1,18}")

# How a target begins: origin form, absolute form, asterisk form (RFC 9112 §3.2).
_TARGET_FORMS = (b"/", b"http://", b"https://", b"*")


@dataclass(slots=True)
class Inbound:
    """What one pass over the head finds. Stands in `scope["inbound"]` from then on.

    Attributes:
        path: of the target, byte for byte, `root_path` taken off.
        target: path and query.
        authority: of a target that came in absolute form.
        decision: what the CORS policy says; set by the middleware.
        route: which resource it is; set by the gateway.
    """

    path: bytes
    target: bytes
    authority: bytes | None
    hosts: list[bytes]
    origins: list[bytes]
    request_methods: list[bytes]
    request_headers: list[bytes]
    transfer_codings: list[bytes]
    lengths: list[bytes]
    head_bytes: int
    decision: Decision | None = None
    route: Route | None = None

    @property
    def host(self) -> bytes:
        return self.hosts[0] if self.hosts else b""

    @property
    def origin(self) -> bytes | None:
        """None without an Origin, and with several: nobody can say which one is meant."""
        return self.origins[0] if len(self.origins) == 1 and self.origins[0] else None

    @property
    def asks_preflight(self) -> bool:
        """Whether an OPTIONS request is a CORS preflight: see Fetch, CORS-preflight fetch."""
        return self.origin is not None and any(self.request_methods)

    @classmethod
    def read(cls, scope: Scope) -> Inbound:
        """Take what is needed out of an ASGI scope, which may come from any server."""
        raw_path: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
        path, authority = _origin_form(_below(scope.get("root_path", ""), raw_path))
        query: bytes = scope["query_string"]
        inbound = cls(
            path=path,
            target=path + b"?" + query if query else path,
            authority=authority,
            hosts=[],
            origins=[],
            request_methods=[],
            request_headers=[],
            transfer_codings=[],
            lengths=[],
            head_bytes=0,
        )
        fields = {
            b"host": inbound.hosts,
            b"origin": inbound.origins,
            b"access-control-request-method": inbound.request_methods,
            b"access-control-request-headers": inbound.request_headers,
            b"transfer-encoding": inbound.transfer_codings,
            b"content-length": inbound.lengths,
        }
        for name, value in scope["headers"]:
            inbound.head_bytes += len(name) + len(value) + 4
            if (values := fields.get(name)) is not None:
                values.append(value)
        return inbound


def _below(root_path: str, raw_path: bytes) -> bytes:
    """What the client sent, without the root path that a server has put in front of it."""
    if root_path:  # which some servers put there as it is, some percent-encoded
        for root in (root_path.encode(), quote(root_path).encode()):
            below = raw_path.removeprefix(root)
            if below != raw_path and (not below or below.startswith(_TARGET_FORMS)):
                return below or b"/"
    return raw_path


def _origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """The path of a target, and the authority if it came in absolute form (RFC 9112 §3.2.2)."""
    if target.startswith(b"/"):
        return target, None
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
    ) -> None:
        self._max_target_bytes = max_target_bytes
        self._max_header_bytes = max_header_bytes
        self._max_headers = max_headers
        self._allowed_hosts = frozenset(host.encode("ascii") for host in allowed_hosts)

    def check(self, scope: Scope, inbound: Inbound) -> None:
        """Raise `Problem` for 400, 414, 431 or 421."""
        if (refusal := scope.get("extensions", {}).get(REFUSAL)) is not None:
            raise refusal
        self._check_host(inbound)
        self._check_framing(inbound)
        if len(inbound.origins) > 1:
            raise Problem(400, "The request has more than one Origin header.")
        if inbound.target == b"*":
            raise Problem(400, "OPTIONS * asks about no resource; name the DICOMweb root.")
        if len(inbound.target) > self._max_target_bytes:
            raise target_too_long(self._max_target_bytes)
        if (problem := target_problem(inbound.target)) is not None:
            raise Problem(400, problem)
        if len(scope["headers"]) > self._max_headers:
            raise too_many_headers(self._max_headers)
        if inbound.head_bytes > self._max_header_bytes:
            raise head_too_large(self._max_header_bytes)
        if self._allowed_hosts and inbound.host.lower() not in self._allowed_hosts:
            raise Problem(
                421,
                "This proxy does not serve the host that the request names. "
                "The operator can add it, with its port, to server.allowed_hosts.",
            )

    @staticmethod
    def _check_framing(inbound: Inbound) -> None:
        if any(coding.lower() != b"chunked" for coding in inbound.transfer_codings):
            # The server takes off the chunks alone: the archive would store a compressed body.
            raise Problem(400, "The only transfer coding understood is chunked.")
        if inbound.lengths and not _LENGTH.fullmatch(b",".join(inbound.lengths)):
            raise Problem(400, "The Content-Length is no number, or there is more than one.")

    @staticmethod
    def _check_host(inbound: Inbound) -> None:
        if not inbound.hosts:
            raise Problem(400, "The request has no Host header.")
        if len(inbound.hosts) > 1:
            raise Problem(400, "The request has more than one Host header.")
        if not _HOST.fullmatch(inbound.host):
            raise Problem(400, "The Host header is malformed.")
        if inbound.authority is not None and inbound.authority.lower() != inbound.host.lower():
            raise Problem(400, "The request target names another host than the Host header.")


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
