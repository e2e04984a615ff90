"""The map in docs/architecture.md matches the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_layers import LAYERS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "dicomweb_cors_proxy"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

FILES = sorted(set(re.findall(r"(?<![\w/.])([a-z_]+(?:/[a-z_0-9]+)*\.py)\b", PAGE)))
# Parts of the package that the map leaves out, because they only start or export others.
UNMAPPED = {"__init__", "__main__"}


def test_the_page_names_files() -> None:
    assert len(FILES) > 40


@pytest.mark.parametrize("name", FILES)
def test_a_file_on_the_page_exists(name: str) -> None:
    root = ROOT if name.startswith(("tests/", "tools/")) else SOURCE
    assert (root / name).is_file()


def test_every_module_of_the_core_is_in_the_reading_order() -> None:
    section = PAGE.partition("## Reading order")[2].partition("\n## ")[0]
    core = {f"proxy/{path.name}" for path in (SOURCE / "proxy").glob("[!_]*.py")}
    assert core <= set(re.findall(r"`(proxy/\w+\.py)`", section))


def test_the_layers_on_the_page_are_those_of_the_rule() -> None:
    drawing = PAGE.partition("<!-- layers:begin -->")[2].partition("<!-- layers:end -->")[0]
    rows = [
        set(re.split(r"  +", line)[0].split(", "))
        for line in drawing.splitlines()
        if line and not line.startswith("```")
    ]
    assert rows == [layer - UNMAPPED for layer in LAYERS if layer - UNMAPPED]
