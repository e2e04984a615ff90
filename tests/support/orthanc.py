"""A real Orthanc with its DICOMweb plugin, filled with samples."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.support import samples
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
INSTALLED = shutil.which("Orthanc") is not None and PLUGIN.exists()


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str
    password: str

    @property
    def header(self) -> str:
        """The value of Authorization."""
        return f"Basic {b64encode(f'{self.username}:{self.password}'.encode()).decode()}"


CREDENTIALS = Credentials("viewer", "open sesame")


@dataclass(frozen=True, slots=True)
class Orthanc:
    root: str

    @property
    def url(self) -> str:
        return f"{self.root}/dicom-web"


@contextmanager
def orthanc(
    directory: Path, credentials: Credentials | None = None, **dicom_web: object
) -> Iterator[Orthanc]:
    """Run an Orthanc that keeps everything in `directory` and holds every sample.

    `dicom_web` are further settings of its plugin.
    """
    port = free_port()
    users = {credentials.username: credentials.password} if credentials else {}
    configuration = directory / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(directory),
                "IndexDirectory": str(directory),
                "HttpPort": port,
                "DicomServerEnabled": False,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": credentials is not None,
                "RegisteredUsers": users,
                "Plugins": [str(PLUGIN)],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/", **dicom_web},
            }
        )
    )
    archive = Orthanc(f"http://{LOOPBACK}:{port}")
    with Child(["Orthanc", str(configuration)]) as child:
        child.wait_for("Orthanc has started")
        with httpx.Client(auth=next(iter(users.items()), None), trust_env=False) as client:
            for sample in samples.ALL:
                client.post(f"{archive.root}/instances", content=sample.data).raise_for_status()
        yield archive
