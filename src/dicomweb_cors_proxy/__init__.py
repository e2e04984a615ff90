"""A reverse proxy that gives a DICOMweb archive correct CORS."""

from importlib.metadata import version

from dicomweb_cors_proxy.app import create_app
from dicomweb_cors_proxy.config import Settings

__all__ = ["Settings", "__version__", "create_app"]

__version__ = version("dicomweb-cors-proxy")
