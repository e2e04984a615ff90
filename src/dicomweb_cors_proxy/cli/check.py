"""`check`: validate the configuration, show it, and ask the archive."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from dicomweb_cors_proxy.cli.options import config_option, settings_or_exit
from dicomweb_cors_proxy.proxy.reverse_proxy import InFlight
from dicomweb_cors_proxy.wiring import Pipeline, create_upstream, create_verifier

if TYPE_CHECKING:
    from pathlib import Path

    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.proxy.readiness import ServiceStatus

NOT_FOUND = 404

# Seconds before a line says that the check is still waiting.
SOON = 2.0


@click.command(short_help="Validate a configuration and ask the archive.")
@config_option
@click.option("--offline", is_flag=True, help="Don't ask the archive.")
def check(config_file: Path | None, *, offline: bool) -> None:
    """Say what `serve` would do with this configuration.

    Prints every setting and where it comes from, the warnings, and whether archive and identity
    provider respond. Exit status: 0, 1 if one of them does not respond or the archive refuses our
    credentials, 2 for a configuration problem.
    """
    settings = settings_or_exit(config_file)
    effective = settings.effective()
    width = max(len(setting.key) for setting in effective)
    for setting in effective:
        click.echo(f"{setting.key:<{width}}  {setting.value}  ({setting.source})")
    for warning in settings.warnings():
        click.echo(f"warning: {warning}")
    if offline:
        return
    failed = not asyncio.run(_keys_available(settings))
    for service in asyncio.run(_statuses(settings)):
        if service.problem:
            failed = True
            click.echo(f"{service.url}: {service.problem}", err=True)
        else:
            doubt = "; that is no proof of the URL" if _is_doubtful(service.status) else ""
            click.echo(f"{service.url}: answers ({service.status}{doubt})")
    sys.exit(1 if failed else 0)


def _is_doubtful(status: int | None) -> bool:
    """Return whether the status of a root may be that of another place.

    It is 404 at many archives, and at any wrong path; a redirect may lead to a login or to https,
    and 400 is what servers with TLS say to http.
    """
    return status is not None and (300 <= status <= 400 or status == NOT_FOUND)


async def _keys_available(settings: Settings) -> bool:
    """Ask the identity provider for its keys; return False if a token could not be verified."""
    verifier = create_verifier(settings)
    if verifier is None:
        return True
    from dicomweb_cors_proxy.tokens.provider import ProviderProblem  # noqa: PLC0415  (PyJWT)

    provider = verifier.keys.provider
    try:
        keys = await provider.fetch_keys()
    except ProviderProblem as problem:
        click.echo(f"{provider.origin}: {problem}", err=True)
        return False
    usable = [key for key in keys if key.algorithms & set(settings.access.auth.algorithms)]
    if not usable:
        others = ", ".join(sorted({name for key in keys for name in key.algorithms}))
        reason = f"its keys are for {others}. Add what it signs with to access.auth.algorithms."
        click.echo(f"{provider.origin}: {reason}", err=True)
        return False
    click.echo(f"{provider.origin}: has {len(usable)} keys for access tokens")
    return True


async def _statuses(settings: Settings) -> list[ServiceStatus]:
    upstream = create_upstream(settings.upstream)
    archive = Pipeline(settings, upstream, InFlight()).archive
    try:
        asking = asyncio.create_task(archive.check_all())
        if not (await asyncio.wait([asking], timeout=SOON))[0]:
            timeouts = archive.timeouts
            click.echo(
                f"The archive has not answered yet; it has {timeouts.connect:g} s for the "
                f"connection and {timeouts.read:g} s for the answer.",
                err=True,
            )
        return await asking
    finally:
        await upstream.aclose()
