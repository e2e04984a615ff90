"""What stands around the proxy: the archive, the browser and the viewer's site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support import browser
from tests.support import orthanc as archives

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser

    from tests.support.browser import Site, Viewer
    from tests.support.orthanc import Orthanc


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that lets everybody in."""
    if not archives.INSTALLED:
        pytest.skip("needs Debian's orthanc and orthanc-dicomweb")
    with archives.orthanc(tmp_path_factory.mktemp("orthanc")) as archive:
        yield archive


@pytest.fixture(scope="session")
def orthanc_with_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An Orthanc that asks for its CREDENTIALS."""
    if not archives.INSTALLED:
        pytest.skip("needs Debian's orthanc and orthanc-dicomweb")
    with archives.orthanc(tmp_path_factory.mktemp("orthanc"), archives.CREDENTIALS) as archive:
        yield archive


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with browser.chromium(browser.NAMES) as running:
        yield running


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    with browser.site() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def viewer(chromium: Browser, site: Site) -> AsyncIterator[Viewer]:
    """A page at the origin that the proxies let in."""
    async with browser.Viewer.at(site.viewer, chromium) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="session")
async def stranger(chromium: Browser, site: Site) -> AsyncIterator[Viewer]:
    """The same page at another origin."""
    async with browser.Viewer.at(site.stranger, chromium) as page:
        yield page
