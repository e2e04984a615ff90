from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.guides import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# Parses whenever it is collected, as logging the traceback of a failed task does.
FAILS = """
import ast, gc

class Leftover:
    def __init__(self):
        self.me = self

    def __del__(self):
        ast.parse("a + b")
        Leftover()

def test_fails():
    Leftover()
    gc.set_threshold(5000, 1000, 1000)
    assert 1 == 2
"""


def test_failure_is_reported_although_garbage_is_collected(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FAILS + "x = [1, 2, 3]\n" * 3000)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest"]
    ended = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", tmp_path, "test_it.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "assert 1 == 2" in ended.stdout
    assert ended.returncode == 1
