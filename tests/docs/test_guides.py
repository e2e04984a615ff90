"""What the guides show is run, loaded or parsed, so that a reader can copy it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from click.testing import CliRunner
from compose_spec import PyCompose

from dicomweb_cors_proxy.cli import main
from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.loading import load
from tests.support.guides import (
    GUIDES,
    PAGES,
    ROOT,
    Block,
    Command,
    anchors,
    blocks,
    command,
    commands,
    guide,
    links,
    prose,
)
from tests.support.processes import Child
from tests.support.proxy import fronting, serving
from tests.support.servers import LOOPBACK, Reply, free_port, stub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dicomweb_cors_proxy.config.settings import Settings

VIEWER = "https://viewer.example"
# What the guides' secret files hold, by the login that needs it.
SECRETS = {"basic": "password", "bearer": "token", "oauth2_client_credentials": "client_secret"}
NGINX, NODE, ANALYZE = map(shutil.which, ("nginx", "node", "systemd-analyze"))
YAML = [block for page in GUIDES for block in blocks(page, "yaml")]
TOP = {key.partition(".")[0] for key in SCHEMA.settings}
CONFIGURATIONS = [block for block in YAML if set(yaml.safe_load(block.text)) <= TOP]
OURS = "dicomweb-cors-proxy"
# What a test elsewhere runs, or what can't run here.
ELSEWHERE = ("docker", "granian", "helm", "kubectl", "npm", "tar", "uvicorn")


def configuration(block: Block, folder: Path) -> Settings:
    """Load a block as the file it is meant to be, with the secret that the guide speaks of."""
    text = yaml.safe_load(block.text)
    auth = text.get("upstream", {}).get("auth", {})
    secret = SECRETS.get(auth.get("type"))
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    if secret and secret not in auth:
        name = f"upstream__auth__{secret}"
        assert f"`{name}`" in prose(block.page), f"{block} lacks {name}"
        (secrets / name).write_text("made-up")
    file = folder / "config.yaml"
    file.write_text(block.text, encoding="utf-8")
    return load(config_file=file, environ={"DICOMWEB_PROXY_SECRETS_DIR": str(secrets)})


@pytest.mark.parametrize("block", CONFIGURATIONS, ids=str)
def test_a_configuration_is_valid_and_gives_no_warning(block: Block, tmp_path: Path) -> None:
    assert configuration(block, tmp_path).warnings() == ()


def test_every_guide_has_one() -> None:
    pages = {block.page.stem for block in CONFIGURATIONS}
    without = {"browser-messages", "fewer-requests", "kubernetes"}
    assert pages == {page.stem for page in GUIDES} - without


@pytest.mark.parametrize("block", [b for b in YAML if b not in CONFIGURATIONS], ids=str)
def test_what_else_is_yaml_is_a_compose_file(block: Block) -> None:
    PyCompose.from_yaml(block.text)
    for service in yaml.safe_load(block.text)["services"].values():
        assert load(environ=service["environment"]).warnings() == ()


def understood(words: Sequence[str]) -> None:
    """Parse a command line as `main` does; its commands are those of other tests as well."""
    context = main.make_context(OURS, [*words])
    name, known, arguments = main.resolve_command(context, [*words])
    assert known
    known.make_context(name, arguments, parent=context)


@pytest.mark.parametrize("line", [c for page in GUIDES for c in commands(page)], ids=str)
def test_a_command_is_understood(line: Command, tmp_path: Path) -> None:
    if line.program == OURS:
        understood(line.arguments)
        name, *arguments = line.arguments
        if name == "check":
            (tmp_path / "config.yaml").write_text(
                next(b.text for b in CONFIGURATIONS if b.page == line.page)
            )
            flags = [a.replace("config.yaml", str(tmp_path / "config.yaml")) for a in arguments]
            assert CliRunner().invoke(main, [name, *flags, "--offline"]).exit_code == 0
    elif line.program == "kubectl" and "apply" in line.arguments:
        assert (ROOT / line.arguments[-1]).is_dir()
    else:
        assert line.program in ELSEWHERE, line.program


def test_containers_get_commands_that_exist() -> None:
    lines = [c for page in PAGES for c in commands(page) if c.program == "docker"]
    assert lines
    for line in lines:
        if line.arguments[0] == "run":
            image = line.arguments.index(OURS)
            understood(line.arguments[image + 1 :] or ["serve"])


def client(url: str) -> httpx.Client:
    """A client that waits for a server which doesn't say when it listens."""
    transport = httpx.HTTPTransport(verify=False, retries=8)
    return httpx.Client(base_url=url, headers={"Origin": VIEWER}, transport=transport)


def grants(viewer: httpx.Client) -> bool:
    asks = {"Access-Control-Request-Method": "GET"}
    answer = viewer.options("/dicom-web/studies", headers=asks)
    return answer.status_code == 204 and answer.headers["Access-Control-Allow-Origin"] == VIEWER


def test_uvicorn(tmp_path: Path) -> None:
    documented = command("running", "uvicorn")
    file = tmp_path / documented.variables["DICOMWEB_PROXY_CONFIG"]
    port = free_port()
    with stub(Reply(body=b"[]")) as archive:
        file.write_text(yaml.safe_dump(fronting(archive.url, VIEWER)))
        line = [sys.executable, "-m", "uvicorn", *documented.arguments, "--port", str(port)]
        with (
            Child(line, env={"DICOMWEB_PROXY_CONFIG": str(file)}),
            client(f"http://{LOOPBACK}:{port}") as viewer,
        ):
            assert grants(viewer)
            answer = viewer.get("/dicom-web/studies")
            assert answer.json() == []
            assert len(answer.headers.get_list("Date")) == 1


def nginx_configuration(folder: Path, location: str, port: int) -> Path:
    """Put a location into all that nginx needs around it."""
    spools = "".join(
        f"{name}_temp_path {folder}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr notice;\n"
        f"events {{}}\nhttp {{ access_log off; {spools}"
        f"server {{ listen {LOOPBACK}:{port};\n{location} }} }}\n"
    )
    return file


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
@pytest.mark.parametrize("block", blocks(guide("from-nginx"), "nginx"), ids=str)
def test_nginx_understands(block: Block, tmp_path: Path) -> None:
    file = nginx_configuration(tmp_path, block.text, free_port())
    result = subprocess.run(
        [str(NGINX), "-t", "-p", tmp_path, "-c", file], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_nginx_before_the_proxy(tmp_path: Path) -> None:
    """One value of each CORS header arrives, and URLs say what the browser asked for."""
    _, location = blocks(guide("from-nginx"), "nginx")
    (settings,) = blocks(guide("from-nginx"), "yaml")
    body = json.dumps([{"00081190": {"vr": "UR", "Value": ["http://127.0.0.1:8042/dicom-web/s"]}}])
    own = {"Access-Control-Allow-Origin": "*", "Content-Type": "application/dicom+json"}
    with stub(Reply(200, own, body.encode())) as archive:
        file = yaml.safe_load(settings.text)
        file["upstream"] = {"url": archive.url, "aliases": ["http://127.0.0.1:8042/dicom-web"]}
        with serving(file, tmp_path) as proxy:
            port = free_port()
            text = location.text.replace("http://127.0.0.1:8080", proxy.root)
            conf = nginx_configuration(tmp_path, text, port)
            with Child([str(NGINX), "-p", str(tmp_path), "-c", str(conf)]) as child:
                child.wait_for("start worker process|getrlimit")
                with client(f"http://{LOOPBACK}:{port}") as viewer:
                    assert grants(viewer)
                    answer = viewer.get("/dicom-web/studies")
    assert answer.headers.get_list("Access-Control-Allow-Origin") == [VIEWER]
    assert answer.json()[0]["00081190"]["Value"] == [f"http://{LOOPBACK}:{port}/dicom-web/s"]


def evaluated(script: str) -> Any:  # noqa: ANN401
    """What a script prints as JSON."""
    if NODE is None:
        pytest.skip("needs node")
    result = subprocess.run(
        [NODE, "--input-type=module", "--eval", script], check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout or "null")


@pytest.mark.parametrize("block", [b for page in GUIDES for b in blocks(page, "js")], ids=str)
def test_a_script_is_understood(block: Block) -> None:
    evaluated(f"globalThis.window = {{}};\n{block.text}")


def test_ohifs_roots_are_the_proxys(tmp_path: Path) -> None:
    (block,) = blocks(guide("ohif"), "js")
    config = evaluated(
        f"globalThis.window = {{}};\n{block.text}\nconsole.log(JSON.stringify(window.config))"
    )
    (source,) = config["dataSources"]
    assert config["defaultDataSourceName"] == source["sourceName"]
    settings = configuration(blocks(guide("ohif"), "yaml")[0], tmp_path)
    roots = {name: url for name, url in source["configuration"].items() if name.endswith("Root")}
    assert roots == {
        "qidoRoot": settings.public_url,
        "wadoRoot": settings.public_url,
        "wadoUriRoot": f"{settings.public_url}/wado",
    }


def leaves(value: Mapping[str, Any]) -> set[str]:
    """The names in a mapping that hold no further ones."""
    return {
        name
        for key, each in value.items()
        for name in (leaves(each) if isinstance(each, dict) else {key})
    }


def test_pacsbins_settings_have_a_row_each(tmp_path: Path) -> None:
    page = guide("from-pacsbin-proxy")
    (theirs,) = (json.loads(block.text) for block in blocks(page, "json"))
    ours = configuration(blocks(page, "yaml")[0], tmp_path)
    rows = "".join(re.findall(r"^\| .*$", prose(page), re.MULTILINE))
    for name in leaves(theirs) - {"proxyMode"}:
        assert re.search(rf"[`.]{name}\b", rows), name
    forwarding = theirs["dicomwebProxySettings"]
    assert ours.upstream.qido_url == forwarding["qidoForwardingUrl"]
    assert ours.upstream.wado_url == forwarding["wadoForwardingUrl"]
    assert ours.server.port == theirs["webserverPort"]
    assert list(ours.cors.allow_origins) == theirs["cors"]["origin"]
    assert {name.lower() for name in theirs["cors"]["allowedHeaders"]} <= set(
        ours.cors.allow_headers
    )
    assert ours.cors.allow_credentials is theirs["cors"]["credentials"]
    assert ours.server.base_path == "/"


@pytest.mark.parametrize("block", [b for p in GUIDES for b in blocks(p, "json")], ids=str)
def test_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


def test_what_browsers_say_is_what_they_say() -> None:
    """The file is what both browsers said, and a test asks them again."""
    page = guide("browser-messages").read_text(encoding="utf-8")
    said = json.loads((ROOT / "docs" / "browser-messages.json").read_text(encoding="utf-8"))
    known = {(each["fault"], each["browser"]): each["message"] for each in said}
    shown = re.findall(r"^<!-- ([\w-]+): (\w+) -->\n```text\n(.*)\n```$", page, re.MULTILINE)
    assert len(shown) == page.count("```text")
    elsewhere = {("header-not-exposed", "Chromium")}
    for fault, browser, message in shown:
        if (fault, browser) not in elsewhere:
            assert message == known[fault, browser]
    faults = {fault for fault, _, _ in shown} - {fault for fault, _ in elsewhere}
    assert {(fault, browser) for fault in faults for browser in ("Chromium", "Firefox")} == {
        (fault, browser) for fault, browser, _ in shown
    } - elsewhere


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
def test_systemd_understands_the_drop_in(tmp_path: Path) -> None:
    (drop_in,) = blocks(guide("running"), "ini")
    unit = ROOT / "deploy" / "dicomweb-cors-proxy.service"
    command = str(Path(sys.executable).with_name(OURS))
    text = unit.read_text().replace(f"/opt/dicomweb-cors-proxy/bin/{OURS}", command)
    copy = tmp_path / unit.name
    copy.write_text(text + drop_in.text)
    result = subprocess.run(
        [str(ANALYZE), "verify", copy],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(page: Path) -> None:
    groups = "|".join(name for name in SCHEMA.groups if "." not in name)
    known = {*SCHEMA.settings, *SCHEMA.groups}
    for key in re.findall(rf"`((?:{groups})\.[a-z_.]+)\b", prose(page)):
        assert key.rstrip(".") in known, key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if urlsplit(target).scheme:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file), link


def test_every_guide_is_in_the_list() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert listed >= set(GUIDES)
