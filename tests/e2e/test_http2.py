"""A viewer whose requests share one connection: HTTP/2 under granian."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support import browser
from tests.support.granian import granian
from tests.support.samples import MULTI_FRAME
from tests.support.sockets import Head, Wire, answer, archive

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Browser

    from tests.support.browser import Site
    from tests.support.orthanc import Orthanc

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="session")]

QUOTED = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


@pytest.mark.orthanc
async def test_a_viewer_reads_frames(
    chromium: Browser, site: Site, orthanc: Orthanc, tmp_path: Path
) -> None:
    pixels, count = MULTI_FRAME.dataset.PixelData, MULTI_FRAME.dataset.NumberOfFrames
    size = len(pixels) // count
    with granian(orthanc.url, site.viewer, tmp_path) as server:
        async with browser.Viewer.at(site.viewer, chromium, ignore_https_errors=True) as viewer:
            for number in range(1, count + 1):
                url = f"{server.url}/{MULTI_FRAME.path}/frames/{number}"
                frame = await viewer.ask(url, headers=QUOTED)
                assert (frame.status, frame.protocol) == (200, "h2")
                assert frame.preflight is not None
                assert pixels[(number - 1) * size : number * size] in frame.body
    assert MULTI_FRAME.uid not in server.child.output


async def test_a_viewer_that_aborts_cancels_the_archives_request(
    chromium: Browser, site: Site, tmp_path: Path
) -> None:
    cancelled = asyncio.Event()

    async def slow(wire: Wire, head: Head) -> None:
        if b"slow" not in head.first_line:
            await wire.send(answer(b"[]"))
            return
        await wire.send(answer(bytes(4096), length=1 << 20))
        assert await wire.closed()
        cancelled.set()

    async with archive(slow) as a, asyncio.timeout(30):
        with granian(a.url, site.viewer, tmp_path) as server:
            async with browser.Viewer.at(site.viewer, chromium, ignore_https_errors=True) as viewer:
                await viewer.abort(f"{server.url}/studies?slow")
                await cancelled.wait()
                assert (await viewer.ask(f"{server.url}/studies")).protocol == "h2"
        server.child.wait_for("client disconnected")
