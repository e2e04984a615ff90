"""OHIF's configuration file, app-config.js, with one data source."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["app_config", "data_source"]

_SOURCE_NAME: Final = "archive"
_NAMESPACE: Final = "@ohif/extension-default.dataSourcesModule.dicomweb"


def data_source(root: str, name: str, **adaptations: object) -> dict[str, object]:
    """Return the settings of a data source whose DICOMweb root is `root`.

    The defaults suit the proxy: it restores the quotes that OHIF omits, and it rewrites URLs.
    """
    return {
        "friendlyName": name,
        "name": _SOURCE_NAME,
        "qidoRoot": root,
        "wadoRoot": root,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "omitQuotationForMultipartRequest": True,
        "qidoSupportsIncludeField": True,
        "supportsFuzzyMatching": False,
        "supportsWildcard": True,
        "supportsReject": False,
        "enableStudyLazyLoad": True,
    } | adaptations


def app_config(source: Mapping[str, object]) -> str:
    """Write the file for a built OHIF with this data source."""
    config = {
        "routerBasename": None,
        "extensions": [],
        "modes": [],
        "showStudyList": True,
        "defaultDataSourceName": _SOURCE_NAME,
        "dataSources": [
            {
                "namespace": _NAMESPACE,
                "sourceName": _SOURCE_NAME,
                "configuration": dict(source),
            }
        ],
    }
    # JSON is JavaScript, and escaping non-ASCII makes it independent of the charset.
    return f"window.config = {json.dumps(config, indent=2)};\n"
