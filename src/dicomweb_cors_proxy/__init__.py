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

import gc

# Imports leave nothing to collect, and looking for it would take a seventh of their time.
_collects = gc.isenabled()
gc.disable()
try:
    from dicomweb_cors_proxy.app import create_app
    from dicomweb_cors_proxy.config.settings import Settings
finally:
    if _collects:
        if not gc.get_freeze_count():
            # Move all to the oldest generation, because the next look at the youngest is due.
            gc.freeze()
            gc.unfreeze()
        gc.enable()

__all__ = ["Settings", "__version__", "create_app"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Some 30 ms of every start, were it imported above.
        from importlib.metadata import version  # noqa: PLC0415

        return version("dicomweb-cors-proxy")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
