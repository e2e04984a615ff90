"""The container image, run with a read-only root, no capabilities and no way to new privileges."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
import trustme
import yaml

from tests.support.demo import three_free_ports
from tests.support.orthanc import Credentials
from tests.support.processes import Child
from tests.support.proxy import fronting
from tests.support.servers import LOOPBACK, Reply, free_port, stub
from tests.support.sockets import Head, Wire, archive, request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CONFIG = "/etc/dicomweb-cors-proxy/config.yaml"
ORIGIN = "https://viewer.example"
ROOT = Path(__file__).parents[2]
PAGES = [
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/guides/running.md")
]
KUBERNETES = ROOT / "deploy" / "kubernetes"
HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)
BODY = 8 * b"x" * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Container:
    """A container; its child ends with the status of the container's first process."""

    name: str
    child: Child

    def pid(self) -> int:
        """The first process, as this machine numbers it."""
        command = ["podman", "inspect", "--format", "{{.State.Pid}}", self.name]
        return int(subprocess.check_output(command))

    def is_healthy(self) -> bool:
        """Run the image's HEALTHCHECK."""
        command = ["podman", "healthcheck", "run", self.name]
        return subprocess.run(command, check=False).returncode == 0


@contextmanager
def running(
    *command: str,
    env: Mapping[str, str] | None = None,
    mounts: Mapping[Path, str] | None = None,
    options: Sequence[str] = HARDENED,
) -> Iterator[Container]:
    """Run `command`, or what the image runs without one."""
    name = f"check-{uuid4()}"
    options = [f"--name={name}", *options]
    options += [f"--env={key}={value}" for key, value in (env or {}).items()]
    options += [f"--volume={file}:{target}:ro" for file, target in (mounts or {}).items()]
    image = os.environ["IMAGE_UNDER_TEST"]
    with Child(["podman", "run", "--rm", *options, image, *command]) as child:
        yield Container(name, child)


def python(code: str) -> None:
    """Run Python code in the image."""
    command = ["podman", "run", "--rm", "--interactive", "--entrypoint=python"]
    subprocess.run(
        [*command, os.environ["IMAGE_UNDER_TEST"], "-"], input=code, text=True, check=True
    )


def variables(port: int, upstream: str = f"http://{LOOPBACK}:9/dicom-web") -> dict[str, str]:
    return {
        "DICOMWEB_PROXY_SERVER__PORT": str(port),
        "DICOMWEB_PROXY_UPSTREAM__URL": upstream,
        "DICOMWEB_PROXY_CORS__ALLOW_ORIGINS": ORIGIN,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the container's user may read, as pytest's may not be."""
    tmp_path.chmod(0o755)
    return tmp_path


def search(port: int) -> httpx.Response:
    url = f"http://{LOOPBACK}:{port}/dicom-web/studies"
    return httpx.get(url, headers={"Origin": ORIGIN}, trust_env=False)


def test_configured_by_the_environment() -> None:
    port = free_port()
    with stub(Reply(body=b"[]")) as there, running(env=variables(port, there.url)) as container:
        container.child.wait_for(rf"\bat +http://\S+:{port}/dicom-web")
        answer = search(port)
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.content == b"[]"
        assert container.is_healthy()


def test_configured_by_a_mounted_file(tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "config.yaml"
    with stub(Reply(body=b"[]")) as there:
        file.write_text(yaml.safe_dump(fronting(there.url, ORIGIN) | {"server": {"port": port}}))
        with running(mounts={file: CONFIG}) as container:
            container.child.wait_for(rf"\bat +http://\S+:{port}/dicom-web")
            assert search(port).content == b"[]"
            assert container.is_healthy()


def test_secret_file(folder: Path) -> None:
    (folder / "upstream__auth__password").write_text("wonder")
    auth = {
        "DICOMWEB_PROXY_UPSTREAM__AUTH__TYPE": "basic",
        "DICOMWEB_PROXY_UPSTREAM__AUTH__USERNAME": "alice",
    }
    port = free_port()
    with (
        stub(Reply(body=b"[]")) as there,
        running(
            env=variables(port, there.url) | auth, mounts={folder: "/run/secrets"}
        ) as container,
    ):
        container.child.wait_for(r"\bat +http")
        assert search(port).status_code == 200
        (_, _, headers) = there.requests[0]
        assert headers["Authorization"] == "Basic YWxpY2U6d29uZGVy"


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "CORS__ALLOW_ORIGINS",
            "viewer.example",
            r"cors\.allow_origins: .*https://viewer\.example",
        ),
        ("UPSTREAM__URI", "http://pacs/dicom-web", "did you mean DICOMWEB_PROXY_UPSTREAM__URL?"),
    ],
)
def test_bad_configuration(variable: str, value: str, sentence: str) -> None:
    env = variables(free_port()) | {f"DICOMWEB_PROXY_{variable}": value}
    with running(env=env) as container:
        assert container.child.wait() == 2
        assert re.search(sentence, container.child.output), container.child.output


def test_no_privileges() -> None:
    with running(env=variables(free_port())) as container:
        container.child.wait_for(r"\bat +http")
        process = Path("/proc", str(container.pid()))
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
        )
        root = (process / "mounts").read_text().splitlines()[0].split()
    assert set(status["Uid"].split() + status["Gid"].split()) == {"65532"}
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert root[1] == "/"
    assert "ro" in root[3].split(",")


def test_nothing_that_installs_or_builds() -> None:
    code = """
import importlib.util, shutil
for name in ("ensurepip", "hatchling", "pip", "setuptools", "wheel"):
    assert importlib.util.find_spec(name) is None, name
for name in ("cc", "gcc", "make", "pip", "pip3"):
    assert shutil.which(name) is None, name
"""
    python(code)


def test_bytecode_is_there() -> None:
    code = """
import importlib.util, pathlib
for name in ("dicomweb_cors_proxy.cli", "ssl", "uvicorn.server"):
    bytecode = importlib.util.find_spec(name).cached
    flags = pathlib.Path(bytecode).read_bytes()[4]
    assert flags == 1, (name, flags)  # PEP 552: by the source's hash, never checked
"""
    python(code)


def test_health_check_follows_port_and_tls(folder: Path) -> None:
    certificate = trustme.CA().issue_cert("pacs.example")
    certificate.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    port = free_port()
    env = variables(port) | {
        "DICOMWEB_PROXY_SERVER__TLS_CERT_FILE": "/tls/chain.pem",
        "DICOMWEB_PROXY_SERVER__TLS_KEY_FILE": "/tls/key.pem",
    }
    with running(env=env, mounts={folder: "/tls"}) as container:
        container.child.wait_for(rf"\bat +https://\S+:{port}/")
        assert container.is_healthy()
        os.kill(container.pid(), signal.SIGSTOP)
        assert not container.is_healthy()
        os.kill(container.pid(), signal.SIGCONT)
        assert container.is_healthy()


async def test_stops_once_running_responses_are_out() -> None:
    stopping = asyncio.Event()

    async def handle(wire: Wire, _: Head) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY), BODY[:1024])
        await stopping.wait()
        await wire.send(BODY[1024:])

    async def ask(clients: AsyncExitStack) -> tuple[Wire, Head]:
        connection = Wire(*await asyncio.open_connection(LOOPBACK, port))
        wire = await clients.enter_async_context(connection)
        await wire.send(request("GET", "/dicom-web/studies/1.2.3"))
        return wire, await wire.head()

    port = free_port()
    async with archive(handle) as there, AsyncExitStack() as clients:
        with running(env=variables(port, there.url)) as container:
            await asyncio.to_thread(container.child.wait_for, r"\bat +http")
            answers = await asyncio.gather(*(ask(clients) for _ in range(20)))
            container.child.terminate()
            await asyncio.to_thread(container.child.wait_for, "stopping")
            stopping.set()
            bodies = await asyncio.gather(*(wire.body(head) for wire, head in answers))
            assert bodies == [BODY] * 20
            assert await asyncio.to_thread(container.child.wait) == 0


def test_demo() -> None:
    port = three_free_ports()
    with running("demo", "--host", "0.0.0.0", "--port", str(port)) as container:
        container.child.wait_for("proxy  ")
        headers = {"Origin": f"http://localhost:{port}"}
        page, proxied, direct = (
            httpx.get(f"http://{LOOPBACK}:{place}", headers=headers, trust_env=False)
            for place in (port, f"{port + 1}/dicom-web/studies", f"{port + 2}/dicom-web/studies")
        )
        assert page.headers["content-type"].startswith("text/html")
        assert proxied.headers["access-control-allow-origin"] == headers["Origin"]
        assert "access-control-allow-origin" not in direct.headers
        assert proxied.json() == direct.json()
        container.child.terminate()
        assert container.child.wait() == 0


@pytest.mark.parametrize(
    "line",
    sorted({line for page in PAGES for line in re.findall("^docker run .*$", page, re.MULTILINE)}),
)
def test_documentation(line: str, folder: Path) -> None:
    file, password = folder / "config.yaml", folder / "password"
    settings = fronting("http://orthanc:8042/dicom-web", ORIGIN)
    if "./password" in line:
        settings["upstream"]["auth"] = {"type": "basic", "username": "proxy"}
    file.write_text(yaml.safe_dump(settings))
    password.write_text("made-up")
    words = shlex.split(
        line.replace("./config.yaml", str(file)).replace("./password", str(password))
    )
    image = words.index("dicomweb-cors-proxy")
    # In a network of its own, where its ports are free.
    options = [*words[2:image], "--network=none"]
    with running(*words[image + 1 :], options=options) as container:
        container.child.wait_for(r"\bat  |proxy  ")
        assert container.is_healthy() or "--no-healthcheck" in options


def test_a_pod(folder: Path) -> None:
    """With ConfigMap and Secret where the Deployment mounts them, as the kubelet lays them."""
    manifests = {
        name: yaml.safe_load((KUBERNETES / f"{name}.yaml").read_text())
        for name in ("configmap", "deployment", "examples/secret")
    }
    pod = manifests["deployment"]["spec"]["template"]["spec"]
    (spec,) = pod["containers"]
    places = {mount["name"]: mount["mountPath"] for mount in spec["volumeMounts"]}
    port = free_port()
    with stub(Reply(body=b"[]")) as there:
        settings = yaml.safe_load(manifests["configmap"]["data"]["config.yaml"])
        settings["upstream"] = {
            "url": there.url,
            "auth": {"type": "basic", "username": "proxy"},
        }
        settings["server"]["port"] = port
        contents = {
            "config": {"config.yaml": yaml.safe_dump(settings)},
            "secrets": manifests["examples/secret"]["stringData"],
        }
        for name, files in contents.items():
            (folder / name / "..1").mkdir(parents=True)
            (folder / name / "..data").symlink_to("..1")
            for file, text in files.items():
                (folder / name / "..1" / file).write_text(text)
                (folder / name / file).symlink_to(f"..data/{file}")
        user = pod["securityContext"]["runAsUser"]
        with running(
            mounts={folder / name: place for name, place in places.items()},
            options=[*HARDENED, f"--user={user}:{user}"],
        ) as container:
            container.child.wait_for("dicom-web")
            url = f"http://{LOOPBACK}:{port}"
            probe = spec["readinessProbe"]["httpGet"]["path"]
            assert httpx.get(url + probe, trust_env=False).status_code == 200
            hosts = settings["server"]["allowed_hosts"]
            answer = httpx.get(
                f"{url}/dicom-web/studies", headers={"Host": hosts[0]}, trust_env=False
            )
            assert answer.status_code == 200
            container.child.terminate()
            assert container.child.wait() == 0
    (_, _, asked) = there.requests[0]
    assert asked["Authorization"] == Credentials("proxy", "change-me").header
