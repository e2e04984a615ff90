from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest

from dicomweb_cors_proxy.demo.ohif import (
    BUILD,
    INSTALL,
    VERSION,
    BuildError,
    create_ohif,
    find_build,
)
from tests.support import packages
from tests.support.demo import OHIF_PAGE, ohif_build
from tests.support.guides import blocks, guide

if TYPE_CHECKING:
    from pathlib import Path

PROXY = "http://localhost:8001/dicom-web"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return ohif_build(tmp_path / BUILD)


async def get(build: Path, url: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_ohif(build, PROXY))
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.get(url)


@pytest.mark.parametrize("below", ["", "one", "one/two"])
def test_find_build_without_a_folder_looks_upwards(below: str, build: Path, tmp_path: Path) -> None:
    assert find_build(None, tmp_path / below) == build


def test_find_build_takes_the_folder_that_is_named(build: Path, tmp_path: Path) -> None:
    other = ohif_build(tmp_path / "other")
    assert find_build(other, build) == other


@pytest.mark.parametrize("lacking", ["index.html", "app-config.js"])
def test_find_build_rejects_a_folder_without_a_build(lacking: str, build: Path) -> None:
    (build / lacking).unlink()
    for directory in (build, None):
        with pytest.raises(BuildError) as error:
            find_build(directory, build)
        assert all(line in str(error.value) for line in (str(build), *INSTALL))


@pytest.mark.parametrize(
    ("host", "root"),
    [
        ("localhost:8000", PROXY),
        ("127.0.0.1:8000", "http://127.0.0.1:8001/dicom-web"),
        ("pacs.example", "http://pacs.example:8001/dicom-web"),
        ("[::1]:8000", "http://[::1]:8001/dicom-web"),
    ],
)
async def test_configuration_names_the_proxy_at_the_host_of_the_page(
    host: str, root: str, build: Path
) -> None:
    response = await get(build, f"http://{host}/app-config.js")
    assert response.headers["content-type"].startswith("text/javascript")
    head, _, config = response.text.removesuffix(";\n").partition(" = ")
    assert head == "window.config"
    [source] = json.loads(config)["dataSources"]
    assert [source["configuration"][key] for key in ("qidoRoot", "wadoRoot")] == [root, root]


@pytest.mark.parametrize("path", ["", "viewer?StudyInstanceUIDs=1.2", "segmentation/archive"])
async def test_routes_of_the_script_get_the_page(path: str, build: Path) -> None:
    response = await get(build, f"http://localhost/{path}")
    assert (response.status_code, response.text) == (200, OHIF_PAGE)
    assert response.headers["cross-origin-embedder-policy"] == "require-corp"
    assert response.headers["cross-origin-opener-policy"] == "same-origin"


@pytest.mark.parametrize("path", ["lost.bundle.js", "..%2f..%2fpackage.json", "%2e%2e/secret.txt"])
async def test_other_files_are_not_found(path: str, build: Path) -> None:
    (build.parent / "secret.txt").write_text("secret")
    assert (await get(build, f"http://localhost/{path}")).status_code == 404


def test_the_version_is_that_of_the_browser_tests() -> None:
    tested = json.loads((packages.HERE / "package.json").read_text())
    assert tested["built"]["@ohif/app"] == VERSION


def test_the_guide_has_the_same_commands() -> None:
    lines = [line for block in blocks(guide("ohif"), "console") for line in block.text.splitlines()]
    assert tuple(lines[: len(INSTALL)]) == INSTALL
