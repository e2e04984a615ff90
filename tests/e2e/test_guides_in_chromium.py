"""What the guides say of preflights and of headers is what Chromium does."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import Viewer
from tests.support.guides import guide
from tests.support.probing import EXPOSE_HEADERS, PATH, archive
from tests.support.proxy import Proxy, fronting
from tests.support.servers import Reply, stub
from tests.support.tabs import Chromium

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from playwright.async_api import Browser

    from tests.support.browser import Site

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="session")]

FRAMES = 20
UNQUOTED = {"Accept": "multipart/related; type=application/octet-stream; transfer-syntax=*"}
QUOTED = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}


@dataclass(frozen=True, slots=True)
class Manner:
    """How a viewer asks; `series` is its own unless it asks for what another did."""

    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "studies/1/series/{series}/instances/{number}/frames/1"
    credentials: str = "same-origin"
    series: int = 0


SEARCH = "studies/{series}/series?limit={number}"
MANNERS = {
    f"`Accept: {QUOTED['Accept']}`": Manner(QUOTED, series=1),
    "the same without the quotes": Manner(UNQUOTED, series=2),
    "with the quotes, all frames for the second time within `cors.max_age`": Manner(
        QUOTED, series=1
    ),
    "without the quotes, and `Authorization: Bearer …`": Manner(
        UNQUOTED | {"Authorization": "Bearer made-up"}, series=3
    ),
    "without the quotes, and a cookie (`credentials: 'include'`)": Manner(
        UNQUOTED, credentials="include", series=4
    ),
    "`Range: bytes=0-1023`": Manner({"Range": "bytes=0-1023"}, series=5),
    "`Range: bytes=-1024`": Manner({"Range": "bytes=-1024"}, series=6),
    "`If-None-Match` set by the script": Manner({"If-None-Match": '"made-up"'}, series=7),
    "`Accept: application/dicom+json`, searches": Manner(
        {"Accept": "application/dicom+json"}, SEARCH, series=8
    ),
    "`Content-Type: application/dicom+json` on a search": Manner(
        {"Content-Type": "application/dicom+json"}, SEARCH, series=9
    ),
}


async def preflights(viewer: Viewer, root: str, manner: Manner) -> int:
    """Ask for all frames, and count the preflights that the browser sent."""
    count = 0
    for number in range(1, FRAMES + 1):
        answer = await viewer.ask(
            f"{root}/{manner.path.format(series=manner.series, number=number)}",
            headers=dict(manner.headers),
            credentials=manner.credentials,
        )
        assert answer.status == 200, answer
        count += answer.preflight is not None
    return count


async def test_the_table_of_preflights(
    chromium: Browser, site: Site, serve: Callable[..., Proxy]
) -> None:
    lines = ["| the viewer sends | preflights | requests in all |", "|---|---|---|"]
    with stub(Reply(200, {"Content-Type": "application/octet-stream"}, b"frame")) as archive:
        settings = fronting(archive.url, site.viewer)
        settings["cors"]["allow_credentials"] = True
        root = serve(settings).url
        async with Viewer.at(site.viewer, chromium) as viewer:
            for label, manner in MANNERS.items():
                count = await preflights(viewer, root, manner)
                lines.append(f"| {label} | {count} | {FRAMES + count} |")
        assert len(archive.requests) == FRAMES * len(MANNERS), "preflights stay with the proxy"
    table = re.search(
        r"<!-- preflights:begin -->\n(.*?)\n<!-- preflights:end -->",
        guide("fewer-requests").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert table
    assert table[1].splitlines() == lines


async def test_a_header_that_is_not_exposed(chromium: Browser, site: Site) -> None:
    with archive(lambda answer: answer.drop(EXPOSE_HEADERS)) as running:
        async with Chromium.tab(chromium) as tab:
            await tab.open(site.viewer)
            read = await tab.evaluate(
                f"""new Promise((done) => {{
                  const request = new XMLHttpRequest();
                  request.open("GET", "{running.url}{PATH}/frames/1");
                  request.setRequestHeader("Range", "bytes=0-63");
                  request.onload = () => done(request.getResponseHeader("content-range"));
                  request.send();
                }})"""
            )
            said = await tab.said()
    assert read is None
    assert f"\n{said}\n" in guide("browser-messages").read_text(encoding="utf-8")
