"""The command that stores the demo's series."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import httpx

from dicomweb_cors_proxy.demo import sample
from tests.support.processes import Child
from tests.support.tiny_pacs import tiny_pacs

if TYPE_CHECKING:
    from pathlib import Path


def test_store_stores_the_study(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dicomweb_cors_proxy.demo.store"]
    with tiny_pacs(tmp_path) as root, Child([*command, root]) as child:
        assert child.wait() == 0, child.output
        [study] = httpx.get(f"{root}/studies").json()
    assert study["0020000D"]["Value"] == [sample.INSTANCES[0]["StudyInstanceUID"]]
