"""Messages about files that cannot be read, without their content."""

from __future__ import annotations

import os

__all__ = ["unreadable"]


def unreadable(error: OSError | ValueError, remedy: str) -> str:
    """Say why a file cannot be read, and who has to be able to; otherwise the remedy."""
    if isinstance(error, PermissionError) and hasattr(os, "geteuid"):
        remedy = (
            f"the proxy runs as user {_user(os.geteuid())}: let this user read it, and enter the "
            "folders above it"
        )
    return f"cannot be read ({_cause(error)}); {remedy}"


def _user(number: int) -> str:
    import pwd  # noqa: PLC0415  (not on Windows)

    try:
        return f"{number} ({pwd.getpwuid(number).pw_name})"
    except KeyError:
        return str(number)


def _cause(error: OSError | ValueError) -> str:
    """Say what failed without the content that failed."""
    if isinstance(error, OSError):
        return error.strerror or "input or output error"
    return "not UTF-8 text" if isinstance(error, UnicodeError) else "not a valid path"
