"""The command line: one file for each command."""

from __future__ import annotations

import click

from dicomweb_cors_proxy.cli.check import check
from dicomweb_cors_proxy.cli.demo import demo
from dicomweb_cors_proxy.cli.healthcheck import healthcheck
from dicomweb_cors_proxy.cli.probe import probe
from dicomweb_cors_proxy.cli.schema import schema
from dicomweb_cors_proxy.cli.serve import serve


@click.group(
    short_help="Put correct CORS in front of a DICOMweb archive.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="dicomweb-cors-proxy", prog_name="dicomweb-cors-proxy")
def main() -> None:
    """Put correct CORS in front of a DICOMweb archive."""


main.add_command(serve)
main.add_command(check)
main.add_command(probe)
main.add_command(demo)
main.add_command(schema)
main.add_command(healthcheck)
