"""The command line: one file for each command."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING

import click

from dicomweb_cors_proxy import importing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands that are imported when they are looked up, so that `serve` starts without `probe`.

    Args:
        short_help: by name, for each command; it is in the module of its name. A hidden command
            has none.
    """

    def __init__(self, short_help: Mapping[str, str]) -> None:
        self.short_help = short_help
        self._commands: dict[str, click.Command | None] = dict.fromkeys(short_help)

    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if command is None:
            with importing():
                command = getattr(import_module(f"{__name__}.{name}"), name)
            command.short_help = self.short_help[name]
            self._commands[name] = command
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


class LazyGroup(click.Group):
    """A group whose help lists its commands without importing them."""

    commands: LazyCommands

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands; called by click."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(item for item in self.commands.short_help.items() if item[1]))


@click.group(
    cls=LazyGroup,
    commands=LazyCommands(
        {
            "serve": "Run the proxy.",
            "check": "Validate a configuration and ask the archive.",
            "probe": "Say what a browser lets a page do with an archive.",
            "demo": "Show the difference in a browser.",
            "schema": "Print the JSON Schema of the configuration file.",
            "healthcheck": "",
        }
    ),
    short_help="Put correct CORS in front of a DICOMweb archive.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="dicomweb-cors-proxy", prog_name="dicomweb-cors-proxy")
def main() -> None:
    """Put correct CORS in front of a DICOMweb archive."""
