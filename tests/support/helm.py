"""Helm, which `tests/docs/install-helm` has brought."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.guides import ROOT

CHART = ROOT / "deploy" / "helm"
_FOLDER = Path(
    os.environ.get("HELM_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dicomweb-cors-proxy-helm"
)
# The package has no other build.
CAN_BE_INSTALLED = platform.machine() == "x86_64"


def program() -> str | None:
    """The path of Helm, if it is there."""
    return shutil.which("helm") or shutil.which(_FOLDER / "helm")


def helm(*arguments: str | Path, values: Any = None) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
    """Run Helm, with values on its standard input."""
    command = [str(program()), *map(str, arguments)]
    return subprocess.run(
        command if values is None else [*command, "--values", "-"],
        input=None if values is None else yaml.safe_dump(values),
        capture_output=True,
        text=True,
        check=False,
    )


def rendered(
    release: str,
    *arguments: str | Path,
    values: Any = None,  # noqa: ANN401
) -> dict[str, dict[str, Any]]:
    """The objects of a release by their kind."""
    ended = helm("template", release, CHART, *arguments, values=values)
    assert ended.returncode == 0, ended.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(ended.stdout) if each}
