"""`serve`: run the proxy."""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dicomweb_cors_proxy.cli.options import (
    by_key,
    config_option,
    origin_option,
    refuse,
    setting_option,
    shown_hosts,
    upstream_option,
)
from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.observability.log_setup import flush, print_lines, setup_logging
from dicomweb_cors_proxy.observability.log_writer import occupy_standard_descriptors
from dicomweb_cors_proxy.operations.certificates import Certificates
from dicomweb_cors_proxy.operations.descriptors import descriptor_warning
from dicomweb_cors_proxy.operations.live_settings import LiveSettings
from dicomweb_cors_proxy.operations.memory import tune_allocator
from dicomweb_cors_proxy.operations.missing import missing_features
from dicomweb_cors_proxy.operations.process import ServeError, serve_alone, serve_with_workers
from dicomweb_cors_proxy.operations.settings_source import SELF_SIGNED, SettingsSource
from dicomweb_cors_proxy.server.listening import bind, handling_signals, lift_descriptor_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.proxy.archive_check import Verdict

logger = logging.getLogger(__name__)

FAILED = 1


@click.command()
@config_option
@upstream_option
@origin_option
@setting_option("--host", "server.host", metavar="HOST", help="Address to listen on.")
@setting_option("--port", "server.port", metavar="PORT", help="Port to listen on.")
@setting_option("--workers", "server.workers", metavar="N", help="Processes that serve.")
@setting_option(
    "--tls-cert",
    "server.tls_cert_file",
    metavar="FILE",
    help="Certificate, PEM.",
    type=click.Path(),
)
@setting_option(
    "--tls-key",
    "server.tls_key_file",
    metavar="FILE",
    help="Its private key, PEM.",
    type=click.Path(),
)
@click.option(
    SELF_SIGNED,
    is_flag=True,
    help="For trying out: serve over TLS with a certificate made here, and kept.",
)
def serve(config_file: Path | None, *, tls_self_signed: bool, **flags: Any) -> None:  # noqa: ANN401
    """Run the proxy until SIGTERM or SIGINT; without a terminal, SIGHUP reloads.

    Exit status: 0 when told to stop, 1 if it can't listen or run, 2 for a configuration problem.
    """
    source = SettingsSource(config_file, by_key(flags), is_self_signed=tls_self_signed)
    # Told to stop before it serves, or once it has ended, it has nothing to finish.
    with handling_signals(sys.exit, None):
        _serve(source)


def _serve(source: SettingsSource) -> None:
    occupy_standard_descriptors()
    try:
        settings = source.load()
    except ConfigurationError as error:
        refuse(error)
    server = settings.server
    setup_logging(settings.logging.level, settings.logging.format)
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
        certificates = Certificates(server.tls_cert_file, server.tls_key_file, http2=server.http2)
    lines = greeting(settings, sockets[0].getsockname()[1], source.fingerprint)
    lines += _column("without", list(missing_features()))
    if warning := descriptor_warning(settings):
        lines += _column("warning", [warning])
    tell = _log if settings.logging.format == "json" else print_lines
    on_ready = partial(tell, lines)

    def on_checked(verdicts: Sequence[Verdict]) -> None:
        tell(verdict_lines(verdicts))

    configuration = LiveSettings(settings, source.load)
    if server.workers == 1:
        serve_alone(configuration, sockets, certificates, on_ready, on_checked)
    else:
        try:
            status = serve_with_workers(configuration, sockets, certificates, on_ready, on_checked)
        except ServeError as error:
            _fail(str(error))
        sys.exit(status)


def _fail(sentence: str) -> NoReturn:
    print_lines([sentence])
    flush()
    sys.exit(FAILED)


def _log(lines: Iterable[str]) -> None:
    """Log each line as a message, for logs that programs read."""
    for line in lines:
        level = logging.WARNING if line.startswith("warning") else logging.INFO
        logger.log(level, " ".join(line.split()))


def greeting(settings: Settings, port: int, fingerprint: str = "") -> list[str]:
    """Return the archive, the allowed origins, the URL and the warnings, as lines."""
    server = settings.server
    hosts = [f"[{host}]" if ":" in host else host for host in shown_hosts(server.host)]
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
        *_column("at", [f"{scheme}://{host}:{port}{server.base_path}" for host in hosts]),
        *_column("tls", [f"self-signed, SHA-256 {fingerprint}"] if fingerprint else []),
    ]
    return [*lines, *_column("warning", list(settings.warnings()))]


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what the check of the archive found, as lines."""
    lines: list[str] = []
    for verdict in verdicts:
        first, *others = verdict.lines
        lines += _column("check" if verdict.is_good else "warning", [first])
        lines += _column("warning", others)
    return lines


def _column(label: str, values: list[str]) -> list[str]:
    return [f"{label:<8} {value}" for value in values]
