"""OHIF's viewport, as a test reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.packages import HERE

if TYPE_CHECKING:
    from tests.support.tabs import Chromium

_PIXELS = (HERE / "pages" / "pixels.js").read_text(encoding="utf-8")


async def shown(tab: Chromium, side: int) -> list[int]:
    """Return the grey values of the image in the first viewport, once there is one.

    OHIF's configuration stays as it is: the functions come with the question.
    """
    greys: list[int] = await tab.evaluate(
        f"""() => {{
          {_PIXELS}
          return until(() => {{
            const canvas = document.querySelector("canvas.cornerstone-canvas");
            return canvas && greys(canvas, {side});
          }});
        }}"""
    )
    return greys
