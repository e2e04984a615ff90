"""How many requests OHIF needs for a series, as docs/guides/fewer-requests.md has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.viewers.test_ohif import ohif, shown
from tests.support import orthanc as archives
from tests.support import phantom
from tests.support.guides import guide
from tests.support.proxy import fronting, serving
from tests.support.tabs import Chromium

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Browser

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.chromium,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("from_npm"),
    pytest.mark.skipif(not archives.INSTALLED, reason="needs Debian's orthanc-dicomweb"),
]


async def requests(
    browser: Browser, archive: archives.Orthanc, folder: Path, *, omit_quotes: bool
) -> int:
    """Open the phantom, wait for all its slices, and count what the proxy was asked."""
    with (
        serving(fronting(archive.url, "http://localhost:*"), folder) as proxy,
        ohif(proxy, "wadors", omit_quotes=omit_quotes) as origin,
    ):
        async with Chromium.tab(browser) as tab:
            await tab.open(f"{origin}/viewer?StudyInstanceUIDs={phantom.STUDY}")
            await shown(tab, phantom.SIDE)
            await tab.evaluate(
                f"""until(() => performance.getEntriesByType("resource")
                  .filter((each) => each.name.includes("/frames/")).length >= {phantom.SLICES})
                """
            )
    return len(re.findall(r" INFO +(?:GET|OPTIONS) ", proxy.child.output))


async def test_ohif_with_and_without_quotes(chromium: Browser, tmp_path: Path) -> None:
    with archives.orthanc(tmp_path) as archive:
        phantom.store(archive)
        few = await requests(chromium, archive, tmp_path, omit_quotes=True)
        many = await requests(chromium, archive, tmp_path, omit_quotes=False)
    assert many == few + phantom.SLICES
    sentence = f"a CT series of {phantom.SLICES} slices takes {few} requests, instead of {many}"
    assert sentence in guide("fewer-requests").read_text(encoding="utf-8")
