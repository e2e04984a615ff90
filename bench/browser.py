"""What users feel: how long Chromium takes to load a series through a proxy."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.servers import free_port

from bench import archive
from bench.cases import QUOTED, UNQUOTED, WrongAnswerError
from bench.peers import TOKEN
from bench.processes import OTHER_CORES, listens, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser, Page

    from bench.peers import Running

DELAYS: Final = (0, 20)  # ms, there and back
PREFLIGHTED: Final = "with preflights"
CACHED: Final = "preflights cached"
SIMPLE: Final = "without preflights"
MODES: Final = (PREFLIGHTED, CACHED, SIMPLE)
PROBES: Final = 4  # frames that are loaded to count preflights

_HEADERS: Final = {"Accept": QUOTED, "Authorization": f"Bearer {TOKEN}"}
_SIMPLE_HEADERS: Final = {"Accept": UNQUOTED}


@dataclass(frozen=True, slots=True)
class Load:
    """A series loaded: seconds until its last frame was here, and how many frames failed."""

    seconds: float
    errors: int


@contextmanager
def delayed(port: int, milliseconds: int) -> Iterator[int]:
    """Yield the port at which `port` is reached with that delay, there and back."""
    if not milliseconds:
        yield port
        return
    entrance = free_port()
    command = [
        sys.executable,
        "-m",
        "bench.relay",
        str(entrance),
        str(port),
        str(milliseconds // 2),
    ]
    with running(command, cores=OTHER_CORES) as relay:
        relay.wait_until(lambda: listens(entrance))
        yield entrance


@asynccontextmanager
async def _page(browser: Browser, origin: str) -> AsyncIterator[Page]:
    """Return the page that loads series, with caches of its own."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{origin}/series.html")
        yield page


async def _load(page: Page, root: str, study: str, headers: dict[str, str], count: int) -> Load:
    seen: dict[str, Any] = await page.evaluate(
        "([root, options]) => load(root, options)",
        [
            root + archive.frame_path(study, ""),
            {"count": count, "size": len(archive.frame()), "headers": headers},
        ],
    )
    return Load(seen["milliseconds"] / 1000, len(seen["errors"]))


async def series(browser: Browser, proxy: Running, port: int, count: int) -> dict[str, Load]:
    """Load a series through a proxy that is reached at `port`: by mode."""
    root = f"http://127.0.0.1:{port}{proxy.path}"
    study, simple_study = archive.STRICT_STUDY, _simple_study(proxy)
    async with _page(browser, proxy.origin) as page:
        loads = {
            mode: await _load(page, root, study, _HEADERS, count) for mode in (PREFLIGHTED, CACHED)
        }
    async with _page(browser, proxy.origin) as page:
        loads[SIMPLE] = await _load(page, root, simple_study, _SIMPLE_HEADERS, count)
    return loads


async def same_origin(browser: Browser, port: int, count: int) -> Load:
    """Load a series from the archive, reached at `port`, by a page of its own."""
    origin = f"http://127.0.0.1:{port}"
    async with _page(browser, origin) as page:
        root = origin + archive.BASE_PATH
        return await _load(page, root, archive.STRICT_STUDY, _HEADERS, count)


async def check(browser: Browser, proxy: Running) -> None:
    """Whether frames come, with as many preflights as the mode says. Raises WrongAnswerError."""
    expected = {PREFLIGHTED: PROBES, CACHED: 0, SIMPLE: 0}
    for modes in ((PREFLIGHTED, CACHED), (SIMPLE,)):
        async with _page(browser, proxy.origin) as page:
            devtools = await page.context.new_cdp_session(page)
            asked: list[str] = []
            devtools.on(
                "Network.requestWillBeSent",
                lambda event, asked=asked: asked.append(event["request"]["method"]),
            )
            await devtools.send("Network.enable")
            for mode in modes:
                asked.clear()
                simple = mode == SIMPLE
                load = await _load(
                    page,
                    proxy.root,
                    _simple_study(proxy) if simple else archive.STRICT_STUDY,
                    _SIMPLE_HEADERS if simple else _HEADERS,
                    PROBES,
                )
                preflights = asked.count("OPTIONS")
                if load.errors or preflights != expected[mode]:
                    raise WrongAnswerError(
                        f"{mode}: {load.errors} of {PROBES} frames failed, {preflights} preflights"
                    )


def _simple_study(proxy: Running) -> str:
    """Only this proxy puts back the quotes, so the others are given an archive that needs none."""
    return archive.STRICT_STUDY if proxy.peer.rewrites else archive.STUDY
