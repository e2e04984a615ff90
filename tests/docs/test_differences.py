"""docs/differences.md names all that the proxy changes, drops or rejects."""

from __future__ import annotations

import ast
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.http import content, forwarding, headers, sandbox
from dicomweb_cors_proxy.proxy import outgoing, responses
from tests.support.guides import ROOT, links

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

PAGE = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "dicomweb_cors_proxy"

# Modules that respond for the proxy itself.
RESPONDING = sorted(
    [
        *(path for name in ("proxy", "server", "tokens") for path in (SOURCE / name).glob("*.py")),
        SOURCE / "http" / "limits.py",
        SOURCE / "upstream" / "failures.py",
    ]
)

# The sets of header names in the source, by module and name.
SETS = [
    (headers, "_HOP_BY_HOP"),
    (headers, "_OF_WHOLE_ORIGIN"),
    (outgoing, "_NOT_FORWARDED"),
    (outgoing, "_OVERRIDES"),
    (forwarding, "_IDENTITY_NAMES"),
    (forwarding, "_IDENTITY_PREFIXES"),
    (responses, "_PARTIAL"),
    (content, "_BOUND_TO_BODY"),
    (sandbox, "_NO_SNIFFING"),
    (sandbox, "_SANDBOX"),
]


def named() -> set[str]:
    """Return what stands in backticks, without a value, in lower case."""
    return {text.partition(":")[0].lower() for text in re.findall(r"`([^`]+)`", PAGE)}


@pytest.mark.parametrize(
    ("module", "name"), SETS, ids=lambda value: getattr(value, "__name__", value)
)
def test_every_header_that_is_dropped_or_changed_is_named(module: ModuleType, name: str) -> None:
    value = vars(module)[name]
    names = value[:1] if name in ("_NO_SNIFFING", "_SANDBOX") else value
    suffix = "*" if name == "_IDENTITY_PREFIXES" else ""
    assert {each.decode("ascii") + suffix for each in names} <= named()


def test_the_archives_cors_headers_are_named() -> None:
    assert "access-control-*" in named()


def statuses(path: Path) -> Iterator[int]:
    """Yield the statuses of problems in a module's calls and assignments."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call | ast.Assign):
            for child in ast.walk(node.value if isinstance(node, ast.Assign) else node):
                value = child.value if isinstance(child, ast.Constant) else None
                if isinstance(value, int) and value >= 400 and value in set(HTTPStatus):
                    yield value


def test_every_status_of_the_proxys_own_is_named() -> None:
    made = {status for path in RESPONDING for status in statuses(path)}
    assert {400, 401, 403, 404, 405, 408, 413, 414, 421, 431, 502, 503, 504, 508} <= made
    tables = "".join(re.findall(r"^\| [0-9].*$", PAGE, re.MULTILINE))
    assert made <= {int(status) for status in re.findall(r"\b[45][0-9]{2}\b", tables)}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "README.md"])
def test_the_page_is_linked(page: Path) -> None:
    assert any(link.endswith("differences.md") for link in links(page))
