"""The demo's page in a browser: what it shows is what happened."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from dicomweb_cors_proxy.demo import phantom, sample
from tests.support.demo import Demo, demo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser, Locator, Page

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="session")]

# What a browser writes to the console of its own accord.
REFUSALS = re.compile("blocked by CORS policy|Failed to load resource")
REFUSED = "TypeError: Failed to fetch"


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    with demo() as started:
        yield started


@asynccontextmanager
async def opened(chromium: Browser, url: str) -> AsyncIterator[Page]:
    """Open a page on which nothing may go wrong but requests."""
    async with await chromium.new_context() as context:
        page = await context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        await page.goto(url)
        yield page
        assert [text for text in said if not REFUSALS.search(text)] == []


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def page(chromium: Browser, running: Demo) -> AsyncIterator[Page]:
    async with opened(chromium, running.page) as page:
        await page.wait_for_selector("body[data-ready]")
        yield page


async def outcomes(rows: Locator) -> list[list[str]]:
    """Return name and outcome of requests."""
    return [
        [await row.locator("th").inner_text(), await row.locator(".status").inner_text()]
        for row in await rows.all()
    ]


async def exchanges(under: Locator) -> list[str]:
    """Return exchanges as "proxy → archive GET 200"."""
    summaries = await under.locator("summary").all()
    return [
        " ".join(
            (
                await summary.locator(".route").inner_text(),
                (await summary.locator("code").inner_text()).split()[0],
                await summary.locator(".status").inner_text(),
            )
        )
        for summary in summaries
    ]


async def test_the_archive_is_refused_and_the_proxy_is_not(page: Page) -> None:
    names = ("Search", "Metadata", "Image")
    assert await outcomes(page.locator("#direct-requests tr")) == [[n, "refused"] for n in names]
    assert await outcomes(page.locator("#proxied-requests tr")) == [[n, "200"] for n in names]


async def test_the_image_is_on_the_canvas(page: Page) -> None:
    grey = await page.locator("#canvas").evaluate(
        """canvas => Array.from(canvas.getContext("2d")
            .getImageData(0, 0, canvas.width, canvas.height).data.filter((_, i) => i % 4 === 0))"""
    )
    expected = phantom.window(phantom.pixels(12), sample.WINDOW_CENTER, sample.WINDOW_WIDTH)
    assert len(set(grey)) > 16
    assert all(abs(one - other) <= 1 for one, other in zip(grey, expected, strict=True))


async def test_the_metadata_is_in_the_table(page: Page) -> None:
    table = await page.locator(".metadata").inner_text()
    for text in ("Phantom, Shepp-Logan", "Synthetic head", "2025-03-14", "CT", "12 bits", "7 mm"):
        assert text in table


async def test_the_preflight_of_the_image_is_shown(page: Page, running: Demo) -> None:
    sides = page.locator(".comparison", has_text="Image").locator(".side")
    assert await exchanges(sides.nth(0)) == ["browser → archive OPTIONS 405"]
    assert await exchanges(sides.nth(1)) == [
        "browser → proxy OPTIONS 204",
        "browser → proxy GET 200",
        "proxy → archive GET 200",
    ]
    preflight = await sides.nth(1).locator(".exchange").first.inner_text()
    assert "access-control-request-headers: accept" in preflight
    assert f"access-control-allow-origin: {running.page}" in preflight
    assert "access-control-max-age: 7200" in preflight


async def test_the_other_images_need_no_preflight(page: Page) -> None:
    note = await page.locator("#others").inner_text()
    assert "other 23 images, 2.9 MiB" in note
    assert "with no preflights" in note
    assert 'multipart/related; type="application/octet-stream"' in note


async def test_wheel_and_slider_change_the_slice(page: Page) -> None:
    shown = page.locator("#slice-text")
    assert await shown.inner_text() == "13 / 24"
    await page.locator("#canvas").hover()
    await page.mouse.wheel(0, 100)
    await page.wait_for_function("document.getElementById('slice-text').value === '14 / 24'")
    await page.locator("#slice").press("Home")
    assert await shown.inner_text() == "1 / 24"


async def test_drag_and_buttons_change_the_window(page: Page) -> None:
    shown = page.locator("#window-text")
    assert await shown.inner_text() == "W 90 L 35"
    await page.locator("#canvas").hover()
    box = await page.locator("#canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    await page.mouse.down()
    await page.mouse.move(x + 100, y)
    await page.mouse.up()
    assert re.fullmatch(r"W 1[0-9]{2} L 35", await shown.inner_text())
    await page.get_by_role("button", name="Bone").click()
    assert await shown.inner_text() == "W 2200 L 500"
    await page.get_by_role("button", name="Brain").click()
    assert await shown.inner_text() == "W 90 L 35"


DEFAULTS = {
    "server": "proxy",
    "page": "this",
    "resource": "frame",
    "credentials": "omit",
    "header": "quoted",
}
PREFLIGHTED = ["browser → proxy OPTIONS 204", "browser → proxy GET 200", "proxy → archive GET 200"]
SIMPLE = PREFLIGHTED[1:]
PREFLIGHT_REFUSED = ["browser → proxy OPTIONS 403"]


@pytest.mark.parametrize(
    ("switches", "result", "setting", "seen"),
    [
        ({"header": "plain"}, "Response 200", "cors.allow_origins", SIMPLE),
        ({"header": "quoted"}, "Response 200", "cors.allow_headers", PREFLIGHTED),
        ({"header": "unquoted"}, "Response 200", "repair_accept", SIMPLE),
        ({"header": "authorization"}, "Response 200", "cors.allow_headers", PREFLIGHTED),
        ({"header": "unlisted"}, REFUSED, "cors.allow_headers", PREFLIGHTED[:1]),
        ({"page": "sandboxed"}, REFUSED, "cors.allow_origins", PREFLIGHT_REFUSED),
        ({"page": "sandboxed", "header": "plain"}, REFUSED, "cors.allow_origins", SIMPLE),
        ({"credentials": "include"}, REFUSED, "cors.allow_credentials", PREFLIGHTED[:1]),
        (
            {"credentials": "include", "header": "plain"},
            REFUSED,
            "cors.allow_credentials",
            SIMPLE,
        ),
        (
            {"resource": "missing", "header": "plain"},
            "Response 404",
            "no setting",
            ["browser → proxy GET 404", "proxy → archive GET 404"],
        ),
        ({"server": "archive"}, REFUSED, "no setting", ["browser → archive OPTIONS 405"]),
        (
            {"server": "archive", "header": "plain"},
            REFUSED,
            "no setting",
            ["browser → archive GET 200"],
        ),
        (
            {"server": "archive", "header": "unquoted"},
            REFUSED,
            "no setting",
            ["browser → archive GET 406"],
        ),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
async def test_a_switch(
    switches: dict[str, str], result: str, setting: str, seen: list[str], page: Page
) -> None:
    for name, value in (DEFAULTS | switches).items():
        await page.locator(f"input[name={name}][value={value}]").check()
    await page.wait_for_selector("#trial-outcome[aria-busy=false]")
    assert (await page.locator("#trial-result").inner_text()).startswith(result)
    assert setting in await page.locator("#trial-setting").inner_text()
    assert await exchanges(page.locator("#trial-exchanges")) == seen


async def test_the_same_again_needs_no_preflight(page: Page) -> None:
    for name, value in (DEFAULTS | {"header": "authorization"}).items():
        await page.locator(f"input[name={name}][value={value}]").check()
    await page.wait_for_selector("#trial-outcome[aria-busy=false]")
    assert await exchanges(page.locator("#trial-exchanges")) == PREFLIGHTED
    await page.get_by_role("button", name="again").click()
    await page.wait_for_selector("#trial-outcome[aria-busy=false]")
    assert await exchanges(page.locator("#trial-exchanges")) == SIMPLE
    assert await page.locator("#trial-setting").inner_text() == "cors.max_age"


async def test_opened_at_another_origin_the_page_says_so(chromium: Browser, running: Demo) -> None:
    url = running.page.replace("localhost", "demo.localhost")
    async with opened(chromium, url) as page:
        trouble = page.locator("#trouble")
        await trouble.wait_for()
        assert url in await trouble.inner_text()
