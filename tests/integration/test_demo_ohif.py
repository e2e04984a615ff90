"""The demo with a build of OHIF."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from tests.support.demo import OHIF_PAGE, command, demo, ohif_build
from tests.support.processes import Child

if TYPE_CHECKING:
    from pathlib import Path


def test_the_command_finds_the_build_that_is_named(tmp_path: Path) -> None:
    build = ohif_build(tmp_path / "build")
    with demo("--ohif", str(build)) as running:
        assert httpx.get(running.page).text == OHIF_PAGE
        assert f'"{running.proxy}"' in httpx.get(f"{running.page}/app-config.js").text


def test_the_command_without_a_build_says_how_to_get_one(tmp_path: Path) -> None:
    with Child(command("--ohif", str(tmp_path))) as child:
        assert child.wait() == 2
    assert "npm pack" in child.output
    assert "Traceback" not in child.output
