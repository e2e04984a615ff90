"""What the README shows is run, so that a reader can copy it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.config.settings import Settings
from tests.support import guides
from tests.support.probing import archive
from tests.support.processes import Child
from tests.support.servers import Reply, stub

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
PAGES = [guides.ROOT / name for name in ("README.md", "docs/configuration.md", "docs/urls.md")]
YAML = [block for page in PAGES for block in guides.blocks(page, "yaml")]
MAX_LINES = 120
ARCHIVE = "http://orthanc:8042/dicom-web"
VIEWER = "https://viewer.example"
SCRIPTS = Path(sys.executable).parent


def clean_environment(**variables: str) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DICOMWEB_PROXY_")}
    return inherited | variables


def command(*words: str) -> str:
    lines: list[str] = [line for line in COMMANDS if set(words) <= set(shlex.split(line))]
    assert len(lines) == 1
    return lines[0]


def granted(url: str) -> bool:
    """Whether the policy of the README's examples is in force there."""
    answer = httpx.options(
        f"{url}/studies",
        headers={"Origin": VIEWER, "Access-Control-Request-Method": "GET"},
        trust_env=False,
    )
    return bool(answer.headers.get("access-control-allow-origin") == VIEWER)


@pytest.mark.parametrize("block", YAML, ids=str)
def test_a_configuration_is_valid_and_gives_no_warning(block: guides.Block, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(block.text, encoding="utf-8")
    assert load(config_file=file, environ={}).warnings() == ()


def test_serve() -> None:
    with stub(Reply(body=b"[]")) as archive:
        line = command(".venv/bin/dicomweb-cors-proxy", "serve", "--upstream").replace(
            ARCHIVE, archive.url
        )
        program, *arguments = shlex.split(line)
        with Child(
            [str(SCRIPTS / Path(program).name), *arguments, "--port", "0"], env=clean_environment()
        ) as child:
            url = child.wait_for(r"\bat +(http\S+)")[1]
            assert granted(url)
            assert httpx.get(f"{url}/studies", trust_env=False).json() == []


def test_the_printed_url_is_that_of_the_defaults() -> None:
    server = Settings(upstream={"url": ARCHIVE}, cors={"allow_origins": [VIEWER]}).server
    assert f"`http://{server.host}:{server.port}{server.base_path}`" in README


def test_probe() -> None:
    with archive() as right:
        line = command("probe", "--origin").replace("https://pacs.example/dicom-web", right.url)
        program, *arguments = shlex.split(line)
        result = subprocess.run(
            [str(SCRIPTS / Path(program).name), *arguments],
            env=clean_environment(),
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    assert result.stdout.startswith(f"{right.url}\nas a page on {VIEWER} asks it")
    assert "Nothing to do" in result.stdout


def test_every_other_command_has_a_test_of_its_own() -> None:
    """`demo`, the tests and the container are run elsewhere; anything new has to be run, too."""
    elsewhere = (r"\S+ demo$", "-m pytest$", r"^docker ", "^sudo ", "^systemd")
    tested = (
        command(".venv/bin/dicomweb-cors-proxy", "serve", "--upstream"),
        command("probe", "--origin"),
    )
    for line in COMMANDS:
        assert line in tested or any(re.search(pattern, line) for pattern in elsewhere), line


def test_the_viewers_roots_are_the_proxys() -> None:
    (block,) = (block for kind, block in BLOCKS if kind == "js")
    roots = dict(re.findall(r"(\w+Root): '([^']+)'", block))
    assert {name: urlsplit(url).path for name, url in roots.items()} == {
        "qidoRoot": "/dicom-web",
        "wadoRoot": "/dicom-web",
        "wadoUriRoot": "/dicom-web/wado",
    }


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert urlsplit(target).scheme or (Path(__file__).parents[2] / target).exists(), target


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= MAX_LINES
