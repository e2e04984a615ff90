"""Processes arranged as deploy/compose/ohif.yaml arranges containers, from Orthanc to Chromium."""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import correlation
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dicomweb_cors_proxy.demo import phantom, sample
from tests.support import orthanc as archives
from tests.support import packages
from tests.support.messages import ISOLATION
from tests.support.ohif import shown
from tests.support.phantom import SIDE, STUDY
from tests.support.processes import Child
from tests.support.proxy import Proxy, serving
from tests.support.servers import free_port
from tests.support.sites import Tree, sites
from tests.support.tabs import Chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.async_api import Browser

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.orthanc,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("from_npm"),
]

FILE = Path(__file__).parents[3] / "deploy" / "compose" / "ohif.yaml"


def services(*, archive: str, proxy: int, viewer: int) -> dict[str, Any]:
    """Return the services, with what the file says of addresses replaced by what the test has."""
    text = FILE.read_text()
    places = {":8080": f":{proxy}", ":3000": f":{viewer}", "http://orthanc:8042": archive}
    for there, here in places.items():
        assert there in text
        text = text.replace(there, here)
    loaded: dict[str, Any] = yaml.safe_load(text)["services"]
    return loaded


def orthanc_settings() -> dict[str, object]:
    """Translate variables of Orthanc's image: `ORTHANC__ONE_NAME` is the setting OneName."""
    environment = yaml.safe_load(FILE.read_text())["services"]["orthanc"]["environment"]
    assert environment.pop("DICOM_WEB_PLUGIN_ENABLED") == "true"
    return {
        variable.removeprefix("ORTHANC__").title().replace("_", ""): json.loads(value)
        for variable, value in environment.items()
    }


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What the file starts: `viewer` is an origin, `loader` the command that stores the samples."""

    viewer: str
    archive: archives.Orthanc
    proxy: Proxy
    loader: list[str]


@contextmanager
def arranged(directory: Path) -> Iterator[Arrangement]:
    if not archives.INSTALLED:
        pytest.skip("needs Debian's orthanc and orthanc-dicomweb")
    port = free_port()
    with archives.empty_orthanc(directory, orthanc_settings()) as archive, ExitStack() as running:
        files: dict[str, bytes] = {}
        tree = Tree(packages.OHIF, ISOLATION, files, has_routes=True)
        viewer = running.enter_context(sites({"/": tree}))
        file = services(archive=archive.root, proxy=port, viewer=viewer)
        files["app-config.js"] = file["viewer"]["environment"]["APP_CONFIG"].encode()
        environment = file["proxy"]["environment"]
        proxy = running.enter_context(serving({}, directory, "--port", str(port), env=environment))
        program, *arguments = file["samples"]["entrypoint"] + file["samples"]["command"]
        assert program == "python"
        yield Arrangement(
            f"http://localhost:{viewer}", archive, proxy, [sys.executable, *arguments]
        )


async def test_ohif_shows_the_sample_that_was_stored(chromium: Browser, tmp_path: Path) -> None:
    with arranged(tmp_path) as started:
        for _ in range(2):  # `up` again starts the loader again
            with Child(started.loader) as loader:
                assert loader.wait() == 0, loader.output
        async with Chromium.tab(chromium) as tab:
            await tab.page.goto(started.viewer)
            await tab.page.get_by_text("Phantom, Shepp-Logan").wait_for()
            assert await tab.page.get_by_text("Phantom, Shepp-Logan").count() == 1
            await tab.page.goto(f"{started.viewer}/viewer?StudyInstanceUIDs={STUDY}")
            greys = await shown(tab, SIDE)
            direct = f"fetch('{started.archive.url}/studies').catch((error) => error.name)"
            assert await tab.evaluate(direct) == "TypeError"
    window = sample.WINDOW_CENTER, sample.WINDOW_WIDTH
    likeness = max(
        correlation(greys, phantom.window(phantom.pixels(slice_), *window))
        for slice_ in range(phantom.SLICES)
    )
    assert likeness > 0.95
    assert f"instances/{{instance}}/frames/{{frames}} {started.viewer}" in re.sub(
        " +", " ", started.proxy.child.output
    )
