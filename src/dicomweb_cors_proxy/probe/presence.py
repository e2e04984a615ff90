"""The check that there is a DICOMweb service at all: a wrong URL blocks nothing either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.probe.findings import Finding, Verdict
from dicomweb_cors_proxy.probe.hints import NO_ROOT
from dicomweb_cors_proxy.probe.links import is_dicom_json
from dicomweb_cors_proxy.probe.session import METADATA, SEARCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicomweb_cors_proxy.probe.session import ProbeSession

__all__ = ["check_presence"]

# Statuses of resources that a server does not have.
_ABSENT: Final = frozenset({404, 405, 410, 501})


def check_presence(session: ProbeSession) -> Iterator[Finding]:
    """Report a readable response to the search that shows no DICOMweb."""
    search = session.exchanges[SEARCH.check]
    response = search.response
    if search.is_blocked or response is None or response.status == 204:
        return
    if response.is_ok and not is_dicom_json(search.body):
        what = f"the search got {response.status}, and the body is not DICOM JSON."
    elif response.status in _ABSENT:
        what = f"the search got {response.status}."
        metadata = session.exchanges[METADATA.check].response
        if metadata is not None and metadata.status == response.status:
            what = f"requests got {response.status}."
    else:
        return
    yield Finding(
        "root",
        Verdict.FAIL,
        f"There is no DICOMweb here: {what} The URL is the part before /studies.",
        status=response.status,
        rule="no-dicomweb",
        advice=NO_ROOT.advice,
    )
