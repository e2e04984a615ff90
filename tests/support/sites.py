"""Static sites, several to a server, each with headers of its own."""

from __future__ import annotations

import functools
import mimetypes
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from tests.support.servers import serving

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from ssl import SSLContext

# What the machine's own tables may not know, and a browser insists on.
_TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm"}


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder below a path.

    Attributes:
        headers: sent with all of it.
        files: contents that stand in for files of that name, or beside them.
        has_routes: whether the page's script, not the server, knows its paths.
    """

    folder: Path
    headers: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    has_routes: bool = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *args: object, trees: Mapping[str, Tree]) -> None:
        self._trees = trees
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        prefix = max((p for p in self._trees if path.startswith(p)), key=len)
        tree = self._trees[prefix]
        name = path.removeprefix(prefix) or "index.html"
        body = _content(tree, name)
        if body is None and tree.has_routes:
            name, body = "index.html", _content(tree, "index.html")
        self.send_response(404 if body is None else 200)
        suffix = Path(name).suffix
        kind = _TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body or b"")))
        for line in tree.headers.items():
            self.send_header(*line)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None: ...


def _content(tree: Tree, name: str) -> bytes | None:
    if name in tree.files:
        return tree.files[name]
    file = (tree.folder / name).resolve()
    is_inside = file.is_relative_to(tree.folder.resolve())
    return file.read_bytes() if is_inside and file.is_file() else None


@contextmanager
def sites(trees: Mapping[str, Tree], tls: SSLContext | None = None) -> Iterator[int]:
    """Serve each tree below its path, which begins and ends with a slash; yields the port."""
    with serving(functools.partial(_Handler, trees=trees), tls) as port:
        yield port
