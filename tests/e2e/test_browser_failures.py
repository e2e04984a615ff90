"""What a page sees of archives that fail, answer in parts, or must not be asked at all."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.proxy import Proxy, fronting
from tests.support.servers import LOOPBACK, Reply, free_port, silence, stub

if TYPE_CHECKING:
    from collections.abc import Callable

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


async def test_a_write_of_another_origin_never_reaches_the_archive(
    stranger: Viewer, serve: Serve, site: Site
) -> None:
    with stub(Reply(200)) as archive:
        proxy = serve(fronting(archive.url, site.viewer) | {"access": {"mode": "read-write"}})
        answer = await stranger.ask(f"{proxy.url}/studies", method="POST", body="no preflight")
    assert answer.cors_error == "MissingAllowOriginHeader"
    assert answer.preflight is None
    assert archive.requests == []
