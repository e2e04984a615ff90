"""`probe --ohif`: each key of OHIF's data source is what the archive showed."""

from __future__ import annotations

import json
import sys
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner

from dicomweb_cors_proxy.cli import main
from dicomweb_cors_proxy.probe.network import OutOfTimeError
from tests.support.probing import (
    INSTANCE,
    SERIES,
    STUDY,
    VIEWER,
    Answered,
    Fault,
    archive,
    dataset,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PDF = "1.2.840.10008.5.1.4.1.1.104.1"
SERIES_PATH = f"/studies/{STUDY}/series/{SERIES}"


class Printed(NamedTuple):
    """What the command made of an archive."""

    status: int
    source: dict[str, Any]
    file: str
    report: str


def printed(fault: Fault, *flags: str) -> Printed:
    with archive(fault) as there:
        words = ["probe", there.url, "--origin", VIEWER, "--ohif", *flags]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert f"{there.url}\n" in result.stderr
    file = result.stdout
    source = {}
    if file:
        config = json.loads(file[file.index("{") : file.rindex("}") + 1])
        source = config["dataSources"][0]["configuration"]
        assert source["qidoRoot"] == source["wadoRoot"] == there.url
    return Printed(result.exit_code, source, file, result.stderr)


def complete(answer: Answered) -> None:
    """Add the resources that OHIF needs to the small archive."""
    route = answer.path.removeprefix("/dicom-web").partition("?")[0]
    routes = (f"/studies/{STUDY}/series", f"{SERIES_PATH}/metadata", f"/studies/{STUDY}/metadata")
    if route in routes:
        send_json(answer, dataset("http://archive.example/dicom-web"))


def send_json(answer: Answered, *datasets: object) -> None:
    answer.status = 200
    answer.body = json.dumps(datasets).encode()
    answer.put("Content-Type", "application/dicom+json")


def with_faults(*faults: Fault) -> Fault:
    def fault(answer: Answered) -> None:
        for each in (complete, *faults):
            if not answer.is_preflight:
                each(answer)

    return fault


def rejecting(is_rejected: Callable[[Answered], bool], status: int = 400) -> Fault:
    def fault(answer: Answered) -> None:
        if is_rejected(answer):
            answer.status, answer.body = status, b"not supported"

    return fault


def query(answer: Answered) -> dict[str, list[str]]:
    return parse_qs(urlsplit(answer.path).query)


def unquoted(answer: Answered) -> bool:
    return "octet-stream" in (answer.asked["Accept"] or "") and '"' not in answer.asked["Accept"]


def frames(answer: Answered) -> bool:
    return "/frames/" in answer.path


def wado_uri(answer: Answered) -> None:
    if "/wado?" in answer.path:
        asked = query(answer)
        assert asked["objectUID"] == [INSTANCE]
        answer.status, answer.body = 200, b"DICM"


def no_match(answer: Answered) -> None:
    if "PatientName" in query(answer):
        send_json(answer)


def warning(answer: Answered) -> None:
    if query(answer).get("fuzzymatching") == ["true"]:
        answer.put("Warning", '299 archive "fuzzymatching is not supported"')


def relative(uri: str) -> Fault:
    def fault(answer: Answered) -> None:
        if answer.path.endswith(f"{SERIES_PATH}/metadata"):
            send_json(answer, {"7FE00010": {"vr": "OW", "BulkDataURI": uri}})

    return fault


def serving(path: str) -> Fault:
    def fault(answer: Answered) -> None:
        if answer.path.endswith(path):
            answer.status = 200

    return fault


def a_pdf(kind: str) -> Fault:
    """An archive with a PDF, whose document comes as `kind`."""
    uid = "1.2.826.0.1.4711.9"
    below = f"/studies/{uid}/series/{uid}/instances/{uid}"

    def fault(answer: Answered) -> None:
        root = f"http://{answer.asked['Host']}/dicom-web"
        if query(answer).get("SOPClassUID") == [PDF]:
            uids = {
                tag: {"vr": "UI", "Value": [uid]} for tag in ("0020000D", "0020000E", "00080018")
            }
            send_json(answer, uids)
        elif answer.path.endswith(f"{below}/metadata"):
            send_json(answer, {"00420011": {"vr": "OB", "BulkDataURI": f"{root}/document"}})
        elif answer.path.endswith("/document?accept=application/pdf"):
            answer.status, answer.body = 200, b"%PDF"
            answer.put("Content-Type", kind)

    return fault


def reject(answer: Answered) -> None:
    if not answer.is_preflight:
        complete(answer)
    if answer.method == "OPTIONS" and not answer.asked["Access-Control-Request-Method"]:
        assert "/reject/113001%5EDCM" in answer.path
        answer.status = 200
        answer.put("Allow", "POST, OPTIONS")


DEFAULTS = {
    "imageRendering": "wadors",
    "thumbnailRendering": "wadors",
    "omitQuotationForMultipartRequest": True,
    "qidoSupportsIncludeField": True,
    "supportsFuzzyMatching": True,
    "supportsWildcard": True,
    "supportsReject": False,
    "enableStudyLazyLoad": True,
}


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (with_faults(), {}),
        (with_faults(rejecting(lambda a: "*" in a.path)), {"supportsWildcard": False}),
        (with_faults(no_match), {"supportsWildcard": False}),
        (
            with_faults(rejecting(lambda a: query(a).get("fuzzymatching") == ["true"])),
            {"supportsFuzzyMatching": False},
        ),
        (with_faults(warning), {"supportsFuzzyMatching": False}),
        (
            with_faults(rejecting(unquoted, 406)),
            {"omitQuotationForMultipartRequest": False},
        ),
        (
            with_faults(rejecting(lambda a: a.path.endswith(f"{SERIES_PATH}/metadata"), 404)),
            {"enableStudyLazyLoad": False},
        ),
        (
            with_faults(relative("a/1"), serving(f"/studies/{STUDY}/a/1")),
            {"bulkDataURI": {"enabled": True, "relativeResolution": "studies"}},
        ),
        (
            with_faults(relative("a/1"), serving(f"{SERIES_PATH}/a/1")),
            {"bulkDataURI": {"enabled": True, "relativeResolution": "series"}},
        ),
        (with_faults(relative("a/{1}")), {"bulkDataURI": {"enabled": False}}),
        (with_faults(a_pdf("application/pdf")), {"singlepart": "pdf"}),
        (with_faults(a_pdf("multipart/related")), {}),
        (reject, {"supportsReject": True}),
    ],
    ids=count(),
)
def test_each_key_is_what_the_archive_shows(fault: Fault, expected: dict[str, object]) -> None:
    result = printed(fault)
    assert (result.status, result.source.items() >= (DEFAULTS | expected).items()) == (0, True)
    assert {"singlepart", "bulkDataURI"} & expected.keys() == (
        {"singlepart", "bulkDataURI"} & result.source.keys()
    )
    for key in expected:
        assert f"\n// {key}: " in result.file


def test_images_by_wado_uri() -> None:
    result = printed(with_faults(rejecting(frames, 404), wado_uri))
    assert result.status == 0
    assert result.source["imageRendering"] == result.source["thumbnailRendering"] == "wadouri"
    assert result.source["wadoUriRoot"] == f"{result.source['wadoRoot']}/wado"


def test_a_study_with_images_is_looked_for() -> None:
    """The first study may hold only a report."""
    report = "1.2.826.0.1.4711.7"

    def fault(answer: Answered) -> None:
        first = dataset("") | {"0020000D": {"vr": "UI", "Value": [report]}}
        if answer.path.endswith("/studies?limit=1"):
            send_json(answer, first)
        elif answer.path.endswith("/studies?limit=10"):
            send_json(answer, first, dataset(""))
        elif f"{report}/" in answer.path and not frames(answer):
            send_json(answer, first)

    result = printed(with_faults(fault))
    assert (result.status, result.source["imageRendering"]) == (0, "wadors")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (with_faults(rejecting(frames, 404)), "sends no image: .../frames/1 gets 404"),
        (rejecting(lambda _: False), "needs the metadata of a series"),
        (
            with_faults(rejecting(lambda a: "includefield" in a.path)),
            "sends includefield whatever qidoSupportsIncludeField is",
        ),
        (
            with_faults(rejecting(lambda a: "includefield" in a.path and "/series" in a.path)),
            "sends includefield whatever qidoSupportsIncludeField is",
        ),
        (
            with_faults(rejecting(lambda a: "fuzzymatching" in a.path)),
            "fuzzymatching=false, which gets 400",
        ),
        (
            with_faults(lambda answer: send_json(answer) if "?limit=1" in answer.path else None),
            "shows no instance",
        ),
    ],
    ids=count(),
)
def test_what_ohif_cannot_use_is_said(fault: Fault, said: str) -> None:
    result = printed(fault)
    assert result.status == 1
    assert "\nOHIF: " in result.report
    assert said in result.report
    assert result.source


def test_nothing_is_printed_for_a_wrong_root() -> None:
    result = printed(rejecting(lambda _: True, 404))
    assert (result.status, result.file) == (1, "")
    assert "There is no DICOMweb here" in result.report


def test_it_prints_nothing_of_a_patient() -> None:
    result = printed(with_faults())
    assert STUDY not in result.file + result.report


def test_it_does_not_go_with_json() -> None:
    words = ["probe", "http://archive.example/rs", "--origin", VIEWER, "--ohif", "--json"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--json and --ohif" in result.stderr


def test_the_time_that_is_up_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def adapt(_: object) -> None:
        raise OutOfTimeError

    module = sys.modules["dicomweb_cors_proxy.cli.probe"]  # its name in `cli` is the command's
    monkeypatch.setattr(module, "adapt", adapt)
    result = printed(with_faults())
    assert (result.status, result.file) == (1, "")
    assert "raise --timeout" in result.report
