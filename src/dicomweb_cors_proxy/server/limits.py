"""The limits that a server keeps for each of its connections."""

from __future__ import annotations

from typing import Protocol


class ServerLimits(Protocol):
    """Seconds, bytes and switches, by the names of the settings under `server`."""

    @property
    def http2(self) -> bool: ...

    @property
    def max_connections(self) -> int: ...

    @property
    def max_header_bytes(self) -> int: ...

    @property
    def max_target_bytes(self) -> int: ...

    @property
    def max_headers(self) -> int: ...

    @property
    def header_timeout(self) -> float: ...

    @property
    def write_timeout(self) -> float: ...

    @property
    def keepalive_timeout(self) -> float: ...

    @property
    def drain_delay(self) -> float: ...

    @property
    def shutdown_timeout(self) -> float: ...
