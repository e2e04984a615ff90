"""The libraries of viewers: npm's dicomweb-client and dwv, through the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.support import samples
from tests.support.pictures import likeness
from tests.support.samples import CT, MULTI_FRAME, REPORT
from tests.support.tabs import call

if TYPE_CHECKING:
    from tests.e2e.viewers.conftest import Pages
    from tests.support.proxy import Proxy
    from tests.support.samples import Sample
    from tests.support.tabs import Tab

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("from_npm"),
]


@pytest.fixture
def proxy(either_proxy: Proxy) -> Proxy:
    return either_proxy


@pytest_asyncio.fixture(loop_scope="session")
async def page(tab: Tab, pages: Pages) -> Tab:
    await tab.open(f"{pages.viewer}/")
    await tab.evaluate("until(() => window.show)")
    return tab


def place(sample: Sample) -> dict[str, str]:
    return {
        "studyInstanceUID": sample.study,
        "seriesInstanceUID": sample.series,
        "sopInstanceUID": sample.uid,
    }


async def dicomweb(page: Tab, proxy: Proxy, method: str, **options: object) -> Any:  # noqa: ANN401
    """Call a method of dicomweb-client; binary responses come as bytes."""
    found = await call(page, "dicomweb", proxy.url, method, options)
    assert "value" in found, found
    return found["value"]


async def test_dicomweb_client_reads_and_stores(page: Tab, proxy: Proxy) -> None:
    studies = await dicomweb(page, proxy, "searchForStudies", queryParams={"PatientID": "1CT1"})
    assert [study["0020000D"]["Value"] for study in studies] == [[CT.study]]

    (metadata,) = await dicomweb(page, proxy, "retrieveInstanceMetadata", **place(CT))
    assert metadata["00080018"]["Value"] == [CT.uid]

    frames = await dicomweb(
        page, proxy, "retrieveInstanceFrames", **place(MULTI_FRAME), frameNumbers=[2, 1]
    )
    pixels = MULTI_FRAME.dataset.PixelData
    size = len(pixels) // MULTI_FRAME.dataset.NumberOfFrames
    assert [bytes(frame) for frame in frames] == [pixels[size : 2 * size], pixels[:size]]

    (report,) = await dicomweb(page, proxy, "retrieveInstanceMetadata", **place(REPORT))
    uri = report["00420011"]["BulkDataURI"]
    assert uri.startswith(f"{proxy.url}/")
    (document,) = await dicomweb(page, proxy, "retrieveBulkData", BulkDataURI=uri)
    assert bytes(document).startswith(REPORT.dataset.EncapsulatedDocument)

    new = samples.encapsulated_pdf()
    await dicomweb(page, proxy, "storeInstances", datasets=[list(new.data)])
    (stored,) = await dicomweb(page, proxy, "retrieveInstanceMetadata", **place(new))
    assert stored["00080018"]["Value"] == [new.uid]


async def test_dicomweb_client_reads_the_status_of_an_error(page: Tab, proxy: Proxy) -> None:
    nowhere = place(CT) | {"studyInstanceUID": "1.2.3"}
    found = await call(page, "dicomweb", proxy.url, "retrieveInstanceMetadata", nowhere)
    assert found == {"status": 404}


WADO_URI = (
    f"wado?requestType=WADO&studyUID={CT.study}&seriesUID={CT.series}&objectUID={CT.uid}"
    "&contentType=application/dicom"
)
WADO_RS = ("Accept", 'multipart/related; type="application/dicom"; transfer-syntax=*')


@pytest.mark.parametrize(
    ("target", "header"),
    [
        (CT.path, WADO_RS),
        (WADO_URI, ("Accept", "application/dicom")),
    ],
    ids=["WADO-RS", "WADO-URI"],
)
async def test_dwv_shows_an_image(
    target: str, header: tuple[str, str], page: Tab, proxy: Proxy
) -> None:
    name, value = header
    headers = [{"name": name, "value": value}]
    greys = await call(page, "show", f"{proxy.url}/{target}", headers, CT.dataset.Rows)
    assert likeness(greys, CT) > 0.9
