"""`demo`: show what the proxy does, with nothing else installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from dicomweb_cors_proxy.cli.options import CONFIGURATION, shown_hosts
from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.observability.log_setup import setup_logging

if TYPE_CHECKING:
    from dicomweb_cors_proxy.demo.servers import Demo

LAST_PORT = 65533  # leaves two for the proxy and the archive
_FIND: Final = ""  # value of --ohif without a folder


@click.command()
@click.option("--host", default="localhost", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, LAST_PORT),
    default=8000,
    show_default=True,
    help="Port of the page; the proxy has the next, the archive the one after that.",
)
@click.option(
    "--ohif",
    metavar="[DIR]",
    is_flag=False,
    flag_value=_FIND,
    help="Serve the built OHIF in DIR instead of the page; default: the one in node_modules.",
)
def demo(host: str, port: int, ohif: str | None) -> None:
    """Show a sample archive without CORS, the proxy in front of it, and a page that asks both.

    Exit status: 0 when told to stop, 1 if it can't listen, 2 without the OHIF of --ohif.
    """
    # These take long to import.
    from dicomweb_cors_proxy.demo.ohif import BuildError, find_build  # noqa: PLC0415
    from dicomweb_cors_proxy.demo.servers import Demo, ListenError  # noqa: PLC0415

    setup_logging("warning")
    try:
        build = None
        if ohif is not None:
            build = find_build(None if ohif == _FIND else Path(ohif), Path.cwd())
        demo_servers = Demo(host, port, build)
        demo_servers.run(on_start=lambda: click.echo("\n".join(greeting(demo_servers))))
    except BuildError as error:
        raise click.BadParameter(str(error), param_hint="--ohif") from None
    except ListenError as error:
        click.echo(error, err=True)
        sys.exit(1)
    except ConfigurationError as error:
        click.echo(error, err=True)
        sys.exit(CONFIGURATION)


def greeting(demo_servers: Demo) -> list[str]:
    """Return the lines that say what to open, and what runs where."""
    elsewhere = [demo_servers.page_at(host) for host in shown_hosts(demo_servers.host)[1:]]
    return [
        f"Open {demo_servers.page} (Ctrl+C ends the demo)",
        *([f"  from elsewhere: {', '.join(elsewhere)}"] if elsewhere else []),
        f"  archive  {demo_servers.archive}  sends no CORS headers",
        f"  proxy    {demo_servers.proxy}  in front of it, allows that page",
    ]
