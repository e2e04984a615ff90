from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicomweb_cors_proxy.dicomweb.accept import repair_accept
from dicomweb_cors_proxy.dicomweb.resources import RESOURCES, Service
from dicomweb_cors_proxy.dicomweb.routes import ResourceTable, Route, Text, parse_extra_path

STUDY = "studies/1.2.840"
SERIES = STUDY + "/series/2.25.3"
INSTANCE = SERIES + "/instances/4"

# The transactions of PS3.18, and what archives have besides: methods and services, by example.
TRANSACTIONS = {
    "/": ("", {"OPTIONS": "root"}),
    "studies": ("studies", {"GET": "search", "POST": "store", "PUT": "store"}),
    "series": ("series", {"GET": "search"}),
    "instances": ("instances", {"GET": "search"}),
    "studies/{study}/series": (STUDY + "/series", {"GET": "search"}),
    "studies/{study}/instances": (STUDY + "/instances", {"GET": "search"}),
    "studies/{study}/series/{series}/instances": (SERIES + "/instances", {"GET": "search"}),
    "studies/{study}": (
        STUDY,
        {"GET": "retrieve", "POST": "store", "PUT": "store", "DELETE": "store"},
    ),
    "studies/{study}/series/{series}": (SERIES, {"GET": "retrieve", "DELETE": "store"}),
    "studies/{study}/series/{series}/instances/{instance}": (
        INSTANCE,
        {"GET": "retrieve", "DELETE": "store"},
    ),
    **{
        f"{template}/{child}": (f"{path}/{child}", {"GET": "retrieve"})
        for template, path in (
            ("studies/{study}", STUDY),
            ("studies/{study}/series/{series}", SERIES),
            ("studies/{study}/series/{series}/instances/{instance}", INSTANCE),
        )
        for child in (
            "metadata",
            "rendered",
            "thumbnail",
            "bulkdata",
            "pixeldata",
            "renderedMPR",
            "renderedmpr",
            "rendered3D",
            "rendered3d",
        )
    },
    **{
        f"studies/{{study}}/series/{{series}}/instances/{{instance}}/{template}": (
            f"{INSTANCE}/{path}",
            {"GET": "retrieve"},
        )
        for template, path in (
            ("frames", "frames"),
            ("frames/{frames}", "frames/1,2,3"),
            ("frames/{frames}/rendered", "frames/1/rendered"),
            ("frames/{frames}/thumbnail", "frames/1%2C2%2c3/thumbnail"),
            ("bulkdata/{path}", "bulkdata/00091002/0/..%20a;b=1"),
            ("bulk/{path}", "bulk/00431029"),
        )
    },
    "studies/{study}/bulkdata/{path}": (
        STUDY + "/bulkdata/ab/c%2Fd/0123ef.mht.gz",
        {"GET": "retrieve"},
    ),
    "studies/{study}/series/{series}/bulkdata/{path}": (
        SERIES + "/bulkdata/7FE00010",
        {"GET": "retrieve"},
    ),
    "workitems": ("workitems", {"GET": "worklist", "POST": "worklist"}),
    "workitems/{workitem}": ("workitems/1.2", {"GET": "worklist", "POST": "worklist"}),
    "workitems/{workitem}/state": ("workitems/1.2/state", {"PUT": "worklist"}),
    "workitems/{workitem}/cancelrequest": ("workitems/1.2/cancelrequest", {"POST": "worklist"}),
    "workitems/{workitem}/subscribers/{aet}": (
        "workitems/1.2.840.10008.5.1.4.34.5/subscribers/MY%20AET",
        {"POST": "worklist", "DELETE": "worklist"},
    ),
    "workitems/{workitem}/subscribers/{aet}/suspend": (
        "workitems/1.2.840.10008.5.1.4.34.5.1/subscribers/AET/suspend",
        {"POST": "worklist"},
    ),
    **{
        template: row
        for category in (
            "color-palettes",
            "defined-procedure-protocols",
            "hanging-protocols",
            "implant-templates",
            "inventories",
        )
        for template, row in {
            category: (category, {"GET": "search", "POST": "store"}),
            category + "/{uid}": (category + "/2.25.7", {"GET": "retrieve", "POST": "store"}),
        }.items()
    },
    "commitment-requests/{transaction}": (
        "commitment-requests/2.25.9",
        {"GET": "store", "POST": "store"},
    ),
    "wado": ("wado", {"GET": "wado-uri"}),
}

READ_ONLY = ResourceTable(read_write=False, wado_uri=True)
READ_WRITE = ResourceTable(read_write=True, wado_uri=True)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get")


def match(table: ResourceTable, path: str) -> Route:
    route = table.match(b"/" + path.encode() if path else b"")
    assert route is not None
    return route


def test_the_table_is_the_standards() -> None:
    assert sorted(resource.template for resource in RESOURCES) == sorted(TRANSACTIONS)


@pytest.mark.parametrize("template", TRANSACTIONS)
def test_an_example_of_each_resource(template: str) -> None:
    path, services = TRANSACTIONS[template]
    services = dict(services)
    if "GET" in services:
        services["HEAD"] = services["GET"]
    services.setdefault("OPTIONS", next(iter(services.values())))

    route = match(READ_WRITE, path)
    assert route.template == template
    assert {m: route.service(m) for m in METHODS if route.service(m)} == services
    assert route.allow == tuple(method for method in METHODS if method in services)
    assert [r.methods for r in RESOURCES if r.template == template] == [services]

    route = match(READ_ONLY, path)
    safe = {m: services[m] for m in services if m in ("GET", "HEAD", "OPTIONS")}
    assert route.template == template
    assert {m: route.service(m) for m in METHODS if route.service(m)} == safe
    assert route.allow == tuple(method for method in METHODS if method in safe)


def test_wado_is_a_resource_only_where_it_is_configured() -> None:
    assert ResourceTable(read_write=True).match(b"/wado") is None


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"studies",
        b"/studies/",
        b"//studies",
        b"/studies//1.2",
        b"/studies/1.2/",
        b"/studies\n",
        b"/Studies",
        b"/studies%2F1.2",
        b"/studies/..",
        b"/studies/.",
        b"/studies/1..2",
        b"/studies/1.2.",
        b"/studies/.1.2",
        b"/studies/1.2a",
        b"/studies/1%2E2",
        b"/studies/%31",
        b"/studies/\xd9\xa1",
        b"/studies/1.2/../3",
        b"/studies/1.2/metadata/",
        b"/studies/1.2/metadata;x",
        b"/studies/1.2/Metadata",
        b"/studies/1.2/unknown",
        b"/studies/1.2/bulkdata/a/",
        b"/studies/1.2/bulkdata/a//b",
        b"/studies/1.2/bulkdata/%2Fa",
        b"/studies/1.2/bulkdata/a%2F",
        b"/studies/1.2/bulkdata/a%2f%2Fb",
        b"/studies/1.2/bulkdata/a%2F..%2Fb",
        b"/studies/1.2/bulkdata/a%2F%2e",
        b"/studies/1.2/bulkdata/a%2F..%3Bx",
        b"/studies/1.2/bulkdata/a%252Fb",
        b"/studies/1.2%2Fbulkdata/a",
        b"/studies/1.2/bulkdata%2Fa",
        b"/studies/1.2/frames/1",
        b"/studies/1/series/2/bulkdata/a/b/",
        b"/studies/1/series/2/bulkdata/",
        b"/studies/1/series/2/bulkdata/..",
        b"/studies/1/series/2/instances/3/frames/",
        b"/studies/1/series/2/instances/3/frames/1,",
        b"/studies/1/series/2/instances/3/frames/,1",
        b"/studies/1/series/2/instances/3/frames/1-2",
        b"/studies/1/series/2/instances/3/frames/1%2",
        b"/studies/1/series/2/instances/3/frames/a",
        b"/studies/1/series/2/instances/3/bulkdata/a/../b",
        b"/studies/1/series/2/instances/3/bulkdata/a/%2e%2E/b",
        b"/studies/1/series/2/instances/3/bulkdata/.%2e",
        b"/studies/1/series/2/instances/3/bulkdata/..;a/b",
        b"/studies/1/series/2/instances/3/bulkdata/..%3Ba",
        b"/studies/1/series/2/instances/3/bulkdata/.;/b",
        b"/studies/1/series/2/instances/3/bulkdata/a%2Fb/.",
        b"/studies/1/series/2/instances/3/bulkdata/a%5cb",
        b"/studies/1/series/2/instances/3/bulkdata/%252e%252E",
        b"/studies/1/series/2/instances/3/bulkdata/a%252fb",
        b"/studies/1/series/2/instances/3/bulkdata/a%255Cb",
        b"/studies/1/series/2/instances/3/bulkdata/%c0%ae%C1%9c",
        b"/studies/1/series/2/instances/3/bulkdata/a\\b",
        b"/studies/1/series/2/instances/3/bulkdata/a%00",
        b"/studies/1/series/2/instances/3/bulkdata/a%0d%0a",
        b"/studies/1/series/2/instances/3/bulkdata/a%1F",
        b"/studies/1/series/2/instances/3/bulkdata/a%7F",
        b"/studies/1/series/2/instances/3/bulkdata/a%",
        b"/studies/1/series/2/instances/3/bulkdata/a%4",
        b"/studies/1/series/2/instances/3/bulkdata/a//b",
        b"/studies/1/series/2/instances/3/bulkdata/a/",
        b"/studies/1/series/2/instances/3/bulkdata/<a>",
        b"/studies/1/series/2/instances/3/bulkdata/\xff",
        b"/workitems/abc",
        b"/workitems/1.2/subscribers",
        b"/workitems/1.2/subscribers/A%5CB",
        b"/workitems/1.2/suspend",
        b"/commitment-requests",
        b"/hanging-protocols/x",
        b"/wado/",
        b"/servers",
        b"/servers/pacs/studies",
        b"/servers/pacs/wado",
        b"/info",
        b"/app/client/index.html",
        b"/system",
        b"/instances/66b83aa1-8d4a2e1d-0a1d4a43-7c11f9f0-8f2bfe18",
        b"/instances/1.2.3",
        b"/patients",
    ],
)
@pytest.mark.parametrize("table", [READ_ONLY, READ_WRITE], ids=["read-only", "read-write"])
def test_no_resource(table: ResourceTable, path: bytes) -> None:
    assert table.match(path) is None


SAFE_SEGMENT = re.compile(rb"(?:[\w.~!$&'()*+,;=:@^|\[\]-]|%[0-9A-Fa-f]{2})+", re.ASCII)
VARIABLES = {
    "frames": re.compile(rb"\d+(?:(?:,|%2[Cc])\d+)*", re.ASCII),
    "aet": SAFE_SEGMENT,
    "path": SAFE_SEGMENT,
}
UID = re.compile(rb"\d+(?:\.\d+)*", re.ASCII)

words = st.sampled_from(
    sorted({segment for resource in RESOURCES for segment in resource.template.split("/")})
).map(str.encode)
segments = (
    words
    | st.sampled_from([b"1", b"1.2", b"1..2", b"1,2", b"1%2C2", b"..", b"%2e.", b"..;", b"%2f"])
    | st.sampled_from([b"x%5C", b"%00", b"", b"*", b"a b", b"%zz", b"AET", b"x;y", b"\n"])
)
examples = st.sampled_from([path for path, _ in TRANSACTIONS.values()]).map(
    lambda path: path.encode().split(b"/")
)


@st.composite
def paths(draw: st.DrawFn) -> bytes:
    """Draw the path of a resource, some segments of which are replaced, added or left out."""
    path = draw(examples | st.lists(segments, max_size=9))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(path)))
        path[at : at + draw(st.integers(0, 1))] = draw(st.lists(segments, max_size=2))
    return b"/" + b"/".join(path)


def is_safe(path: bytes, path_from: int | None = None) -> bool:
    """Tell whether no archive reads the path as another one."""
    if path_from is not None:  # an encoded slash separates segments in the free part
        path = path[:path_from] + re.sub(rb"%2f", b"/", path[path_from:], flags=re.IGNORECASE)
    return not re.search(rb"//|/\Z|%2f|%5c|%[01]|%7f", path, re.IGNORECASE) and not any(
        segment.partition(b";")[0] in (b".", b"..")
        for segment in unquote_to_bytes(path).split(b"/")
    )


BULKDATA = f"/{SERIES}/instances/1/bulkdata/".encode()
PIECES = (
    b"%25", b"%32", b"%33", b"%35", b"%62", b"%65", b"%66", b"%2e", b"%2E", b"%3b", b"%5", b"%0",
    b"%c0", b"%e0", b"%E0", b"%f0", b"%80", b"%90", b"%ae", b"%af", b"%", b"0", b"2", b"3", b"5",
    b"8", b"b", b"c", b"e", b"f", b".", b"..", b";", b"/", b"x", b"%2f", b"%2F",
)  # fmt: skip


def twice(path: bytes) -> bytes:
    """Decode a path as the most careless archive does, overlong UTF-8 included."""
    for _ in range(2):
        path = unquote_to_bytes(path)
    overlong = rb"(?:[\xc0\xc1]|\xe0[\x80\x81]|\xf0\x80[\x80\x81])[\x80-\xbf]"
    return re.sub(overlong, lambda m: bytes([(m[0][-2] & 3) << 6 | m[0][-1] & 63]), path)


@example([b"%25%32%65%25%32%65", b"/", b"x"])
@example([b"%252%65%252%65", b"/", b"x"])
@example([b"..%25%32%66", b"x"])
@example([b"..%252%66", b"x"])
@example([b"..%253b", b"/", b"x"])
@example([b"%e0%80%ae%e0%80%ae", b"/", b"x"])
@example([b"%E0%2580%25AE.", b"/", b"x"])
@example([b"%f0%80%80%ae.", b"/", b"x"])
@example([b"a%e0%80%afb"])
@settings(max_examples=10 * settings().max_examples)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12))
def test_a_path_leads_nowhere_else_when_it_is_decoded_twice(pieces: list[bytes]) -> None:
    path = BULKDATA + b"".join(pieces)
    if re.search(rb"%(?![0-9A-Fa-f]{2})", path) or READ_ONLY.match(path) is None:
        return
    decoded = twice(path)
    assert decoded.count(b"/") == path.count(b"/") + len(re.findall(rb"%2[Ff]", path))
    assert not re.search(rb"[\\\x00-\x1f\x7f]", decoded)
    assert not {b".", b".."} & {part.partition(b";")[0] for part in decoded.split(b"/")}


@pytest.mark.parametrize("name", [b"100%25", b"50%25AB", b"a%2541", b"%2520x", b"%C3%BC%25"])
def test_an_encoded_percent_is_a_character_like_others(name: bytes) -> None:
    assert READ_ONLY.match(BULKDATA + name) is not None


def fits(template: str, path: bytes) -> bool:
    """Say what a template means in the plainest way: segment by segment."""
    expected = template.split("/")
    found = path.split(b"/")[1:]
    if expected[-1] == "{path}":
        expected += ["{path}"] * (len(found) - len(expected))
    return len(expected) == len(found) and all(
        VARIABLES.get(name[1:-1], UID).fullmatch(segment)
        if name.startswith("{")
        else name.encode() == segment
        for name, segment in zip(expected, found, strict=True)
    )


def start_of_path(template: str, path: bytes) -> int | None:
    """Return where the free part of a path begins; None if its template has none."""
    if not template.endswith("{path}"):
        return None
    return len(b"/".join(path.split(b"/")[: template.count("/") + 1])) + 1


@example(f"/{STUDY}/bulkdata/a%2Fb/c".encode())
@example(f"/{STUDY}/bulkdata/%2Fb".encode())
@example(f"/{STUDY}/bulkdata/b%2F".encode())
@example(f"/{STUDY}/bulkdata/b%2F/c".encode())
@example(f"/{STUDY}/bulkdata/b%2F%2e%2e".encode())
@example(f"/{STUDY}/bulkdata/b%2F..;x%2fc".encode())
@given(paths())
def test_matches_what_the_templates_say_and_nothing_else(path: bytes) -> None:
    route = READ_ONLY.match(path)
    expected = [
        r.template
        for r in RESOURCES
        if fits(r.template, path) and is_safe(path, start_of_path(r.template, path))
    ]
    assert ([] if route is None else [route.template]) == expected


EXTRA = ResourceTable(
    read_write=True,
    extra_paths=[
        "/reports/*",
        "/a/**",
        "/x/**/y/*/**/z",
        "/lit.eral/%7Ex",
        "/wado",
        "/studies/*",
        "/s/*/",
        "/studies/",
    ],
)


@pytest.mark.parametrize(
    ("path", "template"),
    [
        (b"/reports/1", "/reports/*"),
        (b"/reports/a%20b;c", "/reports/*"),
        (b"/reports/...", "/reports/*"),
        (b"/a", "/a/**"),
        (b"/a/b", "/a/**"),
        (b"/a/b/c/d", "/a/**"),
        (b"/x/y/1/z", "/x/**/y/*/**/z"),
        (b"/x/1/2/y/3/4/5/z", "/x/**/y/*/**/z"),
        (b"/x/y/y/y/z/z/y/z", "/x/**/y/*/**/z"),
        (b"/lit.eral/%7Ex", "/lit.eral/%7Ex"),
        (b"/wado", "/wado"),
        (b"/studies/1.2", "studies/{study}"),
        (b"/studies/recent", "/studies/*"),
        (b"/reports", None),
        (b"/reports/", None),
        (b"/reports/1/", None),
        (b"/reports/1/2", None),
        (b"/reports/a%2Fb", None),
        (b"/reports/a%2fb", None),
        (b"/reports/a%5Cb", None),
        (b"/reports/%00", None),
        (b"/reports/..", None),
        (b"/reports/%2e", None),
        (b"/reports/..;x", None),
        (b"/reports/1?", None),
        (b"/ab", None),
        (b"/a/", "/a/**"),
        (b"/a/b/", "/a/**"),
        (b"/a/b//", None),
        (b"/a//", None),
        (b"/s/1/", "/s/*/"),
        (b"/s/1", None),
        (b"/s/", None),
        (b"/s//", None),
        (b"/studies/", "studies"),
        (b"/studies/recent/", None),
        (b"/studies", "studies"),
        (b"/a//b", None),
        (b"/a/b/../c", None),
        (b"/a/b/%2e%2E", None),
        (b"/a/b%2f..", None),
        (b"/x/y/z", None),
        (b"/x/y/1/z/", None),
        (b"/x/1/z", None),
        (b"/litXeral/%7Ex", None),
        (b"/lit.eral/%7ex", None),
        (b"/lit.eral/~x", None),
    ],
)
def test_extra_paths(path: bytes, template: str | None) -> None:
    route = EXTRA.match(path)
    assert (None if route is None else route.template) == template


def test_extra_paths_take_every_method_that_can_be_forwarded() -> None:
    route = match(EXTRA, "reports/1")
    assert route.allow == ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    assert {route.service(method) for method in (*route.allow, "PROPFIND")} == {Service.ROOT}
    assert route.service("CONNECT") is None
    assert route.service("TRACE") is None


ALL = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


@pytest.mark.parametrize(
    ("path", "pattern", "services"),
    [
        ("studies/1/series/2", "/studies/*/series/*", ("retrieve", "store")),
        ("studies/1/series/2", "/**", ("retrieve", "store")),
        ("studies/1", "/studies/1", ("retrieve", "store")),
        ("studies/1/metadata", "/studies/**", ("retrieve", "root")),
        ("workitems/1/state", "/workitems/*/*", ("worklist", "worklist")),
        ("", "/**", ("root", "root")),
        ("", "/", ("root", "root")),
    ],
)
def test_an_extra_path_adds_the_methods_that_a_resource_lacks(
    path: str, pattern: str, services: tuple[str, str]
) -> None:
    reads, writes = services
    own = match(READ_WRITE, path)
    route = match(ResourceTable(read_write=True, extra_paths=[pattern]), path)
    assert route.template == own.template
    assert route.allow == ALL
    assert {m: route.service(m) for m in own.allow} == {m: own.service(m) for m in own.allow}
    assert {route.service(m) for m in ("GET", "HEAD", "OPTIONS")} == {reads}
    assert {route.service(m) for m in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND")} == {writes}
    assert route.service("CONNECT") is route.service("TRACE") is None

    route = match(ResourceTable(read_write=False, extra_paths=[pattern]), path)
    assert route.allow == ("GET", "HEAD", "OPTIONS")
    assert {m: s for m in (*METHODS, "PROPFIND") if (s := route.service(m))} == dict.fromkeys(
        route.allow, reads
    )


def test_an_extra_path_adds_no_method_to_other_paths() -> None:
    table = ResourceTable(read_write=True, extra_paths=["/studies/*/series/*"])
    for path in ("studies", "studies/1", "studies/1/series", "studies/1/series/2/metadata"):
        assert match(table, path) == match(READ_WRITE, path)


def test_an_extra_path_adds_no_method_to_wado_whose_url_is_another() -> None:
    table = ResourceTable(read_write=True, extra_paths=["/**"], wado_uri=True)
    assert match(table, "wado").allow == ("GET", "HEAD", "OPTIONS")


@pytest.mark.parametrize(
    ("path", "template", "services"),
    [
        ("studies/", "studies", ("search", "store")),
        ("studies/1/metadata/", "studies/{study}/metadata", ("retrieve", "root")),
        ("studies/1/bulkdata/a/b/", "studies/{study}/bulkdata/{path}", ("retrieve", "root")),
        ("wado/", "/**", ("root", "root")),
        ("reports/", "/**", ("root", "root")),
    ],
)
def test_a_resource_with_a_slash_is_for_the_same_service(
    path: str, template: str, services: tuple[str, str]
) -> None:
    table = ResourceTable(read_write=True, extra_paths=["/**"], wado_uri=True)
    route = match(table, path)
    assert route.template == template
    assert (route.service("GET"), route.service("POST")) == services


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (b"/", "/"),
        (b"/studies/", "/studies/"),
        (b"/studies/1.2/series/3/rendered/", "/studies/*/series/*/rendered/"),
        (
            b"/studies/1/series/2/instances/3/frames/1,2/",
            "/studies/*/series/*/instances/*/frames/*/",
        ),
        (b"/studies/1/bulkdata/a/b/", "/studies/*/bulkdata/**/"),
        (b"/workitems/1/subscribers/A/", "/workitems/*/subscribers/*/"),
        (b"/reports/7/", "/reports/*/"),
        (b"/reports", None),
        (b"/studies//", None),
        (b"/nothing/", None),
        (b"/studies/x/", None),
        (b"/wado/", None),
    ],
)
def test_the_extra_path_for_a_slash_opens_it(path: bytes, pattern: str | None) -> None:
    extra = ["/reports/*"]
    table = ResourceTable(read_write=False, extra_paths=extra, wado_uri=True)
    assert table.match(path) is None
    assert table.missing_slash_path(path) == pattern
    if pattern is not None:
        assert ResourceTable(read_write=False, extra_paths=[*extra, pattern]).match(path)


@pytest.mark.parametrize("path", [b"", b"/"])
def test_the_extra_path_of_the_root_has_a_slash_or_none(path: bytes) -> None:
    route = ResourceTable(read_write=False, extra_paths=["/"]).match(path)
    assert route is not None
    assert route.service("GET") is Service.ROOT


def test_extra_paths_are_read_only_too() -> None:
    route = match(ResourceTable(read_write=False, extra_paths=["/reports/*"]), "reports/1")
    assert route.allow == ("GET", "HEAD", "OPTIONS")
    assert {method for method in (*METHODS, "PROPFIND") if route.service(method)} == set(
        route.allow
    )
    assert route.service("GET") is Service.ROOT


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("", "write '/'"),
        ("reports/*", "write '/reports/*'"),
        ("*", "write '/*'"),
        ("https://archive/reports", "doesn't start with a slash"),
        ("//", "empty segment"),
        ("/reports//", "empty segment"),
        ("/reports//x", "empty segment"),
        ("//reports", "empty segment"),
        ("/reports?x", "write the path alone"),
        ("/reports#x", "write the path alone"),
        ("/reports/x*", "write %2A"),
        ("/reports/***", "write %2A"),
        ("/reports/**x", "write %2A"),
        ("/reports/%", "write a literal % as %25"),
        ("/reports/%2", "write a literal % as %25"),
        ("/reports/%2F", "leave it out"),
        ("/reports/%5c", "leave it out"),
        ("/reports/%00", "leave it out"),
        ("/reports/.", "dot segment"),
        ("/reports/../x", "dot segment"),
        ("/reports/%2E%2e", "dot segment"),
        ("/reports/..;x", "dot segment"),
        ("/reports/a b", "percent-encode it"),
        ("/reports/Börse", "percent-encode it"),
        ("/reports/{id}", "percent-encode it"),
        ("/reports/a\\b", "percent-encode it"),
        ("/reports/x\n", "percent-encode it"),
    ],
)
def test_malformed_extra_paths(pattern: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=re.escape(remedy)) as caught:
        ResourceTable(read_write=False, extra_paths=["/fine", pattern])
    assert repr(pattern) in str(caught.value)


pattern_segments = st.sampled_from(["a", "b", "*", "**", "a.b", "%41", "x*", "..", ""])


def glob(pattern: list[str], path: list[bytes]) -> bool:
    """Say what a pattern means in the plainest way: by trying everything."""
    if not pattern:
        return not path
    if pattern == [""]:  # the slash at the end
        return path == [b""]
    if pattern == ["**"] and path == [b""]:
        return True
    if pattern[0] == "**":
        return glob(pattern[1:], path) or (bool(path) and glob(pattern, path[1:]))
    return (
        bool(path)
        and (pattern[0] == "*" or pattern[0].encode() == path[0])
        and glob(pattern[1:], path[1:])
    )


@given(
    st.lists(pattern_segments, min_size=1, max_size=6),
    st.lists(st.sampled_from([b"a", b"b", b"a.b", b"%41", b"..", b"%2f", b""]), max_size=8),
)
@example(["**", "a", "b", "**", "a"], [b"a", b"a", b"b", b"a", b"b", b"a"])
def test_extra_paths_mean_what_they_say(pattern: list[str], path: list[bytes]) -> None:
    written = "/" + "/".join(pattern)
    if {"x*", ".."} & set(pattern) or "" in pattern[:-1]:
        with pytest.raises(ValueError, match=r"^'/"):
            parse_extra_path(written)
        return
    raw = b"".join(b"/" + segment for segment in path)
    found = re.match(parse_extra_path(written).encode(), raw)
    fits = glob(pattern, path) or (pattern == [""] and not path)
    assert (found is not None) == (fits and (raw in (b"", b"/") or is_safe(raw.removesuffix(b"/"))))


@given(st.text(st.sampled_from("/ab*%2eF.;?~é\\"), max_size=12))
def test_an_extra_path_without_a_star_matches_itself(pattern: str) -> None:
    try:
        compiled = re.compile(parse_extra_path(pattern).encode("ascii"))
    except ValueError:
        return
    if "*" not in pattern:
        assert compiled.match(pattern.encode())


@pytest.mark.parametrize(
    ("value", "repaired"),
    [
        (
            b"multipart/related; type=application/dicom; transfer-syntax=*",
            b'multipart/related; type="application/dicom"; transfer-syntax=*',
        ),
        (b"multipart/related;type=image/jpeg", b'multipart/related;type="image/jpeg"'),
        (
            b"a/b; type=image/jpeg;q=0.9, a/b; type=image/jp2, */*;q=0",
            b'a/b; type="image/jpeg";q=0.9, a/b; type="image/jp2", */*;q=0',
        ),
        (b" a/b ;\ttype=c/d\t;q=1 ,e/f", b' a/b ;\ttype="c/d"\t;q=1 ,e/f'),
        (b"a/b;;x=c/d;", b'a/b;;x="c/d";'),
        (b",a/b;x=c/d,,", b',a/b;x="c/d",,'),
        (b"a/b;level;x=c/d", b'a/b;level;x="c/d"'),
        (b"a/b;x=c=d", b'a/b;x="c=d"'),
        (b"a/b;x=(c)", b'a/b;x="(c)"'),
        (
            b'a/b;x="q\\"uo;t,e=d/";y=e/f',
            b'a/b;x="q\\"uo;t,e=d/";y="e/f"',
        ),
        (b'a/b;x="\t\xe9\\\t\\\xe9";y=e/f', b'a/b;x="\t\xe9\\\t\\\xe9";y="e/f"'),
    ],
)
def test_repair_accept(value: bytes, repaired: bytes) -> None:
    assert repair_accept(value) == repaired


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"*/*",
        b"application/dicom+json",
        b'multipart/related; type="application/dicom"; transfer-syntax=*',
        b"multipart/related; type=application; transfer-syntax=1.2.840.10008.1.2.4.50;q=0.1",
        b'a/b;x="c=d/e"',
        b'a/b;x="\\"=/"',
        b'a/b;x="c/d',  # from here on, no certain repair
        b'a/b;x=c/d"',
        b'a/b;x=c/"d"',
        b'a/b";x=c/d',
        b'a/b;x=c/d;y="',
        b'a/b;x=c/d;y="e"f',
        b"a/b;x=c/d e",
        b"a/b;x=c/d;y=e f",
        b"a/b;x =c/d",
        b"a/b;x= c/d",
        b"a/b;x=;y=c/d",
        b"a/b;x=c/d\\",
        b"a/b;x=c/d\n",
        b"a/b;x=c/d\x00",
        b"a/b;x=c/\xe9",
        b"a/b\x7f;x=c/d",
        b"a/b;=c/d",
        b"a/b x=c/d",
    ],
)
def test_repair_accept_leaves_alone(value: bytes) -> None:
    assert repair_accept(value) == value


TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
RANGE = rb"%b/%b(?:[ \t]*;[ \t]*(?:%b=(?:%b|%b))?)*" % (TOKEN, TOKEN, TOKEN, TOKEN, QUOTED)
WELL_FORMED = rb"(?:%b)?(?:[ \t]*,[ \t]*(?:%b)?)*" % (RANGE, RANGE)  # RFC 9110 §12.5.1

accept_bytes = st.lists(
    st.sampled_from(
        [b"a/b", b";", b"; x=", b"y=", b"c/d", b"e", b'"', b'"f;g,h=i/j"', b'\\"', b",", b" "]
    )
    | st.binary(max_size=2),
    max_size=10,
).map(b"".join)


# A busy machine is no fault of the test's.
@settings(max_examples=settings().max_examples // 2)
@given(st.from_regex(re.compile(WELL_FORMED), fullmatch=True))
def test_a_well_formed_accept_passes_byte_for_byte(value: bytes) -> None:
    assert repair_accept(value) == value


@given(accept_bytes)
def test_repair_adds_nothing_but_quotes_and_once(value: bytes) -> None:
    repaired = repair_accept(value)
    assert repaired.replace(b'"', b"") == value.replace(b'"', b"")
    assert repair_accept(repaired) == repaired


tokens = st.from_regex(re.compile(TOKEN), fullmatch=True)
bare = st.from_regex(re.compile(TOKEN[:-1] + rb"/[!#-+.-:<-\[\]-~]*"), fullmatch=True)


@given(st.lists(st.tuples(tokens, tokens | bare), max_size=3), st.sampled_from([b";", b" ; "]))
def test_what_was_repaired_is_well_formed(
    parameters: list[tuple[bytes, bytes]], separator: bytes
) -> None:
    value = separator.join([b"a/b", *(b"%b=%b" % parameter for parameter in parameters)])
    assert re.fullmatch(WELL_FORMED, repair_accept(value))


@pytest.mark.parametrize(
    ("method", "path", "holds"),
    [
        ("GET", "/studies", True),
        ("HEAD", "/studies/1/series", True),
        ("POST", "/studies", True),
        ("POST", "/workitems", True),
        ("GET", "/studies/1/metadata", True),
        ("GET", "/studies/1/series/2/instances/3/metadata", True),
        ("GET", "/studies/1", False),
        ("GET", "/studies/1/series/2/instances/3/frames/1", False),
        ("GET", "/studies/1/series/2/instances/3/bulkdata/metadata", False),
        ("DELETE", "/studies/1", True),
        ("TRACE", "/studies", False),
    ],
)
def test_where_an_archive_may_name_itself(method: str, path: str, *, holds: bool) -> None:
    route = match(READ_WRITE, path.removeprefix("/"))
    assert route.may_contain_urls(method) is holds
    assert (route.text(method) is Text.ALWAYS) is holds


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("studies/1", Text.IF_ACCEPTED),
        ("studies/1/series/2/instances/3/frames/1", Text.IF_ACCEPTED),
        ("studies/1/series/2/rendered", Text.IF_ACCEPTED),
        ("color-palettes/1", Text.IF_ACCEPTED),
        ("wado", Text.IF_ACCEPTED),
        ("studies/1/bulkdata/a", Text.NEVER),
        ("studies/1/series/2/instances/3/bulk/7", Text.NEVER),
        ("reports/1", Text.UNLESS_OTHER),
        ("", Text.UNLESS_OTHER),
    ],
)
def test_when_text_may_come_by_the_accept(path: str, text: Text) -> None:
    table = ResourceTable(read_write=False, extra_paths=["/reports/*", "/"], wado_uri=True)
    assert match(table, path).text("GET") is text


@pytest.mark.parametrize(
    ("path", "is_bulk_data"),
    [
        ("studies/1/bulkdata", True),
        ("studies/1/bulkdata/ab/cd/0123ef.mht.gz", True),
        ("studies/1/series/2/bulkdata/7FE00010", True),
        ("studies/1/series/2/instances/3/bulkdata/7/1/8", True),
        ("studies/1/series/2/instances/3/bulk/7", True),
        ("studies/1/series/2/instances/3/frames/1", False),
        ("studies/1", False),
    ],
)
def test_what_is_bulk_data(path: str, *, is_bulk_data: bool) -> None:
    assert match(READ_WRITE, path).is_bulk_data is is_bulk_data
