"""The bench's page in Chromium: what it counts, and what it finds out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from bench import archive, browser, cases
from bench.peers import (
    NO_PROXY,
    OURS,
    OURS_HTTP2,
    PEERS,
    REFERENCE_HTTP2,
    Running,
    serving,
    signing_in,
)
from bench.processes import CORES, listens, running

from tests.support.servers import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="session")]


@pytest.fixture(scope="module")
def direct() -> Iterator[Running]:
    """The bench's archive itself."""
    port = free_port()
    with running([sys.executable, "-m", "bench.archive", str(port), "1"], cores=CORES) as process:
        process.wait_until(lambda: listens(port))
        with serving(NO_PROXY, port, f"http://localhost:{port}") as archives:
            yield archives


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    async with browser.trusting() as chrome:
        yield chrome


@pytest.mark.parametrize("key", [OURS, OURS_HTTP2, REFERENCE_HTTP2])
async def test_a_series_is_loaded_in_every_mode(
    key: str, chromium: Browser, direct: Running
) -> None:
    peer = signing_in(PEERS[key])
    if not peer.version():
        pytest.skip(f"needs {peer.title}")
    with serving(peer, direct.port, direct.origin) as proxy:
        assert proxy.process
        proxy.process.wait_until(lambda: cases.answers(proxy))
        await browser.check(chromium, proxy)
        series = browser.Series(proxy.port, 60, 20)
        loads = await browser.load(chromium, proxy, series)
    assert {mode: load.errors for mode, load in loads.items()} == {m: [] for m in browser.MODES}


async def test_a_series_of_the_same_origin(chromium: Browser, direct: Running) -> None:
    load = await browser.same_origin(chromium, browser.Series(direct.port, 60, 20))
    assert load.errors == []


async def test_frames_by_another_protocol_are_found_out(chromium: Browser, direct: Running) -> None:
    root = direct.root + archive.frame_path(archive.study_of(60), "")
    options = {"count": 3, "size": len(archive.frame(60)), "headers": {}, "protocol": "h2"}
    page = await chromium.new_page()
    await page.goto(f"http://127.0.0.1:{direct.port}/series.html")
    seen = await page.evaluate("([root, options]) => load(root, options)", [root, options])
    await page.close()
    assert seen["errors"] == 3 * ["loaded by http/1.1"]
