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
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, Reply, free_port, stub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

COMMAND = str(Path(sys.executable).with_name("dicomweb-cors-proxy"))
SETTINGS = {
    "DICOMWEB_PROXY_UPSTREAM__URL": f"http://{LOOPBACK}:9/dicom-web",
    "DICOMWEB_PROXY_CORS__ALLOW_ORIGINS": "https://viewer.example",
    "DICOMWEB_PROXY_SERVER__ALLOWED_HOSTS": "pacs.example",
}


@contextmanager
def running(env: Mapping[str, str], *arguments: str) -> Iterator[Child]:
    with Child([COMMAND, *arguments], env=os.environ | env) as child:
        child.wait_for(r"\bat  ")
        yield child


def check(env: Mapping[str, str], *arguments: str) -> int:
    return CliRunner(env=env).invoke(main, ["healthcheck", *arguments]).exit_code


@pytest.fixture(params=["variable", "file", "all interfaces"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of a proxy that is told its port."""
    port = free_port()
    variable = {"DICOMWEB_PROXY_SERVER__PORT": str(port)}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"server": {"port": port}}))
    return (
        SETTINGS
        | {
            "variable": variable,
            "file": {"DICOMWEB_PROXY_CONFIG": str(file)},
            "all interfaces": variable | {"DICOMWEB_PROXY_SERVER__HOST": "::"},
        }[request.param]
    )


def test_follows_the_port(env: dict[str, str]) -> None:
    with running(env, "serve"):
        assert check(env) == 0


def test_asks_the_given_url() -> None:
    port = str(free_port())
    with running(SETTINGS, "serve", "--port", port):
        assert check({}, "--url", f"http://{LOOPBACK}:{port}") == 0


@pytest.mark.parametrize("url", [f"http://{LOOPBACK}:9", "http://a:b"])
def test_fails_where_nothing_listens(url: str) -> None:
    assert check({}, "--url", url) == 1


def test_follows_tls(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("pacs.example")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    env = SETTINGS | {
        "DICOMWEB_PROXY_SERVER__PORT": str(free_port()),
        "DICOMWEB_PROXY_SERVER__TLS_CERT_FILE": str(chain),
        "DICOMWEB_PROXY_SERVER__TLS_KEY_FILE": str(key),
    }
    with running(env, "serve"):
        assert check(env) == 0


def test_a_rejected_configuration_changes_nothing(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"server": {"port": port}}))
    env = SETTINGS | {"DICOMWEB_PROXY_CONFIG": str(file)}
    with running(env, "serve") as proxy:
        file.write_text(yaml.safe_dump({"server": {"port": port, "prt": 1}}))
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.wait_for("not reloaded")
        assert check(env) == 0


def test_fails_with_another_server() -> None:
    with stub(Reply(404)) as other:
        assert check({}, "--url", other.url) == 1


def test_is_not_in_the_help() -> None:
    assert "healthcheck" not in CliRunner().invoke(main, ["--help"]).output
