"""Renew the table of settings in docs/configuration.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.report import printable

PAGE: Final = Path(__file__).parent.parent / "docs" / "configuration.md"
BEGIN: Final = "<!-- configuration:begin -->\n"
END: Final = "<!-- configuration:end -->"


def table() -> str:
    """Return all settings in their order, in Markdown."""
    rows = ["| Key | Default | What it is for |", "|---|---|---|"]
    for setting in SCHEMA.settings.values():
        default = "" if setting.default is None else f"`{printable(setting.default)}`"
        description = re.sub(r"[*|<]", r"\\\g<0>", setting.description)
        rows.append(f"| `{setting.key}` | {default} | {description} |")
    return "\n".join(rows) + "\n"


def renewed(text: str) -> str:
    """Return `text` with the table between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN.strip()} with {END} after it")
    return before + begin + table() + end + after


if __name__ == "__main__":
    try:
        PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"{PAGE}: {error}")
