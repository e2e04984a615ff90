"""The resources of DICOMweb, and the services that serve them (PS3.18)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RESOURCES", "WADO", "Resource", "Service"]


class Service(StrEnum):
    """The services of an archive, each of which may have a base URL of its own."""

    ROOT = "root"  # the DICOMweb root itself: capabilities, and paths of the archive's own
    SEARCH = "search"  # QIDO-RS
    RETRIEVE = "retrieve"  # WADO-RS
    STORE = "store"  # STOW-RS
    WORKLIST = "worklist"  # UPS-RS
    WADO_URI = "wado-uri"


@dataclass(frozen=True, slots=True)
class Resource:
    """One row of the table.

    Attributes:
        template: the path below the DICOMweb root as a URI template, `studies/{study}/metadata`;
            the root itself is `/`.
        methods: the methods that the standard gives the resource, HEAD (RFC 9110 §9.3.2) and
            OPTIONS (Retrieve Capabilities, PS3.18 §8.9) included, and the service that each is
            sent to.
    """

    template: str
    methods: Mapping[str, Service]


def _resource(template: str, **methods: Service) -> Resource:
    """Complete a row: HEAD goes where GET does, OPTIONS where the first method does."""
    if "GET" in methods:
        methods["HEAD"] = methods["GET"]
    methods.setdefault("OPTIONS", next(iter(methods.values()), Service.ROOT))
    return Resource(template, MappingProxyType(methods))


_STUDY: Final = "studies/{study}"
_SERIES: Final = _STUDY + "/series/{series}"
_INSTANCE: Final = _SERIES + "/instances/{instance}"
WADO: Final = "wado"

RESOURCES: Final = (
    _resource("/"),
    # Studies Service: store §10.5, search §10.6. PUT is Azure's store that replaces instances.
    _resource("studies", GET=Service.SEARCH, POST=Service.STORE, PUT=Service.STORE),
    _resource("series", GET=Service.SEARCH),
    _resource("instances", GET=Service.SEARCH),
    _resource(_STUDY + "/series", GET=Service.SEARCH),
    _resource(_STUDY + "/instances", GET=Service.SEARCH),
    _resource(_SERIES + "/instances", GET=Service.SEARCH),
    # Retrieve, §10.4. DELETE is not in the standard; Azure, Google and dcm4chee have it.
    _resource(
        _STUDY,
        GET=Service.RETRIEVE,
        POST=Service.STORE,
        PUT=Service.STORE,
        DELETE=Service.STORE,
    ),
    _resource(_SERIES, GET=Service.RETRIEVE, DELETE=Service.STORE),
    _resource(_INSTANCE, GET=Service.RETRIEVE, DELETE=Service.STORE),
    *(
        _resource(f"{parent}/{child}", GET=Service.RETRIEVE)
        for parent in (_STUDY, _SERIES, _INSTANCE)
        for child in (
            "metadata",  # §10.4.1.1.2
            "rendered",  # §10.4.1.1.3
            "thumbnail",  # §10.4.1.1.4
            "bulkdata",  # §10.4.1.1.5
            "pixeldata",  # §10.4.1.1.6
            # §10.4.1.1.7 and §10.4.1.1.8; the standard's own examples differ in the case.
            "renderedMPR",
            "renderedmpr",
            "rendered3D",
            "rendered3d",
        )
    ),
    _resource(_INSTANCE + "/frames/{frames}", GET=Service.RETRIEVE),
    _resource(_INSTANCE + "/frames/{frames}/rendered", GET=Service.RETRIEVE),
    _resource(_INSTANCE + "/frames/{frames}/thumbnail", GET=Service.RETRIEVE),
    # BulkDataURI is any URI reference (Annex F.2.2). Static DICOMweb puts bulk data below a study,
    # dcm4chee and Kheops below a series or an instance.
    *(
        _resource(f"{parent}/bulkdata/{{path}}", GET=Service.RETRIEVE)
        for parent in (_STUDY, _SERIES, _INSTANCE)
    ),
    _resource(_INSTANCE + "/bulk/{path}", GET=Service.RETRIEVE),  # Orthanc
    _resource(_INSTANCE + "/frames", GET=Service.RETRIEVE),  # Orthanc
    # Worklist Service, §11.
    _resource("workitems", GET=Service.WORKLIST, POST=Service.WORKLIST),
    _resource("workitems/{workitem}", GET=Service.WORKLIST, POST=Service.WORKLIST),
    _resource("workitems/{workitem}/state", PUT=Service.WORKLIST),
    _resource("workitems/{workitem}/cancelrequest", POST=Service.WORKLIST),
    _resource(
        "workitems/{workitem}/subscribers/{aet}", POST=Service.WORKLIST, DELETE=Service.WORKLIST
    ),
    _resource("workitems/{workitem}/subscribers/{aet}/suspend", POST=Service.WORKLIST),
    # Non-Patient Instance Service, §12.
    *(
        resource
        for category in (
            "color-palettes",
            "defined-procedure-protocols",
            "hanging-protocols",
            "implant-templates",
            "inventories",
        )
        for resource in (
            _resource(category, GET=Service.SEARCH, POST=Service.STORE),
            _resource(category + "/{uid}", GET=Service.RETRIEVE, POST=Service.STORE),
        )
    ),
    # Storage Commitment Service, §13.
    _resource("commitment-requests/{transaction}", GET=Service.STORE, POST=Service.STORE),
    # URI Service, §9, which leaves the path open.
    _resource(WADO, GET=Service.WADO_URI),
)
