"""What a page sees of archives that fail, answer in parts, or must not be asked at all."""

from __future__ import annotations

import json
import re
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.guides import guide
from tests.support.proxy import Proxy, fronting
from tests.support.servers import LOOPBACK, Reply, free_port, silence, stub
from tests.support.tabs import Chromium, call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from playwright.async_api import Browser

    from tests.support.browser import Site, Viewer

    Serve = Callable[..., Proxy]

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="session")]


async def test_a_500_of_the_archive(viewer: Viewer, serve: Serve, site: Site) -> None:
    with stub(Reply(500, {"Access-Control-Allow-Origin": "https://else.example"})) as archive:
        proxy = serve(fronting(archive.url, site.viewer))
        assert (await viewer.ask(f"{proxy.url}/studies")).status == 500


async def test_a_502_while_the_archive_is_down(viewer: Viewer, serve: Serve, site: Site) -> None:
    proxy = serve(fronting(f"http://{LOOPBACK}:{free_port()}", site.viewer))
    answer = await viewer.ask(f"{proxy.url}/studies")
    assert answer.status == 502
    assert json.loads(answer.body)["status"] == 502


async def test_a_504_while_the_archive_hangs(viewer: Viewer, serve: Serve, site: Site) -> None:
    with silence() as archive:
        proxy = serve(fronting(archive, site.viewer, read_timeout=1))
        answer = await viewer.ask(f"{proxy.url}/studies")
    assert answer.status == 504
    assert "read_timeout" in json.loads(answer.body)["detail"]


@pytest.mark.parametrize(
    ("wanted", "preflighted"), [("bytes=6-9", False), ("bytes=-4", True)], ids=["from-to", "last"]
)
async def test_a_part_comes_with_its_content_range(
    wanted: str, preflighted: bool, viewer: Viewer, serve: Serve, site: Site
) -> None:
    with stub(Reply(206, {"Content-Range": "bytes 6-9/10"}, b"6789")) as archive:
        proxy = serve(fronting(archive.url, site.viewer))
        answer = await viewer.ask(
            f"{proxy.url}/studies/1/series/2/instances/3/bulkdata/4", headers={"Range": wanted}
        )
    assert (answer.status, answer.body) == (206, b"6789")
    assert answer.headers["content-range"] == "bytes 6-9/10"
    assert (answer.preflight is not None) is preflighted
    assert [headers["Range"] for _, _, headers in archive.requests] == [wanted]


async def test_an_embedded_image_lets_its_pixels_be_read(
    viewer: Viewer, serve: Serve, site: Site
) -> None:
    png = BytesIO()
    Image.linear_gradient("L").save(png, "PNG")
    with stub(Reply(200, {"Content-Type": "image/png"}, png.getvalue())) as archive:
        proxy = serve(fronting(archive.url, site.viewer))
        path = "studies/1/series/2/instances/3/rendered"
        assert await viewer.embed(f"{proxy.url}/{path}") == {
            "width": 256,
            "height": 256,
            "colours": 256,
        }
        assert await viewer.embed(f"{archive.url}/{path}") == {"error": "EncodingError"}


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "by default"])
async def test_credentialed_requests(
    allowed: bool, viewer: Viewer, serve: Serve, site: Site
) -> None:
    with stub(Reply(200, {}, b"[]")) as archive:
        settings = fronting(archive.url, site.viewer)
        settings["cors"]["allow_credentials"] = allowed
        answer = await viewer.ask(f"{serve(settings).url}/studies", credentials="include")
    if allowed:
        assert (answer.status, answer.body) == (200, b"[]")
    else:
        assert answer.cors_error == "InvalidAllowCredentials"


@pytest.mark.parametrize(
    ("options", "console", "log"),
    [
        (
            {"headers": {"X-Token": "made-up"}},
            "Request header field x-token is not allowed by Access-Control-Allow-Headers",
            "cors.allow_headers does not list these headers: x-token.",
        ),
        (
            {"headers": {"Accept": '"a"', "X-Token": "made-up", "X-Site": "made-up"}},
            "Request header field x-site is not allowed by Access-Control-Allow-Headers",
            "cors.allow_headers does not list these headers: x-site and x-token.",
        ),
        (
            {"method": "DELETE"},
            "Method DELETE is not allowed by Access-Control-Allow-Methods",
            "cors.allow_methods does not list DELETE.",
        ),
        (
            {"method": "patch"},
            "Method patch is not allowed by Access-Control-Allow-Methods",
            "cors.allow_methods does not list patch.",
        ),
    ],
    ids=["header", "two headers", "method", "method in lower case"],
)
@pytest.mark.parametrize("credentials", [False, True], ids=["without", "with credentials"])
async def test_the_console_and_the_log_name_what_a_preflight_lacks(
    *,
    options: Mapping[str, object],
    console: str,
    log: str,
    chromium: Browser,
    serve: Serve,
    site: Site,
    credentials: bool,
) -> None:
    with stub(Reply(200)) as archive:
        settings = fronting(archive.url, site.viewer)
        settings["cors"]["allow_credentials"] = credentials
        proxy = serve(settings)
        async with Chromium.tab(chromium) as tab:
            await tab.open(site.viewer)
            asked = {**options, "credentials": "include" if credentials else "omit"}
            assert "error" in await call(tab, "ask", f"{proxy.url}/studies", asked)
            said = await tab.said()
    assert said.endswith(f"blocked by CORS policy: {console} in preflight response.")
    proxy.child.wait_for(f"preflight-refused .*{re.escape(log)}")
    assert archive.requests == []
    # The guide shows the same sentence, for another header or path.
    sentence = re.sub(r"field \S+ is", "field accept is", console).replace("patch", "DELETE")
    assert f"{sentence} in preflight response." in guide("browser-messages").read_text()


async def test_a_write_of_another_origin_never_reaches_the_archive(
    stranger: Viewer, serve: Serve, site: Site
) -> None:
    with stub(Reply(200)) as archive:
        proxy = serve(fronting(archive.url, site.viewer) | {"access": {"mode": "read-write"}})
        answer = await stranger.ask(f"{proxy.url}/studies", method="POST", body="no preflight")
    assert answer.cors_error == "MissingAllowOriginHeader"
    assert answer.preflight is None
    assert archive.requests == []
