"""The demo's CT series of nobody, for archives that are to hold more than single images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from dicomweb_cors_proxy.demo.encoding import part10
from dicomweb_cors_proxy.demo.sample import INSTANCES, pixels

if TYPE_CHECKING:
    from tests.support.orthanc import Orthanc

STUDY = str(INSTANCES[0]["StudyInstanceUID"])
SIDE = int(str(INSTANCES[0]["Rows"]))
SLICES = len(INSTANCES)


def store(archive: Orthanc) -> None:
    """Put the series beside the samples."""
    with httpx.Client(base_url=archive.root, trust_env=False) as client:
        for instance in INSTANCES:
            file = part10(instance, pixels(instance))
            client.post("/instances", content=file).raise_for_status()
