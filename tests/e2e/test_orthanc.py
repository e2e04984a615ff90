"""The proxy in front of a real archive, asked by programs other than browsers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from dicomweb_client import DICOMwebClient

from tests.support import samples
from tests.support.orthanc import CREDENTIALS, Orthanc
from tests.support.proxy import Proxy, fronting, serving
from tests.support.samples import CT, MULTI_FRAME, RGB, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from email.message import Message

pytestmark = pytest.mark.orthanc


@pytest.fixture(scope="module")
def proxy(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    settings = fronting(orthanc.url, "https://viewer.example")
    with serving(settings, tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy) -> DICOMwebClient:
    return DICOMwebClient(url=proxy.url)


def ask(url: str, target: str, accept: str = "*/*") -> tuple[int, Message, bytes]:
    """GET `target` below `url`, sent as it is written."""
    root = urlsplit(url)
    with closing(HTTPConnection(str(root.hostname), root.port, timeout=10)) as connection:
        connection.request("GET", root.path + target, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def test_a_client_finds_every_study(client: DICOMwebClient) -> None:
    found = {study["0020000D"]["Value"][0] for study in client.search_for_studies()}
    assert found >= {sample.study for sample in samples.ALL}


def test_a_client_finds_a_patient(client: DICOMwebClient) -> None:
    found = client.search_for_instances(search_filters={"PatientID": CT.dataset.PatientID})
    assert [instance["00080018"]["Value"][0] for instance in found] == [CT.uid]


each_sample = pytest.mark.parametrize(
    "sample", samples.ALL, ids=[sample.dataset.Modality for sample in samples.ALL]
)


@each_sample
def test_a_client_reads_metadata(sample: Sample, client: DICOMwebClient) -> None:
    metadata = client.retrieve_instance_metadata(sample.study, sample.series, sample.uid)
    assert metadata["00100010"]["Value"] == [{"Alphabetic": str(sample.dataset.PatientName)}]


@each_sample
def test_a_client_retrieves_an_instance(sample: Sample, client: DICOMwebClient) -> None:
    dataset = client.retrieve_instance(sample.study, sample.series, sample.uid)
    assert dataset.SOPInstanceUID == sample.uid


@each_sample
def test_the_file_arrives_as_it_was_stored(sample: Sample, proxy: Proxy) -> None:
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    status, _, body = ask(proxy.url, f"/{sample.path}", accept)
    assert status == 200
    assert sample.data in body


@pytest.mark.parametrize("sample", [CT, MULTI_FRAME, RGB], ids=["CT", "15 frames", "RGB"])
def test_a_client_retrieves_frames(sample: Sample, client: DICOMwebClient) -> None:
    count = int(sample.dataset.get("NumberOfFrames", 1))
    frames = client.retrieve_instance_frames(
        sample.study,
        sample.series,
        sample.uid,
        frame_numbers=list(range(1, count + 1)),
        media_types=(("application/octet-stream", "*"),),
    )
    assert b"".join(frames) == sample.dataset.PixelData


BODIES = {
    "instance": (200, CT.path, 'multipart/related; type="application/dicom"'),
    "instance, unquoted": (200, CT.path, "multipart/related; type=application/dicom"),
    "frame": (200, f"{RGB.path}/frames/1", "multipart/related; type=application/octet-stream"),
    "frames": (
        200,
        f"{MULTI_FRAME.path}/frames/3,1",
        'multipart/related; type="application/octet-stream"',
    ),
    "png": (200, f"{CT.path}/rendered", "image/png"),
    "jpeg": (200, f"{RGB.path}/rendered", "image/jpeg"),
    "bulk data": (200, f"{CT.path}/bulk/7fe00010", "*/*"),
    "no such study": (404, "studies/1.2.3/metadata", "application/dicom+json"),
    "unknown parameter": (400, "studies?limit=no", "application/dicom+json"),
}


@pytest.mark.parametrize(("status", "path", "accept"), BODIES.values(), ids=BODIES)
def test_the_proxy_changes_no_byte(
    status: int, path: str, accept: str, proxy: Proxy, orthanc: Orthanc
) -> None:
    def answer(url: str) -> tuple[int, str, bytes]:
        status, headers, body = ask(url, f"/{path}", accept)
        # Orthanc makes a new boundary for each response.
        boundary = headers.get_boundary("none").encode()
        return status, headers.get_content_type(), body.replace(boundary, b"boundary")

    assert answer(proxy.url) == answer(orthanc.url)
    assert answer(proxy.url)[0] == status


@pytest.mark.parametrize("target", ["/servers", "/info", "/../system", "/../instances"])
def test_what_the_archive_serves_beside_dicomweb_stays_hidden(
    target: str, proxy: Proxy, orthanc: Orthanc
) -> None:
    def status(url: str, target: str) -> int:
        return ask(url, target)[0]

    assert status(orthanc.url, target) == 200
    assert status(proxy.url, target) in {400, 404}
    assert status(proxy.url, target.replace("..", "%2e%2e")) in {400, 404}


def test_nothing_in_the_log_tells_of_a_patient(proxy: Proxy) -> None:
    ask(proxy.url, f"/{CT.path}/metadata")
    ask(proxy.url, f"/studies?PatientID={CT.dataset.PatientID}&limit=no")
    for secret in (CT.study, CT.uid, str(CT.dataset.PatientID)):
        assert secret not in proxy.child.output


@pytest.mark.parametrize(
    ("password", "status"), [(CREDENTIALS.password, 200), ("mistyped", 503)], ids=["right", "wrong"]
)
def test_readiness_asks_with_the_credentials_of_the_proxy(
    password: str, status: int, serve: Callable[..., Proxy], orthanc_with_auth: Orthanc
) -> None:
    auth = {"type": "basic"} | asdict(replace(CREDENTIALS, password=password))
    proxy = serve(fronting(orthanc_with_auth.url, "https://viewer.example", auth=auth))
    assert ask(proxy.root, "/readyz")[0] == status
    assert password not in proxy.child.output
