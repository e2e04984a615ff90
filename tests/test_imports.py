"""Who may import whom: pure below, I/O above, and one place that wires."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import dicomweb_cors_proxy

PACKAGE = "dicomweb_cors_proxy"
ROOT = Path(dicomweb_cors_proxy.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")
}
PURE = (
    "chunked",
    "compression",
    "cors",
    "dicomweb",
    "headers",
    "probe.fetch",
    "rewriting",
    "sandboxing",
    "targets",
)
DOES_IO = {"asyncio", "httpx", "logging", "os", "select", "socket", "ssl", "starlette", "uvicorn"}


def imports(module: str) -> set[str]:
    """What a module imports when it runs; imports for type checkers alone don't count."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(module: str) -> set[str]:
    return {
        name.removeprefix(f"{PACKAGE}.")
        for name in imports(module)
        if name.removeprefix(f"{PACKAGE}.") in MODULES
    }


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_neither_us_nor_the_world(module: str) -> None:
    assert not ours(module)
    assert not {name.partition(".")[0] for name in imports(module)} & DOES_IO


def test_the_engine_is_a_library_of_its_own() -> None:
    engine = {"transport", "dialer", "resolver", "keepalive", "chunked"}
    assert set().union(*map(ours, engine)) <= engine


def test_the_proxy_knows_no_dicom_and_no_cors() -> None:
    assert not ours("proxy") & {"config", "cors", "dicomweb", "gateway", "inbound", "targets"}


def test_only_the_app_and_the_commands_wire() -> None:
    wiring = {
        module for module in MODULES if ours(module) & {"app", "gateway"} and module != "__init__"
    }
    assert {module.partition(".")[0] for module in wiring} <= {"app", "asgi", "cli", "demo"}


def test_the_map_has_every_module() -> None:
    top = {module.partition(".")[0] for module in MODULES} - {"__init__", "__main__"}
    assert set(re.findall(r"`([a-z0-9_]+)`", dicomweb_cors_proxy.__doc__ or "")) == top


def test_no_circle() -> None:
    """Every module can be imported first."""
    done: set[str] = set()
    left = {module: ours(module) - {"__init__"} for module in MODULES}
    while ready := [module for module, needed in left.items() if needed <= done]:
        done.update(ready)
        for module in ready:
            del left[module]
    assert not left
