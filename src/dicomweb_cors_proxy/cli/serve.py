"""`serve`: run the proxy."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dicomweb_cors_proxy.app import create_app
from dicomweb_cors_proxy.cli.options import by_key, config_option, refuse, setting_option
from dicomweb_cors_proxy.config.settings import ConfigurationError, load
from dicomweb_cors_proxy.config.sources import Problem
from dicomweb_cors_proxy.observability.log_setup import configure, flush, place, print_lines
from dicomweb_cors_proxy.observability.log_writer import occupy_standard_descriptors
from dicomweb_cors_proxy.operations.certificates import (
    POLL,
    Certificates,
    self_signed,
    state_directory,
)
from dicomweb_cors_proxy.operations.live_settings import Configuration
from dicomweb_cors_proxy.operations.memory import settle, tune_allocator
from dicomweb_cors_proxy.operations.systemd import (
    ALIVE,
    READY,
    notify,
    reloading,
    watchdog_interval,
)
from dicomweb_cors_proxy.server.uvicorn_server import (
    Config,
    Server,
    bind,
    descriptor_warning,
    handling_signals,
    lift_descriptor_limit,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from multiprocessing.connection import Connection
    from pathlib import Path

    from dicomweb_cors_proxy.config.settings import Settings

logger = logging.getLogger(__name__)

FAILED = 1

SELF_SIGNED = "--tls-self-signed"


@click.command(short_help="Run the proxy.")
@config_option
@setting_option("--upstream", "upstream.url", metavar="URL", help="DICOMweb root of the archive.")
@setting_option(
    "--allow-origin",
    "cors.allow_origins",
    metavar="ORIGIN",
    multiple=True,
    help="Origin of a viewer; may be given more than once.",
)
@setting_option("--host", "server.host", metavar="HOST", help="Address to listen on.")
@setting_option("--port", "server.port", metavar="PORT", help="Port to listen on.")
@setting_option("--workers", "server.workers", metavar="N", help="Processes that serve.")
@setting_option("--tls-cert", "server.tls_cert_file", metavar="FILE", help="Certificate, PEM.")
@setting_option("--tls-key", "server.tls_key_file", metavar="FILE", help="Its private key, PEM.")
@click.option(
    SELF_SIGNED,
    is_flag=True,
    help="For trying out: serve over TLS with a certificate made here, and kept.",
)
def serve(config_file: Path | None, *, tls_self_signed: bool, **flags: Any) -> None:  # noqa: ANN401
    """Run the proxy until SIGTERM or SIGINT; SIGHUP reads the configuration again.

    Exit status: 0 when told to stop, 1 if it can't listen or run, 2 for a configuration problem.
    """
    source = Source(config_file, by_key(flags), is_self_signed=tls_self_signed)
    # Told to stop before it serves, or once it has ended, it has nothing to finish.
    with handling_signals(sys.exit, None):
        _serve(source)


def _serve(source: Source) -> None:
    occupy_standard_descriptors()
    try:
        settings = source.load()
    except ConfigurationError as error:
        refuse(error)
    server = settings.server
    configure(settings.logging.level, settings.logging.format)
    tune_allocator()
    lift_descriptor_limit()
    try:
        sockets = bind(server.host, server.port)
    except OSError as error:
        _fail(
            f"cannot listen on {server.host} port {server.port} (server.host, server.port): "
            f"{str(error.strerror).partition(' (')[0]}; choose another with --host or --port"
        )
    certificates = None
    if server.tls_cert_file is not None and server.tls_key_file is not None:
        certificates = Certificates(server.tls_cert_file, server.tls_key_file)
    lines = greeting(settings, sockets[0].getsockname()[1], source.fingerprint)
    if warning := descriptor_warning(settings):
        lines += _column("warning", [warning])
    tell = _log if settings.logging.format == "json" else print_lines
    on_ready = partial(tell, lines)
    configuration = Configuration(settings, source.load)
    if server.workers == 1:
        _serve_alone(configuration, sockets, certificates, on_ready)
    else:
        sys.exit(_supervise(configuration, sockets, certificates, on_ready))


def _fail(sentence: str) -> NoReturn:
    print_lines([sentence])
    flush()
    sys.exit(FAILED)


class Source:
    """Where `serve` has its settings from, each time it reads them.

    Attributes:
        fingerprint: SHA-256 of the self-signed certificate, "" without one.
    """

    def __init__(
        self, config_file: Path | None, flags: Mapping[str, Any], *, is_self_signed: bool
    ) -> None:
        self._config_file = config_file
        self._flags = flags
        self._is_self_signed = is_self_signed
        self.fingerprint = ""

    def load(self) -> Settings:
        """Raises ConfigurationError."""
        flags = dict(self._flags)
        if self._is_self_signed:
            for key, flag in (
                ("server.tls_cert_file", "--tls-cert"),
                ("server.tls_key_file", "--tls-key"),
            ):
                if flags.pop(key) is not None:
                    reason = f"is given together with {flag}; keep one of the two"
                    raise ConfigurationError([Problem(SELF_SIGNED, reason)])
        settings = load(config_file=self._config_file, flags=flags)
        if settings.server.workers > 1 and not hasattr(os, "fork"):
            reason = "can only be 1 on this system; run several proxies instead"
            raise ConfigurationError([Problem("server.workers", reason)])
        if not self._is_self_signed:
            return settings
        folder = None
        try:
            folder = state_directory(os.environ)
            file, self.fingerprint = self_signed(settings.server.host, folder)
        except OSError as error:
            reason = (
                f"can't keep its certificate{f' in {folder}' if folder else ''} "
                f"({error.strerror}); set STATE_DIRECTORY to a folder that the proxy may write"
            )
            raise ConfigurationError([Problem(SELF_SIGNED, reason)]) from None
        own = {"server.tls_cert_file": file, "server.tls_key_file": file}
        return load(config_file=self._config_file, flags=flags | own)


class Process:
    """One process that serves, alone or as a worker."""

    def __init__(
        self,
        settings: Settings,
        certificates: Certificates | None,
        on_reload: Callable[[], None] | None = None,
    ) -> None:
        self._app = create_app(settings)
        self._certificates = certificates
        self.server = Server(
            Config(self._app, settings.server, certificates),
            on_stop=self._stop,
            on_reload=on_reload,
        )

    def _stop(self) -> None:
        self._app.draining = True

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run in an event loop of the fastest kind there is."""
        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            runner.run(main)

    async def apply(self, settings: Settings) -> None:
        """Go by these settings from the next request on."""
        configure(settings.logging.level, settings.logging.format)
        if self._certificates is not None:
            self._certificates.follow(settings.server)
        try:
            await self._app.reload(settings)
        except Exception as error:  # noqa: BLE001  (a file that is gone by now, or a bug)
            logger.error("not reloaded: %s", place(error))  # noqa: TRY400


async def _feed_watchdog() -> None:
    """Tell the service manager, if it wants to know, that the event loop runs."""
    interval = watchdog_interval()
    while interval is not None:
        notify(ALIVE)
        await asyncio.sleep(interval)


def _serve_alone(
    configuration: Configuration,
    sockets: list[socket.socket],
    certificates: Certificates | None,
    on_ready: Callable[[], None],
) -> None:
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
            await asyncio.sleep(POLL)
            certificates.poll()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(process.server.serve(sockets))
            await process.server.ready.wait()
            settle()
            on_ready()
            chores = [group.create_task(reload()), group.create_task(_feed_watchdog())]
            if certificates is not None:
                chores.append(group.create_task(renew(certificates)))
            await serving
            for chore in chores:
                chore.cancel()

    process = Process(configuration.settings, certificates, on_reload=hangup.set)
    process.run(main())


def _supervise(
    configuration: Configuration,
    sockets: list[socket.socket],
    certificates: Certificates | None,
    on_ready: Callable[[], None],
) -> int:
    # They are of no use to a process that serves alone, and take time to import.
    from dicomweb_cors_proxy.operations.supervisor import (  # noqa: PLC0415
        RENEWED,
        Supervisor,
        shared_metrics,
        tethered,
    )

    def work(
        settings: Settings, connection: Connection[Any, Any], beat: Callable[[], None]
    ) -> None:
        process = Process(settings, certificates)

        async def apply(message: Settings | str) -> None:
            if isinstance(message, str):
                if message == RENEWED and certificates is not None:
                    certificates.renew()
            else:
                await process.apply(message)

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(process.server.serve(sockets))
                await process.server.ready.wait()
                settle()
                with tethered(connection, process.server, apply, beat):
                    await serving

        process.run(main())

    with ExitStack() as sharing:
        try:
            sharing.enter_context(shared_metrics())
        except OSError as error:
            _fail(
                f"cannot add up the workers' metrics: {error.strerror}; "
                "set PROMETHEUS_MULTIPROC_DIR to a folder that the proxy may write"
            )
        settle()
        supervisor = Supervisor(
            configuration, sockets, certificates=certificates, work=work, on_ready=on_ready
        )
        return supervisor.run()


def _log(lines: Iterable[str]) -> None:
    """Where machines read along, each line is a message."""
    for line in lines:
        level = logging.WARNING if line.startswith("warning") else logging.INFO
        logger.log(level, " ".join(line.split()))


def greeting(settings: Settings, port: int, fingerprint: str = "") -> list[str]:
    """What is fronted, who is let in, at which URL, and what to think twice about."""
    server = settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    scheme = "https" if server.tls_cert_file else "http"
    services: dict[str, list[str]] = {}
    for service, url in settings.service_urls().items():
        services.setdefault(url, []).append(service.value)
    archives = [
        url if len(services) == 1 else f"{url}  ({', '.join(names)})"
        for url, names in services.items()
    ]
    origins = list(settings.cors.allow_origins)
    for policy in settings.cors.per_origin:
        origins += policy.allow_origins
    lines = [
        *_column("archive", archives),
        *_column("origins", [", ".join(origins)]),
        *_column("access", [settings.access.mode]),
        *_column("workers", [str(server.workers)] if server.workers > 1 else []),
        *_column("at", [f"{scheme}://{host}:{port}{server.base_path}"]),
        *_column("tls", [f"self-signed, SHA-256 {fingerprint}"] if fingerprint else []),
    ]
    return [*lines, *_column("warning", list(settings.warnings()))]


def _column(label: str, values: list[str]) -> list[str]:
    return [f"{label:<8} {value}" for value in values]
