"""A head made of ellipsoids, after Shepp and Logan, as a CT would see it.

A row of pixels crosses an ellipsoid in one span, so an image is drawn by the ends of its spans.
"""

from __future__ import annotations

import struct
from array import array
from functools import cache
from itertools import accumulate
from math import cos, floor, radians, sin, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE: Final = 256  # rows and columns of an image
SLICES: Final = 24
PIXEL_SPACING: Final = 0.9  # mm
SLICE_SPACING: Final = 7.0  # mm
INTERCEPT: Final = -1024  # what a stored 0 stands for, in Hounsfield units

_AIR: Final = -1000
_RADIUS: Final = SIZE // 2  # pixels in the phantom's unit of length
_SUBROWS: Final = 3  # per row, against jagged edges

Span = tuple[float, float, float]  # row, left and right end, in pixels


class Ellipsoid(NamedTuple):
    """A shape that adds `hu` to all points in it; x is left, y is back, z is up."""

    hu: int
    semi_axes: tuple[float, float, float]
    centre: tuple[float, float, float]
    degrees: float = 0

    def spans(self, z: float) -> Iterator[Span]:
        """Yield where rows of the plane at `z` cross the ellipsoid."""
        a, b, c = self.semi_axes
        x0, y0, z0 = self.centre
        section = 1 - ((z - z0) / c) ** 2
        if section <= 0:
            return
        # In the plane: p·x² + 2q·x·y + r·y² = section, about the centre.
        cosine, sine = cos(radians(self.degrees)), sin(radians(self.degrees))
        p = (cosine / a) ** 2 + (sine / b) ** 2
        q = cosine * sine * (1 / a**2 - 1 / b**2)
        r = (sine / a) ** 2 + (cosine / b) ** 2
        height = a * b * sqrt(p * section)
        first = floor(_subrow(y0 - height)) + 1
        last = floor(_subrow(y0 + height))
        for subrow in range(first, last + 1):
            y = (subrow + 0.5) / (_SUBROWS * _RADIUS) - 1 - y0
            half = sqrt(max((q * y) ** 2 - p * (r * y * y - section), 0)) / p
            middle = _RADIUS * (1 + x0 - q * y / p)
            yield subrow / _SUBROWS, middle - half * _RADIUS, middle + half * _RADIUS


def _subrow(y: float) -> float:
    return (y + 1) * _RADIUS * _SUBROWS - 0.5


HEAD: Final = (
    Ellipsoid(1900, (0.69, 0.92, 0.81), (0, 0, 0)),  # the skull's outside
    Ellipsoid(-865, (0.6624, 0.874, 0.78), (0, 0.0184, 0)),  # and its inside, the brain
    Ellipsoid(-30, (0.11, 0.31, 0.42), (0.22, 0, 0.1), degrees=18),
    Ellipsoid(-30, (0.16, 0.41, 0.5), (-0.22, 0, 0.1), degrees=-18),
    Ellipsoid(20, (0.21, 0.25, 0.45), (0, -0.35, -0.15)),
    Ellipsoid(28, (0.046, 0.046, 0.2), (0, -0.1, 0.1)),
    Ellipsoid(28, (0.046, 0.046, 0.2), (0, 0.1, -0.1)),
    Ellipsoid(28, (0.046, 0.023, 0.3), (-0.08, 0.605, -0.15)),
    Ellipsoid(28, (0.023, 0.023, 0.25), (0, 0.605, -0.05)),
    Ellipsoid(28, (0.023, 0.046, 0.2), (0.06, 0.605, 0)),
)


def height(index: int) -> float:
    """Return where a slice lies, in mm from the phantom's middle."""
    return (index - (SLICES - 1) / 2) * SLICE_SPACING


@cache
def pixels(index: int) -> bytes:
    """Draw a slice: unsigned 16-bit words, little-endian, row by row."""
    # Steps from one pixel to the next; a span may end where the last pixel does.
    steps = [array("d", bytes(8 * (SIZE + 2))) for _ in range(SIZE)]
    for ellipsoid in HEAD:
        weight = ellipsoid.hu / _SUBROWS
        for row, left, right in ellipsoid.spans(height(index) / (_RADIUS * PIXEL_SPACING)):
            _step(steps[int(row)], left, weight)
            _step(steps[int(row)], right, -weight)
    stored = _AIR - INTERCEPT + 0.5  # and rounded
    words = [int(stored + hu) for row in steps for hu in accumulate(row[:SIZE])]
    return struct.pack(f"<{len(words)}H", *words)


def _step(steps: array[float], x: float, value: float) -> None:
    """Begin to add `value` at `x`, to the pixel that holds it by the share that it covers."""
    pixel = int(x)
    share = x - pixel
    steps[pixel] += value * (1 - share)
    steps[pixel + 1] += value * share


def window(data: bytes, centre: float, width: float, *, every: int = 1) -> bytes:
    """Show stored pixels as 8-bit grey, one of `every` pixels and rows (PS3.3 C.11.2.1.2.2)."""
    black = centre - width / 2 - INTERCEPT
    grey = bytes(min(max(int((word - black) * 255 / width), 0), 255) for word in range(1 << 12))
    words = struct.unpack(f"<{SIZE * SIZE}H", data)
    return bytes(
        grey[word] for row in range(0, SIZE, every) for word in words[row * SIZE :][:SIZE:every]
    )
