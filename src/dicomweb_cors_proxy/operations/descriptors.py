"""Warn if the configured connections need more descriptors than there are."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicomweb_cors_proxy.server.acceptor import descriptor_limit

if TYPE_CHECKING:
    from dicomweb_cors_proxy.config.settings import Settings

# Descriptors beside those of connections: listeners, the event loop, the log, files being read.
OTHER_DESCRIPTORS = 50


def descriptor_warning(settings: Settings) -> str | None:
    """Return a warning if the configured connections need more descriptors than there may be."""
    limit = descriptor_limit()
    clients, upstream = settings.server.max_connections, settings.upstream.max_connections
    archives = len({urlsplit(url)[:2] for url in settings.service_urls().values()})
    needed = clients + upstream * archives + OTHER_DESCRIPTORS
    if limit is None or limit >= needed:
        return None
    return (
        f"server.max_connections: {clients} clients and {upstream} connections to each archive "
        f"(upstream.max_connections) need {needed} descriptors, but this process may have {limit} "
        "(ulimit -n); raise that (LimitNOFILE= in a systemd unit, --ulimit nofile= of a "
        "container), or lower the two settings"
    )
