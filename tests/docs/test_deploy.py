from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dicomweb_cors_proxy.config.fields import SCHEMA, ServerSettings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
UNIT = ROOT / "deploy" / "dicomweb-cors-proxy.service"
COMMAND = "/opt/dicomweb-cors-proxy/bin/dicomweb-cors-proxy"


@pytest.fixture
def systemd_analyze() -> str:
    return shutil.which("systemd-analyze") or pytest.skip("systemd-analyze is not installed")


@pytest.fixture
def hadolint() -> str:
    folder = Path(sys.executable).parent
    return shutil.which("hadolint", path=folder) or pytest.skip("hadolint is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a command that exists here."""
    copy = tmp_path / UNIT.name
    command = Path(sys.executable).with_name("dicomweb-cors-proxy")
    copy.write_text(UNIT.read_text().replace(COMMAND, str(command)))
    return copy


def output(*command: str | Path) -> str:
    result = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_dockerfile_has_no_lint(hadolint: str) -> None:
    assert output(hadolint, DOCKERFILE) == ""


def test_dockerfile_sets_what_exists() -> None:
    names = set(re.findall(r"\b(DICOMWEB_PROXY_\w+)=", DOCKERFILE.read_text()))
    assert names
    known = {setting.variable for setting in SCHEMA.settings.values()}
    assert names <= known | {"DICOMWEB_PROXY_CONFIG"}


def test_image_is_built_with_what_builds_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]


def test_unit_is_understood(systemd_analyze: str, unit: Path) -> None:
    # An unknown key is but a line of output: the exit status is 0 all the same.
    assert output(systemd_analyze, "verify", unit) == ""


def test_unit_exposes_little(systemd_analyze: str, unit: Path) -> None:
    output(systemd_analyze, "security", "--offline=true", "--threshold=15", unit)


def test_unit_waits_for_running_responses() -> None:
    timeout = re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert timeout
    assert int(timeout[1]) >= ServerSettings().shutdown_timeout + 5


def test_unit_restarts_what_hangs_without_a_core_dump() -> None:
    lines = UNIT.read_text().splitlines()
    assert {"WatchdogSec=30", "WatchdogSignal=SIGKILL", "Restart=on-failure"} <= set(lines)


def test_unit_reloads_by_the_signal_that_serve_takes_for_it() -> None:
    assert re.findall(r"^ExecReload=(.*)$", UNIT.read_text(), re.MULTILINE) == [
        "/bin/kill -HUP $MAINPID"
    ]
    # The service tells when it is ready again, which Type=simple would not hear.
    assert "\nType=notify\nNotifyAccess=main\n" in UNIT.read_text()
