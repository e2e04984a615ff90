"""`healthcheck`: what the container image's HEALTHCHECK runs."""

from __future__ import annotations

import sys
from itertools import dropwhile
from pathlib import Path

import click
import httpx

from dicomweb_cors_proxy.cli.configuration import by_key
from dicomweb_cors_proxy.cli.demo import demo
from dicomweb_cors_proxy.cli.serve import serve
from dicomweb_cors_proxy.config import ConfigurationError, load

_COMMAND = "dicomweb-cors-proxy"
_ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104
_TIMEOUT = 4.0  # seconds


@click.command(hidden=True)
@click.option("--pid", default=1, show_default=True, help="Process of the `serve` that is meant.")
def healthcheck(pid: int) -> None:
    """Ask the proxy in this container for /healthz, at the port and by the TLS it is set to.

    The flags of `serve` count as well: they are read off the container's first process.

    Exit status: 0 if it serves, else 1.
    """
    try:
        url = f"{_origin(_arguments(pid))}/healthz"
        # Whom the certificate names is the clients' concern: a check from within asks for a pulse.
        httpx.get(url, verify=False, trust_env=False, timeout=_TIMEOUT).raise_for_status()  # noqa: S501
    except (ConfigurationError, OSError, httpx.HTTPError) as error:
        click.echo(error, err=True)
        sys.exit(1)


def _arguments(pid: int) -> list[str]:
    """Command and flags that the proxy was started with, be it under another first process."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    return list(dropwhile(lambda word: Path(word).name != _COMMAND, words))[1:]


def _origin(arguments: list[str]) -> str:
    """Where the proxy is reached from within."""
    if arguments[:1] == ["demo"]:
        flags = demo.make_context("demo", arguments[1:]).params
        return _url("http", flags["host"], flags["port"] + 1)
    flags = serve.make_context("serve", arguments[1:]).params
    is_self_signed = flags.pop("tls_self_signed")
    server = load(config_file=flags.pop("config_file"), flags=by_key(flags)).server
    is_tls = is_self_signed or server.tls_cert_file is not None
    return _url("https" if is_tls else "http", server.host, server.port)


def _url(scheme: str, host: str, port: int) -> str:
    if host in _ALL_INTERFACES:
        host = "localhost"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
