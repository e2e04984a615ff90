"""Viewers of others, each in Chromium and in Firefox, and what stands behind them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import trustme

from tests.support import packages
from tests.support.browser import PAGES, Site
from tests.support.certificates import Pair
from tests.support.messages import ISOLATION
from tests.support.protocols import HTTP2, LOGGING, spoken
from tests.support.proxy import Proxy, fronting, serving
from tests.support.servers import LOOPBACK
from tests.support.sites import Tree, sites
from tests.support.tabs import FIREFOX, PACS, VIEWER, Chromium, Firefox, Tab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from playwright.async_api import Browser

    from tests.support.orthanc import Orthanc


@dataclass(frozen=True, slots=True)
class Pages(Site):
    """The pages of libraries and, at `/ask/` and `/isolated/`, the viewer of the other tests."""


@dataclass(frozen=True, slots=True)
class SecurePages:
    """The viewer of the other tests, by https; a proxy has the certificate by `tls_flags`."""

    origin: str
    tls_flags: tuple[str, ...]


@pytest.fixture(scope="session")
def from_npm() -> None:
    if not packages.installed():
        pytest.skip("needs what tests/e2e/viewers/install brings from npm")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def firefox(from_npm: None) -> AsyncIterator[Firefox]:  # noqa: ARG001
    if FIREFOX is None:
        pytest.skip("needs Debian's firefox-esr")
    async with Firefox.running(acceptInsecureCerts=True) as running:
        yield running


@pytest.fixture(
    params=[
        pytest.param("chromium", marks=pytest.mark.chromium),
        pytest.param("firefox", marks=pytest.mark.firefox),
    ]
)
def running(request: pytest.FixtureRequest) -> Browser | Firefox:
    browser: Browser | Firefox = request.getfixturevalue(request.param)
    return browser


@pytest_asyncio.fixture(loop_scope="session")
async def tab(running: Browser | Firefox) -> AsyncIterator[Tab]:
    """A tab of either browser."""
    if isinstance(running, Firefox):
        yield running
    else:
        async with Chromium.tab(running, ignore_https_errors=True) as tab:
            yield tab


@pytest.fixture(scope="session")
def pages() -> Iterator[Pages]:
    scripts = {
        f"{name}.mjs": f"export default globalThis.{name};\n".encode()
        for name in ("JSZip", "Konva", "MagicWand")
    }
    own = packages.HERE / "pages"
    trees = {
        "/": Tree(own),
        "/pages/": Tree(own),
        "/globals/": Tree(own, files=scripts),
        "/npm/": Tree(packages.MODULES),
        "/ask/": Tree(PAGES),
        "/isolated/": Tree(PAGES, ISOLATION),
    }
    with sites(trees) as port:
        yield Pages(port)


@pytest.fixture(scope="session")
def secure_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecurePages]:
    certificate = trustme.CA().issue_cert(VIEWER, PACS, LOOPBACK)
    directory = tmp_path_factory.mktemp("tls")
    chain, key = directory / "chain.pem", directory / "key.pem"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    certificate.private_key_pem.write_to_path(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    flags = ("--tls-cert", str(chain), "--tls-key", str(key))
    with sites({"/": Tree(PAGES)}, context) as port:
        yield SecurePages(f"https://{VIEWER}:{port}", flags)


def settings(orthanc: Orthanc) -> dict[str, dict[str, Any]]:
    """In front of a real archive, WADO-URI included, for pages of `localhost`."""
    return fronting(orthanc.url, "http://localhost:*", wado_uri_url=f"{orthanc.root}/wado") | {
        "access": {"mode": "read-write"}
    }


@pytest.fixture(scope="session")
def plain_proxy(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with serving(settings(orthanc), tmp_path_factory.mktemp("proxy")) as running:
        yield running


@pytest.fixture(scope="session")
def http2_proxy(orthanc: Orthanc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """As `proxy`, with TLS; whatever has asked it has spoken HTTP/2."""
    directory = tmp_path_factory.mktemp("proxy")
    server = {"server": Pair(directory / "tls").server}
    with serving(settings(orthanc) | server | LOGGING, directory) as running:
        yield running
    assert spoken(running) == {HTTP2}


@pytest.fixture
def proxy(plain_proxy: Proxy) -> Proxy:
    """A module whose tests should run over HTTP/2 as well puts `either_proxy` in its place."""
    return plain_proxy


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def either_proxy(request: pytest.FixtureRequest) -> Proxy:
    """Both, one after the other."""
    name = {"HTTP/1.1": "plain_proxy", "HTTP/2": "http2_proxy"}[request.param]
    running: Proxy = request.getfixturevalue(name)
    return running
