"""The script that checks a release before it is tagged."""

from __future__ import annotations

import re
import runpy
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.guides import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOTES: Callable[[str, str, str], str] = runpy.run_path(str(ROOT / "tools" / "release"))["notes"]
CHANGELOG = (
    "# Changelog\n\n## 1.2.3 (2027-01-31)\n\n### Added\n\n- A.\n\n## 1.2.2 (2027-01-01)\n\n- B.\n"
)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_release_prints_the_section_of_its_version() -> None:
    assert NOTES("v1.2.3", "1.2.3", CHANGELOG) == "### Added\n\n- A.\n"


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "fault"),
    [
        ("1.2.3", "1.2.3", CHANGELOG, "use v1.2.3"),
        ("v1.2.4", "1.2.3", CHANGELOG, "use v1.2.3"),
        ("v1.2.4", "1.2.4", CHANGELOG, r"write '1.2.4 \(YYYY-MM-DD\)'"),
        ("v1.2.3", "1.2.3", CHANGELOG.replace("2027-01-31", "unreleased"), "YYYY-MM-DD"),
        ("v1.2.3", "1.2.3", "# Changelog\n", "first section of CHANGELOG.md is ''"),
    ],
)
def test_release_names_what_does_not_agree(
    tag: str, version: str, changelog: str, fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        NOTES(tag, version, changelog)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow_pins_its_actions_and_grants_nothing_by_default(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_ci_covers_every_supported_python() -> None:
    versions = re.findall(
        r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["everything"]["strategy"]["matrix"]["python"] == versions


@pytest.mark.parametrize("script", ["tools/release", "tools/check-distribution", "tools/sbom"])
def test_releasing_names_scripts_that_exist(script: str) -> None:
    assert script in (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    assert (ROOT / script).stat().st_mode & 0o111
