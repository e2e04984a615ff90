"""The demo with OHIF as its page: `demo --ohif`."""

from __future__ import annotations

from statistics import correlation
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.demo import phantom, sample
from tests.support import packages
from tests.support.demo import demo
from tests.support.ohif import shown
from tests.support.phantom import SIDE, STUDY
from tests.support.tabs import Chromium

if TYPE_CHECKING:
    from playwright.async_api import Browser

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("from_npm"),
]


async def test_ohif_lists_the_study_and_shows_an_image(chromium: Browser) -> None:
    with demo("--ohif", str(packages.OHIF)) as running:
        async with Chromium.tab(chromium) as tab:
            refused: list[str] = []
            tab.page.on("requestfailed", lambda request: refused.append(request.url))
            await tab.page.goto(running.page)
            await tab.page.get_by_text("Phantom, Shepp-Logan").wait_for()
            await tab.page.goto(f"{running.page}/viewer?StudyInstanceUIDs={STUDY}")
            greys = await shown(tab, SIDE)
            assert await tab.evaluate("crossOriginIsolated")
            assert [url for url in refused if url.startswith(running.proxy)] == []
    window = sample.WINDOW_CENTER, sample.WINDOW_WIDTH
    likeness = max(
        correlation(greys, phantom.window(phantom.pixels(slice_), *window))
        for slice_ in range(phantom.SLICES)
    )
    assert likeness > 0.95
