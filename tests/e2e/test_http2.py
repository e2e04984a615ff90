"""A viewer whose requests share one connection: HTTP/2 by `serve`, and under granian."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support import browser
from tests.support.certificates import Pair
from tests.support.granian import granian
from tests.support.proxy import fronting, serving
from tests.support.samples import MULTI_FRAME
from tests.support.sockets import Head, Wire, answer, archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from playwright.async_api import Browser

    from tests.support.browser import Site
    from tests.support.orthanc import Orthanc
    from tests.support.processes import Child

    class Server(Protocol):
        """A running one: `url` is the DICOMweb root."""

        @property
        def child(self) -> Child: ...

        @property
        def url(self) -> str: ...

    Start = Callable[[str, str, Path], AbstractContextManager[Server]]


@contextmanager
def serve(archive: str, origin: str, directory: Path) -> Iterator[Server]:
    """Run `serve` with a certificate in front of `archive` for pages of `origin`."""
    settings = fronting(archive, origin) | {"server": Pair(directory).server}
    with serving(settings, directory) as proxy:
        yield proxy


pytestmark = [
    pytest.mark.chromium,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.parametrize("start", [serve, granian], ids=["serve", "granian"]),
]

QUOTED = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


@pytest.mark.orthanc
async def test_a_viewer_reads_frames(
    start: Start, chromium: Browser, site: Site, orthanc: Orthanc, tmp_path: Path
) -> None:
    pixels, count = MULTI_FRAME.dataset.PixelData, MULTI_FRAME.dataset.NumberOfFrames
    size = len(pixels) // count
    with start(orthanc.url, site.viewer, tmp_path) as server:
        async with browser.Viewer.at(site.viewer, chromium, ignore_https_errors=True) as viewer:
            for number in range(1, count + 1):
                url = f"{server.url}/{MULTI_FRAME.path}/frames/{number}"
                frame = await viewer.ask(url, headers=QUOTED)
                assert (frame.status, frame.protocol) == (200, "h2")
                assert frame.preflight is not None
                assert pixels[(number - 1) * size : number * size] in frame.body
    assert MULTI_FRAME.uid not in server.child.output


async def test_a_viewer_that_aborts_cancels_the_archives_request(
    start: Start, chromium: Browser, site: Site, tmp_path: Path
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
        with start(a.url, site.viewer, tmp_path) as server:
            async with browser.Viewer.at(site.viewer, chromium, ignore_https_errors=True) as viewer:
                await viewer.abort(f"{server.url}/studies?slow")
                await cancelled.wait()
                assert (await viewer.ask(f"{server.url}/studies")).protocol == "h2"
        server.child.wait_for("client disconnected")
