"""The examples of docs/probe.md: what the command prints of real servers."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from click.testing import CliRunner

from dicomweb_cors_proxy.cli import main
from tests.support.orthanc import CREDENTIALS, orthanc
from tests.support.probing import VIEWER, nginx
from tests.support.proxy import fronting, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "probe.md"
# The mark of an output, with its name, and the output.
MARKED = re.compile(r"(<!-- probe: (.+?) -->\n```text\n)(.*?)(?=```\n)", re.DOTALL)
RECIPE = """
  proxy_set_header Host $http_host;
  if ($request_method = OPTIONS) {
    add_header Access-Control-Allow-Origin *;
    add_header Access-Control-Allow-Headers content-type;
    return 204;
  }
  add_header Access-Control-Allow-Origin *;
"""
LOGIN = ("--header", f"Authorization: {CREDENTIALS.header}")


def said(root: str, *flags: str) -> str:
    """What the command prints."""
    words = ["probe", root, "--origin", VIEWER, *flags]
    return CliRunner().invoke(main, words, catch_exceptions=False).stdout


def examples() -> Iterator[tuple[str, str]]:
    """The page's examples: their names, and what is printed."""
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory()))
        (folder / "login").mkdir()
        archive = running.enter_context(orthanc(folder))
        guarded = running.enter_context(orthanc(folder / "login", CREDENTIALS))
        recipe = running.enter_context(nginx(folder, archive.root, RECIPE))
        yield "Orthanc", said(archive.url)
        yield "nginx", said(recipe)
        yield "a login", said(guarded.url, *LOGIN)
        for name, origin in (("another origin", "https://other.example"), ("right", VIEWER)):
            proxy = running.enter_context(serving(fronting(archive.url, origin), folder))
            yield name, said(proxy.url)
