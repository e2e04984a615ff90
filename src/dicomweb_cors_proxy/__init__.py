"""A reverse proxy that gives a DICOMweb archive correct CORS."""

from dicomweb_cors_proxy.app import create_app
from dicomweb_cors_proxy.config import Settings

__all__ = ["Settings", "__version__", "create_app"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        # Some 30 ms of every start, were it imported above.
        from importlib.metadata import version  # noqa: PLC0415

        return version("dicomweb-cors-proxy")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
