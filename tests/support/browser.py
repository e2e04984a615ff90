"""A real Chromium, the site of a viewer, and what script and developer tools see from there."""

from __future__ import annotations

import asyncio
import functools
import shutil
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import async_playwright

from tests.support.servers import LOOPBACK, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from ssl import SSLContext

    from playwright.async_api import Browser, CDPSession, Page

EXECUTABLE = shutil.which("chromium")
INSTALLED = EXECUTABLE is not None
PAGES = Path(__file__).parents[1] / "e2e" / "site"
# Containers have little /dev/shm; the rest are errands and hardware that no test needs.
FLAGS = ("--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--disable-sync")
# Names under .test lead here, though the browser doesn't take them for this machine's own.
NAMES = f"--host-resolver-rules=MAP *.test {LOOPBACK}"
# Of the developer tools' domain Network.
EVENTS = (
    "requestWillBeSent",
    "responseReceived",
    "responseReceivedExtraInfo",
    "loadingFinished",
    "loadingFailed",
)


@dataclass(frozen=True, slots=True)
class Site:
    """One server under two names, so two origins, cross-site to each other."""

    port: int

    @property
    def viewer(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def stranger(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


class _Pages(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def site(tls: SSLContext | None = None) -> Iterator[Site]:
    with serving(functools.partial(_Pages, directory=PAGES), tls) as port:
        yield Site(port)


@asynccontextmanager
async def chromium(*flags: str) -> AsyncIterator[Browser]:
    """Run Debian's Chromium with these flags; skip the test where there is none."""
    if not INSTALLED:
        pytest.skip("needs Debian's chromium")
    arguments = (*FLAGS, *flags)
    async with (
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=EXECUTABLE, args=arguments) as browser,
    ):
        yield browser


@dataclass(frozen=True, slots=True)
class Preflight:
    """The browser's question before a request, and the response to it."""

    request: Mapping[str, str]
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a script's request; `cors_error` is the rule by which the browser hid it."""

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str | None = None
    message: str | None = None  # of that error; it says nothing of the cause
    cors_error: str | None = None
    preflight: Preflight | None = None
    protocol: str | None = None  # by its name in TLS (ALPN)


class Viewer:
    """An open viewer page; `certificates` are the subjects of all that it was shown."""

    def __init__(self, page: Page, devtools: CDPSession) -> None:
        self._page = page
        self.certificates: set[str] = set()
        self._events: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        for name in EVENTS:
            devtools.on(f"Network.{name}", functools.partial(self._note, name))
        devtools.on("Network.responseReceived", self._note_certificate)

    @classmethod
    @asynccontextmanager
    async def at(cls, origin: str, browser: Browser, **options: Any) -> AsyncIterator[Viewer]:  # noqa: ANN401
        """Open the page at `origin`, with caches of its own; `options` are playwright's."""
        async with await browser.new_context(**options) as context:
            page = await context.new_page()
            await page.goto(origin)
            devtools = await context.new_cdp_session(page)
            viewer = cls(page, devtools)
            await devtools.send("Network.enable")
            yield viewer

    async def ask(self, url: str, **options: object) -> Answer:
        """Call `fetch(url, options)` in the page."""
        return await self._call("ask", url, options)

    async def store(self, url: str, instance: bytes) -> Answer:
        """Post a DICOM instance."""
        return await self._call("store", url, list(instance))

    async def embed(self, url: str) -> dict[str, Any]:
        """Show an image and read its pixels; returns width, height, colours (a count) or error."""
        seen: dict[str, Any] = await self._evaluate("embed", url)
        return seen

    async def render(self, url: str, **options: object) -> dict[str, Any]:
        """As `embed`, of an image that `fetch(url, options)` brings."""
        seen: dict[str, Any] = await self._evaluate("render", url, options)
        return seen

    async def abort(self, url: str) -> None:
        """Begin a request, and abort it once the first of its response is here."""
        await self._evaluate("begin", url)
        assert await self._evaluate("firstChunk")
        assert await self._evaluate("abort") == "AbortError"

    async def ask_on(self, url: str, *, lanes: int, pause: int, **options: object) -> None:
        """Call `fetch(url, options)` on and on: in one lane at once, in others every `pause` ms.

        These ask together, so that each needs a connection of its own, which then is idle.
        """
        await self._evaluate("askOn", url, options, lanes, pause)

    async def load_more(self, count: int) -> None:
        """Wait until so many more of these have been loaded, or one has failed."""
        loaded = await self._page.evaluate("asking.loaded")
        await self._page.wait_for_function(
            "count => asking.loaded >= count || asking.failures.length", arg=loaded + count
        )

    async def stop_asking(self) -> list[Any]:
        """What has failed of these: names of errors, and status codes."""
        failures: list[Any] = await self._page.evaluate("stopAsking()")
        return failures

    async def _call(self, function: str, *arguments: object) -> Answer:
        self._events = asyncio.Queue()
        seen = await self._evaluate(function, *arguments)
        told = await asyncio.wait_for(self._record(), 10)
        return Answer(**seen | {"body": bytes(seen.get("body", ()))} | told)

    async def _evaluate(self, function: str, *arguments: object) -> Any:  # noqa: ANN401
        return await self._page.evaluate(f"(arguments) => {function}(...arguments)", arguments)

    def _note_certificate(self, event: dict[str, Any]) -> None:
        if details := event["response"].get("securityDetails"):
            self.certificates.add(details["subjectName"])

    def _note(self, name: str, event: dict[str, Any]) -> None:
        self._events.put_nowait((name, event))

    async def _record(self) -> dict[str, Any]:
        """Read the developer tools' events until they have told all of the script's own request.

        What they tell of a preflight comes from another process than the end of the request, so
        perhaps after it; but never after the extra information, which comes from there, too.
        """
        requests: dict[str, dict[str, Any]] = {}
        extras: set[str] = set()
        told: dict[str, Any] = {}
        preflight_ended = False
        cors_error = ""
        awaited: str | None = None  # the request whose extra information is to come, too
        ended = False
        while not ended or not (
            preflight_ended or (awaited in extras if awaited else "Preflight" not in cors_error)
        ):
            name, event = await self._events.get()
            identity = event["requestId"]
            request = requests.get(identity)
            if name == "requestWillBeSent":
                requests[identity] = event
            elif name == "responseReceivedExtraInfo":
                extras.add(identity)
            elif request is None:
                continue
            elif name == "responseReceived" and event["type"] == "Preflight":
                told["preflight"] = Preflight(
                    request["request"]["headers"],
                    event["response"]["status"],
                    {name.lower(): value for name, value in event["response"]["headers"].items()},
                )
            elif name == "responseReceived":
                told["protocol"] = event["response"]["protocol"]
                awaited = identity if event["hasExtraInfo"] else None
            elif request["initiator"]["type"] == "preflight":
                preflight_ended = True
            elif request["type"] == "Fetch":
                ended = True
                cors_error = event.get("corsErrorStatus", {}).get("corsError", "")
        return told | {"cors_error": cors_error or None}
