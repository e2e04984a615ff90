"""`schema`: print the JSON Schema of the configuration file."""

from __future__ import annotations

import json

import click

from dicomweb_cors_proxy.config.json_schema import json_schema


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file.

    Editors complete and check a file whose first line names the schema:
    # yaml-language-server: $schema=FILE
    """
    click.echo(json.dumps(json_schema(), indent=2))
