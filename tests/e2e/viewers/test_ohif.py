"""The OHIF viewer, as npm has it built, reads a real archive through the proxy."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support import orthanc as archives
from tests.support import packages
from tests.support.messages import ISOLATION
from tests.support.pictures import likeness
from tests.support.proxy import fronting
from tests.support.samples import CT, REPORT
from tests.support.sites import Tree, sites
from tests.support.tabs import Chromium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.async_api import Browser

    from tests.support.proxy import Proxy
    from tests.support.tabs import Tab

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("from_npm"),
]


@pytest.fixture
def proxy(either_proxy: Proxy) -> Proxy:
    return either_proxy


def app_config(root: str, rendering: str, *, omit_quotes: bool) -> bytes:
    """OHIF's settings: the README's, and quiet ones for what no test needs."""
    source = {
        "friendlyName": "PACS",
        "name": "pacs",
        "qidoRoot": root,
        "wadoRoot": root,
        "wadoUriRoot": f"{root}/wado",
        "imageRendering": rendering,
        "thumbnailRendering": rendering,
        "omitQuotationForMultipartRequest": omit_quotes,
        "bulkDataURI": {"enabled": True},
    }
    config = {
        "routerBasename": "/",
        "extensions": [],
        "modes": [],
        "showStudyList": True,
        "useCPURendering": True,
        "showCPUFallbackMessage": False,
        "investigationalUseDialog": {"option": "never"},
        "defaultDataSourceName": "pacs",
        "dataSources": [
            {
                "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                "sourceName": "pacs",
                "configuration": source,
            }
        ],
    }
    return f"window.config = {json.dumps(config)};".encode()


@contextmanager
def ohif(proxy: Proxy, rendering: str, *, omit_quotes: bool = True) -> Iterator[str]:
    """A site of OHIF, whose images come by `wadors` or `wadouri`; yields its origin.

    It is isolated, as OHIF asks for where volumes are shared between its workers.
    """
    pixels = (packages.HERE / "pages" / "pixels.js").read_bytes()
    files = {"app-config.js": app_config(proxy.url, rendering, omit_quotes=omit_quotes) + pixels}
    with sites({"/": Tree(packages.OHIF, ISOLATION, files, has_routes=True)}) as port:
        yield f"http://localhost:{port}"


async def shown(tab: Tab, side: int) -> list[int]:
    """The grey values of the image on the canvas, once there is one."""
    greys: list[int] = await tab.evaluate(
        f"""until(() => {{
          const canvas = document.querySelector("canvas.cornerstone-canvas");
          return canvas && greys(canvas, {side});
        }})"""
    )
    return greys


async def test_the_study_list_and_an_image(tab: Tab, proxy: Proxy) -> None:
    with ohif(proxy, "wadors") as origin:
        await tab.open(f"{origin}/")
        for name in ("CompressedSamples, CT1", "Sample, Report"):
            assert await tab.evaluate(f"until(() => document.body.innerText.includes({name!r}))")
        await tab.open(f"{origin}/viewer?StudyInstanceUIDs={CT.study}")
        assert likeness(await shown(tab, CT.dataset.Rows), CT) > 0.95
        assert await tab.evaluate("crossOriginIsolated")
    assert "instances/{instance}/frames/{frames}" in proxy.child.output


@pytest.mark.chromium
async def test_an_image_of_a_newer_archive(chromium: Browser, serve: Callable[..., Proxy]) -> None:
    if not archives.NEWER_INSTALLED:
        pytest.skip("needs root, and the tree that tests/e2e/install-orthanc makes")
    with archives.newer_orthanc() as archive:
        proxy = serve(fronting(archive.url, "http://localhost:*"))
        with ohif(proxy, "wadors") as origin:
            async with Chromium.tab(chromium) as tab:
                await tab.open(f"{origin}/viewer?StudyInstanceUIDs={CT.study}")
                assert likeness(await shown(tab, CT.dataset.Rows), CT) > 0.95


async def test_an_image_by_wado_uri(tab: Tab, proxy: Proxy) -> None:
    with ohif(proxy, "wadouri") as origin:
        await tab.open(f"{origin}/viewer?StudyInstanceUIDs={CT.study}")
        assert likeness(await shown(tab, CT.dataset.Rows), CT) > 0.95
    assert re.search(rf"\bwado\b.*{origin}\b", proxy.child.output)


async def test_a_pdf(tab: Tab, proxy: Proxy) -> None:
    with ohif(proxy, "wadors") as origin:
        await tab.open(f"{origin}/viewer?StudyInstanceUIDs={REPORT.study}")
        document = await tab.evaluate(
            """until(() => document.querySelector("object[type='application/pdf']")?.data)
              .then(fetch).then((answer) => answer.arrayBuffer())
              .then((buffer) => Array.from(new Uint8Array(buffer)))"""
        )
    assert bytes(document).startswith(REPORT.dataset.EncapsulatedDocument)
