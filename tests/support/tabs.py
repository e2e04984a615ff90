"""A tab of a real browser, the same for Chromium and the Firefox that Debian ships."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tests.support.packages import FOLDER
from tests.support.servers import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

# Names that lead here in both browsers, though neither takes them for this machine's own.
VIEWER, PACS = "viewer.test", "pacs.test"

FIREFOX = shutil.which("firefox-esr")
_DRIVER = Path(__file__).parents[1] / "e2e" / "viewers" / "firefox.mjs"
_LONGEST_LINE = 64 << 20


class Tab(Protocol):
    """A tab; what it evaluates is an expression of JavaScript, a promise is awaited."""

    async def open(self, url: str) -> None: ...

    async def evaluate(self, expression: str) -> Any: ...  # noqa: ANN401

    async def said(self) -> str:
        """Return the first line of its console since the page was opened, once there is one."""
        ...


async def call(tab: Tab, function: str, *arguments: object) -> Any:  # noqa: ANN401
    """Call a function of the page."""
    return await tab.evaluate(f"{function}(...{json.dumps(arguments)})")


class Chromium:
    """A tab with a profile of its own, in a running Chromium."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self._said: asyncio.Queue[str] = asyncio.Queue()
        page.on("console", lambda message: self._said.put_nowait(message.text))

    @classmethod
    @asynccontextmanager
    async def tab(cls, browser: Browser, **options: Any) -> AsyncIterator[Chromium]:  # noqa: ANN401
        async with await browser.new_context(**options) as context:
            yield cls(await context.new_page())

    async def open(self, url: str) -> None:
        self._said = asyncio.Queue()
        await self.page.goto(url)

    async def evaluate(self, expression: str) -> Any:  # noqa: ANN401
        return await self.page.evaluate(expression)

    async def said(self) -> str:
        return await self._said.get()


class Firefox:
    """Every `open` begins with a new profile."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def running(cls, **options: object) -> AsyncIterator[Firefox]:
        """Start it; `options` are puppeteer's for a launch."""
        options |= {
            "folder": str(FOLDER),
            "executablePath": FIREFOX,
            "extraPrefsFirefox": {"network.dns.forceResolve": LOOPBACK},
        }
        process = await asyncio.create_subprocess_exec(
            "node",
            _DRIVER,
            json.dumps(options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
        firefox = cls(process)
        try:
            assert "ready" in await firefox._answer()
            yield firefox
        finally:
            assert process.stdin
            process.stdin.close()
            await process.wait()

    async def open(self, url: str) -> None:
        await self._do("open", url=url)

    async def evaluate(self, expression: str) -> Any:  # noqa: ANN401
        return await self._do("evaluate", expression=expression)

    async def said(self) -> str:
        said: str = await self._do("said")
        return said

    async def _do(self, command: str, **options: object) -> Any:  # noqa: ANN401
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"command": command, **options}).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._answer()
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["value"]

    async def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        assert line, "Firefox's driver has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer
