"""Pages whose requests share one connection: `serve` with a certificate, in both browsers."""

from __future__ import annotations

import functools
import hashlib
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import httpx
import pytest

from dicomweb_cors_proxy.demo import phantom
from tests.support.certificates import Pair
from tests.support.demo import demo
from tests.support.protocols import HTTP2, LOGGING, requests, spoken
from tests.support.proxy import Proxy, fronting
from tests.support.servers import serving
from tests.support.sockets import Head, Wire, answer, archive
from tests.support.tabs import call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.viewers.conftest import Pages
    from tests.support.demo import Demo
    from tests.support.tabs import Tab

pytestmark = pytest.mark.asyncio(loop_scope="session")

FRAMES = 300
QUOTED = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
UNQUOTED = {"Accept": QUOTED["Accept"].replace('"', "")}


def pixels(number: int) -> bytes:
    """A frame of its own for each number, of about 60 KB."""
    return hashlib.shake_128(str(number).encode()).digest(60_000 + number)


async def frame(wire: Wire, head: Head) -> None:
    """Answer with the frame whose number ends the path; the page may see by what protocol."""
    number = int(head.first_line.split()[1].rpartition(b"/")[2])
    await wire.send(answer(pixels(number), b"Timing-Allow-Origin: *"))


@pytest.mark.parametrize("headers", [QUOTED, UNQUOTED], ids=["preflights", "no preflights"])
async def test_300_frames_at_once_come_whole(
    headers: dict[str, str],
    tab: Tab,
    pages: Pages,
    serve: Callable[..., Proxy],
    tmp_path: Path,
) -> None:
    async with archive(frame) as a:
        settings = fronting(a.url, pages.viewer, max_connections=8)
        proxy = serve(settings | {"server": Pair(tmp_path).server} | LOGGING)
        await tab.open(f"{pages.viewer}/ask/")
        url = f"{proxy.url}/studies/1/series/2/instances/3/frames/"
        seen = await call(tab, "askForAll", url, FRAMES, {"headers": headers})
        assert len(a.requests) == FRAMES
        assert len(a.connections) <= 8
    expected = [hashlib.sha256(pixels(number)).hexdigest() for number in range(1, FRAMES + 1)]
    assert seen == {"bodies": expected, "protocols": ["h2"]}
    assert spoken(proxy) == {HTTP2}
    methods = [request["method"] for request in requests(proxy)]
    assert methods.count("OPTIONS") == (FRAMES if headers is QUOTED else 0)


class _Page(BaseHTTPRequestHandler):
    """The demo's page, whose script finds the proxy at another URL."""

    def __init__(self, *args: object, original: Demo, proxy: str) -> None:
        self._demo = original
        self._roots = {"proxy": proxy, "archive": original.archive}
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        response = httpx.get(f"{self._demo.page}{self.path}", trust_env=False)
        body = response.content
        if self.path == "/dicomweb.js":
            own = b"{ proxy: root(1), archive: root(2) }"
            assert own in body
            body = body.replace(own, json.dumps(self._roots).encode())
        self.send_response(response.status_code)
        self.send_header("Content-Type", response.headers["Content-Type"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def page_of(original: Demo, proxy: Proxy) -> Iterator[str]:
    """Serve the demo's page for a proxy of ours; yields its URL."""
    with serving(functools.partial(_Page, original=original, proxy=proxy.url)) as port:
        yield f"http://localhost:{port}/"


async def test_the_demo_shows_its_images(
    tab: Tab, serve: Callable[..., Proxy], tmp_path: Path
) -> None:
    with demo() as running:
        settings = fronting(running.archive, "http://localhost:*")
        proxy = serve(settings | {"server": Pair(tmp_path).server} | LOGGING)
        with page_of(running, proxy) as url:
            await tab.open(url)
            await tab.evaluate(
                """new Promise((resolve) => {
                  const look = () =>
                    "ready" in document.body.dataset ? resolve() : setTimeout(look, 50);
                  look();
                })"""
            )
            statuses = await tab.evaluate(
                """Array.from(document.querySelectorAll("#proxied-requests .status"),
                  (node) => node.innerText)"""
            )
            others = await tab.evaluate("document.getElementById('others').innerText")
    assert statuses == ["200", "200", "200"]
    assert f"The other {phantom.SLICES - 1} images" in others
    assert spoken(proxy) == {HTTP2}
    read = [request["status"] for request in requests(proxy) if request["method"] == "GET"]
    assert read == [200] * len(read)
    assert len(read) > phantom.SLICES
