"""`serve`: run the proxy."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from dicomweb_cors_proxy.app import create_app
from dicomweb_cors_proxy.cli.configuration import (
    config_option,
    setting_option,
    settings_or_exit,
)
from dicomweb_cors_proxy.logs import configure
from dicomweb_cors_proxy.server import Config, Server, bind, lift_descriptor_limit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from dicomweb_cors_proxy.config import Settings

logger = logging.getLogger(__name__)


@click.command()
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
@setting_option("--tls-cert", "server.tls_cert_file", metavar="FILE", help="Certificate, PEM.")
@setting_option("--tls-key", "server.tls_key_file", metavar="FILE", help="Its private key, PEM.")
def serve(config_file: Path | None, **flags: Any) -> None:  # noqa: ANN401
    """Run the proxy until SIGTERM or SIGINT.

    Exit status: 0 when told to stop, 1 if it can't listen, 2 for a configuration problem.
    """
    settings = settings_or_exit(config_file, **flags)

    configure(settings.logging.level, settings.logging.format)
    lift_descriptor_limit()
    host, port = settings.server.host, settings.server.port
    try:
        sockets = bind(host, port)
    except OSError as error:
        click.echo(
            f"cannot listen on {host} port {port} (server.host, server.port): "
            f"{str(error.strerror).partition(' (')[0]}; choose another with --host or --port",
            err=True,
        )
        sys.exit(1)
    server = Server(Config(create_app(settings), settings.server))
    lines = greeting(settings, sockets[0].getsockname()[1])
    tell = _log if settings.logging.format == "json" else partial(click.echo, err=True)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, sockets, lambda: tell("\n".join(lines))))


def _log(lines: str) -> None:
    """Where machines read along, each line is a message."""
    for line in lines.splitlines():
        level = logging.WARNING if line.startswith("warning") else logging.INFO
        logger.log(level, " ".join(line.split()))


async def _serve(
    server: Server, sockets: list[socket.socket], on_ready: Callable[[], None]
) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets))
        await server.ready.wait()
        on_ready()


def greeting(settings: Settings, port: int) -> list[str]:
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
        *_column("at", [f"{scheme}://{host}:{port}{server.base_path}"]),
    ]
    return [*lines, *_column("warning", list(settings.warnings()))]


def _column(label: str, values: list[str]) -> list[str]:
    return [f"{label:<8} {value}" for value in values]
