"""The manual pages that a release has."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.cli import main
from tests.support.guides import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# click-man leaves its own help option with the commands, so it runs in a process of its own.
SCRIPT = """
import runpy, sys, pathlib
tool = runpy.run_path(sys.argv[1])
tool["write_pages"](pathlib.Path(sys.argv[2]), sys.argv[3])
"""


def write(folder: Path, version: str) -> list[Path]:
    """Write the pages for a version."""
    tool = str(ROOT / "tools" / "man")
    subprocess.run([sys.executable, "-c", SCRIPT, tool, str(folder), version], check=True)
    return sorted(folder.iterdir())


def test_every_command_has_a_page_with_its_options(tmp_path: Path) -> None:
    pages = {page.name: page.read_text(encoding="ascii") for page in write(tmp_path, "1.2.3")}
    shown = {name: command for name, command in main.commands.items() if not command.hidden}
    names = {f"dicomweb-cors-proxy-{name}.1": command for name, command in shown.items()}
    assert pages.keys() == {"dicomweb-cors-proxy.1", *names}
    assert "healthcheck" not in pages["dicomweb-cors-proxy.1"]
    for name, command in names.items():
        for option in command.params:
            for flag in option.opts:
                if flag.startswith("--"):
                    assert flag.replace("-", r"\-") in pages[name]


def test_pages_have_the_version_and_no_line_that_roff_misreads(tmp_path: Path) -> None:
    for page in write(tmp_path, "1.2.3"):
        text = page.read_text(encoding="ascii")
        assert '"1.2.3"' in text.partition("\n")[0]
        assert not any(line.startswith("'") for line in text.splitlines())
