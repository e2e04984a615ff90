"""`check`: validate the configuration, ask the archive what a viewer would, and show both."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from dicomweb_cors_proxy.cli.options import (
    config_option,
    origin_option,
    settings_or_exit,
    upstream_option,
)
from dicomweb_cors_proxy.proxy.reverse_proxy import InFlight
from dicomweb_cors_proxy.wiring import Pipeline, create_upstream, create_verifier

if TYPE_CHECKING:
    from pathlib import Path

    from dicomweb_cors_proxy.config.settings import Settings
    from dicomweb_cors_proxy.proxy.archive_check import Verdict

FAILED = 1

# Seconds before a line says that the check is still waiting.
SOON = 2.0


@click.command()
@config_option
@upstream_option
@origin_option
@click.option("--offline", is_flag=True, help="Don't ask the archive.")
@click.option("--all", "shows_all", is_flag=True, help="Show every setting, defaults too.")
def check(config_file: Path | None, *, offline: bool, shows_all: bool, **flags: Any) -> None:  # noqa: ANN401
    """Say whether `serve` would work with this configuration.

    Searches the archive for one study, as a viewer does, and drops the response. Prints the result,
    then the warnings, then the settings that differ from the defaults and where they come from.
    With access.auth it also asks the identity provider for its keys.

    Exit status: 0; 1 if the archive cannot be reached, is not at this path or needs another login,
    or if tokens could not be verified; 2 for a configuration problem.
    """
    settings = settings_or_exit(config_file, **flags)
    verdicts = [] if offline else asyncio.run(_verdicts(settings))
    for verdict in verdicts:
        click.echo("\n".join(verdict.lines))
    is_good = all(verdict.is_good for verdict in verdicts)
    if not offline:
        is_good &= asyncio.run(_keys_available(settings))
    for warning in settings.warnings():
        click.echo(f"warning: {warning}")
    shown = [each for each in settings.effective() if shows_all or not each.is_default]
    width = max((len(setting.key) for setting in shown), default=0)
    for setting in shown:
        click.echo(f"{setting.key:<{width}}  {setting.value}  ({setting.source})")
    sys.exit(0 if is_good else FAILED)


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


async def _verdicts(settings: Settings) -> list[Verdict]:
    upstream = create_upstream(settings.upstream)
    archive = Pipeline(settings, upstream, InFlight()).archive_check
    try:
        asking = asyncio.create_task(archive.check_all())
        if not (await asyncio.wait([asking], timeout=SOON))[0]:
            timeouts = archive.timeouts
            click.echo(
                f"The archive has not responded yet; it has {timeouts.connect:g} s for the "
                f"connection and {timeouts.read:g} s for the response.",
                err=True,
            )
        return await asking
    finally:
        await upstream.aclose()
