"""The promise: a page reads a real archive on another origin through the proxy, not without it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import pytest

from tests.support import samples
from tests.support.orthanc import CREDENTIALS, Orthanc
from tests.support.proxy import Proxy, fronting, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.browser import Site, Viewer

    Serve = Callable[..., Proxy]

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.orthanc,
    pytest.mark.asyncio(loop_scope="session"),
]

CT = samples.CT


@dataclass(frozen=True, slots=True)
class Wish:
    """A request of a viewer, whether the browser asks before it, and a part of its response."""

    path: str
    accept: str
    preflighted: bool
    content: bytes


WISHES = {
    "search": Wish(
        f"studies?PatientID={CT.dataset.PatientID}",
        "application/dicom+json",
        preflighted=False,
        content=CT.study.encode(),
    ),
    "metadata": Wish(
        f"{CT.path}/metadata",
        "application/dicom+json",
        preflighted=False,
        content=CT.uid.encode(),
    ),
    "frames, quoted": Wish(
        f"{CT.path}/frames/1",
        'multipart/related; type="application/octet-stream"; transfer-syntax=*',
        preflighted=True,
        content=CT.dataset.PixelData,
    ),
    "frames, unquoted": Wish(
        f"{CT.path}/frames/1",
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        preflighted=False,
        content=CT.dataset.PixelData,
    ),
    "instance": Wish(
        CT.path,
        'multipart/related; type="application/dicom"',
        preflighted=True,
        content=CT.dataset.PixelData,
    ),
}
each_wish = pytest.mark.parametrize("wish", WISHES.values(), ids=WISHES)


@pytest.fixture(scope="module")
def proxy(
    orthanc: Orthanc, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with serving(fronting(orthanc.url, site.viewer), tmp_path_factory.mktemp("proxy")) as running:
        yield running


@each_wish
async def test_a_viewer_reads(wish: Wish, viewer: Viewer, proxy: Proxy) -> None:
    answer = await viewer.ask(f"{proxy.url}/{wish.path}", headers={"Accept": wish.accept})
    assert answer.status == 200
    assert wish.content in answer.body
    assert (answer.preflight is not None) is wish.preflighted


@each_wish
async def test_another_origin_reads_nothing(wish: Wish, stranger: Viewer, proxy: Proxy) -> None:
    answer = await stranger.ask(f"{proxy.url}/{wish.path}", headers={"Accept": wish.accept})
    assert answer.error == "TypeError"
    assert answer.cors_error == (
        "PreflightMissingAllowOriginHeader" if wish.preflighted else "MissingAllowOriginHeader"
    )


@each_wish
async def test_without_the_proxy_a_viewer_reads_nothing(
    wish: Wish, viewer: Viewer, orthanc: Orthanc
) -> None:
    answer = await viewer.ask(f"{orthanc.url}/{wish.path}", headers={"Accept": wish.accept})
    assert answer.error == "TypeError"
    assert answer.cors_error == (
        "PreflightMissingAllowOriginHeader" if wish.preflighted else "MissingAllowOriginHeader"
    )


async def test_the_preflight_of_a_quoted_accept_is_granted(
    viewer: Viewer, proxy: Proxy, site: Site
) -> None:
    wish = WISHES["frames, quoted"]
    answer = await viewer.ask(f"{proxy.url}/{wish.path}", headers={"Accept": wish.accept})
    assert answer.preflight is not None
    assert answer.preflight.request["Access-Control-Request-Method"] == "GET"
    assert answer.preflight.request["Access-Control-Request-Headers"] == "accept"
    assert answer.preflight.status == 204
    headers = answer.preflight.headers
    assert "content-length" not in headers
    assert headers["access-control-allow-origin"] == site.viewer
    assert "accept" in headers["access-control-allow-headers"]
    assert headers["access-control-max-age"] == "7200"
    assert headers["vary"] == (
        "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    )


async def test_the_preflight_of_another_origin_is_refused(stranger: Viewer, proxy: Proxy) -> None:
    wish = WISHES["frames, quoted"]
    answer = await stranger.ask(f"{proxy.url}/{wish.path}", headers={"Accept": wish.accept})
    assert answer.preflight is not None
    assert answer.preflight.status == 403
    assert not [name for name in answer.preflight.headers if name.startswith("access-control-")]


async def test_a_viewer_renders_an_image(viewer: Viewer, proxy: Proxy) -> None:
    image = await viewer.render(f"{proxy.url}/{CT.path}/rendered", headers={"Accept": "image/png"})
    assert (image["width"], image["height"]) == (CT.dataset.Columns, CT.dataset.Rows)
    assert image["colours"] > 16


@pytest.mark.parametrize(
    "path", ["studies/1.2.3/metadata", "nothing", ""], ids=["study", "resource", "root"]
)
async def test_a_viewer_reads_a_404(path: str, viewer: Viewer, proxy: Proxy) -> None:
    assert (await viewer.ask(f"{proxy.url}/{path}")).status == 404


async def test_a_viewer_with_a_mistyped_root_reads_a_404(viewer: Viewer, proxy: Proxy) -> None:
    assert (await viewer.ask(f"{proxy.root}/dicomweb/studies")).status == 404


async def test_two_flags_are_enough(
    viewer: Viewer, serve: Serve, orthanc: Orthanc, site: Site
) -> None:
    proxy = serve({}, "--upstream", orthanc.url, "--allow-origin", site.viewer)
    assert (await viewer.ask(f"{proxy.url}/studies")).status == 200


async def test_a_viewer_stores_in_read_write_mode(
    viewer: Viewer, serve: Serve, orthanc: Orthanc, site: Site
) -> None:
    report = samples.encapsulated_pdf()
    proxy = serve(fronting(orthanc.url, site.viewer) | {"access": {"mode": "read-write"}})
    answer = await viewer.store(f"{proxy.url}/studies", report.data)
    assert answer.status == 200
    assert answer.preflight is not None
    assert answer.preflight.request["Access-Control-Request-Method"] == "POST"
    stored = await viewer.ask(f"{proxy.url}/{report.path}/metadata")
    assert json.loads(stored.body)[0]["00080018"]["Value"] == [report.uid]


async def test_a_store_in_read_only_mode_is_a_readable_405(viewer: Viewer, proxy: Proxy) -> None:
    report = samples.encapsulated_pdf()
    answer = await viewer.store(f"{proxy.url}/studies", report.data)
    assert answer.status == 405
    assert answer.preflight is not None
    assert answer.preflight.status == 204
    assert (await viewer.ask(f"{proxy.url}/{report.path}/metadata")).status == 404


async def test_the_proxy_signs_in_for_the_viewer(
    viewer: Viewer, serve: Serve, orthanc_with_auth: Orthanc, site: Site
) -> None:
    auth = {"type": "basic"} | asdict(CREDENTIALS)
    proxy = serve(fronting(orthanc_with_auth.url, site.viewer, auth=auth))
    for name, wish in WISHES.items():
        answer = await viewer.ask(f"{proxy.url}/{wish.path}", headers={"Accept": wish.accept})
        assert (answer.status, name) == (200, name)


async def test_credentials_of_the_proxy_that_the_archive_refuses_are_a_readable_502(
    viewer: Viewer, serve: Serve, orthanc_with_auth: Orthanc, site: Site
) -> None:
    auth = {"type": "basic"} | asdict(replace(CREDENTIALS, password="mistyped"))
    proxy = serve(fronting(orthanc_with_auth.url, site.viewer, auth=auth))
    answer = await viewer.ask(f"{proxy.url}/studies")
    assert answer.status == 502
    assert "upstream.auth" in json.loads(answer.body)["detail"]


async def test_a_viewer_signs_in_itself(
    viewer: Viewer, serve: Serve, orthanc_with_auth: Orthanc, site: Site
) -> None:
    headers = {"Authorization": CREDENTIALS.header}
    proxy = serve(fronting(orthanc_with_auth.url, site.viewer))

    through_proxy = await viewer.ask(f"{proxy.url}/studies", headers=headers)
    assert through_proxy.status == 200
    assert through_proxy.preflight is not None
    assert through_proxy.preflight.request["Access-Control-Request-Headers"] == "authorization"

    straight = await viewer.ask(f"{orthanc_with_auth.url}/studies", headers=headers)
    assert straight.error == "TypeError"
    assert straight.preflight is not None
    assert straight.preflight.status == 401


async def test_a_viewer_without_credentials_reads_a_401_and_how_to_sign_in(
    viewer: Viewer, serve: Serve, orthanc_with_auth: Orthanc, site: Site
) -> None:
    proxy = serve(fronting(orthanc_with_auth.url, site.viewer))
    answer = await viewer.ask(f"{proxy.url}/studies")
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic")
