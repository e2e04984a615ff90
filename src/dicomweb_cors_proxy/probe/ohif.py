"""The data source of OHIF that fits an archive, each key found by a request.

The requests are those of OHIF itself, as a page on the origin sends them. Only statuses, types and
the form of URLs go into the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dicomweb_cors_proxy.probe.app_config import app_config, data_source
from dicomweb_cors_proxy.probe.client import NoResponseError
from dicomweb_cors_proxy.probe.instances import instances_of_studies
from dicomweb_cors_proxy.probe.links import instance_of, is_dicom_json
from dicomweb_cors_proxy.probe.responses import combined
from dicomweb_cors_proxy.probe.session import FRAMES, JSON, MAX_BODY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dicomweb_cors_proxy.probe.page import FetchResult
    from dicomweb_cors_proxy.probe.session import ProbeSession

__all__ = ["Adaptation", "adapt"]

_ANY: Final = ("Accept", "*/*")
_UNQUOTED: Final = (FRAMES[0], FRAMES[1].replace('"', ""))

# Attributes that OHIF requests with includefield.
_STUDY_FIELDS: Final = "00081030,00080060,00080090,00100030"
_SERIES_FIELDS: Final = "00080021,00080031,0008103E,00200011"

_SERIES: Final = "studies/{study}/series/{series}"
_INSTANCE: Final = _SERIES + "/instances/{instance}"
_FRAME: Final = _INSTANCE + "/frames/1"

# Documents that OHIF can load as one part: their name there, SOP classes, attribute, media type.
_PARTS: Final = (
    ("pdf", ("1.2.840.10008.5.1.4.1.1.104.1",), "00420011", "application/pdf"),
    (
        "video",
        tuple(f"1.2.840.10008.5.1.4.1.1.77.1.{number}.1" for number in (1, 2, 4)),
        "7FE00010",
        "video/mp4",
    ),
)
_WADO_URI: Final = (
    "wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={instance}"
    "&contentType=application%2Fdicom&transferSyntax=*"
)
# dcm4chee's code for "rejected for quality reasons", which OHIF sends.
_REJECT: Final = _SERIES + "/reject/113001%5EDCM"
_WARNING: Final = "299"  # of PS3.18 §8.3.4.2: a parameter is not supported


@dataclass(slots=True)
class Adaptation:
    """A data source, the reasons for its keys, and why OHIF could not use it."""

    source: dict[str, object]
    reasons: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def set(self, reason: str, **keys: object) -> None:
        """Set keys of the data source."""
        self.source.update(keys)
        self.reasons.update(dict.fromkeys(keys, reason))

    def file(self) -> str:
        """Return the content of app-config.js, with the reasons as comments."""
        comments = [f"// {key}: {reason}" for key, reason in self.reasons.items()]
        return "\n".join(
            ("// Found by dicomweb-cors-proxy probe --ohif.", *comments, app_config(self.source))
        )


def adapt(session: ProbeSession) -> Adaptation:
    """Ask for what OHIF needs to know of the archive; the checks have been run before."""
    adaptation = Adaptation(data_source(session.target.root, "Archive"))
    for ask in (_search_keys, _choose_image, _metadata, _pixels, _singlepart, _reject):
        ask(session, adaptation)
    return adaptation


def _get(session: ProbeSession, path: str, *headers: tuple[str, str]) -> FetchResult:
    """Send a GET to a path below the root, or to a URL, with the UIDs that were found."""
    url = path
    if not path.startswith(("http:", "https:")):
        url = f"{session.target.root}/{path.format(**session.uids)}"
    request = session.page.request("GET", url, *headers)
    return session.page.fetch(request, body=MAX_BODY if JSON in headers else 0)


def _is_ok(result: FetchResult) -> bool:
    return not result.is_blocked and result.response is not None and result.response.is_ok


def _matches(session: ProbeSession, path: str) -> bool:
    """Return whether a search finds something."""
    result = _get(session, path, JSON)
    return _is_ok(result) and is_dicom_json(result.body) and bool(json.loads(result.body))


def _status(result: FetchResult) -> str:
    return str(result.response.status) if result.response is not None else "no response"


def _search_keys(session: ProbeSession, adaptation: Adaptation) -> None:
    if session.is_made_up:
        adaptation.set("not known, because the archive shows no study yet", supportsWildcard=False)
    elif _matches(session, "studies?PatientName=*&limit=1"):
        adaptation.set("PatientName=* finds studies", supportsWildcard=True)
    else:
        adaptation.set("PatientName=* finds no study, or is rejected", supportsWildcard=False)

    fuzzy = _get(session, "studies?limit=1&fuzzymatching=true", JSON)
    if not _is_ok(fuzzy):
        reason = f"fuzzymatching=true gets {_status(fuzzy)}"
        adaptation.set(reason, supportsFuzzyMatching=False)
    elif fuzzy.response is not None and _WARNING in (combined(fuzzy.response, "warning") or ""):
        reason = "the archive warns that it ignores fuzzymatching=true"
        adaptation.set(reason, supportsFuzzyMatching=False)
    else:
        adaptation.set("fuzzymatching=true is accepted", supportsFuzzyMatching=True)
    plain = _get(session, "studies?limit=1&offset=0&fuzzymatching=false", JSON)
    if not _is_ok(plain):
        adaptation.faults.append(
            f"OHIF's searches have offset and fuzzymatching=false, which gets {_status(plain)}."
        )
    _included_fields(session, adaptation)


def _included_fields(session: ProbeSession, adaptation: Adaptation) -> None:
    studies = _get(session, f"studies?limit=1&includefield={_STUDY_FIELDS}", JSON)
    series = studies
    if not session.is_made_up:
        series = _get(session, f"studies/{{study}}/series?includefield={_SERIES_FIELDS}", JSON)
    if _is_ok(studies) and _is_ok(series):
        adaptation.set("includefield is accepted", qidoSupportsIncludeField=True)
        return
    worse = series if _is_ok(studies) else studies
    adaptation.set(f"includefield gets {_status(worse)}", qidoSupportsIncludeField=False)
    adaptation.faults.append(
        f"OHIF 3 sends includefield whatever qidoSupportsIncludeField is, and it gets "
        f"{_status(worse)}: OHIF lists and opens no study. Have the archive ignore it."
    )


def _choose_image(session: ProbeSession, _: Adaptation) -> None:
    """Let the session ask for an instance that has frames, if one of the first studies has any.

    Reports and other documents have none.
    """
    if session.is_made_up or _frames(session, FRAMES, session.uids):
        return
    for uids in instances_of_studies(session):
        if _frames(session, FRAMES, uids):
            session.uids = uids
            return


def _frames(session: ProbeSession, accept: tuple[str, str], uids: dict[str, str]) -> bool:
    return _is_ok(_get(session, _FRAME.format(**uids), accept))


def _metadata(session: ProbeSession, adaptation: Adaptation) -> None:
    if session.is_made_up:
        adaptation.faults.append(
            "The archive shows no instance, so how it sends images is not known. Store one, then "
            "probe again."
        )
        return
    series = _get(session, f"{_SERIES}/metadata", JSON)
    study = series
    if not (_is_ok(series) and is_dicom_json(series.body)):
        study = _get(session, "studies/{study}/metadata", JSON)
        if _is_ok(study) and is_dicom_json(study.body):
            adaptation.set("only whole studies have metadata", enableStudyLazyLoad=False)
        else:
            adaptation.faults.append(
                f"OHIF needs the metadata of a series, and …/metadata gets {_status(series)}."
            )
            return
    uris = list(_bulk_data(json.loads(study.body) if is_dicom_json(study.body) else []))
    _bulk_data_keys(session, adaptation, uris)


def _bulk_data(node: Any) -> Iterator[str]:  # noqa: ANN401 (JSON)
    """Yield the BulkDataURI values of DICOM JSON."""
    todo = [node]
    while todo:
        match todo.pop():
            case list() as items:
                todo += items
            case dict() as attributes:
                uri = attributes.get("BulkDataURI")
                if isinstance(uri, str):
                    yield uri
                todo += attributes.values()


def _bulk_data_keys(session: ProbeSession, adaptation: Adaptation, uris: list[str]) -> None:
    relative = [uri for uri in uris if not uri.startswith(("http:", "https:", "/"))]
    if not relative:
        return
    for name, base in (("studies", "studies/{study}"), ("series", _SERIES)):
        if _is_ok(_get(session, f"{base}/{_escaped(relative[0])}", _ANY)):
            adaptation.set(
                f"BulkDataURI is relative, and found below the {'study' * (name == 'studies')}"
                f"{name * (name == 'series')}",
                bulkDataURI={"enabled": True, "relativeResolution": name},
            )
            return
    adaptation.set("BulkDataURI is relative, and found nowhere", bulkDataURI={"enabled": False})


def _escaped(uri: str) -> str:
    return uri.replace("{", "%7B").replace("}", "%7D")


def _pixels(session: ProbeSession, adaptation: Adaptation) -> None:
    if session.is_made_up:
        return
    unquoted = _get(session, _FRAME, _UNQUOTED)
    quoted = unquoted if _is_ok(unquoted) else _get(session, _FRAME, FRAMES)
    if _is_ok(quoted):
        adaptation.set("frames are served", imageRendering="wadors")
        is_same = quoted is unquoted
        reason = "frames come without quotes in Accept, which saves preflights"
        if not is_same:
            reason = f"without quotes in Accept, frames get {_status(unquoted)}"
        adaptation.set(reason, omitQuotationForMultipartRequest=is_same)
        return
    if _is_ok(_get(session, _WADO_URI, _ANY)):
        reason = f"frames get {_status(quoted)}, and WADO-URI works"
        root = f"{session.target.root}/wado"
        adaptation.set(
            reason, imageRendering="wadouri", thumbnailRendering="wadouri", wadoUriRoot=root
        )
        return
    adaptation.faults.append(
        f"The archive sends no image: .../frames/1 gets {_status(quoted)}, and WADO-URI at "
        ".../wado does not work either."
    )


def _singlepart(session: ProbeSession, adaptation: Adaptation) -> None:
    parts = []
    for name, classes, attribute, media_type in _PARTS:
        for sop_class in classes:
            found = _get(session, f"instances?SOPClassUID={sop_class}&limit=1", JSON)
            uids = instance_of(found.body) if _is_ok(found) else None
            if uids is None or not (uids.study and uids.series and uids.instance):
                continue
            instance = _INSTANCE.format(
                study=uids.study, series=uids.series, instance=uids.instance
            )
            if _comes_alone(session, instance, attribute, media_type):
                parts.append(name)
                break
    if parts:
        adaptation.set("these come without multipart", singlepart=",".join(parts))


def _comes_alone(session: ProbeSession, instance: str, attribute: str, media_type: str) -> bool:
    """Return whether an instance's document comes as one part, as OHIF then requests it."""
    metadata = _get(session, f"{instance}/metadata", JSON)
    datasets = json.loads(metadata.body) if is_dicom_json(metadata.body) else []
    value = datasets[0].get(attribute) if datasets else None
    uri = value.get("BulkDataURI") if isinstance(value, dict) else None
    if not isinstance(uri, str) or not uri.startswith(("http:", "https:")):
        uri = f"{instance}/pixeldata" if attribute == "7FE00010" else None
    if uri is None:
        return False
    result = _get(session, f"{_escaped(uri)}{'&' if '?' in uri else '?'}accept={media_type}", _ANY)
    kind = combined(result.response, "content-type") if result.response is not None else None
    return _is_ok(result) and (kind or "").lower().startswith(media_type)


def _reject(session: ProbeSession, adaptation: Adaptation) -> None:
    """Ask which methods dcm4chee's resource has; nothing is rejected by that."""
    if session.is_made_up:
        return
    url = f"{session.target.root}/{_REJECT.format(**session.uids)}"
    try:
        response = session.page.without_origin(session.page.request("OPTIONS", url, _ANY)).response
    except NoResponseError:
        return
    allowed = (combined(response, "allow") or "").upper()
    if response.is_ok and "POST" in allowed:
        adaptation.set("the archive has dcm4chee's reject", supportsReject=True)
