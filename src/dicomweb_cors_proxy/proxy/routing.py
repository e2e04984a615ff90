"""Find the resource of a request, and where it is at the archive."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dicomweb_cors_proxy.dicomweb.resources import RESOURCES, WADO, Service
from dicomweb_cors_proxy.dicomweb.routes import ResourceTable, Route, extra_path_for
from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS
from dicomweb_cors_proxy.http.messages import SAFE_METHODS
from dicomweb_cors_proxy.http.replies import HTTPProblem
from dicomweb_cors_proxy.upstream.interface import Endpoint

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dicomweb_cors_proxy.http.messages import Header

# The setting that names a service's URL, if upstream.url names none for all services.
_URL_KEYS = {
    Service.ROOT: "upstream.url",
    Service.STORE: "upstream.stow_url",
    Service.WORKLIST: "upstream.ups_url",
    Service.WADO_URI: "upstream.wado_uri_url",
}

_FOR_NO_RESOURCE = frozenset({"CONNECT", "TRACE"})

# The methods of an extra path that need the read-write mode.
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


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


class Router:
    """The resources of one configuration, and the base URLs of the archive that have them."""

    def __init__(
        self,
        *,
        base_path: str,
        service_urls: Mapping[Service, str],
        read_write: bool,
        extra_paths: Collection[str],
    ) -> None:
        self._base_path = base_path.rstrip("/").encode("ascii")
        self._upstreams = {service: BaseURL(url) for service, url in service_urls.items()}
        self._read_write = read_write
        self._resources = ResourceTable(
            read_write=read_write,
            extra_paths=extra_paths,
            wado_uri=True,  # known, even where none is configured: its 404 says what to set
        )

    @property
    def upstreams(self) -> Collection[BaseURL]:
        """Return the base URL of each service; several may be equal."""
        return self._upstreams.values()

    def service(self, service: Service) -> BaseURL:
        """Return the base URL of a service that is configured."""
        return self._upstreams[service]

    def resource(self, path: bytes) -> str | None:
        """Return the template of the resource at a path; None if there is none."""
        route, _ = self._find(path)
        return None if route is None else route.template

    def _find(self, path: bytes) -> tuple[Route | None, bytes]:
        base = self._base_path
        below = path[len(base) :]
        if not base and below == b"/":
            below = b""
        return self._resources.match(below) if path.startswith(base) else None, below

    def match(self, path: bytes, method: str) -> tuple[Route, bytes]:
        """Return the route of a path, and the path below the DICOMweb root; raise 404 or 405."""
        route, below = self._find(path)
        if route is not None:
            return route, below
        if method in _FOR_NO_RESOURCE:
            raise HTTPProblem(
                405, f"{method} is not supported.", [(b"allow", b"GET, HEAD, OPTIONS")]
            )
        is_below = path.startswith(self._base_path)
        if is_below and (pattern := self._resources.missing_slash_path(below)) is not None:
            raise HTTPProblem(
                404,
                "The path ends with a slash. Leave the slash out. If the archive needs it, for "
                "example because it redirects to such URLs, the operator can add "
                f"{pattern} to access.extra_paths.",
            )
        raise HTTPProblem(
            404,
            "Not a DICOMweb resource. The DICOMweb root is "
            f"{self._base_path.decode('ascii') or '/'} (server.base_path); other paths of the "
            "archive are forwarded only if access.extra_paths lists them. UIDs are digits and "
            "dots, and a path has no slash at its end.",
        )

    def upstream(self, route: Route, method: str) -> BaseURL:
        """Return the base URL of the archive for a method of a resource; raise 404 or 405."""
        service = route.service(method)
        upstream = self._upstreams.get(service) if service else None
        if upstream is not None:
            return upstream
        allow = self.allow(route)
        if service is None and (allow or method in _FOR_NO_RESOURCE):
            remedy = self._remedy(route, method)
            raise HTTPProblem(
                405, f"This method is not allowed on {route.template}.{remedy}", [(b"allow", allow)]
            )
        key = _URL_KEYS.get(service) if service else None
        remedy = f"set {key}" if key else "see the URLs under upstream"
        raise HTTPProblem(
            404,
            f"No archive is configured for {route.template} with this method: {remedy} in the "
            "proxy's configuration.",
        )

    def _remedy(self, route: Route, method: str) -> str:
        """Return a sentence that says how to get a method forwarded that is not allowed."""
        if self._writes(route, method):
            return " Writing needs access.mode: read-write."
        if method == "GET" and route.template == "/":
            return " It is the DICOMweb root, which has no page: request …/studies?limit=1."
        if method in _FOR_NO_RESOURCE or route.template == WADO:
            return ""
        needs_mode = not self._read_write and method not in SAFE_METHODS
        return (
            " If the archive has it, the operator can add the resource's path, "
            f"{extra_path_for(route.template)}, to access.extra_paths"
            f"{' and set access.mode: read-write' if needs_mode else ''}."
        )

    def _writes(self, route: Route, method: str) -> bool:
        """Return whether read-write mode would allow the method."""
        if self._read_write:
            return False
        written = next((r.methods for r in RESOURCES if r.template == route.template), _WRITES)
        return method in written

    def allow(self, route: Route) -> bytes:
        """Return the methods of a resource that an archive is configured for; b"" for none."""
        return ", ".join(
            method for method in route.allow if route.service(method) in self._upstreams
        ).encode("ascii")
