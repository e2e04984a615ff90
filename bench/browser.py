"""What users feel: how long Chromium takes to load a series through a proxy."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.support.browser import chromium
from tests.support.certificates import trust_flag
from tests.support.servers import free_port

from bench import archive
from bench.cases import QUOTED, UNQUOTED, WrongAnswerError
from bench.peers import TOKEN, certificate
from bench.processes import OTHER_CORES, listens, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager

    from playwright.async_api import Browser, Page

    from bench.peers import Running

DELAYS: Final = (0, 20, 60)  # ms, there and back
PREFLIGHTED: Final = "with preflights"
CACHED: Final = "preflights cached"
SIMPLE: Final = "without preflights"
MODES: Final = (PREFLIGHTED, CACHED, SIMPLE)
PROBES: Final = 4  # frames that are loaded to count preflights

_HEADERS: Final = {"Accept": QUOTED, "Authorization": f"Bearer {TOKEN}"}
_SIMPLE_HEADERS: Final = {"Accept": UNQUOTED}


@dataclass(frozen=True, slots=True)
class Load:
    """A series loaded: seconds until its last frame was here, and what went wrong."""

    seconds: float
    errors: list[str]


class Cell(NamedTuple):
    """What a figure is of: KB of a frame, ms of delay, one of `MODES`."""

    size: int
    delay: int
    mode: str


@dataclass(frozen=True, slots=True)
class Series:
    """What is loaded: so many frames of a size in KB, from this port."""

    port: int
    size: int
    count: int


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


def trusting() -> AbstractAsyncContextManager[Browser]:
    """Run Chromium so that it trusts the peers' certificate.

    For one that it does not trust, but is told to accept, it makes a connection for each of the
    requests that wait for the first one.
    """
    return chromium(trust_flag(certificate()))


@asynccontextmanager
async def _page(browser: Browser, origin: str) -> AsyncIterator[Page]:
    """Return the page that loads series, with caches of its own."""
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(f"{origin}/series.html")
        yield page


async def _load(page: Page, root: str, study: str, headers: dict[str, str], series: Series) -> Load:
    options = {
        "count": series.count,
        "size": len(archive.frame(series.size)),
        "headers": headers,
        "protocol": "h2" if root.startswith("https:") else "http/1.1",
    }
    seen: dict[str, Any] = await page.evaluate(
        "([root, options]) => load(root, options)",
        [root + archive.frame_path(study, ""), options],
    )
    return Load(seen["milliseconds"] / 1000, seen["errors"])


async def load(browser: Browser, proxy: Running, series: Series) -> dict[str, Load]:
    """Load a series through a proxy: by mode."""
    root = proxy.root_at(series.port)
    study = archive.study_of(series.size, strict=True)
    simple_study = _simple_study(proxy, series.size)
    async with _page(browser, proxy.origin) as page:
        loads = {
            mode: await _load(page, root, study, _HEADERS, series) for mode in (PREFLIGHTED, CACHED)
        }
    async with _page(browser, proxy.origin) as page:
        loads[SIMPLE] = await _load(page, root, simple_study, _SIMPLE_HEADERS, series)
    return loads


async def same_origin(browser: Browser, series: Series) -> Load:
    """Load a series from the archive by a page of its own."""
    origin = f"http://127.0.0.1:{series.port}"
    async with _page(browser, origin) as page:
        root = origin + archive.BASE_PATH
        study = archive.study_of(series.size, strict=True)
        return await _load(page, root, study, _HEADERS, series)


async def check(browser: Browser, proxy: Running) -> None:
    """Whether frames come, with as many preflights as the mode says. Raises WrongAnswerError."""
    expected = {PREFLIGHTED: PROBES, CACHED: 0, SIMPLE: 0}
    series = Series(proxy.port, archive.LARGEST, PROBES)
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
                seen = await _load(
                    page,
                    proxy.root,
                    _simple_study(proxy, series.size)
                    if simple
                    else archive.study_of(series.size, strict=True),
                    _SIMPLE_HEADERS if simple else _HEADERS,
                    series,
                )
                preflights = asked.count("OPTIONS")
                if seen.errors or preflights != expected[mode]:
                    errors = ", ".join(dict.fromkeys(seen.errors)) or "no errors"
                    raise WrongAnswerError(f"{mode}: {errors}, {preflights} preflights")


def _simple_study(proxy: Running, size: int) -> str:
    """Only this proxy puts back the quotes, so the others are given an archive that needs none."""
    return archive.study_of(size, strict=proxy.peer.rewrites)
