"""The surroundings in which the proxy runs, as far as advice depends on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["in_container"]

# Made by Docker and by podman in each container.
_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))


def in_container() -> bool:
    """Return whether this process seems to run in a container.

    podman, systemd-nspawn and our image set the variable `container`. If it is set but empty, the
    process is in none.
    """
    name = os.environ.get("container")  # noqa: SIM112 (so named)
    return any(mark.exists() for mark in _MARKS) if name is None else bool(name)
