"""Whether a canvas shows the image that the archive holds."""

from __future__ import annotations

from array import array
from statistics import correlation
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.samples import Sample


def likeness(greys: Sequence[int], sample: Sample) -> float:
    """Correlate grey values, one a pixel, with the 16-bit pixels of an uncompressed sample."""
    pixels = array("h", sample.dataset.PixelData)
    assert len(pixels) == len(greys)
    return correlation(greys, pixels)
