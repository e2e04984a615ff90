"""A built OHIF viewer as the demo's page, configured for the demo's proxy."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.datastructures import URL
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dicomweb_cors_proxy.probe.app_config import app_config, data_source

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Scope

BUILD: Final = Path("node_modules/@ohif/app/dist")
VERSION: Final = "3.13.2"  # of OHIF, as tested
INSTALL: Final = (
    f"npm pack @ohif/app@{VERSION}",
    f"tar --extract --file ohif-app-{VERSION}.tgz package/dist",
)

# A browser shares memory between OHIF's workers only on an isolated page.
_HEADERS: Final = {
    "cache-control": "no-cache",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
}


class BuildError(Exception):
    """A missing build of OHIF; the message says where we looked and how to install it."""


def find_build(directory: Path | None, start: Path) -> Path:
    """Return `directory`, or the build that npm put into `start` or a folder above it.

    Raises BuildError.
    """
    if directory is not None:
        if _is_build(directory):
            return directory
        missing = f"{directory} is not a built OHIF: it lacks index.html or app-config.js."
        raise BuildError("\n".join((missing, *_how_to_install())))
    for above in (start, *start.parents):
        if _is_build(above / BUILD):
            return above / BUILD
    missing = f"No built OHIF found: {start} has no {BUILD}, nor has a folder above it."
    raise BuildError("\n".join((missing, *_how_to_install())))


def _how_to_install() -> list[str]:
    return [
        "Fetch one with npm, then start again with --ohif package/dist:",
        *(f"  {command}" for command in INSTALL),
    ]


def _is_build(directory: Path) -> bool:
    return all((directory / name).is_file() for name in ("index.html", "app-config.js"))


def create_ohif(build: Path, proxy: str) -> Starlette:
    """Make the application that serves a build, whose data source is the proxy's root `proxy`.

    The data source's host name is the one by which the page was opened, because that one resolves.
    """

    async def configuration(request: Request) -> Response:
        name = request.url.hostname or "localhost"
        root = URL(proxy).replace(hostname=f"[{name}]" if ":" in name else name)
        source = data_source(str(root), "Demo", qidoSupportsIncludeField=False)
        return Response(app_config(source), media_type="text/javascript", headers=_HEADERS)

    return Starlette(
        routes=[
            Route("/app-config.js", configuration),
            Mount("/", _Build(directory=build, html=True)),
        ]
    )


class _Build(StaticFiles):
    """The files of a build; a path that its script interprets, such as /viewer, gets the page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        if not PurePosixPath(path).suffix:
            path = "index.html"
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response
