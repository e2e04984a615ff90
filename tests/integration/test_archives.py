"""Responses of archives that can't be run here, and what the proxy makes of them.

The responses are ours, with made-up UIDs. Their status, header lines and the shapes of URLs and
error bodies are as the code or the documentation of each archive has them:

dcm4chee: dcm4che/dcm4chee-arc-light, QidoRS.java (`warning`, `retrieveURL`, `errResponse`).
Azure: microsoft/dicom-server, docs/resources/v2-conformance-statement.md,
    HttpResponseExtensions.cs, ExceptionHandlingMiddleware.cs (which also map status to text).
Google: Cloud Healthcare API, "DICOM conformance statement" and the reference of
    dicomStores.storeInstances; google.rpc.Status in JSON for errors.
AWS: HealthImaging developer guide, "Retrieving DICOM data", "Requirements for JWT authorization".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.sockets import ORIGIN, Wire, archive, proxy, request, settings

if TYPE_CHECKING:
    from tests.support.sockets import Head

UIDS = {"study": "2.25.1001", "instance": "2.25.1003"}
PATH = "studies/2.25.1001/series/2.25.1002/instances/2.25.1003"
# Fetch, "CORS-safelisted response-header name": read without being exposed.
SAFELISTED = ("cache-control", "content-type", "expires", "last-modified", "pragma")
HERE = "http://proxy.example/dicom-web"  # where the browser reaches the proxy


@dataclass(frozen=True, slots=True)
class Kind:
    """An archive: its root's path, and its name for the root, None for the Host it was asked by."""

    path: str
    name: str | None = None


DCM4CHEE = Kind("/dcm4chee-arc/aets/DCM4CHEE/rs")
AZURE = Kind("/v2", "https://ws-dicom.dicom.azurehealthcareapis.com/v2")
PARTITION = Kind("/v2/partitions/site-a", f"{AZURE.name}/partitions/site-a")
_STORE = "/v1/projects/p/locations/eu/datasets/d/dicomStores/s/dicomWeb"
GOOGLE = Kind(_STORE, f"https://healthcare.googleapis.com{_STORE}")
_DATASTORE = "/datastore/0123456789abcdef0123456789abcdef"
AWS = Kind(_DATASTORE, f"https://dicom-medical-imaging.eu-west-1.amazonaws.com{_DATASTORE}")


@dataclass(frozen=True, slots=True)
class Case:
    """An exchange.

    `{root}` is the archive's root in what it sends, and the proxy's in what then is expected;
    `{archive}` stays the archive's.

    Attributes:
        target: below the root.
        chunks: whether the body comes in chunks, which split every word of it.
        shown: header lines that the page can read.
        hidden: header fields that don't come through.
        asks: header lines of the page's request.
        asked: header lines that reach the archive.
    """

    kind: Kind
    target: str
    answer: str
    body: str = ""
    chunks: bool = False
    shown: dict[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    method: str = "GET"


RETRIEVE_URL = '[{"00081190":{"vr":"UR","Value":["{root}/studies/{study}"]}}]'
STORED = (
    '{"00081190":{"vr":"UR","Value":["{root}/studies/{study}"]},"00081199":{"vr":"SQ","Value":[{'
    '"00081155":{"vr":"UI","Value":["{instance}"]},'
    '"00081190":{"vr":"UR","Value":["{root}/{path}"]}}]}}'
)
STORED_XML = (
    '<NativeDicomModel><DicomAttribute tag="00081190" vr="UR" keyword="RetrieveURL">'
    '<Value number="1">{root}/studies/{study}</Value></DicomAttribute></NativeDicomModel>'
)
FRAMES = (
    "--frame:1\r\nContent-Type: application/octet-stream\r\n"
    "Content-Location: {archive}/{path}/frames/1\r\n\r\n\0\1{archive}\2\r\n--frame:1--\r\n"
)

CASES = {
    "dcm4chee, more results": Case(
        DCM4CHEE,
        "studies?limit=1",
        "200 OK\nServer: WildFly/30\nX-Powered-By: Undertow/1\nCache-Control: no-cache\n"
        'Warning: 299 pacs.internal:8080 "There are 25 additional results that can be requested"\n'
        "Content-Type: application/dicom+json",
        RETRIEVE_URL,
        chunks=True,
        shown={
            "warning": '299 pacs.internal:8080 "There are 25 additional results that can be '
            'requested"'
        },
    ),
    "dcm4chee, an ETag of text whose URLs change": Case(
        DCM4CHEE,
        "{path}/metadata",
        '200 OK\nETag: "-123456"\nLast-Modified: Wed, 01 Jul 2026 10:00:00 GMT\n'
        "Content-Type: application/dicom+json",
        '[{"7FE00010":{"vr":"OW","BulkDataURI":"{root}/{path}/bulkdata/7FE00010"}}]',
        shown={"etag": 'W/"-123456~"', "last-modified": "Wed, 01 Jul 2026 10:00:00 GMT"},
    ),
    "dcm4chee, an error": Case(
        DCM4CHEE,
        "studies?00080020=yesterday",
        "400 Bad Request\nContent-Type: text/plain",
        '{"errorMessage":"00080020=yesterday"}',
        shown={"content-type": "text/plain"},
    ),
    "dcm4chee, behind Keycloak": Case(
        DCM4CHEE,
        "studies",
        '401 Unauthorized\nWWW-Authenticate: Bearer realm="dcm4che", error="invalid_token"\n'
        "Access-Control-Allow-Origin: *",
        shown={"www-authenticate": 'Bearer realm="dcm4che", error="invalid_token"'},
    ),
    "dcm4chee, frames keep every byte": Case(
        DCM4CHEE,
        "{path}/frames/1",
        '200 OK\nContent-Type: multipart/related;boundary="frame:1";'
        'type="application/octet-stream"',
        FRAMES,
        chunks=True,
        shown={
            "content-type": 'multipart/related;boundary="frame:1";type="application/octet-stream"'
        },
    ),
    "dcm4chee, to another of its AEs": Case(
        DCM4CHEE,
        "studies/{study}",
        "307 Temporary Redirect\n"
        "Location: http://other.internal/dcm4chee-arc/aets/OLD/rs/studies/{study}",
        shown={
            "location": "http://other.internal/dcm4chee-arc/aets/OLD/rs/studies/{study}",
        },
    ),
    "dcm4chee, a workitem": Case(
        DCM4CHEE,
        "workitems",
        "201 Created\nLocation: {root}/workitems/{instance}",
        shown={"location": "{root}/workitems/{instance}"},
        method="POST",
    ),
    "Azure, metadata": Case(
        AZURE,
        "{path}/metadata",
        "200 OK\nContent-Type: application/dicom+json\n"
        'ETag: "1-1"\napi-supported-versions: 1.0,2.0\nAccess-Control-Allow-Origin: *\n'
        "Access-Control-Expose-Headers: x-ms-request-id\n"
        "Strict-Transport-Security: max-age=15724800; includeSubDomains",
        '[{"00080018":{"vr":"UI","Value":["{instance}"]}}]',
        shown={"etag": 'W/"1-1~"'},
        hidden=("strict-transport-security",),
    ),
    "Azure, not modified": Case(
        AZURE,
        "{path}/metadata",
        '304 Not Modified\nETag: "1-1"',
        shown={"etag": 'W/"1-1~"'},
        asks=('If-None-Match: W/"1-1~"',),
        asked=('If-None-Match: "1-1"',),
    ),
    "Azure, nothing found": Case(AZURE, "studies?offset=200", "204 No Content"),
    "Azure, stored with warnings": Case(
        AZURE,
        "studies",
        "202 Accepted\nContent-Type: application/dicom+json\n"
        "Location: {root}/studies/{study}\n"
        'Warning: 299 ws-dicom.dicom.azurehealthcareapis.com "Some instances have warnings"',
        STORED,
        shown={"location": "{root}/studies/{study}"},
        method="POST",
    ),
    "Azure, a partition": Case(
        PARTITION,
        "studies",
        "200 OK\nContent-Type: application/dicom+json; charset=utf-8",
        RETRIEVE_URL,
    ),
    "Azure, not acceptable": Case(
        AZURE,
        "{path}/frames/1",
        "406 Not Acceptable\nContent-Type: text/plain; charset=utf-8",
        "The request contains a not supported 'Accept' header.",
    ),
    "Azure, too large": Case(
        AZURE,
        "studies",
        "413 Request Entity Too Large\nContent-Type: text/plain; charset=utf-8",
        "The file is too large.",
        method="POST",
    ),
    "Azure, no token": Case(
        AZURE,
        "studies",
        "401 Unauthorized\nWWW-Authenticate: Bearer",
        shown={"www-authenticate": "Bearer"},
    ),
    "Google, a search": Case(
        GOOGLE,
        "studies",
        "200 OK\nContent-Type: application/dicom+json; charset=utf-8\nServer: ESF\n"
        "Vary: Origin,X-Origin,Referer\nCache-Control: private\nX-Frame-Options: SAMEORIGIN\n"
        'X-Content-Type-Options: nosniff\nAlt-Svc: h3=":443"; ma=2592000',
        RETRIEVE_URL,
        chunks=True,
        hidden=("alt-svc",),
    ),
    "Google, stored, in XML": Case(
        GOOGLE,
        "studies",
        "200 OK\nContent-Type: application/dicom+xml",
        STORED_XML,
        method="POST",
    ),
    "Google, an error": Case(
        GOOGLE,
        "studies/{study}/metadata",
        "403 Forbidden\nContent-Type: application/json; charset=UTF-8\nVary: Origin, X-Origin",
        '[{"error":{"code":403,"message":"Permission healthcare.dicomStores.dicomWebRead denied on '
        'resource projects/p/locations/eu/datasets/d/dicomStores/s (or it may not exist).",'
        '"status":"PERMISSION_DENIED"}}]',
    ),
    "Google, over its quota": Case(
        GOOGLE,
        "{path}/frames/1",
        "429 Too Many Requests\nContent-Type: application/json; charset=UTF-8\nRetry-After: 30",
        '{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}',
        shown={"retry-after": "30"},
    ),
    "AWS, frames of an image set": Case(
        AWS,
        "{path}/frames/1,2?imageSetId=0123456789abcdef0123456789abcdef",
        '200 OK\nContent-Type: multipart/related; type="application/octet-stream"; '
        "boundary=0a1b2c\nx-amzn-RequestId: 00000000-0000-0000-0000-000000000000",
        "--0a1b2c\r\nContent-Type: application/octet-stream\r\n\r\n\0\1\2\r\n--0a1b2c--",
        chunks=True,
        asks=("Authorization: Bearer made-up",),
        asked=("Authorization: Bearer made-up",),
    ),
    "AWS, an error": Case(
        AWS,
        "{path}/metadata",
        "400 Bad Request\nContent-Type: application/json\nx-amzn-ErrorType: ValidationException",
        '{"message":"1 validation error detected"}',
    ),
}  # fmt: skip


def _filled(text: str, root: str, archive: str) -> str:
    values = UIDS | {"root": root, "archive": archive, "path": PATH}
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)


def _chunked(body: bytes) -> bytes:
    """In chunks of seven bytes."""
    parts = [body[at : at + 7] for at in range(0, len(body), 7)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


def _answer(case: Case, root: str) -> bytes:
    lines = _filled(case.answer, root, root).split("\n")
    body = _filled(case.body, root, root).encode()
    if case.chunks:
        body = _chunked(body)
        lines.append("Transfer-Encoding: chunked")
    elif "304" not in lines[0]:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(["HTTP/1.1 " + lines[0], *lines[1:], "", ""]).encode() + body


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_a_response(case: Case) -> None:
    async def handle(wire: Wire, head: Head) -> None:
        if case.method == "POST":
            await wire.body(head)
        await wire.send(_answer(case, root))

    async with archive(handle) as a:
        url = f"http://127.0.0.1:{a.port}{case.kind.path}"
        root = case.kind.name or url
        changes: dict[str, Any] = {
            "upstream": {"aliases": [case.kind.name] if case.kind.name else []},
            "access": {"mode": "read-write"},
        }
        target = _filled(case.target, root, root)
        body = b"x" if case.method == "POST" else b""
        async with proxy(settings(url, **changes)) as p:
            head, got = await p.ask(
                request(case.method, f"/dicom-web/{target}", *case.asks, body=body)
            )
    (sent,) = a.requests
    assert sent.first_line.decode() == f"{case.method} {case.kind.path}/{target} HTTP/1.1"
    for line in case.asked:
        name, _, value = line.partition(": ")
        assert sent.get(name.lower().encode()) == value.encode()

    assert head.status == int(case.answer[:3])
    assert got.decode() == _filled(case.body, HERE, root)
    assert head.all(b"access-control-allow-origin") == [ORIGIN]
    exposed = (head.get(b"access-control-expose-headers") or b"").decode().split(", ")
    for name, value in case.shown.items():
        line = (head.get(name.encode()) or b"").decode()
        assert line == _filled(value, HERE, root)
        assert name in (*exposed, *SAFELISTED)
    for name in case.hidden:
        assert head.get(name.encode()) is None
