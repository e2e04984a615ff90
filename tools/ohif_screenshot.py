"""Make docs/ohif.png: OHIF's study list and an image, from an Orthanc through the proxy.

`python -m tools.ohif_screenshot`, where tests/e2e/viewers/install has brought OHIF, with Debian's
orthanc, orthanc-dicomweb and chromium.
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image
from tests.e2e.viewers.test_ohif import ohif, shown
from tests.support import phantom
from tests.support.browser import chromium
from tests.support.orthanc import orthanc
from tests.support.proxy import fronting, serving
from tests.support.tabs import Chromium

if TYPE_CHECKING:
    from collections.abc import Sequence

PICTURE = Path(__file__).parents[1] / "docs" / "ohif.png"
MAX_BYTES = 300_000
VIEW = {"width": 1040, "height": 660}
GAP = 16
# The slice of the demo's phantom that shows most.
SLICE = phantom.SLICES // 2


async def take(origin: str) -> list[bytes]:
    """Return screenshots of the study list and of the phantom."""
    async with chromium() as browser, Chromium.tab(browser, viewport=VIEW) as tab:
        await tab.open(f"{origin}/")
        await tab.page.get_by_text("Phantom").first.wait_for()
        studies = await tab.page.screenshot()
        await tab.open(f"{origin}/viewer?StudyInstanceUIDs={phantom.STUDY}")
        await tab.page.get_by_text("Skip all").click()
        await shown(tab, phantom.SIDE)
        for _ in range(SLICE):
            await tab.page.keyboard.press("ArrowDown")
        await tab.page.wait_for_load_state("networkidle")
        return [studies, await tab.page.screenshot()]


def side_by_side(pictures: Sequence[bytes]) -> bytes:
    """Join the two pictures into one, with few colours."""
    width, height = VIEW["width"], VIEW["height"]
    whole = Image.new("RGB", (width * len(pictures) + GAP * (len(pictures) - 1), height), "white")
    for index, picture in enumerate(pictures):
        with Image.open(BytesIO(picture)) as image:
            whole.paste(image, (index * (width + GAP), 0))
    packed = BytesIO()
    whole.quantize(dither=Image.Dither.NONE).save(packed, "PNG")
    return packed.getvalue()


def main() -> None:
    """Take both pictures and write docs/ohif.png."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with orthanc(folder) as archive:
            phantom.store(archive)
            with (
                serving(fronting(archive.url, "http://localhost:*"), folder) as proxy,
                ohif(proxy, "wadors") as origin,
            ):
                picture = side_by_side(asyncio.run(take(origin)))
    if len(picture) > MAX_BYTES:
        raise SystemExit(f"The picture has {len(picture)} bytes, more than {MAX_BYTES}.")
    PICTURE.write_bytes(picture)
    print(f"{PICTURE.name}: {len(picture)} bytes")


if __name__ == "__main__":
    main()
