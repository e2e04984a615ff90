"""A real Orthanc with its DICOMweb plugin, filled with samples."""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import httpx

from tests.support import samples
from tests.support.packages import FOLDER
from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
INSTALLED = shutil.which("Orthanc") is not None and PLUGIN.exists()
# The root of a tree with a newer one, which `tests/e2e/install-orthanc` brings.
NEWER = FOLDER / "orthanc"
NEWER_INSTALLED = (NEWER / "etc" / "localtime").is_symlink() and os.geteuid() == 0


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
def newer_orthanc() -> Iterator[Orthanc]:
    """Run a newer one, which keeps everything in its own tree; else as `orthanc`."""
    with (
        TemporaryDirectory(dir=NEWER / "tmp") as directory,
        orthanc(Path(directory), root=NEWER) as archive,
    ):
        yield archive


@contextmanager
def orthanc(
    directory: Path,
    credentials: Credentials | None = None,
    *,
    root: Path | None = None,
    **dicom_web: object,
) -> Iterator[Orthanc]:
    """Run an Orthanc that keeps everything in `directory` and holds every sample.

    `root` is the tree that it is taken from; `dicom_web` are further settings of its plugin.
    """
    users = {credentials.username: credentials.password} if credentials else {}
    settings = {
        "AuthenticationEnabled": credentials is not None,
        "RegisteredUsers": users,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", **dicom_web},
    }
    with (
        empty_orthanc(directory, settings, root) as archive,
        httpx.Client(auth=next(iter(users.items()), None), trust_env=False) as client,
    ):
        for sample in samples.ALL:
            client.post(f"{archive.root}/instances", content=sample.data).raise_for_status()
        yield archive


@contextmanager
def empty_orthanc(
    directory: Path, settings: Mapping[str, object], root: Path | None = None
) -> Iterator[Orthanc]:
    """Run an Orthanc with these settings and its DICOMweb plugin, else as `orthanc`."""
    inside = directory if root is None else Path("/", directory.relative_to(root))
    port = free_port()
    configuration = directory / "orthanc.json"
    configuration.write_text(
        json.dumps(
            {
                "StorageDirectory": str(inside),
                "IndexDirectory": str(inside),
                "HttpPort": port,
                "DicomServerEnabled": False,
                "RemoteAccessAllowed": False,
                "Plugins": [str(PLUGIN)],
                **settings,
            }
        )
    )
    archive = Orthanc(f"http://{LOOPBACK}:{port}")
    command = ["Orthanc"] if root is None else ["chroot", str(root), "/usr/sbin/Orthanc"]
    with Child([*command, str(inside / configuration.name)]) as child:
        child.wait_for("Orthanc has started")
        yield archive
