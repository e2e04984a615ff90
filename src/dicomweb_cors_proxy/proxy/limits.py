"""The limits of one request."""

from __future__ import annotations

from dataclasses import dataclass

from dicomweb_cors_proxy.upstream.interface import Timeouts


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a request in seconds and bytes; see the settings of the same names."""

    connect_timeout: float
    read_timeout: float
    pool_timeout: float
    body_timeout: float
    max_body_bytes: int | None
    max_concurrent_requests: int

    @property
    def upstream_timeouts(self) -> Timeouts:
        return Timeouts(self.connect_timeout, self.read_timeout, self.pool_timeout)
