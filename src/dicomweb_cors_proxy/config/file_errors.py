"""Messages about files that cannot be read, or are not YAML, without their content."""

from __future__ import annotations

import os
import re
from typing import Final

import yaml

from dicomweb_cors_proxy.config.issues import SettingIssue

__all__ = ["syntax_problem", "unreadable"]

_INDENTATION: Final = (
    "indent this line like the others of its section, by spaces; a section's keys begin in one "
    "column"
)
# Remedies by what the parser's message has in it; the first that fits counts.
_REMEDIES: Final = (
    (r"alias|alphabetic", "put quotes around what begins with *"),
    (r"'\\t'", "indent with spaces, not with tabs"),
    (r"cannot start any token", "put quotes around what begins with this character"),
    (r"quoted scalar", "a quote opens in this line and is not closed; close it"),
    (r"flow (?:sequence|mapping)", "a bracket opens in this line and is not closed; close it"),
    (r"flow node|stream end", "a bracket opens above and is not closed; close it"),
    (
        r"mapping values",
        (
            "indent this line like its neighbours, write a space after each key's colon (in the "
            "line above, too), and put quotes around values with a colon"
        ),
    ),
    (r"block (?:end|mapping|collection)", _INDENTATION),
    (r"simple key", "write a colon and a space between key and value, or close the quote"),
)
# The message gives the place where the reader noticed; these begin earlier.
_OPENED: Final = re.compile("quoted scalar|flow (?:sequence|mapping)|simple key")


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


def syntax_problem(source: str, error: Exception) -> SettingIssue:
    """Say where the file stops being YAML and what to do, without the text that stands there."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return SettingIssue(source, "is not YAML; write UTF-8 text, and no deeper than the example")
    message = f"{error.context or ''} {error.problem or ''}"
    mark = error.problem_mark or error.context_mark
    if error.context_mark and _OPENED.search(message):
        mark = error.context_mark
    where = f"{source}, line {mark.line + 1}" if mark else source
    remedy = next(
        (remedy for pattern, remedy in _REMEDIES if re.search(pattern, message)),
        "check indentation and quotes",
    )
    # Quoted there are characters and tokens, '<block end>', but also the names of aliases and tags,
    # which can be an unquoted *secret or !secret.
    cause = re.sub(r"""'(?!<|\\|.')[^']+'|"[^"]+\"""", "…", error.problem or "")
    return SettingIssue(where, f"is not valid YAML ({cause}); {remedy}")
