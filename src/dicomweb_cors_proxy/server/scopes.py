"""ASGI scopes of connections and requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from dicomweb_cors_proxy.http.extensions import EMPTY_QUERY
from dicomweb_cors_proxy.http.targets import origin_form

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope

    from dicomweb_cors_proxy.server.request_reader import Request


def connection_scope(transport: asyncio.Transport) -> Scope:
    """Return the entries that the scopes of all requests of a connection share."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": "https" if is_ssl(transport) else "http",
        "server": get_local_addr(transport),
        "client": get_remote_addr(transport),
        "root_path": "",
    }


def request_scope(shared: Scope, request: Request, app_state: dict[str, Any]) -> Scope:
    """Return the scope of a request on a connection with the scope `shared`."""
    path, mark, query = request.target.partition(b"?")
    # `raw_path` has the target as it came; `path` has the path of one in absolute form.
    local = path if path[:1] == b"/" else origin_form(path)[0]
    return {
        **shared,
        "http_version": request.version,
        "method": request.method,
        "path": unquote(local.decode("ascii")) if b"%" in local else local.decode("ascii"),
        "raw_path": path,
        "query_string": query,
        "headers": request.headers,
        "state": app_state.copy(),
        "extensions": {EMPTY_QUERY: {}} if mark and not query else {},
    }
