"""The systemd unit, under systemd, in a container of the image made on the stand-in base."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
import trustme
import yaml

from tests.support.proxy import fronting
from tests.support.servers import LOOPBACK, Reply, free_port, stub

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = Path(__file__).parents[2] / "deploy" / "dicomweb-cors-proxy.service"
UPSTREAM = f"http://{LOOPBACK}:9/dicom-web"
ORIGIN = "https://viewer.example"

# What systemd needs to set up the unit's sandbox; the kernel's settings stay read-only to it.
CAPABILITIES = "--cap-add=SYS_ADMIN,SYS_PTRACE"
# Credentials are mounted from outside the unit's own view of the file system.
BOOT = "mount --make-rshared / && exec /lib/systemd/systemd --unit=basic.target"
BOOTED = "until systemctl is-active --quiet basic.target; do sleep 0.1; done"


@dataclass(frozen=True, slots=True)
class Machine:
    """A running system that sees the folder `clone` as /clone."""

    name: str
    clone: Path

    def run(self, *command: str, check: bool = True) -> str:
        result = subprocess.run(
            ["podman", "exec", "--workdir=/clone", self.name, *command],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert not check or result.returncode == 0, result.stdout
        return result.stdout.strip()

    def configure(
        self, upstream: str, port: int, origin: str = ORIGIN, *, workers: int = 1
    ) -> None:
        settings = fronting(upstream, origin) | {"server": {"port": port, "workers": workers}}
        (self.clone / "config.yaml").write_text(yaml.safe_dump(settings))

    def install(self, *, check: bool = True) -> None:
        """Follow the unit's own words; returns once the service is ready or has failed."""
        commands = re.findall("^#   ((?:install|systemctl) .*)$", UNIT.read_text(), re.MULTILINE)
        self.run("sh", "-ec", "\n".join(commands), check=check)

    def reload(self) -> None:
        """Take the present configuration; returns once the service says that it is through."""
        folder = "/etc/dicomweb-cors-proxy"
        self.run("install", "-m", "644", f"--target-directory={folder}", "config.yaml")
        self.run("systemctl", "reload", UNIT.name)

    def show(self, name: str) -> str:
        """One of the service's properties."""
        return self.run("systemctl", "show", f"--property={name}", "--value", UNIT.name)

    def wait_for(self, pattern: str) -> None:
        """Wait until the journal has it; what a service logs comes later than what it signals."""
        while not re.search(pattern, self.journal()):
            pass

    def journal(self) -> str:
        return self.run("journalctl", f"--unit={UNIT.name}", "--output=cat")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(f"check-{uuid4()}", tmp_path)
    options = [
        f"--name={machine.name}",
        "--systemd=always",
        "--user=0",
        "--entrypoint=/bin/sh",
        CAPABILITIES,
        f"--volume={machine.clone}:/clone:ro",
        f"--volume={UNIT.parent}:/clone/deploy:ro",
    ]
    image = os.environ["IMAGE_UNDER_TEST"]
    (machine.clone / UNIT.parent.name).mkdir()
    subprocess.run(["podman", "run", "--detach", "--rm", *options, image, "-c", BOOT], check=True)
    try:
        machine.run("sh", "-c", BOOTED)
        yield machine
    finally:
        subprocess.run(["podman", "rm", "--force", "--time=0", machine.name], check=True)


def test_is_started_once_it_serves_and_stops_in_order(machine: Machine) -> None:
    port = free_port()
    machine.configure(UPSTREAM, port)
    machine.install()
    httpx.get(f"http://{LOOPBACK}:{port}/healthz", trust_env=False).raise_for_status()
    status = machine.run("cat", f"/proc/{machine.show('MainPID')}/status")
    assert re.search(r"^Uid:\t6\d{4}\t", status, re.MULTILINE)
    assert re.search(r"^CapBnd:\t0{16}$", status, re.MULTILINE)
    assert re.search(rf"^server.port +{port}  \(file .*\)$", machine.journal(), re.MULTILINE)
    machine.run("systemctl", "stop", UNIT.name)
    assert machine.show("ActiveState") == "inactive"
    assert machine.show("ExecMainStatus") == "0"


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])
def test_reload(machine: Machine, workers: int) -> None:
    port = free_port()
    other = "https://other.example"

    asked = 0

    def allowed() -> set[str | None]:
        nonlocal asked
        asked += 9
        url = f"http://{LOOPBACK}:{port}/dicom-web/nowhere"
        answers = [httpx.get(url, headers={"Origin": other}, trust_env=False) for _ in range(9)]
        return {each.headers.get("access-control-allow-origin") for each in answers}

    machine.configure(UPSTREAM, port, workers=workers)
    machine.install()
    main = machine.show("MainPID")
    assert allowed() == {None}
    machine.configure(UPSTREAM, port, origin=other, workers=workers)
    machine.reload()
    machine.wait_for("changed: cors.allow_origins")
    while allowed() != {other}:  # systemd may have returned before it had read RELOADING=1
        pass
    machine.configure(UPSTREAM, port, origin=f"{other}/", workers=workers)
    machine.reload()
    machine.wait_for(f"not reloaded: cors.allow_origins: .* write {other}")
    assert allowed() == {other}
    assert machine.show("ActiveState") == "active"
    assert machine.show("MainPID") == main
    # Figures of several processes need a folder, in spite of the sandbox.
    figures = httpx.get(f"http://{LOOPBACK}:{port}/metrics", trust_env=False).text
    labels = 'method="GET",resource="unmatched",status="404"'
    assert f"dicomweb_proxy_requests_total{{{labels}}} {asked}.0\n" in figures


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])
def test_a_process_that_hangs_is_restarted(machine: Machine, workers: int) -> None:
    port = free_port()
    override = "[Service]\nWatchdogSec=3\nRestartSec=0\n"  # so that the test need not wait long
    (machine.clone / "override.conf").write_text(override)
    folder = f"/etc/systemd/system/{UNIT.name}.d"
    machine.run("install", "-D", "--mode=644", f"--target-directory={folder}", "override.conf")
    machine.configure(UPSTREAM, port, workers=workers)
    machine.install()
    main = machine.show("MainPID")
    time.sleep(6)  # two periods, in which it is fed
    assert machine.show("MainPID") == main
    machine.run("kill", "-STOP", main)
    machine.wait_for("[Ww]atchdog timeout")
    while machine.show("MainPID") in (main, "0") or machine.show("ActiveState") != "active":
        pass
    httpx.get(f"http://{LOOPBACK}:{port}/healthz", trust_env=False).raise_for_status()


def test_a_bad_configuration_is_not_tried_again(machine: Machine) -> None:
    machine.configure(UPSTREAM, free_port(), origin=f"{ORIGIN}/")
    machine.install(check=False)
    assert machine.show("ActiveState") == "failed"  # and not activating, by a restart
    assert machine.show("ExecMainStatus") == "2"
    assert f"write {ORIGIN}" in machine.journal()


def test_the_examples(machine: Machine) -> None:
    """The unit's commented settings: secrets that only root can read, and a port below 1024."""
    certificate = trustme.CA().issue_cert("pacs.example")
    certificate.cert_chain_pems[0].write_to_path(machine.clone / "chain.pem")
    certificate.private_key_pem.write_to_path(machine.clone / "key.pem")
    (machine.clone / "password").write_text("wonder")
    variables = {
        "UPSTREAM__AUTH__TYPE": "basic",
        "UPSTREAM__AUTH__USERNAME": "alice",
        "SERVER__TLS_CERT_FILE": "/etc/dicomweb-cors-proxy/chain.pem",
    }
    lines = re.findall(r"^#(\w+=.*)$", UNIT.read_text(), re.MULTILINE)
    lines += [f"Environment=DICOMWEB_PROXY_{name}={value}" for name, value in variables.items()]
    (machine.clone / "override.conf").write_text("\n".join(["[Service]", *lines, ""]))
    for mode, names, folder in (
        ("644", ["chain.pem"], "/etc/dicomweb-cors-proxy"),
        ("600", ["key.pem", "password"], "/etc/dicomweb-cors-proxy"),
        ("644", ["override.conf"], f"/etc/systemd/system/{UNIT.name}.d"),
    ):
        machine.run("install", "-D", f"--mode={mode}", f"--target-directory={folder}", *names)
    port = low_port()
    with stub(Reply(body=b"[]")) as archive:
        machine.configure(archive.url, port)
        machine.install()
        url = f"https://{LOOPBACK}:{port}/dicom-web/studies"
        assert httpx.get(url, verify=False, trust_env=False).content == b"[]"
        (_, _, headers) = archive.requests[0]
        assert headers["Authorization"] == "Basic YWxpY2U6d29uZGVy"


def low_port() -> int:
    """A port that only the privileged may listen on, and on which nothing listens."""
    for port in range(1023, 0, -1):
        try:
            with socket.create_server((LOOPBACK, port)):
                return port
        except OSError:
            continue
    raise AssertionError("no port below 1024 is free")
