"""Path traversal: can a target name another path of the archive than one of the resources?

An attacker doesn't know how the archive reads a path, so each row is tried wherever a path is free:
behind and in place of the base path, in an identifier, in the path of bulkdata, in an extra path.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import hypothesis
import pytest
import pytest_asyncio
from hypothesis import example, given
from hypothesis import strategies as st

from dicomweb_cors_proxy.dicomweb.routes import ResourceTable
from dicomweb_cors_proxy.http.targets import target_problem
from tests.support.attacks import Front, standing
from tests.support.sockets import request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

INSTANCE = "/dicom-web/studies/1/series/2/instances/3"
PLACES = (
    "/{}/system",
    "/dicom-web{}/system",
    "/dicom-web/{}/system",
    "/dicom-web/studies/{}/servers",
    "/dicom-web/studies/1{}servers",
    f"{INSTANCE}/bulkdata/{{}}/7FE00010",
    f"{INSTANCE}/bulkdata/a/{{}}",
    "/dicom-web/reports/{}/../../../system",
    "/dicom-web/reports/{}/system",
    "/dicom-web/reports/{}",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    access = {"mode": "read-write", "extra_paths": ["/reports/**"]}
    async with standing(tmp_path_factory.mktemp("serve"), access=access) as front:
        yield front


async def statuses(front: Front, *targets: str) -> dict[str, int]:
    """What targets are answered with; raw bytes beyond ASCII are latin-1."""
    front.recorder.seen.clear()
    return {target: (await front.ask(request("GET", target)))[0].status for target in targets}


# What goes up, and who fell for it.
UP = {
    "..": "RFC 3986 §5.2.4; httpx collapses it",
    "../..": "RFC 3986 §5.2.4",
    ".": "RFC 3986 §5.2.4",
    "..;": "Tomcat and Jetty drop the parameter (Tsai 2018)",
    "..;a=b": "Tomcat",
    ".;": "Tomcat",
    "..%3B": "Tomcat behind a proxy that decodes",
    "%2e%2e": "Apache CVE-2021-41773",
    "%2E%2e": "Apache CVE-2021-41773",
    ".%2e": "Apache CVE-2021-41773",
    "%2e.": "Apache CVE-2021-41773",
    "%2e": "RFC 3986 §6.2.2",
    "%%32%65%%32%65": "Apache CVE-2021-42013",
    "%252e%252e": "decoded twice: IIS CVE-2001-0333",
    "%252E.": "decoded twice",
    "..%2f": "Envoy CVE-2019-9901, CVE-2021-29492",
    "..%2F..%2F": "Envoy CVE-2021-29492",
    "%2f..": "Envoy CVE-2021-29492",
    "..%252f": "decoded twice",
    "%2e%2e%2f": "Envoy CVE-2021-29492",
    "..%5c": "IIS; Windows parts by a backslash",
    "..%5C..%5C": "IIS",
    "%5c..%5c": "IIS",
    "..%255c": "IIS CVE-2001-0333",
    "..\\": "URL Standard: a backslash is a slash",
    "\\..\\": "URL Standard",
    "%c0%ae%c0%ae": "overlong UTF-8: IIS CVE-2000-0884",
    "%c0%2e%c0%2e": "overlong UTF-8",
    "..%c0%af": "overlong UTF-8: IIS CVE-2000-0884",
    "..%c1%9c": "overlong UTF-8: IIS CVE-2000-0884",
    "%u002e%u002e": "IIS's %u",
    "..%u2215": "IIS's %u",
    "..%00": "cut at NUL",
    "..%00/": "cut at NUL",
    "%00..": "cut at NUL",
    ".%00.": "NUL dropped",
    "..%0d": "white space trimmed",
    "..%0a": "white space trimmed",
    "..%09": "white space trimmed",
    "..%7f": "controls dropped",
    "..%": "a % that ends nothing",
    "..%zz": "a % that is none",
    "..#": "Envoy CVE-2021-32779: a fragment",
    "..%2f%2f": "merged slashes",
    "//..": "merged slashes",
    "..//": "merged slashes",
    "..%f0%80%80%ae%2f": "an encoded slash behind whatever",
    ".. ": "RFC 9112 §3.2: no space",
    "\xaf..": "RFC 9112 §3.2: no byte beyond ASCII",
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("up", UP, ids=lambda up: up.encode("unicode_escape").decode())
async def test_nothing_goes_up(front: Front, up: str) -> None:
    answered = await statuses(front, *(place.format(up) for place in PLACES))
    assert set(answered.values()) <= {400, 404}, answered
    assert front.recorder.seen == []


# What is no resource, however near it is to one.
OTHERS = {
    "/dicom-web../system": "Tsai 2018: nginx's alias without a slash",
    "/dicom-web..%2fsystem": "nginx's alias",
    "/dicom-web;/studies": "Tomcat",
    "/dicom-web/studies;/1": "Tomcat",
    "/dicom-web%2fstudies": "Starlette's Mount decodes",
    "/dicom%2dweb/studies": "Starlette's Mount decodes",
    "/DICOM-WEB/studies": "Caddy CVE-2026-27587: case",
    "/dicom-web/STUDIES": "Caddy CVE-2026-27587: case",
    "/dicom-web/%73tudies": "Caddy CVE-2026-27587: escapes",
    "/dicom-web/studies/": "trailing slash",
    "/dicom-web//studies": "merged slashes",
    "/dicom-web/studies//1": "merged slashes",
    "/dicom-web/studies/1/": "trailing slash",
    "/dicom-web/studies/1%2fmetadata": "an encoded slash",
    "/dicom-web/studies/1%252fmetadata": "decoded twice",
    "/dicom-web/studies/1%00": "cut at NUL",
    "/dicom-web/studies/1.2%2e3": "an encoded dot",
    "/dicom-web/studies/%d9%a1": "digits of another script",
    "/dicom-web/studies/1/metadata%0a": "$ before a line break",
    "/dicom-web/studies/1/metadata/x": "a suffix",
    "/dicom-web/studies/1/metadata.json": "a suffix",
    "/dicom-web/servers": "Orthanc: other archives, with stored credentials",
    "/dicom-web/servers/pacs/stow": "Orthanc",
    "/dicom-web/info": "Orthanc",
    "/dicom-web/app/client/index.html": "Orthanc",
    "/tools/execute-script": "Orthanc: runs Lua",
    "/system": "Orthanc",
    "/instances/66b83aa1-8d4a2e1d-0a1d4a43-7c11f9f0-8f2bfe18/file": "Orthanc",
    "/dicom-web/reports/a%2fb": "extra paths take no encoded slash",
    "/dicom-web/reports//": "nor an empty segment",
    "/dicom-web/reports//a": "nor an empty segment",
    "/": "the root is not ours",
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("target", OTHERS)
async def test_nothing_else_is_a_resource(front: Front, target: str) -> None:
    answered = await statuses(front, target)
    assert answered[target] in (400, 404)
    assert front.recorder.seen == []


# What goes to the archive byte for byte, for it is a name like any other to all but the last two's
# Windows, which folds it into dots.
NAMES = (
    "/studies/1/bulkdata/a%2Fb/c",
    "/reports/...",
    "/reports/..a",
    "/reports/a..",
    "/reports/%41",
    "/reports/a;b=c",
    "/reports/a%20b",
    "/reports/M%C3%BCller",
    "/reports/100%25",
    "/reports?a=/../../system&b=%2e%2e%2f",
    "/studies?PatientName=..%2F..%2F",
    "/reports/..%20",
    "/reports/%EF%BC%8E%EF%BC%8E",
)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", NAMES)
async def test_names_pass_byte_for_byte(front: Front, name: str) -> None:
    assert await statuses(front, f"/dicom-web{name}") == {f"/dicom-web{name}": 200}
    assert front.recorder.seen == [f"GET /pacs{name}"]


# The law: whichever of these an archive does to a path, in whatever order, it stays where it was.
# That it decodes more than twice is nobody's worry.

DECODED = unquote_to_bytes
TWICE = 2


def overlong(path: bytes) -> bytes:
    """Decode UTF-8 of two bytes without looking whether one would do."""
    return re.sub(
        rb"[\xc0\xc1][\x80-\xbf]", lambda m: bytes([(m[0][0] & 1) << 6 | m[0][1] & 63]), path
    )


READINGS = (
    DECODED,
    overlong,
    lambda path: path.replace(b"\\", b"/"),
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: re.sub(rb"//+", b"/", path),
    lambda path: path.partition(b"\0")[0],
    lambda path: re.sub(rb"[\0-\x1f\x7f]", b"", path),
)
TABLE = ResourceTable(read_write=True, extra_paths=["/reports/**", "/*/x"], wado_uri=True)
pieces = st.sampled_from(
    b"/ // . .. %2e %2F %5c \\ ; %3b %00 %25 %0a %c0%ae %C0%AF %c1%9c 25 2e 2f 5C c0 1 x".split()
)
beginnings = st.sampled_from(
    [b"/reports", b"/studies/1", b"/studies/1/series/2/instances/3/bulkdata", b"", b"/wado"]
)


@hypothesis.settings(deadline=None)
@given(
    beginnings,
    st.lists(pieces, max_size=8).map(b"".join),
    st.lists(st.sampled_from(READINGS), max_size=4).filter(lambda r: r.count(DECODED) <= TWICE),
)
@example(b"/reports", b"/%252e%252e/x", [DECODED, DECODED])
@example(b"/reports", b"/%c0%ae%c0%ae/x", [DECODED, overlong])
@example(b"/reports", b"/..;x/x", [READINGS[3]])
def test_no_reading_of_a_path_leads_elsewhere(
    beginning: bytes, rest: bytes, readings: list[object]
) -> None:
    path = beginning + rest
    if target_problem(path or b"/") or TABLE.match(path) is None:
        return
    read = path
    for reading in readings:
        read = reading(read)  # type: ignore[operator]
    segments = read.split(b"/")
    assert b"." not in segments
    assert b".." not in segments
    # An encoded slash separates segments of bulk data's path, where it leads no further up.
    assert read.count(b"/") <= path.count(b"/") + len(re.findall(rb"%2[Ff]", path))
