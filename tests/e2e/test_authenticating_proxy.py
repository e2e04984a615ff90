"""Apache with mod_auth_openidc, between proxy and archive, and in front: as the guide says."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import ssl
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import trustme

from tests.support import guides
from tests.support.processes import Child
from tests.support.proxy import fronting, serving
from tests.support.servers import LOOPBACK, Reply, free_port, stub
from tests.support.tokens import provider

if TYPE_CHECKING:
    from collections.abc import Iterator

APACHE = shutil.which("apache2")
MODULES = Path("/usr/lib/apache2/modules")
VIEWER = "https://viewer.example"
GUIDE = guides.guide("authenticating-proxy")
BETWEEN, FRONT = (block.text for block in guides.blocks(GUIDE, "apache"))
# Logins that know nothing of preflights.
PASSWORD = """
<Location "/dicom-web">
  AuthType Basic
  AuthName archive
  AuthBasicProvider file
  AuthUserFile /dev/null
  Require valid-user
  ProxyPass http://127.0.0.1:8080/dicom-web
</Location>
"""
ALLOW_ORIGIN = "access-control-allow-origin"

pytestmark = pytest.mark.skipif(
    APACHE is None or not (MODULES / "mod_auth_openidc.so").exists(),
    reason="needs Debian's apache2 and libapache2-mod-auth-openidc",
)

LOADED = (
    *("mpm_event", "authn_core", "authz_core", "authz_user", "headers", "proxy", "proxy_http"),
    *("auth_basic", "authn_file", "auth_openidc"),
)


@contextmanager
def apache(folder: Path, lines: str) -> Iterator[str]:
    """Run an Apache with these lines; yields its root."""
    assert APACHE is not None
    port = free_port()
    loads = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in LOADED)
    configuration = folder / f"apache-{port}.conf"
    configuration.write_text(
        f"{loads}\nServerName localhost\nServerRoot {folder}\nPidFile {folder}/apache-{port}.pid\n"
        f"Listen {LOOPBACK}:{port}\nErrorLog /dev/stderr\nLogLevel notice\n"
        f"Mutex pthread\nOIDCCacheShmMax 100\n{lines}\n"
    )
    with Child([APACHE, "-f", str(configuration), "-D", "FOREGROUND"]) as child:
        child.wait_for("resuming normal operations")
        yield f"http://{LOOPBACK}:{port}"


def preflight(url: str) -> httpx.Response:
    headers = {
        "Origin": VIEWER,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    return httpx.options(f"{url}/studies", headers=headers, trust_env=False)


def search(url: str, token: str | None) -> httpx.Response:
    headers = {"Origin": VIEWER}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.get(f"{url}/studies", headers=headers, trust_env=False)


def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(LOOPBACK).configure_cert(context)
    return context


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


async def test_it_works_as_the_guide_says(tmp_path: Path, authority: trustme.CA) -> None:
    async with provider(tls=server_context(authority)) as issuer:
        tokens = {
            "valid": issuer.token(),
            "expired": issuer.token(exp=timedelta(hours=-1)),
            "another audience": issuer.token(aud="billing"),
            "none": None,
        }
        keys = f"{issuer.url}/keys"
        await asyncio.to_thread(try_all, tmp_path, keys, tokens)


def try_all(folder: Path, keys: str, tokens: dict[str, str | None]) -> None:
    study = Reply(200, {"Content-Type": "application/dicom+json"}, b"[]")
    common = f"OIDCCABundlePath {folder}/ca.pem\n"

    def adapted(lines: str, target: str) -> str:
        lines = re.sub(r"(?<=JwksUri ).*", keys, lines)
        return common + re.sub(r"(?<=ProxyPass )\S+", target, lines)

    with stub(study) as archive:
        target = f"{archive.url}/dicom-web"
        with (
            apache(folder, adapted(BETWEEN, target)) as between,
            serving(fronting(f"{between}/dicom-web", VIEWER), folder) as proxy,
        ):
            assert preflight(proxy.url).status_code == 204
            assert outcome(proxy.url, tokens) == WORKING
            host = proxy.root.removeprefix("http://")
            assert archive.requests[-1][2]["X-Forwarded-Host"] == host
        with serving(fronting(target, VIEWER), folder) as proxy:
            with apache(folder, adapted(PASSWORD, proxy.url)) as front:
                assert preflight(f"{front}/dicom-web").status_code == 401
            plain = adapted(BETWEEN, proxy.url)  # the same lines, but in front
            with apache(folder, plain) as front:
                url = f"{front}/dicom-web"
                assert preflight(url).status_code == 204
                assert outcome(url, tokens) == {
                    name: (status, origin if status == 200 else None)
                    for name, (status, origin) in WORKING.items()
                }
            with apache(folder, adapted(FRONT, proxy.url)) as front:
                url = f"{front}/dicom-web"
                granted = preflight(url)
                assert (granted.status_code, granted.headers[ALLOW_ORIGIN]) == (204, VIEWER)
                assert outcome(url, tokens) == WORKING


WORKING = {
    "valid": (200, VIEWER),
    "expired": (401, VIEWER),
    "another audience": (401, VIEWER),
    "none": (401, VIEWER),
}


def outcome(url: str, tokens: dict[str, str | None]) -> dict[str, tuple[int, str | None]]:
    """Return the status for each token, and whom the response lets read it."""
    answers = {name: search(url, token) for name, token in tokens.items()}
    assert json.loads(answers["valid"].content or b"null") == []
    assert {name for name in answers if "www-authenticate" in answers[name].headers} == {
        "expired",
        "none",
    }
    return {
        name: (answer.status_code, answer.headers.get(ALLOW_ORIGIN))
        for name, answer in answers.items()
    }
