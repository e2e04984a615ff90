"""A reverse proxy that gives a DICOMweb archive correct CORS.

Each package imports only from packages below it in this table:

| package                      | does                                                          |
|------------------------------|---------------------------------------------------------------|
| `cli`                        | the commands                                                  |
| `demo`                       | an archive and a page to try the proxy with                   |
| `operations`, `asgi`         | the process that serves; the application for other servers    |
| `app`                        | the application: the proxy and its operator's endpoints       |
| `wiring`, `probe`            | settings become objects; the check of an archive's CORS       |
| `proxy`, `config`            | the core: a request and its response; the settings            |
| `tokens`                     | the verification of clients' access tokens                    |
| `upstream`, `dicomweb`,      | the connection to the archive; resources and URLs;            |
| `cors`, `server`             | the CORS policy; the connection to clients                    |
| `http`, `observability`      | the vocabulary of HTTP messages; logs and metrics             |
| `deadline`, `keepalive`      | time limits; TCP keepalive, which finds a peer that is gone   |

Read `app`, `wiring` and `proxy` first: they are the way of a request.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicomweb_cors_proxy.app import create_app
    from dicomweb_cors_proxy.config.settings import Settings

__all__ = ["Settings", "__version__", "create_app"]

# The module of each export. It is imported at its first use, because `--help` and the completion of
# a command line need neither.
_MODULES = {"Settings": "config.settings", "create_app": "app"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _MODULES:
        with importing():
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("dicomweb-cors-proxy")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@contextmanager
def importing() -> Iterator[None]:
    """Turn the garbage collector off for imports, which leave nothing to collect.

    Looking for it would take a seventh of their time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            if not gc.get_freeze_count():
                # Move all to the oldest generation, because the next look at the youngest is due.
                gc.freeze()
                gc.unfreeze()
            gc.enable()
