"""The Orthanc guide's settings, in front of an Orthanc that is set up as it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from tests.support import orthanc as archives
from tests.support.guides import Block, blocks, guide
from tests.support.orthanc import Credentials, Orthanc
from tests.support.proxy import Proxy, serving
from tests.support.samples import CT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.skipif(not archives.INSTALLED, reason="needs Debian's orthanc-dicomweb"),
]

PAGE = guide("orthanc")
OPEN, WITH_A_LOGIN = blocks(PAGE, "yaml")
(CONFIGURATION,) = (json.loads(block.text) for block in blocks(PAGE, "json"))


def settings(block: Block, archive: Orthanc, *, port: str) -> dict[str, Any]:
    """The block, with the test's archive where the page has one at `port`."""
    text = block.text.replace(port, archive.root)
    assert text.count(archive.root) >= 1
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """In front of an Orthanc whose plugin has Debian's `Host`."""
    folder = tmp_path_factory.mktemp("orthanc")
    with (
        archives.orthanc(folder, Host="localhost", EnableWado=True, WadoRoot="/wado") as archive,
        serving(settings(OPEN, archive, port="http://127.0.0.1:8042"), folder) as running,
    ):
        yield running


def test_urls_lead_through_the_proxy(proxy: Proxy) -> None:
    found = httpx.get(f"{proxy.url}/studies/{CT.study}/series", trust_env=False).json()
    assert [series["00081190"]["Value"] for series in found] == [
        [f"{proxy.url}/studies/{CT.study}/series/{CT.series}"]
    ]


@pytest.mark.parametrize(("slash", "status"), [("/", 200), ("%2F", 400)], ids=["plain", "encoded"])
def test_wado_uri(slash: str, status: int, proxy: Proxy) -> None:
    query = f"requestType=WADO&studyUID={CT.study}&seriesUID={CT.series}&objectUID={CT.uid}"
    url = f"{proxy.url}/wado?{query}&contentType=application{slash}dicom"
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == status
    assert (answer.content[128:132] == b"DICM") is (status == 200)


def test_a_login_of_the_proxys_own(tmp_path: Path) -> None:
    ((name, password),) = CONFIGURATION["RegisteredUsers"].items()
    assert CONFIGURATION["AuthenticationEnabled"]
    with archives.orthanc(tmp_path, Credentials(name, password)) as archive:
        file = settings(WITH_A_LOGIN, archive, port="http://orthanc:8042")
        (tmp_path / "upstream__auth__password").write_text(password)
        with serving(file, tmp_path, env={"DICOMWEB_PROXY_SECRETS_DIR": str(tmp_path)}) as running:
            assert httpx.get(f"{running.root}/readyz", trust_env=False).status_code == 200
            host = {"Host": file["server"]["allowed_hosts"][0]}
            answer = httpx.get(f"{running.url}/studies", headers=host, trust_env=False)
    assert answer.status_code == 200
    assert answer.json()
