"""`upstream.auth.type: google` and `azure`, held against the vendors' own clients."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support import proxy as process
from tests.support.clouds import (
    SECRET,
    Cloud,
    app_service,
    cloud,
    metadata_server,
    service_account,
    virtual_machine,
    workload_identity,
)
from tests.support.processes import Child
from tests.support.sockets import ORIGIN, Archive, Wire, answer, archive, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.sockets import Head

    Environment = Callable[[Cloud, Path], dict[str, str]]

GOOGLE = """
import google.auth
from google.auth.transport.requests import Request
scope = "https://www.googleapis.com/auth/cloud-healthcare"
credentials, _ = google.auth.default(scopes=[scope])
credentials.refresh(Request())
"""
AZURE = """
from azure.identity import ManagedIdentityCredential
ManagedIdentityCredential().get_token("https://dicom.healthcareapis.azure.com/.default")
"""
PLACES = [
    pytest.param("google", service_account, GOOGLE, id="service account"),
    pytest.param("google", workload_identity, GOOGLE, id="workload identity"),
    pytest.param("google", metadata_server, GOOGLE, id="metadata server"),
    pytest.param("azure", app_service, AZURE, id="App Service"),
    pytest.param("azure", virtual_machine, AZURE, id="virtual machine"),
]
OURS = ("DICOMWEB_PROXY_", "GOOGLE_", "AZURE_", "IDENTITY_", "MSI_")


class Setting(NamedTuple):
    cloud: Cloud
    archive: Archive
    proxy: process.Proxy

    async def ask(self, target: str = "/dicom-web/studies") -> tuple[int, dict[str, Any]]:
        port = int(self.proxy.root.rpartition(":")[2])
        wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
        async with wire, asyncio.timeout(60):
            await wire.send(request("GET", target))
            head = await wire.head()
            return head.status, json.loads(await wire.body(head))

    def shown(self) -> list[str]:
        """The tokens that the archive was shown by requests of clients."""
        return [
            (head.get(b"authorization") or b"").decode()
            for head in self.archive.requests
            if b"limit" not in head.first_line
        ]


@asynccontextmanager
async def fronting(
    folder: Path,
    kind: str,
    place: Environment,
    **how: Any,  # noqa: ANN401
) -> AsyncIterator[Setting]:
    rejected = how.pop("rejected", "")

    async def handle(wire: Wire, head: Head) -> None:
        is_rejected = rejected and rejected.encode() in (head.get(b"authorization") or b"")
        status = b"401 Unauthorized" if is_rejected else b"200 OK"
        await wire.send(answer(b"[]", b"Content-Type: application/dicom+json", status=status))

    statuses = how.pop("statuses", [])
    async with cloud(**how) as there, archive(handle) as a:
        there.statuses = list(statuses)
        settings = process.fronting(a.url, ORIGIN.decode(), auth={"type": kind})
        settings |= {"server": {"allowed_hosts": ["proxy.example"]}}
        serving = process.serving(settings, folder, env=place(there, folder))
        running = await asyncio.to_thread(serving.__enter__)
        try:
            yield Setting(there, a, running)
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)
        assert SECRET not in running.child.output


@pytest.mark.parametrize(("kind", "place", "client"), PLACES)
async def test_it_asks_as_the_vendors_client_does(
    kind: str, place: Environment, client: str, tmp_path: Path
) -> None:
    async with fronting(tmp_path, kind, place) as s:
        assert (await s.ask())[0] == 200
        assert s.shown()[-1] == f"Bearer token-{s.cloud.given}"
        ours = s.cloud.asked[:1]
        s.cloud.asked.clear()
        env = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        with Child([sys.executable, "-c", client], env=env | place(s.cloud, tmp_path)) as child:
            assert await asyncio.to_thread(child.wait) == 0, child.output
        assert ours == s.cloud.asked


@pytest.mark.parametrize(("kind", "place", "client"), PLACES)
async def test_a_token_is_kept_until_it_expires(
    kind: str, place: Environment, client: str, tmp_path: Path
) -> None:
    assert client
    async with fronting(tmp_path, kind, place) as s:
        for _ in range(5):
            assert (await s.ask())[0] == 200
        assert set(s.shown()) == {"Bearer token-1"}
        assert s.cloud.given == 1


async def test_an_expired_token_is_renewed(tmp_path: Path) -> None:
    async with fronting(tmp_path, "google", service_account, life=1) as s:
        while len(set(s.shown())) < 2:
            assert (await s.ask())[0] == 200


async def test_a_rejected_token_is_replaced(tmp_path: Path) -> None:
    async with fronting(tmp_path, "google", service_account, rejected="token-1") as s:
        assert (await s.ask())[0] == 200
        assert s.shown()[-1] == "Bearer token-2"


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize(("kind", "place"), [("google", service_account), ("azure", app_service)])
async def test_a_passing_failure_is_survived(
    kind: str, place: Environment, status: int, tmp_path: Path
) -> None:
    async with fronting(tmp_path, kind, place, statuses=[status]) as s:
        async with asyncio.timeout(60):
            while (await s.ask())[0] != 200:
                pass
        assert len(s.cloud.asked) == 2


@pytest.mark.parametrize(
    ("kind", "place", "status", "remedy"),
    [
        ("google", service_account, 400, "Google did not issue a token. Check"),
        ("google", service_account, 401, "Google did not issue a token. Check"),
        ("google", workload_identity, 403, "Google did not issue a token. Check"),
        ("azure", app_service, 400, "Azure's library found no managed identity. Assign"),
        ("azure", app_service, 401, ""),
    ],
)
async def test_a_refusal_is_a_502_with_a_remedy(
    kind: str, place: Environment, status: int, remedy: str, tmp_path: Path
) -> None:
    async with fronting(tmp_path, kind, place, statuses=[status] * 99) as s:
        code, problem = await s.ask()
        assert code == 502
        assert problem["detail"].startswith(f"The proxy has no token for the archive: {remedy}")
        assert SECRET not in problem["detail"]
        assert s.shown() == []


async def test_without_credentials_is_a_502_that_says_what_to_set(tmp_path: Path) -> None:
    def nothing(_: Cloud, folder: Path) -> dict[str, str]:
        return {"NO_GCE_CHECK": "true", "HOME": str(folder)}

    async with fronting(tmp_path, "google", nothing) as s:
        code, problem = await s.ask()
        assert code == 502
        assert "GOOGLE_APPLICATION_CREDENTIALS" in problem["detail"]
