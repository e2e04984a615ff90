from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
import yaml
from click.testing import CliRunner

from dicomweb_cors_proxy.cli import main
from tests.support.demo import three_free_ports
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMAND = str(Path(sys.executable).with_name("dicomweb-cors-proxy"))
SETTINGS = {
    "DICOMWEB_PROXY_UPSTREAM__URL": f"http://{LOOPBACK}:9/dicom-web",
    "DICOMWEB_PROXY_CORS__ALLOW_ORIGINS": "https://viewer.example",
    "DICOMWEB_PROXY_SERVER__ALLOWED_HOSTS": "pacs.example",
}


# A first process that starts another and passes SIGTERM on, as docker run --init has it.
INIT = """
import signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
sys.exit(child.wait())
"""


@contextmanager
def running(env: Mapping[str, str], *arguments: str) -> Iterator[Child]:
    with Child([COMMAND, *arguments], env=os.environ | env) as child:
        child.wait_for(r"\bat  |proxy  ")
        yield child


def check(env: Mapping[str, str], pid: int) -> int:
    return CliRunner(env=env).invoke(main, ["healthcheck", "--pid", str(pid)]).exit_code


@pytest.fixture(params=["variable", "file", "flag", "all interfaces"])
def started(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, str], list[str]]:
    """How a proxy can be told its port: environment and flags."""
    port = free_port()
    variable = {"DICOMWEB_PROXY_SERVER__PORT": str(port)}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"server": {"port": port}}))
    return {
        "variable": (SETTINGS | variable, []),
        "file": (SETTINGS | {"DICOMWEB_PROXY_CONFIG": str(file)}, []),
        "flag": (SETTINGS, ["--port", str(port)]),
        "all interfaces": (SETTINGS | variable, ["--host", "::"]),
    }[request.param]


def test_follows_the_port(started: tuple[dict[str, str], list[str]]) -> None:
    env, flags = started
    with running(env, "serve", *flags) as proxy:
        assert check(env, proxy.pid) == 0


def test_fails_where_nothing_listens() -> None:
    with Child([sys.executable, "-c", "import time; time.sleep(60)"]) as idle:
        assert check(SETTINGS, idle.pid) == 1


def test_follows_tls_and_a_process_before(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("pacs.example")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    port = str(free_port())
    command = ["serve", "--port", port, "--tls-cert", str(chain), "--tls-key", str(key)]
    with Child([sys.executable, "-c", INIT, COMMAND, *command], env=os.environ | SETTINGS) as child:
        child.wait_for(r"\bat  ")
        assert check(SETTINGS, child.pid) == 0


def test_follows_the_demo() -> None:
    port = three_free_ports()
    with running(SETTINGS, "demo", "--port", str(port)) as demo:
        assert check(SETTINGS, demo.pid) == 0


def test_a_configuration_that_was_refused_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"server": {"port": free_port()}}))
    env = SETTINGS | {"DICOMWEB_PROXY_CONFIG": str(file)}
    with running(env, "serve") as proxy:
        file.write_text("server: {prt: 1}")
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for("not reloaded")
        assert check(env, proxy.pid) == 0


def test_fails_with_what_is_no_proxy() -> None:
    command = [sys.executable, "-u", "-m", "http.server", "--bind", LOOPBACK, "0"]
    with Child(command) as other:
        other.wait_for("Serving HTTP")
        assert check(SETTINGS, other.pid) == 1


def test_fails_for_a_process_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    with Child([sys.executable, "-c", ""]) as child:
        child.wait()
    assert check(SETTINGS, child.pid) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_is_not_in_the_help() -> None:
    assert "healthcheck" not in CliRunner().invoke(main, ["--help"]).output
