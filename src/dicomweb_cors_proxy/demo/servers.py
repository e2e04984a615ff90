"""The demo's three servers, in one process: the page, the proxy, the archive."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dicomweb_cors_proxy.app import create_app
from dicomweb_cors_proxy.config.settings import Settings
from dicomweb_cors_proxy.cors.origins import OriginPattern
from dicomweb_cors_proxy.cors.problems import PolicyError
from dicomweb_cors_proxy.demo.archive import ROOT, create_archive
from dicomweb_cors_proxy.demo.ohif import create_ohif
from dicomweb_cors_proxy.demo.recorder import Recorder
from dicomweb_cors_proxy.server.listening import bind
from dicomweb_cors_proxy.server.uvicorn_server import Server, ServerConfig

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from dicomweb_cors_proxy.app import Application

# Addresses to listen on that none can connect to, and one of this machine's that anyone here can.
_ALL_INTERFACES: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

# Names by which the page may be opened; more are not allowed.
_MOST_ORIGINS: Final = 20


class ListenError(Exception):
    """One of the three ports can't be had; the message says which one."""


class Demo:
    """The page on `port`, the proxy on the next one, the archive on the one after that.

    Args:
        ohif: a built OHIF, which takes the place of the demo's own page.

    Attributes:
        page: the page's URL.
        proxy: the proxy's DICOMweb root.
        archive: the archive's own.

    On all interfaces, the proxy also allows the page by each name by which it was opened.

    Raises ConfigurationError where no origin can be made of `host`.
    """

    def __init__(self, host: str, port: int, ohif: Path | None = None) -> None:
        self.host = host
        self._ports = page, proxy, archive = range(port, port + 3)
        public = "localhost" if host in _ALL_INTERFACES else host
        self.page = _origin(public, page)
        self.proxy = _origin(public, proxy) + ROOT
        self.archive = _origin(public, archive) + ROOT

        local = _ALL_INTERFACES.get(host, host)
        origins = (_origin(each, page) for each in ("localhost", "127.0.0.1", local))
        settings = Settings(
            upstream={"url": _origin(local, archive) + ROOT},
            cors={"allow_origins": tuple(dict.fromkeys(origins))},
            server={"host": host, "port": proxy, "shutdown_timeout": 1},
        )
        recorder = Recorder()
        viewer = create_page(recorder) if ohif is None else create_ohif(ohif, self.proxy)
        app = create_app(settings)
        page_app: ASGIApp = viewer
        if host in _ALL_INTERFACES:
            page_app = AllowingPage(viewer, app, settings)
        self._servers = (
            _Companion(ServerConfig(page_app, settings.server)),
            Server(ServerConfig(recorder.around(app, at="proxy"), settings.server)),
            _Companion(
                ServerConfig(recorder.around(create_archive(), at="archive"), settings.server)
            ),
        )

    def page_at(self, host: str) -> str:
        """Return the page's URL by another name of this machine."""
        return _origin(host, self._ports[0])

    def run(self, on_start: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; `on_start` is called once all three can be reached.

        Raises ListenError.
        """
        with ExitStack() as listening:
            sockets = [self._listen(port, listening) for port in self._ports]
            loop_factory = self._servers[0].config.get_loop_factory()
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(self._serve(sockets, on_start))

    def _listen(self, port: int, listening: ExitStack) -> list[socket.socket]:
        try:
            return [listening.enter_context(each) for each in bind(self.host, port)]
        except OSError as error:
            reason = str(error.strerror).partition(" (")[0]  # Python appends the address
            raise ListenError(
                f"cannot listen on {self.host} port {port}: {reason}. "
                "The demo needs three ports in a row; --port sets the first."
            ) from error

    async def _serve(
        self, sockets: Sequence[list[socket.socket]], on_start: Callable[[], None]
    ) -> None:
        page, _, archive = self._servers
        async with asyncio.TaskGroup() as group:
            _, proxying, _ = [
                group.create_task(server.serve(listeners))
                for server, listeners in zip(self._servers, sockets, strict=True)
            ]
            for server in self._servers:
                await server.ready.wait()
            on_start()
            await proxying
            page.should_exit = archive.should_exit = True


class _Companion(Server):
    """A server that leaves the signals to the proxy's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class AllowingPage:
    """A page whose origin the proxy allows, by each name by which browsers ask for the page.

    A container does not know these names, and the demo has nothing to protect.
    """

    def __init__(self, page: ASGIApp, proxy: Application, settings: Settings) -> None:
        self._page = page
        self._proxy = proxy
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            await self._allow(f"http://{host.removesuffix(':80')}")
        await self._page(scope, receive, send)

    async def _allow(self, origin: str) -> None:
        cors = self._settings.cors
        if origin in cors.allow_origins or len(cors.allow_origins) >= _MOST_ORIGINS:
            return
        try:
            if OriginPattern.parse(origin).has_wildcard:
                return
        except PolicyError:  # of no page
            return
        origins = (*cors.allow_origins, origin)
        changed = cors.model_copy(update={"allow_origins": origins})
        self._settings = self._settings.model_copy(update={"cors": changed})
        await self._proxy.reload(self._settings)


def _origin(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}" if port == 80 else f"http://{name}:{port}"


def create_page(recorder: Recorder) -> Starlette:
    """Make the page's application.

    At /exchanges it tells the number of the latest exchange, at /exchanges/7 those after the 7th.
    """

    async def latest(_: Request) -> Response:
        return JSONResponse(recorder.latest)

    async def exchanges(request: Request) -> Response:
        later = recorder.since(request.path_params["number"])
        return JSONResponse([asdict(exchange) for exchange in later])

    return Starlette(
        routes=[
            Route("/exchanges", latest),
            Route("/exchanges/{number:int}", exchanges),
            Mount("/", _Files(directory=Path(__file__).with_name("page"), html=True)),
        ]
    )


class _Files(StaticFiles):
    """Static files that browsers must not cache, because they change with the version."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response
