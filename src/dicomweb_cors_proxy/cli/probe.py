"""`probe`: why a page can't read an archive, and which setting lets it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from dicomweb_cors_proxy.cors.origins import OriginPattern
from dicomweb_cors_proxy.cors.problems import PolicyError
from dicomweb_cors_proxy.probe.checks import run_checks
from dicomweb_cors_proxy.probe.client import MAX_SECONDS, ProbeClient
from dicomweb_cors_proxy.probe.findings import Target
from dicomweb_cors_proxy.probe.network import OutOfTimeError
from dicomweb_cors_proxy.probe.ohif import adapt
from dicomweb_cors_proxy.probe.origins import origin_of
from dicomweb_cors_proxy.probe.report import Text, as_json
from dicomweb_cors_proxy.probe.safelists import is_forbidden
from dicomweb_cors_proxy.probe.session import ProbeSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dicomweb_cors_proxy.probe.responses import Headers

_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")


class _Root(click.ParamType[str]):
    name = "URL"

    def convert(self, value: str, *_: object) -> str:
        try:
            parts = urlsplit(value)
            origin_of(value)
        except ValueError:
            parts = None
        # None of the messages repeats what could be a password.
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            self.fail("The URL must be a DICOMweb root such as https://pacs.example/dicom-web.")
        if parts.username is not None or parts.password is not None:
            self.fail(
                "The URL has a user name in it, which browsers refuse. Leave it out; a login goes "
                "into --header 'Authorization: …'."
            )
        if parts.query or parts.fragment or "?" in value or "#" in value:
            self.fail("The URL is a DICOMweb root: leave out what follows ? or #.")
        if not value.isascii() or not value.isprintable() or " " in value:
            self.fail(
                "The URL has characters that must be percent-encoded, or a host for punycode."
            )
        return value.rstrip("/")


class _Origin(click.ParamType[str]):
    name = "ORIGIN"

    def convert(self, value: str, *_: object) -> str:
        if value == "null":
            return value
        if value == "*":
            self.fail(
                "'*' is no page's origin; write the viewer's, such as https://viewer.example."
            )
        try:
            pattern = OriginPattern.parse(value)
        except PolicyError as error:
            self.fail(
                "; ".join(f"{problem.value!r} {problem.reason}" for problem in error.problems)
            )
        if pattern.has_wildcard:
            self.fail(f"{value!r} is a pattern; write the origin of one page.")
        return value


class _Header(click.ParamType[tuple[str, str]]):
    name = "'Name: value'"

    def convert(self, value: str | tuple[str, str], *_: object) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        match = _HEADER.fullmatch(value)
        if match is None:
            # Without the value: it may be a token.
            self.fail("A header is written 'Name: value', in ASCII or Latin-1.")
        return match[1], match[2].rstrip(" \t")


@click.command()
@click.argument("root", metavar="URL", type=_Root())
@click.option(
    "--origin",
    required=True,
    type=_Origin(),
    help="Origin of the viewer's page, such as https://viewer.example.",
)
@click.option("--credentials", is_flag=True, help='As fetch does with credentials: "include".')
@click.option(
    "--header",
    "headers",
    multiple=True,
    type=_Header(),
    help="Header that the page sets, such as 'Authorization: Bearer …'; may be repeated.",
)
@click.option("--write", is_flag=True, help="Also send a store, with an empty body.")
@click.option("--json", "for_scripts", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--ohif",
    "for_ohif",
    is_flag=True,
    help="Print OHIF's app-config.js for this archive; the report goes to standard error.",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Authorities to trust beside the system's, PEM.",
)
@click.option("--insecure", is_flag=True, help="Don't check the server's certificate.")
@click.option(
    "--timeout",
    "max_seconds",
    metavar="SECONDS",
    type=click.IntRange(1, 3600),
    default=MAX_SECONDS,
    show_default=True,
    help="Stop after this time, and report what was found until then.",
)
@click.option(
    "--follow-private-redirects",
    "follow_private",
    is_flag=True,
    help="Follow redirects from a public server to a private network or this machine.",
)
def probe(  # noqa: PLR0913  (one a flag)
    root: str,
    origin: str,
    *,
    credentials: bool,
    headers: Headers,
    write: bool,
    for_scripts: bool,
    for_ohif: bool,
    ca_file: Path | None,
    insecure: bool,
    max_seconds: int,
    follow_private: bool,
) -> None:
    """Say what a page on ORIGIN can do with the DICOMweb root URL, why not, and what helps.

    Asks as a browser does, and judges the responses by the Fetch standard. Nothing is stored
    without --write, and nothing that tells of a patient is printed.

    Exit status: 0 if all passes; 1 if a browser would block something, no DICOMweb is there, or the
    time was up; 2 for wrong usage.
    """
    if for_scripts and for_ohif:
        raise click.UsageError("--json and --ohif both print to standard output; choose one.")
    cookie = _cookie(headers, credentials=credentials)
    target = Target(
        root,
        origin,
        credentials=credentials,
        headers=tuple(header for header in headers if header[0].lower() != "cookie"),
        cookie=cookie,
        write=write,
        verify=not insecure,
    )
    try:
        client = ProbeClient(
            ca_file=ca_file,
            verify=not insecure,
            max_seconds=max_seconds,
            follow_private=follow_private,
        )
    except OSError:
        raise click.BadParameter(
            f"{ca_file} has no certificate in PEM. Name a file that does.", param_hint="--ca-file"
        ) from None
    with client:
        session = ProbeSession(target, client)
        if for_scripts:
            report = run_checks(session, client)
            click.echo(json.dumps(as_json(report), indent=2, ensure_ascii=False))
        else:
            text = Text(target)
            _echo(text.heading(), err=for_ohif)
            report = run_checks(
                session, client, lambda finding: _echo(text.finding(finding), err=for_ohif)
            )
            _echo(text.ending(report), err=for_ohif)
        is_usable = not report.is_blocked
        if for_ohif and is_usable:
            is_usable = _print_ohif(session)
    sys.exit(0 if is_usable else 1)


def _print_ohif(session: ProbeSession) -> bool:
    """Print OHIF's configuration file; return whether OHIF can show images with it."""
    try:
        adaptation = adapt(session)
    except OutOfTimeError:
        click.echo("The time was up before OHIF's keys were found: raise --timeout.", err=True)
        return False
    click.echo(adaptation.file(), nl=False)
    for fault in adaptation.faults:
        click.echo(f"OHIF: {fault}", err=True)
    return not adaptation.faults


def _cookie(headers: Headers, *, credentials: bool) -> str | None:
    """Pick the Cookie out, and refuse what no page can set."""
    for name, _ in headers:
        if name.lower() == "cookie":
            if not credentials:
                raise click.BadParameter(
                    "Browsers send cookies only with credentials; add --credentials.",
                    param_hint="--header",
                )
        elif is_forbidden(name):
            raise click.BadParameter(
                f"Browsers do not let a page set {name}; leave it out.", param_hint="--header"
            )
    return "; ".join(value for name, value in headers if name.lower() == "cookie") or None


def _echo(lines: Iterable[str], *, err: bool) -> None:
    # no-color.org: any value but the empty one; else click looks whether it is a terminal.
    colour = False if os.environ.get("NO_COLOR") else None
    for line in lines:
        click.echo(line, err=err, color=colour)
