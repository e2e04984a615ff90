"""tiny_pacs, a small PACS in Python whose DICOMweb was written from the standard alone."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def tiny_pacs(directory: Path, **dicomweb: object) -> Iterator[str]:
    """Run an empty one, which keeps everything in memory; yields its DICOMweb root.

    `dicomweb` are further settings of that component.
    """
    port = free_port()
    configuration = directory / "tiny-pacs.yaml"
    components = {
        "HttpServer": {"on": True, "host": LOOPBACK, "port": port},
        "DICOMWeb": {"on": True, "prefix": "/dicomweb", **dicomweb},
    }
    configuration.write_text(
        yaml.safe_dump({"ae": {"port": free_port()}, "components": components})
    )
    program = str(Path(sys.executable).with_name("tiny-pacs"))
    with Child([program, "run", "--config", str(configuration)]) as child:
        child.wait_for("HTTP server listening")
        yield f"http://{LOOPBACK}:{port}/dicomweb"
