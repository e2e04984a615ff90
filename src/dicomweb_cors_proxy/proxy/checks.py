"""Reject request heads that break HTTP or a configured limit."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.http.extensions import REJECTION
from dicomweb_cors_proxy.http.hosts import HOST
from dicomweb_cors_proxy.http.limits import head_too_large, target_too_long, too_many_headers
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.http.targets import target_problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from starlette.types import Scope

    from dicomweb_cors_proxy.http.forwarding import TrustedProxies
    from dicomweb_cors_proxy.http.messages import Header
    from dicomweb_cors_proxy.proxy.incoming import IncomingRequest, RequestHead

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

# 18 digits are enough: 10^18 bytes are an exabyte.
_LENGTH = re.compile(rb"[0-9]{1,18}")


class RequestChecks:
    """The checks of a head against HTTP and the configured limits; they raise `HTTPProblem`."""

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

    def check(self, scope: Scope, incoming: IncomingRequest) -> None:
        """Raise `HTTPProblem` for 400, 414, 431 or 421."""
        if (rejection := scope.get("extensions", {}).get(REJECTION)) is not None:
            raise rejection
        head = incoming.head
        if not head.memo.is_sound:
            self._check_meaning(head)
        if incoming.authority is not None and incoming.authority.lower() != head.host.lower():
            raise HTTPProblem(
                400, "The request target and the Host header name different hosts. Send one host."
            )
        if incoming.target == b"*":
            raise HTTPProblem(400, "OPTIONS * is not supported. Send OPTIONS to the DICOMweb root.")
        if len(incoming.target) > self._max_target_bytes:
            raise target_too_long(self._max_target_bytes)
        if (problem := target_problem(incoming.target)) is not None:
            raise HTTPProblem(400, problem)
        if not head.memo.is_sound:
            self._check_limits(head, len(scope["headers"]))
            head.memo.is_sound = True
        if not head.memo.is_sound_forwarded:
            client = scope.get("client")
            if client and client[0] in self._trusted_proxies:
                self._check_forwarded(scope["headers"])
                head.memo.is_sound_forwarded = True

    @staticmethod
    def _check_meaning(head: RequestHead) -> None:
        if not head.hosts:
            raise HTTPProblem(400, "The request has no Host header. Send exactly one.")
        if len(head.hosts) > 1:
            raise HTTPProblem(400, "The request has more than one Host header. Send exactly one.")
        if len(head.host) > MAX_HOST_BYTES:
            raise HTTPProblem(400, f"The Host header is longer than {MAX_HOST_BYTES} bytes.")
        if not HOST.fullmatch(head.host):
            raise HTTPProblem(
                400, "The Host header is malformed. Send a host, and a port if needed."
            )
        if any(coding.lower() != b"chunked" for coding in head.transfer_codings):
            # The server takes off the chunks alone: the archive would store a compressed body.
            raise HTTPProblem(
                400, "The only transfer coding supported is chunked. Send no other one."
            )
        if head.lengths and not _LENGTH.fullmatch(b",".join(head.lengths)):
            raise HTTPProblem(
                400, "Content-Length is repeated, or is not a number. Send exactly one."
            )
        if len(head.origins) > 1:
            raise HTTPProblem(400, "The request has more than one Origin header. Send exactly one.")

    def _check_limits(self, head: RequestHead, lines: int) -> None:
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
                raise HTTPProblem(
                    400,
                    f"The {_FORWARDED_NAMES[name]} header is longer than "
                    f"{MAX_FORWARDED_BYTES} bytes.",
                )
        hosts = [host.strip(b" \t") for host in values.get(_FORWARDED_HOST, b"").split(b",")]
        for host in filter(None, hosts):
            if len(host) > MAX_HOST_BYTES:
                raise HTTPProblem(
                    400,
                    f"The X-Forwarded-Host header has a host longer than {MAX_HOST_BYTES} bytes.",
                )
            self._check_allowed(host, "X-Forwarded-Host")

    def _check_allowed(self, host: bytes, header: str) -> None:
        if self._allowed_hosts and host.lower() not in self._allowed_hosts:
            raise HTTPProblem(
                421,
                f"This proxy does not serve the host that the {header} header names. "
                "The operator can add it, with its port, to server.allowed_hosts.",
            )
