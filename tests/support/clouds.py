"""The endpoints of Google and Azure that issue tokens, on this machine."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs, parse_qsl, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.sockets import Archive, Head, Wire, answer, archive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ACCOUNT = "proxy@project.iam.gserviceaccount.com"
SECRET = "made-up-identity-header"


class Asked(NamedTuple):
    """A request for a token, without what differs each time."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    form: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]


@dataclass
class Cloud:
    """Gives out `token-1`, `token-2` and so on, each for `life` seconds.

    Attributes:
        statuses: of the next responses; those of 200 and later ones carry a token.
        asked: the requests for tokens.
    """

    life: int = 3600
    statuses: list[int] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    given: int = 0
    server: Archive = field(init=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def handle(self, wire: Wire, head: Head) -> None:
        body = await wire.body(head) if head.get(b"content-length") else b""
        method, target, _ = head.first_line.decode().split(" ")
        parts = urlsplit(target)
        flavor = b"Metadata-Flavor: Google"
        kind = b"Content-Type: application/json"
        if "token" not in parts.path and parts.path != "/msi":
            email = json.dumps({"email": ACCOUNT, "scopes": [], "aliases": ["default"]}).encode()
            is_account = "service-accounts" in parts.path
            await wire.send(answer(email if is_account else b"project", flavor, kind))
            return
        self.asked.append(_asked(method, target, body, head))
        status = self.statuses.pop(0) if self.statuses else 200
        if status != 200:
            secret = json.dumps({"error": "x", "error_description": f"not {SECRET}"}).encode()
            await wire.send(answer(secret, flavor, kind, status=b"%d Any" % status))
            return
        self.given += 1
        token = {
            "access_token": f"token-{self.given}",
            "token_type": "Bearer",
            "expires_in": self.life,
            "expires_on": str(int(time.time()) + self.life),
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "resource": parse_qs(parts.query).get("resource", [""])[0],
        }
        await wire.send(answer(json.dumps(token).encode(), flavor, kind))


def _asked(method: str, target: str, body: bytes, head: Head) -> Asked:
    parts = urlsplit(target)
    form = dict(parse_qsl(body.decode()))
    if "assertion" in form:
        claims = jwt.decode(form["assertion"], options={"verify_signature": False})
        form["assertion"] = json.dumps(
            {name: value for name, value in claims.items() if name not in ("iat", "exp")}
        )
    shown = ("metadata-flavor", "metadata", "x-identity-header", "authorization")
    headers = {
        name.decode().lower(): value.decode()
        for name, value in head.headers
        if name.decode().lower() in shown
    }
    return Asked(
        method,
        parts.path,
        tuple(sorted(parse_qsl(parts.query))),
        tuple(sorted(form.items())),
        tuple(sorted(headers.items())),
    )


@asynccontextmanager
async def cloud(life: int = 3600) -> AsyncIterator[Cloud]:
    there = Cloud(life)
    async with archive(there.handle) as server:
        there.server = server
        yield there


def service_account(there: Cloud, folder: Path) -> dict[str, str]:
    """The environment of a service account's key."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "key.json"
    content = {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "one",
        "private_key": pem.decode(),
        "client_email": ACCOUNT,
        "token_uri": f"{there.url}/token",
    }
    file.write_text(json.dumps(content))
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}


def workload_identity(there: Cloud, folder: Path) -> dict[str, str]:
    """The environment of a workload identity federation with Google."""
    subject = folder / "subject"
    subject.write_text("the pod's token")
    file = folder / "federation.json"
    content = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{there.url}/v1/token",
        "credential_source": {"file": str(subject)},
    }
    file.write_text(json.dumps(content))
    # Otherwise the library asks Google for the project.
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(file), "GOOGLE_CLOUD_PROJECT": "project"}


def metadata_server(there: Cloud, folder: Path) -> dict[str, str]:
    """The environment of a machine in Google's cloud."""
    return {
        "GCE_METADATA_HOST": there.address,
        "GCE_METADATA_IP": there.address,
        "HOME": str(folder),  # without the credentials of a person
    }


def app_service(there: Cloud, _: Path) -> dict[str, str]:
    """The environment of Azure's App Service, Functions and Container Apps."""
    return {"IDENTITY_ENDPOINT": f"{there.url}/msi", "IDENTITY_HEADER": SECRET}


def virtual_machine(there: Cloud, _: Path) -> dict[str, str]:
    """The environment of a virtual machine in Azure, whose endpoint is moved here."""
    return {"AZURE_POD_IDENTITY_AUTHORITY_HOST": there.url}
