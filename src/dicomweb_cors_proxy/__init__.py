"""A reverse proxy that gives a DICOMweb archive correct CORS.

A request's way, from the top; its answer goes back through the same, from the bottom:

| module              | does                                                                  |
|---------------------|-----------------------------------------------------------------------|
| `server`, `http1`   | accept connections, read requests off them, write answers             |
| `app`               | wires it all; answers /healthz and /readyz (`health`), and /metrics   |
| `middleware`        | log line and metrics; then CORS: preflights end here                  |
| `inbound`           | refuses heads and targets (`targets`) that are malformed or too long  |
| `cors`              | decides by origin, method and header names                            |
| `gateway`           | finds resource (`dicomweb`), archive, and header lines (`headers`)    |
| `proxy`             | moves bytes both ways; tells which failure is which status            |
| `contents`          | on the way back: URLs (`rewriting`), gzip (`compression`), and what   |
|                     | keeps stored scripts from running on our origin (`sandboxing`)        |
| `oauth`             | adds an access token of the proxy's own                               |
| `transport`         | asks the archive; or httpx does: `httpx_upstream`, `httpx_transport`  |
| `dialer`            | connects to it, at the addresses that `resolver` looks up             |

Beside it: `answers`, which the proxy makes itself; `logs`, written by `log_writer`, and `metrics`;
`config` with its `config_values` and `config_sources`; `reloading`, `workers` and their
`heartbeats`, `certificates`, `systemd` and `memory` for the process; `listening`, `tls`,
`keepalive`, `deadline`, `turns`, `extensions` and `chunked` for the server; `asgi` for other
servers; `cli`, and the commands that are packages of their own, `probe` and `demo`.

A new header of the archive's or the client's goes into `headers` or `gateway`, a resource into the
table in `dicomweb`, a setting into `config`.
"""

from dicomweb_cors_proxy.app import create_app
from dicomweb_cors_proxy.config import Settings

__all__ = ["Settings", "__version__", "create_app"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Some 30 ms of every start, were it imported above.
        from importlib.metadata import version  # noqa: PLC0415

        return version("dicomweb-cors-proxy")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
