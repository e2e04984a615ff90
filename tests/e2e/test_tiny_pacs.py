"""A second real archive: one that knows neither frames nor HEAD, OPTIONS or CORS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import Proxy, fronting, serving
from tests.support.samples import CT
from tests.support.tiny_pacs import tiny_pacs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.browser import Site, Viewer

    Serve = Callable[..., Proxy]

pytestmark = [pytest.mark.chromium, pytest.mark.asyncio(loop_scope="session")]

QUOTED = 'multipart/related; type="application/dicom"'


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tiny_pacs(tmp_path_factory.mktemp("tiny-pacs")) as url:
        yield url


@pytest.fixture(scope="module")
def proxy(archive: str, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = fronting(archive, site.viewer, wado_uri_url=f"{archive}/wado")
    settings |= {"access": {"mode": "read-write"}}
    with serving(settings, tmp_path_factory.mktemp("proxy")) as running:
        yield running


async def test_what_a_viewer_stores_it_finds_and_retrieves(viewer: Viewer, proxy: Proxy) -> None:
    stored = await viewer.store(f"{proxy.url}/studies", CT.data)
    assert stored.status == 200
    answer = json.loads(stored.body)
    assert answer["00081190"]["Value"] == [f"{proxy.url}/studies/{CT.study}"]
    (instance,) = answer["00081199"]["Value"]
    assert instance["00081190"]["Value"] == [f"{proxy.url}/{CT.path}"]

    series = await viewer.ask(f"{proxy.url}/studies/{CT.study}/series?limit=1")
    (found,) = json.loads(series.body)
    assert found["0020000E"]["Value"] == [CT.series]

    metadata = await viewer.ask(
        instance["00081190"]["Value"][0], headers={"Accept": "application/dicom+json"}
    )
    assert json.loads(metadata.body)[0]["00080018"]["Value"] == [CT.uid]

    for accept in (QUOTED, QUOTED.replace('"', "")):
        study = await viewer.ask(f"{proxy.url}/studies/{CT.study}", headers={"Accept": accept})
        assert study.status == 200
        assert CT.dataset.PixelData in study.body  # it makes the preamble anew

    uri = f"wado?requestType=WADO&studyUID={CT.study}&seriesUID={CT.series}&objectUID={CT.uid}"
    assert CT.dataset.PixelData in (await viewer.ask(f"{proxy.url}/{uri}")).body


async def test_what_it_has_not_is_readable(viewer: Viewer, proxy: Proxy) -> None:
    for path in (f"{CT.path}/frames/1", f"{CT.path}/metadata", f"{CT.path}/rendered"):
        assert (await viewer.ask(f"{proxy.url}/{path}")).status == 404
    refused = await viewer.ask(
        f"{proxy.url}/{CT.path}",
        headers={"Accept": f"{QUOTED}; transfer-syntax=1.2.840.10008.1.2.4.90"},
    )
    assert refused.status == 406
    assert b"transfer syntaxes" in refused.body


async def test_without_the_proxy_a_viewer_reads_nothing(viewer: Viewer, archive: str) -> None:
    plain = await viewer.ask(f"{archive}/studies")
    assert plain.cors_error == "MissingAllowOriginHeader"
    preflighted = await viewer.ask(f"{archive}/studies", headers={"Accept": QUOTED})
    assert preflighted.cors_error == "PreflightMissingAllowOriginHeader"
    assert preflighted.preflight is not None
    assert preflighted.preflight.status == 405


@pytest.mark.parametrize(("token", "status"), [("right", 204), ("wrong", 502)])
async def test_the_proxy_logs_in_with_a_token(
    *, token: str, status: int, viewer: Viewer, serve: Serve, site: Site, tmp_path: Path
) -> None:
    with tiny_pacs(tmp_path, auth="token", tokens=["right"]) as archive:
        auth = {"type": "bearer", "token": token}
        proxy = serve(fronting(archive, site.viewer, auth=auth))
        assert (await viewer.ask(f"{proxy.url}/studies")).status == status
        own = await viewer.ask(f"{archive}/studies", headers={"Authorization": f"Bearer {token}"})
        assert own.error == "TypeError"
