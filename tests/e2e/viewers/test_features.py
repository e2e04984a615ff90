"""What viewers ask of a browser beside plain requests, through the proxy."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.orthanc import CREDENTIALS
from tests.support.proxy import Proxy, fronting
from tests.support.samples import CT
from tests.support.servers import Reply, stub
from tests.support.sockets import Head, Wire, answer, archive
from tests.support.tabs import PACS, Firefox, call

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.viewers.conftest import Pages, SecurePages
    from tests.support.orthanc import Orthanc
    from tests.support.tabs import Tab

    Serve = Callable[..., Proxy]

pytestmark = pytest.mark.asyncio(loop_scope="session")
FRAME = "studies/1/series/2/instances/3/frames/1"
JPEG = (
    f"wado?requestType=WADO&studyUID={CT.study}&seriesUID={CT.series}&objectUID={CT.uid}"
    "&contentType=image/jpeg"
)


async def test_a_login_of_the_viewers_own(
    tab: Tab, pages: Pages, serve: Serve, orthanc_with_auth: Orthanc
) -> None:
    proxy = serve(fronting(orthanc_with_auth.url, pages.viewer))
    await tab.open(f"{pages.viewer}/ask/")
    without = await call(tab, "ask", f"{proxy.url}/studies")
    assert without["status"] == 401
    assert without["headers"]["www-authenticate"].startswith("Basic")
    headers = {"Authorization": CREDENTIALS.header}
    assert (await call(tab, "ask", f"{proxy.url}/studies", {"headers": headers}))["status"] == 200


async def test_another_origin_reads_nothing(tab: Tab, pages: Pages, proxy: Proxy) -> None:
    await tab.open(f"{pages.stranger}/ask/")
    assert (await call(tab, "ask", f"{proxy.url}/studies"))["error"] == "TypeError"


async def test_an_image_in_ranges(tab: Tab, pages: Pages, serve: Serve) -> None:
    """As cornerstone3D does it: the total is known from the first part's Content-Range."""
    whole = bytes(range(256)) * 64

    async def part(wire: Wire, head: Head) -> None:
        asked = (head.get(b"range") or b"").decode().removeprefix("bytes=")
        first, last = (int(number) if number else len(whole) - 1 for number in asked.split("-"))
        content = whole[first : last + 1]
        await wire.send(
            answer(
                content,
                f"Content-Range: bytes {first}-{first + len(content) - 1}/{len(whole)}".encode(),
                b"Content-Type: image/jphc",
                status=b"206 Partial Content",
            )
        )

    async with archive(part) as a:
        proxy = serve(fronting(a.url, pages.viewer))
        await tab.open(f"{pages.viewer}/ask/")
        seen = await call(tab, "inRanges", f"{proxy.url}/{FRAME}", 4 << 10)
    assert (seen["parts"], bytes(seen["body"])) == (2, whole)


async def test_an_isolated_page_embeds_images(
    tab: Tab, pages: Pages, proxy: Proxy, orthanc: Orthanc
) -> None:
    await tab.open(f"{pages.viewer}/isolated/")
    assert await tab.evaluate("crossOriginIsolated")
    size = {"width": CT.dataset.Columns, "height": CT.dataset.Rows}
    assert await call(tab, "embedWithoutCors", f"{proxy.url}/{JPEG}") == size
    assert await call(tab, "embedObject", f"{proxy.url}/{JPEG}") == "load"
    assert await call(tab, "embedWithoutCors", f"{orthanc.root}/{JPEG}") == {"error": "error"}
    assert await call(tab, "embedObject", f"{orthanc.root}/{JPEG}") == "error"


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "in its middle"])
async def test_an_aborted_request_is_cancelled_at_the_archive(
    begun: bool, tab: Tab, pages: Pages, serve: Serve
) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        if begun:
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", bytes(4096))
        asked.set()
        assert await wire.closed()
        cancelled.set()

    async with archive(handle) as a, asyncio.timeout(20):
        proxy = serve(fronting(a.url, pages.viewer))
        await tab.open(f"{pages.viewer}/ask/")
        await call(tab, "begin", f"{proxy.url}/{FRAME}")
        await asked.wait()
        if begun:
            assert await tab.evaluate("firstChunk()")
        assert await tab.evaluate("abort()") == "AbortError"
        await cancelled.wait()


async def test_same_site_cookies(tab: Tab, pages: Pages, serve: Serve) -> None:
    """A login by cookies, of a viewer on another port or subdomain."""
    with stub(Reply(200, {"Set-Cookie": "session=1; HttpOnly; SameSite=Lax; Path=/"})) as a:
        settings = fronting(a.url, pages.viewer)
        settings["cors"]["allow_credentials"] = True
        url = f"{serve(settings).url}/studies".replace("127.0.0.1", "localhost")
        await tab.open(f"{pages.viewer}/ask/")
        for credentials in ("include", "include", "same-origin"):
            answer = await call(tab, "ask", url, {"credentials": credentials})
            assert answer["status"] == 200
    assert [asked["Cookie"] for _, _, asked in a.requests] == [None, "session=1", None]


@pytest.mark.parametrize("partitioned", [True, False], ids=["Partitioned", "not Partitioned"])
async def test_cross_site_cookies(
    partitioned: bool, tab: Tab, secure_pages: SecurePages, serve: Serve
) -> None:
    """Browsers keep a third party's cookies only for the site on whose page they were set."""
    cookie = "session=1; Secure; HttpOnly; SameSite=None; Path=/" + "; Partitioned" * partitioned
    with stub(Reply(200, {"Set-Cookie": cookie})) as a:
        settings = fronting(a.url, secure_pages.origin)
        settings["cors"]["allow_credentials"] = True
        proxy = serve(settings, *secure_pages.tls_flags)
        await tab.open(f"{secure_pages.origin}/")
        url = f"{proxy.url}/studies".replace("127.0.0.1", PACS)
        for _ in range(2):
            answer = await call(tab, "ask", url, {"credentials": "include"})
            assert answer["status"] == 200
    kept = [asked["Cookie"] for _, _, asked in a.requests]
    # Firefox partitions what was not said to be as well.
    assert kept == [None, "session=1" if partitioned or isinstance(tab, Firefox) else None]
