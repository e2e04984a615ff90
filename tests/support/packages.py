"""Viewers, and the driver of Firefox, that `tests/e2e/viewers/install` has brought from npm."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HERE = Path(__file__).parents[1] / "e2e" / "viewers"
FOLDER = Path(
    os.environ.get("VIEWERS_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    / "dicomweb-cors-proxy-viewers"
)
MODULES = FOLDER / "node_modules"
OHIF = FOLDER / "ohif" / "dist"


def installed() -> bool:
    """Whether all are there, in the versions of package.json."""
    complete = FOLDER / "complete"
    wanted = (HERE / "package.json").read_text(encoding="utf-8")
    return (
        shutil.which("node") is not None
        and complete.exists()
        and complete.read_text(encoding="utf-8") == wanted
    )
