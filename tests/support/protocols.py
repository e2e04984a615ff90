"""Versions of HTTP by which clients have sent requests, as the proxy's JSON log has them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.proxy import Proxy

HTTP2 = "2"
LOGGING = {"logging": {"format": "json"}}


def requests(proxy: Proxy, count: int = 1) -> list[dict[str, object]]:
    """Return what the log says of each request, once there are so many."""
    proxy.child.wait_for(f'(?s)(?>.*?"http_version"){{{count}}}')
    lines = (line for line in proxy.child.output.splitlines() if line.startswith("{"))
    return [line for line in map(json.loads, lines) if "method" in line]


def spoken(proxy: Proxy) -> set[object]:
    """Return the versions of all requests so far."""
    return {request["http_version"] for request in requests(proxy)}
