"""Every URL in a real archive's responses leads a page through the proxy."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import orthanc as archives
from tests.support import samples
from tests.support.proxy import Proxy, fronting, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.browser import Site, Viewer

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.orthanc,
    pytest.mark.asyncio(loop_scope="session"),
]

# How Debian's package has the archive name itself, without a port; by the host it is asked for; and
# as a newer one does it, which takes the proxy's word for its name.
NAMED: dict[str, dict[str, Any]] = {"Debian's Host": {"Host": "localhost"}, "no Host": {}}
NEWER = "newer"

IN_XML = re.compile(
    r'<BulkData[^>]*\sURI="([^"]+)"|tag="00081190"[^>]*>\s*<Value[^>]*>([^<]+)<', re.IGNORECASE
)


@pytest.fixture(scope="module", params=[*NAMED, NEWER])
def proxy(
    request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    settings = NAMED.get(request.param, {})
    with ExitStack() as running:
        if request.param == NEWER:
            if not archives.NEWER_INSTALLED:
                pytest.skip("needs root, and the tree that tests/e2e/install-orthanc makes")
            archive = running.enter_context(archives.newer_orthanc())
        else:
            if not archives.INSTALLED:
                pytest.skip("needs Debian's orthanc and orthanc-dicomweb")
            directory = tmp_path_factory.mktemp("orthanc")
            archive = running.enter_context(archives.orthanc(directory, **settings))
        aliases = ["http://localhost/dicom-web"] if settings else []
        fronted = fronting(archive.url, site.viewer, aliases=aliases)
        fronted["access"] = {"mode": "read-write"}
        yield running.enter_context(serving(fronted, tmp_path_factory.mktemp("proxy")))


def urls(value: object) -> Iterator[tuple[str, str]]:
    """Yield the URLs in DICOM JSON, and whether each is of an object or of bulk data."""
    if isinstance(value, list):
        for item in value:
            yield from urls(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == "BulkDataURI":
                yield "bulk data", item
            elif name == "00081190":
                yield from (("object", url) for url in item["Value"])
            else:
                yield from urls(item)


async def opened(viewer: Viewer, proxy: Proxy, found: set[tuple[str, str]]) -> None:
    for kind, url in found:
        assert url.startswith(f"{proxy.url}/"), url
        answer = await viewer.ask(url if kind == "bulk data" else f"{url}/metadata")
        assert answer.status == 200, url
        assert answer.body


@pytest.mark.parametrize("target", ["studies", "series", "instances"])
async def test_what_a_search_finds_is_opened(target: str, viewer: Viewer, proxy: Proxy) -> None:
    answer = await viewer.ask(f"{proxy.url}/{target}")
    found = set(urls(json.loads(answer.body)))
    assert len(found) >= len(samples.ALL)
    await opened(viewer, proxy, found)


@pytest.mark.parametrize("sample", [samples.CT, samples.REPORT], ids=["CT", "report"])
async def test_what_metadata_points_to_is_opened(
    sample: samples.Sample, viewer: Viewer, proxy: Proxy
) -> None:
    answer = await viewer.ask(
        f"{proxy.url}/{sample.path}/metadata", headers={"Accept": "application/dicom+json"}
    )
    found = set(urls(json.loads(answer.body)))
    assert found
    await opened(viewer, proxy, found)


async def test_what_metadata_in_xml_points_to_is_opened(viewer: Viewer, proxy: Proxy) -> None:
    answer = await viewer.ask(
        f"{proxy.url}/{samples.REPORT.path}/metadata",
        headers={"Accept": 'multipart/related; type="application/dicom+xml"'},
    )
    found = {
        ("bulk data" if bulk_data else "object", bulk_data or url)
        for bulk_data, url in IN_XML.findall(answer.body.decode())
    }
    assert found
    await opened(viewer, proxy, found)


async def test_what_was_stored_is_opened(viewer: Viewer, proxy: Proxy) -> None:
    answer = await viewer.store(f"{proxy.url}/studies", samples.encapsulated_pdf().data)
    found = set(urls(json.loads(answer.body)))
    assert len(found) == 2  # of the study, and of the instance
    await opened(viewer, proxy, found)


async def test_a_pdf_opens(viewer: Viewer, proxy: Proxy) -> None:
    answer = await viewer.ask(f"{proxy.url}/{samples.REPORT.path}/metadata")
    (dataset,) = json.loads(answer.body)
    document = await viewer.ask(dataset["00420011"]["BulkDataURI"])
    assert document.status == 200
    assert samples.REPORT.dataset.EncapsulatedDocument in document.body
