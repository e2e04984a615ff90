"""The base URLs of the archive, and the targets below them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS
from dicomweb_cors_proxy.upstream.interface import Endpoint

if TYPE_CHECKING:
    from dicomweb_cors_proxy.http.messages import Header


class BaseURL:
    """One base URL of the archive; its path is kept byte for byte."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        self.base_url = url
        self.origin = Endpoint(parts.scheme, parts.hostname or "", port)
        self.host: Header = (b"host", parts.netloc.encode("ascii"))
        self._path = parts.path.encode("ascii")

    def target(self, path: bytes) -> bytes:
        """Return the target of a resource; `path` is empty or starts with a slash."""
        return self._path.rstrip(b"/") + path if path else self._path or b"/"
