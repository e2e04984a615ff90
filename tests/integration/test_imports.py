"""What importing the package does, and what it leaves for later."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK_UP_SERVE = "from dicomweb_cors_proxy.cli import main; main.commands['serve']"


def printed(code: str) -> str:
    """What a new process prints that runs `code`."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_serve_imports_no_other_command() -> None:
    code = f"{LOOK_UP_SERVE}; import sys; print(*sorted(sys.modules), sep='\\n')"
    modules = printed(code).splitlines()
    assert "dicomweb_cors_proxy.cli.serve" in modules
    others = [f"dicomweb_cors_proxy.{name}" for name in ("probe", "demo", "cli.probe", "cli.demo")]
    assert not {"httpcore", *others}.intersection(modules)


@pytest.mark.parametrize(("change", "expected"), [("enable", "True"), ("disable", "False")])
def test_the_import_leaves_the_collector_as_it_is(change: str, expected: str) -> None:
    code = f"import gc; gc.{change}(); import dicomweb_cors_proxy; print(gc.isenabled())"
    assert printed(code) == expected


def test_what_is_frozen_stays_frozen() -> None:
    code = "import gc; gc.freeze(); import dicomweb_cors_proxy; print(gc.get_freeze_count() > 0)"
    assert printed(code) == "True"
