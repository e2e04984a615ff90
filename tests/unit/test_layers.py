"""The layers of the package: each imports only from layers below it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import dicomweb_cors_proxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PACKAGE = "dicomweb_cors_proxy"
ROOT = Path(dicomweb_cors_proxy.__file__).parent

# From the top to the bottom. Packages and modules of one layer do not import each other.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"demo"},
    {"operations", "asgi"},
    {"__init__"},
    {"app"},
    {"wiring", "probe"},
    {"proxy", "config"},
    {"tokens"},
    {"upstream", "dicomweb", "cors", "server"},
    {"http", "observability"},
    {"deadline", "keepalive"},
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

# These compute, and do nothing else: no I/O, no logs, no framework.
FETCH = (
    "probe.fetch",
    "probe.origins",
    "probe.responses",
    "probe.safelists",
)  # judge the proxy, too
PURE = ("http", "cors", "dicomweb", *FETCH)
IMPURE = frozenset(
    {"asyncio", "httpx", "logging", "os", "select", "socket", "ssl", "starlette", "uvicorn"}
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def part(module: str) -> str:
    """The package, or the module beside the packages, that a module is in."""
    return module.partition(".")[0]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def walk(node: ast.AST, *, typing: bool) -> Iterator[ast.AST]:
    """Yield a node and those below it, without the ones for type checkers unless `typing`."""
    yield node
    below: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING" and not typing:
        below = node.orelse
    for child in below:
        yield from walk(child, typing=typing)


def imported(module: str, *, typing: bool) -> set[str]:
    """Dotted names that a module imports, those for type checkers alone only if `typing`."""
    found = set()
    for node in walk(tree(module), typing=typing):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def ours(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    found = set()
    for name in imported(module, typing=True):
        dotted = name.removeprefix(f"{PACKAGE}.")
        if dotted == name:
            continue
        if dotted not in MODULES:
            dotted = dotted.rpartition(".")[0] or "__init__"
        found.add(dotted)
    return found


def test_every_package_has_a_layer() -> None:
    assert {part(module) for module in MODULES} == set(LAYER)


def test_a_module_imports_only_from_lower_layers() -> None:
    wrong = {
        (module, other)
        for module in MODULES
        for other in ours(module)
        if part(other) != part(module) and LAYER[part(other)] <= LAYER[part(module)]
    }
    assert not wrong


def test_a_package_has_no_import_cycle() -> None:
    done: set[str] = set()
    left = {
        module: {other for other in ours(module) if part(other) == part(module)}
        for module in MODULES
    }
    while ready := [module for module, needed in left.items() if needed <= done]:
        done.update(ready)
        for module in ready:
            del left[module]
    assert not left


def test_a_pure_module_does_no_io() -> None:
    pure = [module for module in MODULES if f"{module}.".startswith(tuple(f"{x}." for x in PURE))]
    assert {part(module) for module in pure} == {part(name) for name in PURE}
    wrong = {
        (module, name)
        for module in pure
        for name in imported(module, typing=False)
        if name.partition(".")[0] in IMPURE
    }
    assert not wrong


def test_fetch_shares_no_code_with_the_proxy() -> None:
    assert not {other for module in FETCH for other in ours(module)} - {*FETCH}


def test_the_map_has_every_package() -> None:
    names = set(re.findall(r"`([a-z0-9_]+)`", dicomweb_cors_proxy.__doc__ or ""))
    assert names == set(LAYER) - {"__init__", "__main__"}


def test_files_begin_with_their_purpose() -> None:
    assert not [module for module in MODULES if not ast.get_docstring(tree(module))]


# Longer than 250 lines; none may be added, and these may not grow.
LONG_CLASSES = {"upstream.connection.Connection": 264}


def test_files_and_classes_are_short() -> None:
    """A longer file gives its reason in the docstring: "One file, because ..."."""
    lines = {module: len(path.read_text("utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {
        module: count
        for module, count in lines.items()
        if count > 400 and "One file, because" not in (ast.get_docstring(tree(module)) or "")
    }
    classes = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ClassDef)
    }
    assert not {
        name: count for name, count in classes.items() if count > LONG_CLASSES.get(name, 250)
    }
