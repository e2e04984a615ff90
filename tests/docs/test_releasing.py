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


def supported_versions() -> list[str]:
    """The versions of Python that the package is for, in their order."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r"Python :: (3\.\d+)", project)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow_pins_its_actions_and_grants_nothing_by_default(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in used)
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflow_names_paths_that_exist(file: Path) -> None:
    jobs = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values()
    commands = "\n".join(step.get("run", "") for job in jobs for step in job["steps"])
    named = set(re.findall(r"(?<![\w./-])(?:\.ci|requirements|tests|tools)/[\w./-]+", commands))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_ci_covers_every_supported_python() -> None:
    versions = supported_versions()
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["everything"]["strategy"]["matrix"]["python"] == versions


def test_image_has_the_newest_supported_python_and_a_release_tests_it() -> None:
    newest = supported_versions()[-1]
    assert f"ARG BASE=python:{newest}-slim\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    (used,) = (step["with"] for step in jobs["tests"]["steps"] if "python" in step.get("uses", ""))
    assert used == {"python-version": newest}
    assert all("tests" in jobs[name]["needs"] for name in ("python-package", "image"))


@pytest.mark.parametrize(
    "script", ["tools/man", "tools/release", "tools/check-distribution", "tools/sbom"]
)
def test_releasing_names_scripts_that_exist(script: str) -> None:
    assert script in (ROOT / "docs" / "releasing.md").read_text(encoding="utf-8")
    assert (ROOT / script).stat().st_mode & 0o111
