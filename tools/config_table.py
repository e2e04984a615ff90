"""Renews the table of settings in README.md, or says that it can't."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.report import printable

README: Final = Path(__file__).parent.parent / "README.md"
BEGIN: Final = "<!-- configuration:begin -->\n"
END: Final = "<!-- configuration:end -->"


def table() -> str:
    """All settings in their order, in Markdown."""
    rows = ["| Key | Default | What it is for |", "|---|---|---|"]
    for setting in SCHEMA.settings.values():
        default = "" if setting.default is None else f"`{printable(setting.default)}`"
        description = re.sub(r"[*|<]", r"\\\g<0>", setting.description)
        rows.append(f"| `{setting.key}` | {default} | {description} |")
    return "\n".join(rows) + "\n"


def renewed(text: str) -> str:
    """`text` with the table between its markers. Raises ValueError if they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN.strip()} with {END} after it")
    return before + begin + table() + end + after


if __name__ == "__main__":
    try:
        README.write_text(renewed(README.read_text(encoding="utf-8")), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"{README}: {error}")
