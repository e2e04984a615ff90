#!/usr/bin/env python3
"""Renew the log excerpt in docs/monitoring.md: a viewing session in Chromium, before Orthanc.

Needs the test group and Debian's chromium, orthanc and orthanc-dicomweb. Run from the top:

    python -m tools.log_excerpt
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.support.browser import Viewer, chromium, site
from tests.support.orthanc import orthanc
from tests.support.proxy import fronting, serving
from tests.support.samples import CT, MULTI_FRAME

PAGE: Final = Path(__file__).parents[1] / "docs" / "monitoring.md"
BEGIN: Final = "<!-- session:begin -->\n```text\n"
END: Final = "```\n<!-- session:end -->"
FRAME: Final = 'multipart/related; type="application/octet-stream"'
JSON: Final = "application/dicom+json"


async def view(origin: str, url: str) -> None:
    """Act as a viewer: search, open a study, show images, disconnect; and fail."""
    async with chromium() as browser, Viewer.at(origin, browser) as viewer:
        json = {"headers": {"Accept": JSON}}
        await viewer.ask(f"{url}/studies?PatientName={CT.dataset.PatientName}", **json)
        await viewer.ask(f"{url}/studies/{CT.study}/series", **json)
        await viewer.ask(f"{url}/studies/{CT.study}/series/{CT.series}/metadata", **json)
        for sample, frame in ((CT, 1), (MULTI_FRAME, 1), (MULTI_FRAME, 2)):
            await viewer.ask(f"{url}/{sample.path}/frames/{frame}", headers={"Accept": FRAME})
        await viewer.ask(f"{url}/studies/1.2.3/metadata", **json)
        await viewer.ask(f"{url}/studies", headers={"Accept": JSON, "X-Trace": "1"})
        await viewer.ask(f"{url}/patients")


def session() -> list[str]:
    """Return the lines that the proxy logs of the session, and of the archive's end."""
    with TemporaryDirectory() as name, site() as pages:
        directory = Path(name)
        with orthanc(directory) as archive:
            url = archive.url
            with serving(fronting(url, pages.viewer), directory) as proxy:
                asyncio.run(view(pages.viewer, proxy.url))
        with serving(fronting(url, pages.viewer), directory) as down:
            asyncio.run(view_nothing(pages.viewer, down.url))
    output = proxy.child.output + down.child.output
    return [line for line in output.splitlines() if re.search(r" (INFO|WARNING) +[A-Z]+ +\d", line)]


async def view_nothing(origin: str, url: str) -> None:
    """Return a search while the archive is down."""
    async with chromium() as browser, Viewer.at(origin, browser) as viewer:
        await viewer.ask(f"{url}/studies", headers={"Accept": JSON})


def main() -> None:
    """Write the excerpt into docs/monitoring.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE}: no {BEGIN!r} with {END!r} after it")
    lines = "".join(f"{line}\n" for line in session())
    PAGE.write_text(before + begin + lines + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
