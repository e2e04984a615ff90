"""The command line: one file for each command."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands that are imported when they are looked up, so that `serve` starts without `probe`.

    Args:
        names: of the commands, each of which is in the module of its name.
    """

    def __init__(self, *names: str) -> None:
        self._commands: dict[str, click.Command | None] = dict.fromkeys(names)

    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if command is None:
            command = self._commands[name] = getattr(import_module(f"{__name__}.{name}"), name)
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


@click.group(
    commands=LazyCommands("serve", "check", "probe", "demo", "schema", "healthcheck"),
    short_help="Put correct CORS in front of a DICOMweb archive.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="dicomweb-cors-proxy", prog_name="dicomweb-cors-proxy")
def main() -> None:
    """Put correct CORS in front of a DICOMweb archive."""
