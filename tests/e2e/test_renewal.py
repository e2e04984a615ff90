"""A page that loads frames over TLS notices nothing of a reload, nor of a certificate's renewal."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import yaml

from tests.support import browser, samples
from tests.support.browser import Viewer
from tests.support.certificates import Pair, trust_flag
from tests.support.protocols import HTTP2, LOGGING, spoken
from tests.support.proxy import Proxy, fronting
from tests.support.servers import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from tests.support.browser import Site
    from tests.support.orthanc import Orthanc

pytestmark = [
    pytest.mark.chromium,
    pytest.mark.orthanc,
    pytest.mark.asyncio(loop_scope="session"),
]

FRAME = f"{samples.CT.path}/frames/1"
QUOTED = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}

# Milliseconds, and seconds: all lanes but the first need new connections each time.
PAUSE = 500
KEEPALIVE = 0.1


def reload(proxy: Proxy, settings: Mapping[str, Any]) -> None:
    proxy.file.write_text(yaml.safe_dump(settings))
    os.kill(proxy.child.pid, signal.SIGHUP)


async def said(proxy: Proxy, pattern: str) -> None:
    await asyncio.to_thread(proxy.child.wait_for, pattern)


async def shown(viewer: Viewer, subject: str) -> None:
    """Wait until the page has been shown this certificate, and has loaded more over it."""
    while subject not in viewer.certificates:
        await viewer.load_more(5)
    await viewer.load_more(20)


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])
async def test_frames_load_through_reloads_and_renewals(
    workers: int, orthanc: Orthanc, site: Site, serve: Callable[..., Proxy], tmp_path: Path
) -> None:
    if not browser.INSTALLED:
        pytest.skip("needs Debian's chromium")
    authority = trustme.CA()
    first, renewed, other = (
        authority.issue_cert("localhost", LOOPBACK, common_name=name)
        for name in ("first", "renewed", "other")
    )
    pair = Pair(tmp_path / "tls", first)
    server = {"http2": False, "workers": workers, "keepalive_timeout": KEEPALIVE, **pair.server}
    settings = fronting(orthanc.url, site.viewer) | {"server": server}
    proxy = await asyncio.to_thread(serve, settings)
    trusted = trust_flag(first, renewed, other)
    async with (
        browser.chromium(trusted) as chromium,
        Viewer.at(site.viewer, chromium) as viewer,
    ):
        await viewer.ask_on(f"{proxy.url}/{FRAME}", lanes=6, pause=PAUSE, headers=QUOTED)
        await viewer.load_more(20)
        assert viewer.certificates == {"first"}

        settings["cors"]["max_age"] = -1  # and the archive's connections are new ones
        settings["upstream"]["read_timeout"] = 30
        reload(proxy, settings)
        await said(proxy, "changed: upstream.read_timeout, cors.max_age\n")
        await viewer.load_more(20)

        pair.issue(renewed)
        await said(proxy, "the certificate is renewed: ")
        await shown(viewer, "renewed")

        settings["server"] |= Pair(tmp_path / "other", other).server
        reload(proxy, settings)
        await said(proxy, "changed: server.tls_cert_file, server.tls_key_file\n")
        await shown(viewer, "other")
        assert await viewer.stop_asking() == []
    assert "Traceback" not in proxy.child.output
    assert viewer.certificates == {"first", "renewed", "other"}


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])
async def test_frames_over_http2_load_through_reloads_and_a_renewal(
    workers: int, orthanc: Orthanc, site: Site, serve: Callable[..., Proxy], tmp_path: Path
) -> None:
    """One connection carries them all: it stays, and another page's is made with the new one."""
    authority = trustme.CA()
    first, renewed = (
        authority.issue_cert("localhost", LOOPBACK, common_name=name)
        for name in ("first", "renewed")
    )
    pair = Pair(tmp_path / "tls", first)
    settings: dict[str, Any] = fronting(orthanc.url, site.viewer)
    settings |= {"server": {"workers": workers, **pair.server}} | LOGGING
    proxy = await asyncio.to_thread(serve, settings)

    trusted = trust_flag(first, renewed)
    async with (
        browser.chromium(trusted) as chromium,
        Viewer.at(site.viewer, chromium) as viewer,
    ):
        await viewer.ask_on(f"{proxy.url}/{FRAME}", lanes=6, pause=20, headers=QUOTED)
        await viewer.load_more(20)

        settings["cors"]["max_age"] = -1  # from now on every frame has a preflight
        settings["upstream"]["read_timeout"] = 30
        reload(proxy, settings)
        await said(proxy, "changed: upstream.read_timeout, cors.max_age")
        await viewer.load_more(20)

        pair.issue(renewed)
        await said(proxy, "the certificate is renewed: ")
        await viewer.load_more(20)

        async with Viewer.at(site.viewer, chromium) as newcomer:
            frame = await newcomer.ask(f"{proxy.url}/{FRAME}", headers=QUOTED)
            assert (frame.status, frame.protocol) == (200, "h2")
            assert newcomer.certificates == {"renewed"}
        await viewer.load_more(20)
        assert await viewer.stop_asking() == []
        assert viewer.certificates == {"first"}
    assert spoken(proxy) == {HTTP2}
    assert "Traceback" not in proxy.child.output
