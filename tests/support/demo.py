"""The real `dicomweb-cors-proxy demo`, in a process of its own."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from socket import create_server
from typing import TYPE_CHECKING

from tests.support.processes import Child
from tests.support.servers import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OHIF_PAGE = "<h1>viewer</h1>"


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo: `page` is an origin, `proxy` and `archive` are DICOMweb roots."""

    child: Child
    page: str
    proxy: str
    archive: str


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "dicomweb_cors_proxy", "demo", *flags]


def three_free_ports() -> int:
    """Return a port on which, as on the next two, nothing listens."""
    while True:
        first = free_port()
        try:
            with ExitStack() as bound:
                for port in range(first, first + 3):
                    bound.enter_context(create_server((LOOPBACK, port)))
        except (OSError, OverflowError):
            continue
        return first


@contextmanager
def demo(*flags: str) -> Iterator[Demo]:
    """Run the demo on free ports until the block ends."""
    with Child(command("--port", str(three_free_ports()), *flags)) as child:
        said = child.wait_for(r"Open (\S+)[^$]*archive +(\S+)[^$]*proxy +(\S+).*\n")
        page, archive, proxy = said.groups()
        yield Demo(child, page, proxy, archive)


def ohif_build(folder: Path) -> Path:
    """Write what stands for a build of OHIF into a new folder, and return the folder."""
    folder.mkdir(parents=True)
    (folder / "index.html").write_text(OHIF_PAGE)
    (folder / "app-config.js").write_text("window.config = 'the default';")
    return folder
