"""A login in OHIF at a real identity provider, in front of an archive that knows only the proxy."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.e2e.viewers.test_ohif import app_config, shown
from tests.support import packages
from tests.support.orthanc import CREDENTIALS
from tests.support.pictures import likeness
from tests.support.processes import Child
from tests.support.proxy import fronting
from tests.support.samples import CT
from tests.support.servers import LOOPBACK, free_port
from tests.support.sites import Tree, sites
from tests.support.tabs import Chromium

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.async_api import Browser

    from tests.support.orthanc import Orthanc
    from tests.support.proxy import Proxy

pytestmark = [
    pytest.mark.orthanc,
    pytest.mark.chromium,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.usefixtures("from_npm"),
]

AUDIENCE, SCOPE = "dicomweb", "dicom.read"
SCRIPT = packages.HERE / "provider.mjs"

# What the page gets for a search, with the token of its session if it has one.
SEARCH = """async ([url, token]) => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(`${url}/studies?limit=1`, { headers });
  const detail = response.ok ? null : (await response.json()).detail;
  return [response.status, response.headers.get("www-authenticate"), detail];
}"""
LISTED = "document.body?.innerText.includes('CompressedSamples, CT1')"
TOKEN = """() => {
  const name = Object.keys(sessionStorage).find((key) => key.startsWith("oidc.user:"));
  return JSON.parse(sessionStorage.getItem(name)).access_token;
}"""


class Setting(NamedTuple):
    viewer: str
    proxy: Proxy
    provider: Child


@contextmanager
def standing(archive: Orthanc, serve: Callable[..., Proxy]) -> Iterator[Setting]:
    """OHIF, the provider, and the proxy, which logs in at the archive itself."""
    files: dict[str, bytes] = {"blank.html": b"<!doctype html><title>blank</title>"}
    with sites({"/": Tree(packages.OHIF, {}, files, has_routes=True)}) as viewer_port:
        viewer, port = f"http://localhost:{viewer_port}", free_port()
        issuer = f"http://{LOOPBACK}:{port}"
        options = {
            "folder": str(packages.FOLDER),
            "port": port,
            "viewer": viewer,
            "audience": AUDIENCE,
            "scope": SCOPE,
        }
        node = shutil.which("node")
        assert node
        with Child([node, str(SCRIPT), json.dumps(options)]) as provider:
            provider.wait_for("the provider is ready")
            login = {"type": "basic", **asdict(CREDENTIALS)}
            auth = {
                "type": "jwt",
                "issuer": issuer,
                "audience": [AUDIENCE],
                "required_scopes": [SCOPE],
            }
            settings = fronting(archive.url, viewer, auth=login) | {"access": {"auth": auth}}
            proxy = serve(settings)
            files["app-config.js"] = configuration(proxy.url, issuer)
            yield Setting(viewer, proxy, provider)


def configuration(root: str, issuer: str) -> bytes:
    """OHIF's settings, with a login."""
    oidc = {
        "authority": issuer,
        "client_id": "ohif",
        "redirect_uri": "/callback",
        "response_type": "code",
        "scope": f"openid {SCOPE}",
        "automaticSilentRenew": False,
    }
    pixels = (packages.HERE / "pages" / "pixels.js").read_bytes()
    login = f"window.config.oidc = [{json.dumps(oidc)}];".encode()
    return app_config(root, "wadors", omit_quotes=True) + login + pixels


async def search(tab: Chromium, url: str, token: str | None = None) -> list[Any]:
    found: list[Any] = await tab.page.evaluate(SEARCH, [url, token])
    return found


@pytest.mark.timeout(240)
async def test_a_login_opens_the_archive(
    chromium: Browser, orthanc_with_auth: Orthanc, serve: Callable[..., Proxy]
) -> None:
    with standing(orthanc_with_auth, serve) as s:
        async with Chromium.tab(chromium) as tab:
            tab.page.set_default_timeout(60_000)  # a busy machine is no fault of OHIF's
            # Without a login, the page can read why.
            await tab.open(f"{s.viewer}/blank.html")
            status, challenge, detail = await search(tab, s.proxy.url)
            assert (status, challenge) == (401, 'Bearer realm="DICOMweb"')
            assert "has no access token" in detail

            # OHIF sends its user to the provider, and comes back with a token.
            await tab.open(f"{s.viewer}/")
            await tab.page.fill("input[name=login]", "radiologist")
            await tab.page.fill("input[name=password]", "made up")
            await tab.page.click("button[type=submit]")
            await tab.page.click("button[type=submit]:has-text('Continue')")
            await tab.page.wait_for_function(LISTED)
            await tab.open(f"{s.viewer}/viewer?StudyInstanceUIDs={CT.study}")
            # OHIF may go by the provider again, which knows the user now.
            await tab.page.wait_for_selector("canvas.cornerstone-canvas")
            assert likeness(await shown(tab, CT.dataset.Rows), CT) > 0.95

            # The session goes on without the provider, and so do preflights.
            token = await tab.page.evaluate(TOKEN)
            s.provider.terminate()
            s.provider.wait()
            forged = f"{token[:-8]}{token[-8:].swapcase()}"
            assert (await search(tab, s.proxy.url, token))[0] == 200
            status, challenge, _ = await search(tab, s.proxy.url, forged)
            assert status == 401
            assert 'error="invalid_token"' in challenge
            await tab.open(f"{s.viewer}/blank.html")
            assert (await search(tab, s.proxy.url, token))[0] == 200
        assert "preflight-allowed" in s.proxy.child.output
        assert "radiologist" not in s.proxy.child.output
        assert token not in s.proxy.child.output
