"""The commands on systems that lack uvloop, or what Windows lacks: see tests/support/other_systems.

These processes still run on this system. They show that nothing needs what is absent.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from dicomweb_cors_proxy.operations.missing import missing_features
from dicomweb_cors_proxy.server.listening import handling_signals
from tests.support.demo import three_free_ports
from tests.support.processes import Child
from tests.support.proxy import fronting, serving
from tests.support.servers import Reply, stub

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parents[1] / "support" / "other_systems"
VIEWER = "https://viewer.example"
FROM_PAGE = {"Origin": VIEWER}
MIB = 2**20
OF_POSIX = ("SIGHUP", "fork", "resource limits", "poll")


def without(absent: str) -> dict[str, str]:
    """The variables of a process that lacks something."""
    paths = [str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"ABSENT": absent, "PYTHONPATH": os.pathsep.join(paths)}


def run(*arguments: str, absent: str) -> Child:
    inherited: Mapping[str, str] = {
        name: value for name, value in os.environ.items() if not name.startswith("DICOMWEB_PROXY_")
    }
    command = [sys.executable, "-m", "dicomweb_cors_proxy", *arguments]
    return Child(command, env=dict(inherited) | without(absent))


@pytest.mark.parametrize("absent", ["uvloop", "posix"])
def test_serve_proxies_and_says_what_is_absent(tmp_path: Path, absent: str) -> None:
    body = os.urandom(8 * MIB)
    with stub(Reply(headers={"Content-Type": "application/octet-stream"}, body=body)) as archive:
        settings = fronting(archive.url, VIEWER) | {"access": {"mode": "read-write"}}
        with (
            serving(settings, tmp_path, env=without(absent)) as proxy,
            httpx.Client(base_url=proxy.url, headers=FROM_PAGE, trust_env=False) as page,
        ):
            received = page.get("/studies/1")
            assert received.content == body
            assert received.headers["Access-Control-Allow-Origin"] == VIEWER
            stored = page.post("/studies", content=body, headers={"Content-Type": "a/b"})
            assert stored.status_code == 200
            asked = page.options("/studies", headers={"Access-Control-Request-Method": "GET"})
            assert asked.status_code == 204
    absences = [
        line.removeprefix("without").strip().partition(":")[0]
        for line in proxy.child.output.splitlines()
        if line.startswith("without")
    ]
    assert absences == ["uvloop", *(OF_POSIX if absent == "posix" else ())]


def test_serve_over_tls(tmp_path: Path) -> None:
    env = without("posix") | {"XDG_STATE_HOME": str(tmp_path)}
    with stub(Reply(body=bytes(MIB))) as archive:
        settings = fronting(archive.url, VIEWER)
        with serving(settings, tmp_path, "--tls-self-signed", env=env) as proxy:
            received = httpx.get(f"{proxy.url}/studies/1", verify=False, trust_env=False)
    assert received.content == bytes(MIB)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_several_workers_are_a_configuration_error_without_fork(command: str) -> None:
    settings = {"DICOMWEB_PROXY_SERVER__WORKERS": "2"}
    arguments = [command, "--upstream", "http://127.0.0.1:9/pacs", "--allow-origin", VIEWER]
    inherited = dict(os.environ) | without("posix") | settings
    with Child([sys.executable, "-m", "dicomweb_cors_proxy", *arguments], env=inherited) as child:
        assert child.wait() == 2
    assert "server.workers" in child.output
    assert "can only be 1 on this system" in child.output
    assert "Traceback" not in child.output


def test_probe_and_demo_run(tmp_path: Path) -> None:
    port = three_free_ports()
    with run("demo", "--host", "127.0.0.1", "--port", str(port), absent="posix") as demo:
        demo.wait_for("Ctrl")
        root = f"http://127.0.0.1:{port + 1}/dicom-web"
        page = f"http://127.0.0.1:{port}"
        with run("probe", root, "--origin", page, absent="posix") as probe:
            assert probe.wait(seconds=60) == 0, probe.output
    file = tmp_path / "config.yaml"
    file.write_text(f"upstream: {{url: {root}}}\ncors: {{allow_origins: ['{VIEWER}']}}\n")
    with run("check", "--offline", "--config", str(file), absent="posix") as check:
        assert check.wait() == 0, check.output


def test_nothing_is_absent_here() -> None:
    assert list(missing_features()) == []


def test_sigbreak_stops_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows sends it for Ctrl+Break, and has it instead of SIGTERM."""
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    stops = []
    with handling_signals(lambda: stops.append(1), None):
        signal.raise_signal(signal.SIGUSR1)
    assert stops == [1]
