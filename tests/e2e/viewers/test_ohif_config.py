"""The file that `probe --ohif` prints shows images in OHIF as it is, and fits each archive."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from dicomweb_cors_proxy.probe.app_config import app_config, data_source
from tests.support import orthanc as archives
from tests.support import packages
from tests.support.messages import ISOLATION
from tests.support.ohif import shown
from tests.support.pictures import likeness
from tests.support.proxy import fronting
from tests.support.samples import CT
from tests.support.servers import Reply
from tests.support.shims import shim
from tests.support.sites import Tree, sites
from tests.support.tabs import Chromium
from tests.support.tiny_pacs import tiny_pacs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.async_api import Browser, Page

    from tests.support.orthanc import Orthanc
    from tests.support.proxy import Proxy

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.chromium,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("from_npm"),
]

VIEWER = f"/viewer?StudyInstanceUIDs={CT.study}"
PATIENT_NAME = str(CT.dataset.PatientName).replace("^", ", ")
PATIENT_ID = str(CT.dataset.PatientID)
REJECTED = Reply(400, {"Content-Type": "text/plain"}, b"This parameter is not supported.")


def probe(root: str) -> tuple[int, str, str]:
    """Run `probe --ohif`; return its exit status, what it prints, and its report."""
    command = [sys.executable, "-m", "dicomweb_cors_proxy", "probe", root, "--ohif"]
    result = subprocess.run(
        [*command, "--origin", "http://localhost:3000"],
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    return result.returncode, result.stdout, result.stderr


def printed(root: str) -> str:
    """Return the file that `probe --ohif` prints."""
    status, file, report = probe(root)
    assert status == 0, report
    return file


def source(file: str) -> dict[str, Any]:
    """Return the settings of the data source in a configuration file."""
    config = json.loads(file[file.index("{") : file.rindex("}") + 1])
    return dict(config["dataSources"][0]["configuration"])


@contextmanager
def ohif(file: str) -> Iterator[str]:
    """Serve OHIF with this configuration file; yields its origin."""
    files = {"app-config.js": file.encode()}
    with sites({"/": Tree(packages.OHIF, ISOLATION, files, has_routes=True)}) as port:
        yield f"http://localhost:{port}"


async def shows(chromium: Browser, file: str) -> bool:
    """Return whether OHIF shows the image that was stored."""
    with ohif(file) as origin:
        async with Chromium.tab(chromium) as tab:
            await tab.page.goto(f"{origin}{VIEWER}")
            return likeness(await shown(tab, CT.dataset.Rows), CT) > 0.95


async def has_no_study(chromium: Browser, file: str) -> bool:
    """Return whether OHIF says that it cannot load the study that was stored."""
    with ohif(file) as origin:
        async with Chromium.tab(chromium) as tab:
            await tab.page.goto(f"{origin}{VIEWER}")
            await tab.page.get_by_text("studies are not available").wait_for()
            return not await tab.page.locator("canvas.cornerstone-canvas").count()


async def found(page: Page, file: str, patient_id: str) -> bool:
    """Return whether the study list finds a patient by ID."""
    with ohif(file) as origin:
        async with page.expect_response(lambda answer: "00100020=" in answer.url) as answered:
            await page.goto(f"{origin}/?mrn={patient_id}")
        answer = await answered.value
        if not answer.ok:
            return False
        await page.get_by_text(PATIENT_NAME).first.wait_for()
        return True


def serve_for_pages(serve: Callable[..., Proxy], url: str, **upstream: object) -> str:
    return serve(fronting(url, "http://localhost:*", **upstream)).url


async def test_orthanc(chromium: Browser, orthanc: Orthanc, serve: Callable[..., Proxy]) -> None:
    file = printed(serve_for_pages(serve, orthanc.url))
    assert await shows(chromium, file)
    async with Chromium.tab(chromium) as tab:
        assert await found(tab.page, file, PATIENT_ID[1:])


async def test_a_newer_orthanc(chromium: Browser, serve: Callable[..., Proxy]) -> None:
    if not archives.NEWER_INSTALLED:
        pytest.skip("needs root, and the tree that tests/e2e/install-orthanc makes")
    with archives.newer_orthanc() as archive:
        assert await shows(chromium, printed(serve_for_pages(serve, archive.url)))


async def test_an_archive_that_rejects_wildcards(
    chromium: Browser, orthanc: Orthanc, serve: Callable[..., Proxy]
) -> None:
    with shim(orthanc.url, lambda path: REJECTED if "*" in path.partition("?")[2] else None) as url:
        root = serve_for_pages(serve, url)
        file = printed(root)
        assert source(file)["supportsWildcard"] is False
        async with Chromium.tab(chromium) as tab:
            assert await found(tab.page, file, PATIENT_ID)
            assert not await found(tab.page, app_config(data_source(root, "any")), PATIENT_ID)
        assert await shows(chromium, file)


async def test_an_archive_that_rejects_includefield(
    chromium: Browser, orthanc: Orthanc, serve: Callable[..., Proxy]
) -> None:
    with shim(orthanc.url, lambda path: REJECTED if "includefield" in path else None) as url:
        root = serve_for_pages(serve, url)
        status, file, report = probe(root)
        assert source(file)["qidoSupportsIncludeField"] is False
        assert status == 1
        assert "OHIF: OHIF 3 sends includefield whatever" in report
        for each in (file, app_config(data_source(root, "any"))):
            assert await has_no_study(chromium, each)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[str]:
    """tiny_pacs with one image."""
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + CT.data + b"\r\n--b--\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    with tiny_pacs(tmp_path) as archive:
        stored = httpx.post(f"{archive}/studies", content=body, headers=headers, trust_env=False)
        stored.raise_for_status()
        yield archive


async def test_tiny_pacs_with_metadata(
    chromium: Browser, tiny: str, serve: Callable[..., Proxy]
) -> None:
    """It has neither frames nor metadata: images come by WADO-URI, and a server adds metadata."""
    dataset = dcmread(DicomBytesIO(CT.data))
    metadata = json.dumps([dataset.to_json_dict(1024, lambda _: "bulkdata/1")]).encode()
    reply = Reply(200, {"Content-Type": "application/dicom+json"}, metadata)

    def answer(path: str) -> Reply | None:
        return reply if path == f"/studies/{CT.study}/series/{CT.series}/metadata" else None

    with shim(tiny, answer) as url:
        file = printed(serve_for_pages(serve, url, wado_uri_url=f"{url}/wado"))
        assert source(file)["imageRendering"] == "wadouri"
        assert source(file)["supportsWildcard"] is False
        assert await shows(chromium, file)


async def test_tiny_pacs_alone_has_no_images_for_ohif(
    tiny: str, serve: Callable[..., Proxy]
) -> None:
    status, _, errors = probe(serve_for_pages(serve, tiny, wado_uri_url=f"{tiny}/wado"))
    assert status == 1
    assert "OHIF needs the metadata of a series, and …/metadata gets 404" in errors
