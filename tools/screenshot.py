#!/usr/bin/env python3
"""Makes docs/demo.png: runs the demo and takes a picture of it in Chromium.

Needs the test group and Debian's chromium; looks its best with fonts-inter and
fonts-jetbrains-mono.
"""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE = Path(__file__).parents[1] / "docs" / "demo.png"
MAX_BYTES = 300_000
COMMAND = (sys.executable, "-m", "dicomweb_cors_proxy", "demo")
WIDTH, HEIGHT, SCALE = 1280, 868, 2


@contextmanager
def demo() -> Iterator[str]:
    """Run the demo on its usual ports; yields the page's URL."""
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            line = process.stdout.readline() if process.stdout else ""
            if (said := re.match(r"Open (\S+)", line)) is None:
                sys.exit("The demo did not start.")
            yield said[1]
        finally:
            process.terminate()


def main() -> None:
    """Take the picture."""
    with demo() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        page = browser.new_page(
            color_scheme="dark",
            viewport={"width": WIDTH, "height": HEIGHT},
            device_scale_factor=SCALE,
        )
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        picture = page.screenshot()
        browser.close()
    packed = BytesIO()
    with Image.open(BytesIO(picture)) as image:
        image.convert("RGB").quantize(dither=Image.Dither.NONE).save(packed, "PNG")
    size = packed.tell()
    if size > MAX_BYTES:
        sys.exit(f"The picture has {size} bytes, more than {MAX_BYTES}.")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(packed.getvalue())
    print(f"{PICTURE.name}: {size} bytes")


if __name__ == "__main__":
    main()
