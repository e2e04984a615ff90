"""`check` in front of real archives: right and wrong paths, logins, and the archive's name."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.orthanc import CREDENTIALS, INSTALLED, orthanc
from tests.support.tiny_pacs import tiny_pacs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.orthanc

ALIAS = "  aliases: [http://localhost/dicom-web]"


def check(url: str, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Return the exit status of `check` and the lines that it prints."""
    command = [sys.executable, "-m", "dicomweb_cors_proxy", "check", "--upstream", url]
    result = subprocess.run(
        [*command, "--allow-origin", "https://viewer.example"],
        check=False,
        capture_output=True,
        encoding="utf-8",
        env={"PYTHONPATH": ":".join(sys.path)} | (env or {}),
    )
    return result.returncode, result.stdout.splitlines()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Orthanc with the Host that Debian's package configures, and a login."""
    if not INSTALLED:
        pytest.skip("needs Debian's orthanc and orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc(folder, CREDENTIALS, Host="localhost") as archive:
        yield archive.root


LOGIN = {
    "DICOMWEB_PROXY_UPSTREAM__AUTH__TYPE": "basic",
    "DICOMWEB_PROXY_UPSTREAM__AUTH__USERNAME": CREDENTIALS.username,
    "DICOMWEB_PROXY_UPSTREAM__AUTH__PASSWORD": CREDENTIALS.password,
}


def test_orthanc_needs_the_alias_that_check_prints(debian: str) -> None:
    url = f"{debian}/dicom-web"
    status, (verdict, reason, alias, *_) = check(url, LOGIN)
    assert (status, alias) == (0, ALIAS)
    assert verdict == f"{url}: right path, searches return DICOM JSON"
    assert reason.startswith("upstream.aliases: ")
    aliases = {"DICOMWEB_PROXY_UPSTREAM__ALIASES": "http://localhost/dicom-web"}
    status, lines = check(url, LOGIN | aliases)
    assert (status, lines[0]) == (0, verdict)
    assert ALIAS not in lines


def test_orthanc_without_and_with_a_wrong_login(debian: str) -> None:
    status, lines = check(f"{debian}/dicom-web")
    assert status == 1
    assert "login missing (401, the archive asks for Basic)" in lines[0]
    wrong = LOGIN | {"DICOMWEB_PROXY_UPSTREAM__AUTH__PASSWORD": "wrong"}
    status, lines = check(f"{debian}/dicom-web", wrong)
    assert status == 1
    assert "login refused (401)" in lines[0]


@pytest.mark.parametrize("path", ["", "/dicomweb", "/dicom-web/studies", "/app/explorer.html"])
def test_orthanc_at_a_wrong_path(path: str, debian: str) -> None:
    status, lines = check(f"{debian}{path}", LOGIN)
    assert status == 1
    assert "wrong path" in lines[0]
    assert "upstream.url" in lines[0]


def test_tiny_pacs(tmp_path: Path) -> None:
    with tiny_pacs(tmp_path) as url:
        status, lines = check(url)
        assert status == 0
        assert lines[0].startswith(f"{url}: right path.")
        status, lines = check(url.replace("/dicomweb", "/dicom-web"))
        assert status == 1
        assert "wrong path (404 to a search)" in lines[0]
