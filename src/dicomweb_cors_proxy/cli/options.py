"""The configuration options of the commands, and the output of their issues."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.config.surroundings import in_container
from dicomweb_cors_proxy.observability.log_setup import flush, print_lines
from dicomweb_cors_proxy.server.listening import ALL_INTERFACES, names_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dicomweb_cors_proxy.config.settings import Settings

CONFIGURATION = 2

config_option = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="YAML file; default: $DICOMWEB_PROXY_CONFIG, else none.",
)


def setting_option(flag: str, key: str, **attributes: Any) -> Callable[[Any], Any]:  # noqa: ANN401
    """Return a flag that sets one key; its value is checked with all others, not by click."""
    return click.option(flag, key.replace(".", "__"), **attributes)


upstream_option = setting_option(
    "--upstream", "upstream.url", metavar="URL", help="DICOMweb root of the archive."
)

origin_option = setting_option(
    "--allow-origin",
    "cors.allow_origins",
    metavar="ORIGIN",
    multiple=True,
    help="Origin of a viewer; may be given more than once.",
)


def shown_hosts(host: str) -> list[str]:
    """Return the hosts to show for an address that is listened on.

    For all interfaces these are localhost and, outside of containers, the machine's name and
    addresses. A container does not know how its ports are published.
    """
    if host not in ALL_INTERFACES:
        return [host]
    return ["localhost", *([] if in_container() else names_elsewhere(host))]


def settings_or_exit(config_file: Path | None, **flags: Any) -> Settings:  # noqa: ANN401
    """Load the configuration, or list all its problems and exit with status 2."""
    try:
        return load(config_file=config_file, flags=by_key(flags))
    except ConfigurationError as error:
        refuse(error)


def by_key(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of flags that set a key, for `load`."""
    return {name.replace("__", "."): value for name, value in flags.items()}


def refuse(error: ConfigurationError) -> NoReturn:
    """List all that is wrong and exit with status 2."""
    count = len(error.problems)
    heading = f"{count} problem{'s' * (count > 1)} in the configuration:"
    # A full disk or a closed standard error must not change the exit status.
    print_lines([heading, *(f"  - {problem}" for problem in error.problems)])
    flush()
    sys.exit(CONFIGURATION)
