from __future__ import annotations

import math
import os
import signal
import struct
from io import BytesIO
from socket import create_server, gethostname
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom import Dataset, dcmread

from dicomweb_cors_proxy.demo import phantom, sample
from dicomweb_cors_proxy.demo.archive import ROOT, create_archive
from dicomweb_cors_proxy.demo.encoding import dicom_json, part10
from tests.support.demo import Demo, command, demo, three_free_ports
from tests.support.processes import Child
from tests.support.servers import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

MIDDLE = sample.INSTANCES[12]
STUDY = f"/studies/{MIDDLE['StudyInstanceUID']}"
SERIES = f"{STUDY}/series/{MIDDLE['SeriesInstanceUID']}"
INSTANCE = f"{SERIES}/instances/{MIDDLE['SOPInstanceUID']}"

QUOTED = 'multipart/related; type="application/octet-stream"'
UNQUOTED = "multipart/related; type=application/octet-stream"


async def ask(
    path: str, accept: str = "*/*", *, method: str = "GET", **headers: str
) -> httpx.Response:
    transport = httpx.ASGITransport(create_archive())
    async with httpx.AsyncClient(transport=transport, base_url=f"http://archive{ROOT}") as client:
        return await client.request(method, path, headers={"Accept": accept, **headers})


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    with demo() as started:
        yield started


# The phantom


@pytest.mark.parametrize("index", [0, 7, 12, 23])
def test_an_image_adds_up_to_the_areas_of_its_ellipses(index: int) -> None:
    z = phantom.height(index) / (phantom.PIXEL_SPACING * phantom.SIZE / 2)
    expected = 0.0
    for ellipsoid in phantom.HEAD:
        a, b, c = ellipsoid.semi_axes
        section = max(1 - ((z - ellipsoid.centre[2]) / c) ** 2, 0)
        expected += ellipsoid.hu * math.pi * a * b * section * (phantom.SIZE / 2) ** 2
    words = struct.unpack(f"<{phantom.SIZE**2}H", phantom.pixels(index))
    above_air = sum(words) - len(words) * (-1000 - phantom.INTERCEPT)
    assert above_air == pytest.approx(expected, rel=0.002)


@pytest.mark.parametrize(
    ("row", "column", "hu"),
    [(0, 0, -1000), (12, 128, 900), (200, 128, 35), (128, 100, 5), (85, 128, 55)],
    ids=["air", "skull", "brain", "ventricle", "tumour"],
)
def test_tissues_have_their_hounsfield_units(row: int, column: int, hu: int) -> None:
    image = dcmread(BytesIO(part10(MIDDLE, sample.pixels(MIDDLE))))
    assert image.pixel_array[row, column] + image.RescaleIntercept == hu


@pytest.mark.parametrize("instance", sample.INSTANCES[::8], ids=lambda i: str(i["InstanceNumber"]))
def test_a_file_holds_what_its_metadata_says(instance: dict[str, Any]) -> None:
    pixels = sample.pixels(instance)
    image = dcmread(BytesIO(part10(instance, pixels)))
    assert image.file_meta.MediaStorageSOPInstanceUID == image.SOPInstanceUID
    assert all(element.value.is_valid for element in image if element.VR == "UI")
    assert image.PixelData == pixels
    del image.PixelData
    assert image == Dataset.from_json(dicom_json(instance))


# The archive


@pytest.mark.parametrize(
    ("search", "count"),
    [
        ("/studies", 1),
        ("/series", 1),
        ("/instances", 24),
        (f"{STUDY}/series", 1),
        (f"{STUDY}/instances", 24),
        (f"{SERIES}/instances", 24),
        ("/studies/2.25.1/series", 0),
        ("/studies?PatientName=Phantom*", 1),
        ("/studies?00100020=PHANTOM", 1),
        ("/studies?PatientID=SOMEBODY", 0),
        ("/instances?InstanceNumber=7", 1),
        ("/instances?limit=5&offset=21", 3),
    ],
)
async def test_a_search(search: str, count: int) -> None:
    answer = await ask(search, "application/dicom+json")
    assert answer.headers["content-type"] == "application/dicom+json"
    assert len({str(found) for found in answer.json()}) == len(answer.json()) == count


async def test_a_search_with_a_limit_that_is_no_number() -> None:
    assert (await ask("/studies?limit=some")).status_code == 400


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        (f"{INSTANCE}/frames/1", QUOTED, 200),
        (f"{INSTANCE}/frames/1", f"{QUOTED}; transfer-syntax=*", 200),
        (f"{INSTANCE}/frames/1", f"image/jpeg, {QUOTED}", 200),
        (f"{INSTANCE}/frames/1", 'multipart/related; type="*/*"', 200),
        (f"{INSTANCE}/frames/1", "*/*", 200),
        (f"{INSTANCE}/frames/1", UNQUOTED, 406),
        (f"{INSTANCE}/frames/1", 'multipart/related; type="image/jls"', 406),
        (INSTANCE, 'multipart/related; type="application/dicom"', 200),
        (INSTANCE, "multipart/related; type=application/dicom", 406),
        (f"{SERIES}/metadata", "application/json", 200),
        (f"{SERIES}/metadata", "application/dicom+xml", 406),
        (f"{INSTANCE}/rendered", "image/*", 200),
        (f"{INSTANCE}/rendered", "image/jpeg", 406),
    ],
)
async def test_accept_is_taken_by_its_grammar(path: str, accept: str, status: int) -> None:
    assert (await ask(path, accept)).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/studies/2.25.1/metadata", 404),
        ("GET", f"{INSTANCE}/frames/2", 404),
        ("GET", "/nothing", 404),
        ("GET", "/studies/", 404),
        ("POST", "/studies", 405),
        ("OPTIONS", "/studies", 405),
        ("OPTIONS", f"{INSTANCE}/frames/1", 405),
    ],
)
async def test_what_the_archive_does_not_do(method: str, path: str, status: int) -> None:
    assert (await ask(path, method=method)).status_code == status


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/studies"), ("GET", "/nothing"), ("GET", f"{INSTANCE}/frames/1"), ("OPTIONS", "/")],
)
async def test_the_archive_has_no_cors_headers(method: str, path: str) -> None:
    preflight = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "GET"}
    answer = await ask(path, method=method, **preflight)
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("path", "size"),
    [
        (f"{INSTANCE}/rendered", 256),
        (f"{INSTANCE}/frames/1/rendered", 256),
        (f"{INSTANCE}/thumbnail", 64),
        (f"{STUDY}/thumbnail", 64),
    ],
)
async def test_an_image_is_rendered(path: str, size: int) -> None:
    with Image.open(BytesIO((await ask(path, "image/png")).content)) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (size, size), "L")
        assert image.getpixel((0, 0)) == 0
        assert image.getpixel((size // 2, 12 * size // 256)) == 255
        assert image.getpixel((size // 2, 200 * size // 256)) == 127


# The whole


def test_a_client_reads_the_study_through_the_proxy(running: Demo) -> None:
    client = DICOMwebClient(running.proxy)
    [study] = map(Dataset.from_json, client.search_for_studies())
    [series] = map(Dataset.from_json, client.search_for_series(study.StudyInstanceUID))
    uids = study.StudyInstanceUID, series.SeriesInstanceUID
    images = client.retrieve_series(*uids)
    assert [image.InstanceNumber for image in images] == list(range(1, 25))
    [frame] = client.retrieve_instance_frames(*uids, images[12].SOPInstanceUID, [1])
    assert frame == images[12].PixelData


def test_only_the_proxy_lets_the_page_in(running: Demo) -> None:
    origin = {"Origin": running.page}
    assert (
        "access-control-allow-origin"
        not in httpx.get(f"{running.archive}/studies", headers=origin).headers
    )
    through_proxy = httpx.get(f"{running.proxy}/studies", headers=origin)
    assert through_proxy.headers["access-control-allow-origin"] == running.page


def test_the_page_is_told_what_the_servers_saw(running: Demo) -> None:
    latest = httpx.get(f"{running.page}/exchanges").json()
    headers = {"Origin": "null", "Access-Control-Request-Method": "GET", "Cookie": "secret=1"}
    httpx.options(f"{running.proxy}/studies", headers=headers)
    httpx.get(f"{running.proxy}/studies?limit=1")
    preflight, at_proxy, at_archive = httpx.get(f"{running.page}/exchanges/{latest}").json()
    assert (preflight["at"], preflight["method"], preflight["status"]) == ("proxy", "OPTIONS", 403)
    assert "cors.allow_origins" in preflight["detail"]
    assert "secret" not in str(preflight)
    assert (at_proxy["at"], at_proxy["via"]) == ("proxy", False)
    assert (at_archive["at"], at_archive["via"]) == ("archive", True)
    assert at_archive["target"] == "/dicom-web/studies?limit=1"


def test_the_page_is_not_cached(running: Demo) -> None:
    page = httpx.get(running.page)
    assert "<h1>" in page.text
    assert page.headers["cache-control"] == "no-cache"


# The command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_0(number: signal.Signals) -> None:
    with demo("--host", "0.0.0.0") as running:
        assert running.page.startswith("http://localhost:")
        assert httpx.get(f"{running.proxy}/studies").status_code == 200
        os.kill(running.child.pid, number)
        assert running.child.wait() == 0, running.child.output


ALLOW_ORIGIN = "access-control-allow-origin"


def test_on_all_interfaces_the_names_elsewhere_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("container", "")
    with demo("--host", "0.0.0.0") as running:
        port = running.page.rpartition(":")[2]
        assert f"from elsewhere: http://{gethostname().lower()}:{port}" in running.child.output


def test_on_all_interfaces_the_page_works_by_each_name() -> None:
    with demo("--host", "0.0.0.0") as running:
        port = running.page.rpartition(":")[2]
        for host in (gethostname().lower(), "server.example.org", "192.0.2.7"):
            origin = {"Origin": f"http://{host}:{port}"}
            assert ALLOW_ORIGIN not in httpx.get(f"{running.proxy}/studies", headers=origin).headers
            httpx.get(running.page, headers={"Host": f"{host}:{port}"}).raise_for_status()
            found = httpx.get(f"{running.proxy}/studies", headers=origin)
            assert found.headers[ALLOW_ORIGIN] == origin["Origin"]
        for host in ("*.example.org", "exa_mple$.org", ""):
            httpx.get(running.page, headers={"Host": host})
        foreign = {"Origin": "http://www.example.org"}
        assert ALLOW_ORIGIN not in httpx.get(f"{running.proxy}/studies", headers=foreign).headers


def test_on_one_address_no_other_name_is_allowed() -> None:
    with demo("--host", LOOPBACK) as running:
        assert "from elsewhere" not in running.child.output
        httpx.get(running.page, headers={"Host": "server.example.org"})
        origin = {"Origin": "http://server.example.org"}
        assert ALLOW_ORIGIN not in httpx.get(f"{running.proxy}/studies", headers=origin).headers


def test_a_port_in_use() -> None:
    port = three_free_ports()
    with create_server((LOOPBACK, port + 1)), Child(command("--port", str(port))) as child:
        assert child.wait() == 1
    assert f"port {port + 1}" in child.output
    assert "Traceback" not in child.output


def test_a_host_that_no_origin_can_name() -> None:
    with Child(command("--host", "a b")) as child:
        assert child.wait() == 2
    assert "server.host: 'a b'" in child.output
