"""Run one serving process, alone or under a supervisor."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from dicomweb_cors_proxy.app import create_app
from dicomweb_cors_proxy.observability.log_setup import setup_logging
from dicomweb_cors_proxy.observability.records import traceback_summary
from dicomweb_cors_proxy.operations.certificates import POLL_INTERVAL, Certificates
from dicomweb_cors_proxy.operations.memory import settle
from dicomweb_cors_proxy.operations.start_check import Turn, check_archive
from dicomweb_cors_proxy.operations.systemd import (
    ALIVE,
    READY,
    notify,
    reloading,
    stopping,
    watchdog_interval,
)
from dicomweb_cors_proxy.server.uvicorn_server import Server, ServerConfig

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Sequence
    from multiprocessing.connection import Connection

    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.operations.live_settings import LiveSettings
    from dicomweb_cors_proxy.proxy.archive_check import Verdict

logger = logging.getLogger(__name__)


class ServeError(Exception):
    """The proxy cannot serve; the text says why and what to do."""


class ServingProcess:
    """One process that serves, alone or as a worker."""

    def __init__(
        self,
        settings: Settings,
        certificates: Certificates | None,
        on_reload: Callable[[], None] | None = None,
    ) -> None:
        self.app = create_app(settings)
        self._certificates = certificates
        self.server = Server(
            ServerConfig(
                self.app,
                settings.server,
                None if certificates is None else certificates.context,
                running_streams=_running_streams(settings),
            ),
            on_stop=self._stop,
            on_reload=on_reload,
            on_ready=partial(notify, READY),
            on_stopping=lambda seconds: notify(stopping(seconds)),
        )

    def _stop(self) -> None:
        self.app.draining = True

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run in an event loop of the fastest kind there is."""
        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            runner.run(main)

    async def apply(self, settings: Settings) -> None:
        """Apply these settings from the next request on."""
        setup_logging(settings.logging.level, settings.logging.format)
        if self._certificates is not None:
            self._certificates.follow(settings.server)
        try:
            await self.app.reload(settings)
        except Exception as error:  # noqa: BLE001  (a file that is gone by now, or a bug)
            logger.error("not reloaded: %s", traceback_summary(error))  # noqa: TRY400


def _running_streams(settings: Settings) -> int:
    """Return how many requests of one HTTP/2 connection run at a time.

    Half of the connections to the archive stay free for others, even if a client opens many
    streams and reads none of them.
    """
    return max(1, settings.upstream.max_connections // 2)


async def _feed_watchdog() -> None:
    """Tell the service manager, if it wants to know, that the event loop runs."""
    interval = watchdog_interval()
    while interval is not None:
        notify(ALIVE)
        await asyncio.sleep(interval)


def serve_alone(
    configuration: LiveSettings,
    sockets: list[socket.socket],
    certificates: Certificates | None,
    on_ready: Callable[[], None],
    on_checked: Callable[[Sequence[Verdict]], None],
) -> None:
    """Serve in this process until it is told to stop."""
    hangup = asyncio.Event()

    async def reload() -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            notify(reloading())
            settings = await asyncio.to_thread(configuration.reload)
            if settings is not None:
                await process.apply(settings)
            notify(READY)

    async def renew(certificates: Certificates) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL)
            certificates.poll()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(process.server.serve(sockets))
            await process.server.ready.wait()
            settle()
            on_ready()
            chores = [
                group.create_task(reload()),
                group.create_task(_feed_watchdog()),
                group.create_task(check_archive(process.app, on_checked)),
            ]
            if certificates is not None:
                chores.append(group.create_task(renew(certificates)))
            await serving
            for chore in chores:
                chore.cancel()

    process = ServingProcess(configuration.settings, certificates, on_reload=hangup.set)
    process.run(main())


def serve_with_workers(
    configuration: LiveSettings,
    sockets: list[socket.socket],
    certificates: Certificates | None,
    on_ready: Callable[[], None],
    on_checked: Callable[[Sequence[Verdict]], None],
) -> int:
    """Serve in several workers under a supervisor; return the exit status."""
    # They are of no use to a process that serves alone, and take time to import.
    from dicomweb_cors_proxy.operations.supervisor import Supervisor  # noqa: PLC0415
    from dicomweb_cors_proxy.operations.worker import (  # noqa: PLC0415
        RENEWED,
        follow_supervisor,
        shared_metrics,
    )

    turn = Turn()

    def ready() -> None:
        on_ready()
        turn.give()

    def work(
        settings: Settings, connection: Connection[Any, Any], beat: Callable[[], None]
    ) -> None:
        process = ServingProcess(settings, certificates)

        async def apply(message: Settings | str) -> None:
            if isinstance(message, str):
                if message == RENEWED and certificates is not None:
                    certificates.renew()
            else:
                await process.apply(message)

        async def check() -> None:
            await turn.taken()
            await check_archive(process.app, on_checked)

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(process.server.serve(sockets))
                await process.server.ready.wait()
                settle()
                with follow_supervisor(connection, process.server, apply, beat):
                    checking = group.create_task(check())
                    await serving
                    checking.cancel()

        process.run(main())

    with ExitStack() as sharing:
        try:
            sharing.enter_context(shared_metrics())
        except OSError as error:
            raise ServeError(
                f"cannot add up the workers' metrics: {error.strerror}; "
                "set PROMETHEUS_MULTIPROC_DIR to a folder that the proxy may write"
            ) from None
        settle()
        supervisor = Supervisor(
            configuration, sockets, certificates=certificates, work=work, on_ready=ready
        )
        return supervisor.run()
