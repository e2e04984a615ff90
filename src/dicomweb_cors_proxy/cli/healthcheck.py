"""`healthcheck`: the command of the container image's HEALTHCHECK."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
import httpx

from dicomweb_cors_proxy.cli.options import config_option
from dicomweb_cors_proxy.config.loading import unchecked_values
from dicomweb_cors_proxy.server.listening import ALL_INTERFACES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TIMEOUT_SECONDS = 4.0


@click.command(hidden=True)
@config_option
@click.option("--url", metavar="URL", help="Root of the proxy, if it was started with flags.")
def healthcheck(config_file: Path | None, url: str | None) -> None:
    """Ask the proxy in this container for /healthz.

    Exit status: 0 if it serves, else 1.
    """
    # Unchecked, because a proxy that has rejected a changed configuration still serves.
    health = f"{url or _root_url(unchecked_values(config_file))}/healthz"
    try:
        # The name in the certificate is that of the public host, not of this machine.
        response = httpx.get(health, verify=False, trust_env=False, timeout=_TIMEOUT_SECONDS)  # noqa: S501
        response.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        click.echo(f"{health}: {error}", err=True)
        sys.exit(1)


def _root_url(values: Mapping[str, object]) -> str:
    scheme = "https" if values["server.tls_cert_file"] else "http"
    host = str(values["server.host"])
    if host in ALL_INTERFACES:
        host = "localhost"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{values['server.port']}"
