"""Allocator and garbage collector settings for a process that only streams."""

from __future__ import annotations

import gc
import sys
from typing import Final

__all__ = ["settle", "tune_allocator"]

# Parameters of mallopt(3), and bytes. By itself glibc gives a buffer's pages back to the kernel
# after each read of the archive's, and takes them anew for the next.
_MALLOPT: Final = {
    -1: 64 * 2**20,  # M_TRIM_THRESHOLD
    -2: 16 * 2**20,  # M_TOP_PAD
    -3: 32 * 2**20,  # M_MMAP_THRESHOLD
}


def tune_allocator() -> None:
    """Keep freed buffers for the next read; does nothing where the C library isn't glibc."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # noqa: PLC0415  (no other system needs it)

    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        for parameter, value in _MALLOPT.items():
            libc.mallopt(parameter, value)


def settle() -> None:
    """Exclude the objects that exist now from garbage collection.

    Requests and connections leave nothing to it, failed ones neither, so it looks ten times less
    often.
    """
    gc.freeze()  # without `collect`, which finds nearly nothing and delays the first response
    gc.set_threshold(7_000, 10, 10)
