"""Requests and responses from public reports of viewers and archives, tried on the proxy.

Each row names its source. UIDs and hosts are made up.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.sockets import ORIGIN, Wire, archive, proxy, request, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.sockets import Head

ROOT = "/dicom-web"
STUDY = "/studies/1.2.3"
SERIES = f"{STUDY}/series/1.2.3.4"
INSTANCE = f"{SERIES}/instances/1.2.3.4.5"
STORE = 'Content-Type: multipart/related; type="application/dicom"; boundary=a'
JSON = "Content-Type: application/dicom+json"
READ_WRITE = {"mode": "read-write"}


@dataclass(frozen=True, slots=True)
class Report:
    """One exchange.

    In the archive's response, `{archive}` stands for its root, and `{proxy}` in what is expected
    for the proxy's root. A row that expects no `sent` expects that nothing reaches the archive.

    Attributes:
        source: the public report or document.
        target: below the DICOMweb root.
        lines: header lines of the page's request.
        access: the section of the configuration.
        answer: the archive's status line and header lines.
        sent: the request line that reaches the archive, without its root.
        asked: header lines that reach the archive; None: no such line.
        got: header lines that reach the page; None: no such line.
        expected: the body that reaches the page; None: the same as the archive's.
        detail: words of the proxy's own error.
    """

    source: str
    target: str
    method: str = "GET"
    lines: tuple[str, ...] = ()
    content: bytes = b""
    access: Mapping[str, Any] = field(default_factory=dict)
    answer: str = "200 OK\nContent-Type: application/octet-stream"
    body: str = "ok"
    status: int = 200
    sent: str | None = None
    asked: Mapping[str, str | None] = field(default_factory=dict)
    got: Mapping[str, str | None] = field(default_factory=dict)
    expected: str | None = None
    detail: str = ""


def forwarded(source: str, target: str, method: str = "GET", **others: Any) -> Report:  # noqa: ANN401
    """Return a row whose request reaches the archive as it is."""
    return Report(source, target, method, sent=f"{method} {target}", **others)


STATIC = "RadicalImaging/Static-DICOMWeb PR #99, docs/nginx.md"
KHEOPS = "OsiriX-Foundation/kheops PR #69"
PS3_18 = "PS3.18 F.2.2: BulkDataURI is any URI reference"

BULK_DATA = {
    "bulk data of a study, by its hash": forwarded(
        f"{STATIC}; dcmjs-org/dicomweb-client PR #54, OHIF/Viewers PR #4236",
        f"{STUDY}/bulkdata/ab/cd/0123ef.mht.gz",
        answer="200 OK\nContent-Type: multipart/related\nContent-Encoding: gzip",
        got={"content-encoding": "gzip"},
    ),
    "bulk data of a study, one segment": forwarded(STATIC, f"{STUDY}/bulkdata/7FE00010"),
    "bulk data of a series, nested": forwarded(KHEOPS, f"{SERIES}/bulkdata/0040A730/4/00700022"),
    "bulk data of an instance, nested": forwarded(KHEOPS, f"{INSTANCE}/bulkdata/0040A730/4/7"),
    "an encoded slash in bulk data's path": forwarded(
        PS3_18, f"{INSTANCE}/bulkdata/0040A730%2F4%2f00700022"
    ),
    "an encoded slash in bulk data's path of a study": forwarded(
        PS3_18, f"{STUDY}/bulkdata/ab%2Fcd/0123ef.mht.gz"
    ),
    "brackets and a bar that browsers leave raw in bulk data's path": forwarded(
        "dcm4che/dcm4chee-arc-light #1064", f"{INSTANCE}/bulkdata/00480200[0]/a|b^c"
    ),
    "an encoded slash beside dots": Report(
        PS3_18, f"{STUDY}/bulkdata/..%2F..%2Fsystem", status=400, detail="dot segment"
    ),
    "an encoded slash in the place of a UID's": Report(
        PS3_18, "/studies/1.2.3%2Fbulkdata/a", status=404, detail="Not a DICOMweb resource"
    ),
    "a frame in another encoding": forwarded(
        "cornerstonejs/cornerstone3D PR #779 (framesPath)",
        f"{INSTANCE}/htj2k/1",
        lines=("Range: bytes=0-65535",),
        access={"extra_paths": ["/studies/*/series/*/instances/*/htj2k/*"]},
        answer="206 Partial Content\nContent-Type: multipart/related\n"
        "Content-Range: bytes 0-65535/200000",
        status=206,
        asked={"range": "bytes=0-65535"},
        got={"content-range": "bytes 0-65535/200000"},
    ),
    "a code that browsers leave raw in an extra path": forwarded(
        "dcm4che/dcm4chee-arc-light #1064 (Safari)",
        f"{SERIES}/reject/113001^DCM",
        "POST",
        access=READ_WRITE | {"extra_paths": ["/studies/*/series/*/reject/*"]},
    ),
    "the same code, as the extra path has it": forwarded(
        "dcm4che/dcm4chee-arc-light #1064 (Safari)",
        f"{SERIES}/reject/113001^DCM",
        "POST",
        access=READ_WRITE | {"extra_paths": ["/studies/*/series/*/reject/113001^DCM"]},
    ),
}

AZURE = "Azure DICOM conformance statement v2: Store uses POST or PUT"
DCM4CHEE = "dcm4che/dcm4chee-arc-light #4042, #3366, #3363, #4545"
STORED = {
    "lines": (STORE,),
    "content": b"--a--",
    "answer": f"200 OK\n{JSON}",
    "body": "{}",
}

METHODS = {
    "a store by PUT": forwarded(AZURE, "/studies", "PUT", access=READ_WRITE, **STORED),
    "a store by PUT into a study": forwarded(AZURE, STUDY, "PUT", access=READ_WRITE, **STORED),
    "a store by PUT, read-only": Report(
        AZURE, STUDY, "PUT", lines=(STORE,), status=405, detail="access.mode: read-write"
    ),
    "a store by PUT, with extra paths that cover it": forwarded(
        AZURE,
        STUDY,
        "PUT",
        access=READ_WRITE | {"extra_paths": ["/studies", "/studies/*", "/**"]},
        **STORED,
    ),
    "PUT on a series, without an extra path": Report(
        DCM4CHEE,
        SERIES,
        "PUT",
        lines=(STORE,),
        content=b"--a--",
        access=READ_WRITE,
        status=405,
        detail="add the resource's path, /studies/*/series/*, to access.extra_paths",
    ),
    "PUT on a series, which an extra path adds": forwarded(
        DCM4CHEE,
        SERIES,
        "PUT",
        access=READ_WRITE | {"extra_paths": ["/studies/*/series/*"]},
        **STORED,
    ),
    "POST on a series, which an extra path adds": forwarded(
        DCM4CHEE,
        SERIES,
        "POST",
        access=READ_WRITE | {"extra_paths": ["/studies/*/series/*"]},
        **STORED,
    ),
    "POST on an instance, which an extra path adds": forwarded(
        DCM4CHEE, INSTANCE, "POST", access=READ_WRITE | {"extra_paths": ["/studies/**"]}, **STORED
    ),
}

DICOMCLOUD = "DICOMcloud/DICOMcloud #79 (an uploader posts to /api/studies/)"

SLASHES = {
    "a slash behind rendered": forwarded(
        f"{STATIC}: rendered/ exists only with the slash",
        f"{INSTANCE}/rendered/",
        access={"extra_paths": ["/**"]},
        answer="200 OK\nContent-Type: video/mp4",
    ),
    "a slash behind rendered, by a pattern for it": forwarded(
        STATIC,
        f"{INSTANCE}/rendered/",
        access={"extra_paths": ["/studies/*/series/*/instances/*/rendered/"]},
        answer="200 OK\nContent-Type: video/mp4",
    ),
    "an upload to studies/": forwarded(
        DICOMCLOUD,
        "/studies/",
        "POST",
        access=READ_WRITE | {"extra_paths": ["/studies/"]},
        **STORED,
    ),
    "a redirect to a slash behind rendered": forwarded(
        STATIC,
        f"{INSTANCE}/rendered",
        answer=f"301 Moved Permanently\nLocation: {{archive}}{INSTANCE}/rendered/",
        status=301,
        got={"location": f"{{proxy}}{INSTANCE}/rendered/"},
    ),
    "the redirect followed, without a setting for it": Report(
        STATIC,
        f"{INSTANCE}/rendered/",
        status=404,
        detail="add /studies/*/series/*/instances/*/rendered/ to access.extra_paths",
    ),
    "an upload to studies/, without a setting for it": Report(
        DICOMCLOUD,
        "/studies/",
        "POST",
        access=READ_WRITE,
        lines=(STORE,),
        content=b"--a--",
        status=404,
        detail="add /studies/ to access.extra_paths",
    ),
    "the root with a slash": Report(
        f"{STATIC} (viewers join URLs)", "/", status=404, detail="add / to access.extra_paths"
    ),
    "a redirect to a login page that is not forwarded": Report(
        STATIC, "/login/", status=404, detail="access.extra_paths lists them"
    ),
    "a doubled slash": Report(
        DICOMCLOUD,
        "/studies//",
        access={"extra_paths": ["/**"]},
        status=404,
        detail="Not a DICOMweb resource",
    ),
}

FILTERS = "zowe/api-layer PR #728, facebook/create-react-app PR #1212, playframework #5193"
NO_ORIGIN: Mapping[str, Any] = {
    "lines": ("Referer: https://viewer.example/", "Sec-Fetch-Site: cross-site"),
    "asked": {
        "origin": None,
        "referer": "https://viewer.example/",
        "sec-fetch-site": "cross-site",
    },
}

ORIGINS = {
    "a search at an archive with a CORS filter": forwarded(FILTERS, "/studies", **NO_ORIGIN),
    "a store at an archive with a CORS filter": forwarded(
        FILTERS, "/studies", "POST", access=READ_WRITE, content=b"--a--", **NO_ORIGIN
    ),
    "a path of the archive's own, with a CORS filter": forwarded(
        FILTERS, "/reports/1", access={"extra_paths": ["/reports/*"]}, **NO_ORIGIN
    ),
}

SOME_MISSING = "dcm4che/dcm4chee-arc-light #484 (206 for a result that lacks some instances)"
NAMES_ITSELF = json.dumps(
    [
        {
            "00081190": {"vr": "UR", "Value": [f"{{archive}}{STUDY}"]},
            "00420011": {"vr": "OB", "BulkDataURI": f"{{archive}}{INSTANCE}/bulkdata/00420011"},
        }
    ]
)
PARTIAL = f"206 Partial Content\n{JSON}"

PARTS = {
    "a search that lacks some instances": forwarded(
        SOME_MISSING,
        "/studies",
        answer=PARTIAL,
        body=NAMES_ITSELF,
        status=206,
        expected=NAMES_ITSELF.replace("{archive}", "{proxy}"),
    ),
    "metadata that lack some instances": forwarded(
        SOME_MISSING,
        f"{STUDY}/metadata",
        answer=PARTIAL,
        body=NAMES_ITSELF,
        status=206,
        expected=NAMES_ITSELF.replace("{archive}", "{proxy}"),
    ),
    "metadata in XML that lack some instances": forwarded(
        SOME_MISSING,
        f"{STUDY}/metadata",
        answer="206 Partial Content\n"
        'Content-Type: multipart/related; type="application/dicom+xml"; boundary=b',
        body="--b\r\nContent-Type: application/dicom+xml\r\n\r\n"
        f'<BulkData uri="{{archive}}{STUDY}/bulkdata/1"/>\r\n--b--',
        status=206,
        expected="--b\r\nContent-Type: application/dicom+xml\r\n\r\n"
        f'<BulkData uri="{{proxy}}{STUDY}/bulkdata/1"/>\r\n--b--',
    ),
    "a range of a text": forwarded(
        "RFC 9110 §14.4",
        "/reports/1",
        access={"extra_paths": ["/reports/*"]},
        answer=f"{PARTIAL}\nContent-Range: bytes 0-99/1000",
        body=NAMES_ITSELF,
        status=206,
    ),
}

ANY_CODING = "RFC 9110 §12.5.3: a server may compress whatever the client takes compressed"
AS_TEXT: Mapping[str, Any] = {
    "lines": ("Accept: application/dicom+json", "Accept-Encoding: br"),
    "asked": {"accept-encoding": "identity"},
    "answer": f"200 OK\n{JSON}",
    "body": NAMES_ITSELF,
    "expected": NAMES_ITSELF.replace("{archive}", "{proxy}"),
}

ENCODINGS = {
    "a study that is asked for as JSON": forwarded(ANY_CODING, STUDY, **AS_TEXT),
    "a rendered instance that is asked for as JSON": forwarded(
        ANY_CODING, f"{INSTANCE}/rendered", **AS_TEXT
    ),
    "a path of the archive's own, as JSON": forwarded(
        ANY_CODING, "/reports/1", access={"extra_paths": ["/reports/*"]}, **AS_TEXT
    ),
    "a path of the archive's own, whatever it is": forwarded(
        ANY_CODING,
        "/reports/1",
        access={"extra_paths": ["/reports/*"]},
        **{**AS_TEXT, "lines": ("Accept: */*", "Accept-Encoding: br")},
    ),
    "a frame": forwarded(
        ANY_CODING,
        f"{INSTANCE}/frames/1",
        lines=("Accept: */*", "Accept-Encoding: br"),
        asked={"accept-encoding": "br"},
    ),
}

QUOTES = "dcmjs-org/dcmjs #113, DICOMcloud/DICOMcloud #12, dcm4che/dcm4chee-arc-light #1347"
RETRIEVE_URI = "PS3.3 table 10-3b: WADO Retrieval Sequence (0040,E023), Retrieve URI (0040,E010)"
UNQUOTED = "multipart/related; type=application/dicom; boundary=abc"
WORKITEM = json.dumps(
    [
        {
            "0040E023": {
                "vr": "SQ",
                "Value": [{"0040E010": {"vr": "UR", "Value": ["{archive}/wado?requestType=WADO"]}}],
            },
            "00400275": {"vr": "LO", "Value": ["{archive}/wado"]},
        }
    ]
)

DECIDED = {
    "an upload's Content-Type without quotes, sent as it came": forwarded(
        QUOTES,
        "/studies",
        "POST",
        access=READ_WRITE,
        **{**STORED, "lines": (f"Content-Type: {UNQUOTED}",)},
        asked={"content-type": UNQUOTED},
    ),
    "the Retrieve URI of a workitem": forwarded(
        RETRIEVE_URI,
        "/workitems",
        answer=f"200 OK\n{JSON}",
        body=WORKITEM,
        expected=WORKITEM.replace("{archive}", "{proxy}", 1),
    ),
    "a session cookie for another path": forwarded(
        "angular/angular-cli #12875, cherokee/webserver #853",
        "/studies",
        answer=f"200 OK\n{JSON}\nSet-Cookie: JSESSIONID=abc; Path=/dcm4chee-arc; HttpOnly",
        body="[]",
        got={"set-cookie": "JSESSIONID=abc; Path=/dcm4chee-arc; HttpOnly"},
    ),
}

REPORTS = DECIDED | BULK_DATA | METHODS | SLASHES | ORIGINS | PARTS | ENCODINGS


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
async def test_a_report(report: Report) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        await wire.body(head) if report.content else None
        status, *lines = report.answer.replace("{archive}", root).split("\n")
        body = report.body.replace("{archive}", root).encode()
        lines.append(f"Content-Length: {len(body)}")
        await wire.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body)

    async with archive(handle) as a:
        root = a.url
        async with proxy(settings(root, access=report.access)) as p:
            head, got = await p.ask(
                request(report.method, ROOT + report.target, *report.lines, body=report.content)
            )
            here = f"http://proxy.example{ROOT}"
    assert head.status == report.status, got
    assert head.all(b"access-control-allow-origin") == [ORIGIN]
    if report.sent is None:
        assert not a.requests
        assert report.detail
        assert report.detail in got.decode()
        return
    (request_head,) = a.requests
    method, _, path = report.sent.partition(" ")
    assert request_head.first_line.decode() == f"{method} /pacs{path} HTTP/1.1"
    for name, value in report.asked.items():
        assert request_head.get(name.encode()) == (None if value is None else value.encode())
    expected = (
        report.body.replace("{archive}", root)
        if report.expected is None
        else (report.expected.replace("{proxy}", here).replace("{archive}", root))
    )
    assert got.decode() == expected
    for name, value in report.got.items():
        line = head.get(name.encode())
        assert line == (None if value is None else value.replace("{proxy}", here).encode())
