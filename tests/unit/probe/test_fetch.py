"""The Fetch standard's CORS protocol step by step, with the standard's sections and numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.cors.engine import CORSEngine
from dicomweb_cors_proxy.cors.options import PolicyOptions
from dicomweb_cors_proxy.cors.policy import CompiledPolicy
from dicomweb_cors_proxy.probe.fetch import (
    MAX_REDIRECTS,
    Request,
    Rule,
    Step,
    exposes,
    follow,
    judge,
    judge_preflight,
    judge_request,
    lacking_names,
    max_age,
)
from dicomweb_cors_proxy.probe.origins import is_trustworthy, origin_of
from dicomweb_cors_proxy.probe.responses import Response, combined, listed
from dicomweb_cors_proxy.probe.safelists import (
    is_forbidden,
    is_safelisted,
    normalize_method,
    unsafe_names,
)
from tests.unit.cors import test_policy as test_cors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dicomweb_cors_proxy.probe.responses import Headers

VIEWER = "https://viewer.example"
ROOT = "https://pacs.example/dicom-web"
ALLOW_ORIGIN, ALLOW_CREDENTIALS = "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials"
ALLOW_METHODS, ALLOW_HEADERS = "Access-Control-Allow-Methods", "Access-Control-Allow-Headers"
EXPOSE_HEADERS, MAX_AGE = "Access-Control-Expose-Headers", "Access-Control-Max-Age"
LET_IN = (ALLOW_ORIGIN, VIEWER)
WITH_CREDENTIALS = (ALLOW_CREDENTIALS, "true")
LOGIN = ("Authorization", "Bearer token")
QUOTED = ("Accept", 'multipart/related; type="application/dicom"')


def asked(method: str = "GET", *headers: tuple[str, str], **changes: Any) -> Request:  # noqa: ANN401
    return replace(Request(method, f"{ROOT}/studies", VIEWER, headers), **changes)


def broken(step: Step | None) -> tuple[Rule, str] | None:
    return (step.rule, f"{step.section} {step.number}") if step else None


# What goes out by itself, and what is asked for first


@pytest.mark.parametrize(
    ("name", "value", "safe"),
    [
        ("Accept", "application/dicom+json", True),
        ("accept", "multipart/related; type=application/dicom; transfer-syntax=*", True),
        ("Accept", 'multipart/related; type="application/dicom"', False),
        *[("Accept", f"a{byte}", False) for byte in '"():<>?@[\\]{}\x7f\x00\x08\n\x1f'],
        *[("Accept", f"a{byte}", True) for byte in "\t /*;=,+~\xff"],
        ("Accept", "a" * 128, True),
        ("Accept", "a" * 129, False),
        ("Accept-Language", "de-DE, en;q=0.5, *", True),
        ("Accept-Language", "de_DE", False),
        ("Content-Language", "de", True),
        ("Content-Language", "de/", False),
        ("Content-Type", "text/plain;charset=utf-8", True),
        ("Content-Type", " Text/Plain ", True),
        ("Content-Type", "application/x-www-form-urlencoded", True),
        ("Content-Type", "multipart/form-data; boundary=a", True),
        ("Content-Type", 'multipart/form-data; boundary="a"', False),
        ("Content-Type", "application/dicom", False),
        ("Content-Type", "application/json", False),
        ("Content-Type", "text", False),
        ("Content-Type", "text/plain,text/plain", False),
        ("Range", "bytes=0-", True),
        ("Range", "bytes=0-63", True),
        ("Range", "bytes=63-0", False),
        ("Range", "bytes=-500", False),
        ("Range", "bytes=0-1,5-6", False),
        ("Range", "bytes = 0-1", False),
        ("Range", "bytes=0-63 ", False),
        ("Authorization", "Basic YTpi", False),
        ("If-None-Match", "*", False),
        ("X-A", "", False),
    ],
)
def test_safelisted_request_headers(name: str, value: str, *, safe: bool) -> None:
    """CORS-safelisted request-header."""
    assert is_safelisted(name, value) is safe


@pytest.mark.parametrize(
    ("headers", "unsafe"),
    [
        ((), ()),
        ((("Accept", "*/*"),), ()),
        ((("X-B", "1"), ("x-a", "2"), ("X-A", "3")), ("x-a", "x-b")),
        ((("Accept", "a" * 128),) * 8, ()),
        ((("Accept", "a" * 128),) * 8 + (("Accept-Language", "d"),), ("accept", "accept-language")),
        ((("Accept", "a"), ("Accept", '"')), ("accept",)),
    ],
)
def test_unsafe_names(headers: Headers, unsafe: tuple[str, ...]) -> None:
    """CORS-unsafe request-header names."""
    assert unsafe_names(headers) == unsafe


header_lines = st.tuples(
    st.sampled_from(["Accept", "accept-language", "Content-Type", "RANGE", "X-A", "Authorization"]),
    st.text('a"-,*=0:;/ ', max_size=130) | st.just("bytes=0-"),
)


@given(st.lists(header_lines, max_size=8), header_lines)
def test_another_header_makes_no_other_safe(
    headers: list[tuple[str, str]], another: tuple[str, str]
) -> None:
    names = unsafe_names(headers)
    assert list(names) == sorted({name.lower() for name in names})
    assert set(names) <= set(unsafe_names([*headers, another]))


@pytest.mark.parametrize(
    ("request_", "needs"),
    [
        (asked(), False),
        (asked("HEAD"), False),
        (asked("POST"), False),
        (asked("DELETE"), True),
        (asked("get"), True),
        (asked("GET", QUOTED), True),
        (asked("DELETE", QUOTED, origin="https://pacs.example"), False),
        (asked("DELETE", origin="https://pacs.example", tainted=True), True),
        (asked("GET", LOGIN, origin="null"), True),
    ],
)
def test_what_needs_a_preflight(request_: Request, *, needs: bool) -> None:
    """Main fetch, step 12."""
    assert request_.needs_preflight is needs


@pytest.mark.parametrize(
    ("method", "normalized"),
    [("get", "GET"), ("Delete", "DELETE"), ("patch", "patch"), ("PATCH", "PATCH"), ("x", "x")],
)
def test_methods_are_normalized(method: str, normalized: str) -> None:
    """Methods, normalize."""
    assert normalize_method(method) == normalized


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        ("Cookie", True),
        ("HOST", True),
        ("Accept-Encoding", True),
        ("Sec-Fetch-Mode", True),
        ("Proxy-Authorization", True),
        ("Security", False),
        ("Authorization", False),
        ("User-Agent", False),
    ],
)
def test_forbidden_request_headers(name: str, *, forbidden: bool) -> None:
    """Forbidden request-header."""
    assert is_forbidden(name) is forbidden


@pytest.mark.parametrize(
    ("url", "origin", "rule"),
    [
        ("https://pacs.example/", VIEWER, None),
        ("http://pacs.example/", VIEWER, Rule.MIXED_CONTENT),
        ("http://pacs.example/", "http://viewer.example", None),
        ("http://pacs.example/", "null", None),
        ("http://localhost:8042/", VIEWER, None),
        ("http://pacs.localhost./", VIEWER, None),
        ("http://127.8.9.1/", VIEWER, None),
        ("http://[::1]/", VIEWER, None),
        ("http://192.168.1.1/", VIEWER, Rule.MIXED_CONTENT),
        ("https://pacs.example:6000/", VIEWER, Rule.BAD_PORT),
        ("http://pacs.example:22/", VIEWER, Rule.BAD_PORT),
        ("https://pacs.example:8443/", VIEWER, None),
    ],
)
def test_what_never_goes_out(url: str, origin: str, rule: Rule | None) -> None:
    """Main fetch, step 7: port blocking and mixed content."""
    step = judge_request(asked(url=url, origin=origin))
    assert broken(step) == ((rule, "main fetch 7") if rule else None)


def test_what_is_trustworthy() -> None:
    """Secure Contexts §3.1: a name that only looks like this machine's is not."""
    assert is_trustworthy("https://pacs.example")
    assert not is_trustworthy("http://localhost.example")
    assert not is_trustworthy("http:///")


# CORS check


CORS_CHECK: list[tuple[str, Headers, Request, Rule | None]] = [
    ("2: no line", (), asked(), Rule.ALLOW_ORIGIN_MISSING),
    ("2: same origin", (), asked(origin="https://pacs.example"), None),
    ("3: *", ((ALLOW_ORIGIN, "*"),), asked(), None),
    ("3: * for null", ((ALLOW_ORIGIN, "*"),), asked(origin="null"), None),
    (
        "4: * with credentials",
        ((ALLOW_ORIGIN, "*"), WITH_CREDENTIALS),
        asked(credentials=True),
        Rule.ALLOW_ORIGIN_ANY_WITH_CREDENTIALS,
    ),
    ("4: twice", (LET_IN, LET_IN), asked(), Rule.ALLOW_ORIGIN_SEVERAL),
    ("4: twice *", ((ALLOW_ORIGIN, "*"),) * 2, asked(), Rule.ALLOW_ORIGIN_SEVERAL),
    ("4: a list", ((ALLOW_ORIGIN, f"{VIEWER} x"),), asked(), Rule.ALLOW_ORIGIN_SEVERAL),
    ("4: empty", ((ALLOW_ORIGIN, ""),), asked(), Rule.ALLOW_ORIGIN_OTHER),
    ("4: capitals", ((ALLOW_ORIGIN, VIEWER.title()),), asked(), Rule.ALLOW_ORIGIN_OTHER),
    ("4: a slash", ((ALLOW_ORIGIN, f"{VIEWER}/"),), asked(), Rule.ALLOW_ORIGIN_OTHER),
    ("4: null", ((ALLOW_ORIGIN, "null"),), asked(), Rule.ALLOW_ORIGIN_OTHER),
    ("5: the origin", (LET_IN,), asked(), None),
    ("5: null for null", ((ALLOW_ORIGIN, "null"),), asked(origin="null"), None),
    ("7: credentials", (LET_IN, WITH_CREDENTIALS), asked(credentials=True), None),
    ("8: none", (LET_IN,), asked(credentials=True), Rule.CREDENTIALS_NOT_ALLOWED),
    (
        "8: capitals",
        (LET_IN, (ALLOW_CREDENTIALS, "True")),
        asked(credentials=True),
        Rule.CREDENTIALS_NOT_ALLOWED,
    ),
    (
        "8: twice",
        (LET_IN, WITH_CREDENTIALS, WITH_CREDENTIALS),
        asked(credentials=True),
        Rule.CREDENTIALS_NOT_ALLOWED,
    ),
]


@pytest.mark.parametrize(
    ("number", "headers", "request_", "rule"), CORS_CHECK, ids=[row[0] for row in CORS_CHECK]
)
def test_cors_check(number: str, headers: Headers, request_: Request, rule: Rule | None) -> None:
    place = (rule, f"CORS check {number.partition(':')[0]}") if rule else None
    for status in (200, 302, 404, 500):
        assert broken(judge(request_, Response(status, headers))) == place
    if request_.is_cross_origin:
        assert broken(judge_preflight(request_, Response(204, headers))) == place


# CORS-preflight fetch


PREFLIGHT: list[tuple[str, int, Headers, Request, Rule | None]] = [
    ("7: 200", 200, (), asked(), None),
    ("7: 299", 299, (), asked(), None),
    ("7: 199", 199, (), asked(), Rule.PREFLIGHT_STATUS),
    ("7: 304", 304, (), asked(), Rule.PREFLIGHT_STATUS),
    ("7: 401", 401, (), asked(), Rule.PREFLIGHT_STATUS),
    ("7: 301 to nowhere", 301, (), asked(), Rule.PREFLIGHT_STATUS),
    ("7: 308", 308, (("Location", "/"),), asked(), Rule.PREFLIGHT_REDIRECTED),
    ("7.3: methods", 204, ((ALLOW_METHODS, "GET POST"),), asked(), Rule.ALLOW_METHODS_MALFORMED),
    ("7.3: headers", 204, ((ALLOW_HEADERS, "a;b"),), asked(), Rule.ALLOW_HEADERS_MALFORMED),
    ("7.3: an empty element", 204, ((ALLOW_METHODS, "PUT, ,"),), asked("PUT"), None),
    ("7.5: safelisted", 204, ((ALLOW_METHODS, "PUT"),), asked("POST"), None),
    ("7.5: listed", 204, ((ALLOW_METHODS, "PUT,DELETE"),), asked("DELETE"), None),
    ("7.5: not listed", 204, (), asked("DELETE"), Rule.METHOD_NOT_ALLOWED),
    ("7.5: case", 204, ((ALLOW_METHODS, "PATCH"),), asked("patch"), Rule.METHOD_NOT_ALLOWED),
    ("7.5: *", 204, ((ALLOW_METHODS, "*"),), asked("DELETE"), None),
    (
        "7.5: * with credentials",
        204,
        ((ALLOW_METHODS, "*"), WITH_CREDENTIALS),
        asked("DELETE", credentials=True),
        Rule.METHOD_NOT_ALLOWED,
    ),
    ("7.6: named", 204, ((ALLOW_HEADERS, "*, AUTHORIZATION"),), asked("GET", LOGIN), None),
    (
        "7.6: *",
        204,
        ((ALLOW_HEADERS, "*"),),
        asked("GET", LOGIN, QUOTED),
        Rule.AUTHORIZATION_NOT_NAMED,
    ),
    ("7.7: listed", 204, ((ALLOW_HEADERS, "X-A,Accept"),), asked("GET", QUOTED), None),
    (
        "7.7: on two lines",
        204,
        ((ALLOW_HEADERS, "X-A"), (ALLOW_HEADERS, "accept")),
        asked("GET", QUOTED, ("x-a", "1")),
        None,
    ),
    ("7.7: *", 204, ((ALLOW_HEADERS, "*"),), asked("GET", QUOTED), None),
    ("7.7: safelisted", 204, (), asked("GET", ("Accept", "*/*")), None),
    ("7.7: none", 204, (), asked("GET", QUOTED), Rule.HEADER_NOT_ALLOWED),
    (
        "7.7: * with credentials",
        204,
        ((ALLOW_HEADERS, "*"), WITH_CREDENTIALS),
        asked("GET", QUOTED, credentials=True),
        Rule.HEADER_NOT_ALLOWED,
    ),
]


@pytest.mark.parametrize(
    ("number", "status", "headers", "request_", "rule"),
    PREFLIGHT,
    ids=[row[0] for row in PREFLIGHT],
)
def test_preflight(
    number: str, status: int, headers: Headers, request_: Request, rule: Rule | None
) -> None:
    place = (rule, f"CORS-preflight fetch {number.partition(':')[0]}") if rule else None
    assert broken(judge_preflight(request_, Response(status, (*headers, LET_IN)))) == place


def test_names_that_are_lacking() -> None:
    request = asked("GET", LOGIN, QUOTED, ("X-A", "1"))
    assert lacking_names(request, Response(204, ((ALLOW_HEADERS, "x-a"),))) == (
        "accept",
        "authorization",
    )
    assert lacking_names(request, Response(204, ((ALLOW_HEADERS, "*"),))) == ("authorization",)
    with pytest.raises(ValueError, match="access-control-allow-headers is not a list"):
        lacking_names(request, Response(204, ((ALLOW_HEADERS, "a b"),)))


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ((), 5),
        (("600",), 600),
        (("0600",), 600),
        (("0" * 5000,), 0),
        (("9" * 5000,), 2**31),
        (("4294967296",), 2**31),
        (("0",), 0),
        (("-1",), 5),
        (("1.5",), 5),
        (("",), 5),
        (("10 minutes",), 5),
        (("600", "600"), 5),
        (("٣",), 5),
    ],
)
def test_max_age(values: tuple[str, ...], seconds: int) -> None:
    """CORS-preflight fetch, steps 7.8 and 7.9."""
    assert max_age(Response(204, tuple((MAX_AGE, value) for value in values))) == seconds


# What scripts see of a response


@pytest.mark.parametrize(
    ("name", "lines", "changes", "seen"),
    [
        ("content-length", (), {}, True),
        ("content-range", (), {}, False),
        ("content-range", ("ETag, Content-Range",), {}, True),
        ("content-range", ("etag", "content-range"), {}, True),
        ("content-range", ("*",), {}, True),
        ("content-range", ("*",), {"credentials": True}, False),
        ("content-range", ("content-range; etag",), {}, False),
        ("content-range", (), {"origin": "https://pacs.example"}, True),
        ("set-cookie", ("*",), {}, False),
        ("set-cookie", (), {"origin": "https://pacs.example"}, False),
    ],
)
def test_exposed_headers(
    name: str, lines: tuple[str, ...], changes: dict[str, Any], *, seen: bool
) -> None:
    """CORS-safelisted response-header name; main fetch, step 14."""
    answer = Response(206, tuple((EXPOSE_HEADERS, line) for line in lines))
    assert exposes(asked(**changes), answer, name) is seen


# HTTP-redirect fetch


def redirect(location: str, status: int = 302) -> Response:
    return Response(status, (("Location", location), LET_IN))


@pytest.mark.parametrize(
    "answer", [Response(200), Response(304), Response(302), redirect("/a", 300)]
)
def test_no_redirect(answer: Response) -> None:
    assert follow(asked(), answer) is None


@pytest.mark.parametrize(
    ("location", "changes", "place"),
    [
        ("file:///tmp", {}, (Rule.REDIRECT_NOT_HTTP, "HTTP-redirect fetch 6")),
        ("data:,a", {}, (Rule.REDIRECT_NOT_HTTP, "HTTP-redirect fetch 6")),
        ("https://[", {}, (Rule.REDIRECT_NOT_HTTP, "HTTP-redirect fetch 6")),
        ("https://a:b/", {}, (Rule.REDIRECT_NOT_HTTP, "HTTP-redirect fetch 6")),
        ("http://:80/", {}, (Rule.REDIRECT_NOT_HTTP, "HTTP-redirect fetch 6")),
        ("/", {"redirects": MAX_REDIRECTS}, (Rule.REDIRECT_LOOP, "HTTP-redirect fetch 7")),
        (
            "https://a:b@pacs.example/",
            {},
            (Rule.REDIRECT_WITH_CREDENTIALS, "HTTP-redirect fetch 10"),
        ),
        (
            "https://a@pacs.example/",
            {"origin": "https://pacs.example", "tainted": True},
            (Rule.REDIRECT_WITH_CREDENTIALS, "HTTP-redirect fetch 10"),
        ),
    ],
)
def test_redirects_that_are_not_followed(
    location: str, changes: dict[str, Any], place: tuple[Rule, str]
) -> None:
    step = follow(asked(**changes), redirect(location))
    assert isinstance(step, Step)
    assert broken(step) == place


HERE, THERE = "https://pacs.example", "https://other.example"
BODY = (("Content-Type", "application/dicom"), ("Content-Language", "de"))


@pytest.mark.parametrize(
    ("request_", "location", "status", "following"),
    [
        (asked(), "/b", 302, {"url": f"{HERE}/b"}),
        (asked("GET", LOGIN), "b?c", 307, {"url": f"{ROOT}/b?c"}),
        (asked(), f"{HERE}:443/", 308, {"url": f"{HERE}:443/"}),
        (asked("GET", LOGIN), THERE, 302, {"url": THERE, "origin": "null", "headers": ()}),
        (
            asked("GET", LOGIN, url=f"{VIEWER}/a"),
            THERE,
            302,
            {"url": THERE, "headers": (), "tainted": False},
        ),
        (asked("GET", url=f"{VIEWER}/a"), "https://a@viewer.example/", 302,
            {"url": "https://a@viewer.example/", "tainted": False}),
        (asked("POST", *BODY, QUOTED), "/", 301,
            {"url": f"{HERE}/", "method": "GET", "headers": (QUOTED,)}),
        (asked("DELETE", *BODY), "/", 303,
            {"url": f"{HERE}/", "method": "GET", "headers": ()}),
        (asked("HEAD"), "/", 303, {"url": f"{HERE}/"}),
        (asked("POST", *BODY), "/", 307, {"url": f"{HERE}/"}),
        (asked("DELETE"), "/", 302, {"url": f"{HERE}/"}),
    ],
)  # fmt: skip
def test_redirects(
    request_: Request, location: str, status: int, following: dict[str, Any]
) -> None:
    """HTTP-redirect fetch, steps 12 to 14; serializing a request origin."""
    expected = replace(request_, **{"tainted": True, "redirects": 1} | following)
    assert follow(request_, redirect(location, status)) == expected


@given(st.lists(st.sampled_from(["/a", VIEWER, HERE, THERE, "http://viewer.example"]), min_size=1))
def test_redirects_end_and_keep_their_taint(locations: list[str]) -> None:
    request = asked("GET", LOGIN)
    for number in range(100):
        following = follow(request, redirect(locations[number % len(locations)]))
        if isinstance(following, Step):
            break
        assert following
        assert following.is_cross_origin
        assert following.origin in (request.origin, "null")
        assert set(following.headers) <= set(request.headers)
        request = following
    assert request.redirects == MAX_REDIRECTS


# Lists, origins


@given(st.lists(st.sampled_from(["a", "*", "X-A", "", " b\t"]), max_size=6), st.data())
def test_a_list_may_stand_on_any_number_of_lines(elements: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(elements)))
    lines = [",".join(part) for part in (elements[:cut], elements[cut:])]
    answer = Response(200, tuple(("A", line) for line in lines))
    assert combined(answer, "a") == ", ".join(lines)
    assert listed(answer, "a") == [text for element in elements if (text := element.strip())]
    assert listed(answer, "b") is None


@given(test_cors.origins.map(str).filter(lambda text: text.startswith("http")), st.booleans())
def test_a_url_has_the_origin_that_browsers_write(origin: str, named: bool) -> None:
    default = {"http": ":80", "https": ":443"}[origin.partition(":")[0]]
    authority = origin.partition("://")[2].rpartition("]")[2]
    port = default if named and ":" not in authority else ""
    assert origin_of(f"{origin.upper()}{port}/a?b#c") == origin


# Our own engine, judged


@given(st.lists(test_cors.configurations(), min_size=1, max_size=3), test_cors.requests, st.data())
def test_what_our_engine_grants_passes_and_what_it_refuses_does_not(
    configurations: list[dict[str, Any]], request: test_cors.Request, data: st.DataObject
) -> None:
    """Two readings of the standard, the other written with the engine's tests, agree."""
    engine = CORSEngine(
        [CompiledPolicy.compile(PolicyOptions(**keys), "cors") for keys in configurations]
    )
    values = {"accept": '"', "authorization": "a", "x-a": "a", "range": "bytes=-1"}
    mine = Request(
        request.method,
        f"{ROOT}/studies",
        request.origin,
        tuple((name, values[name]) for name in sorted(request.headers)),
        credentials=request.include_credentials,
    )
    lines = data.draw(test_cors.as_gateways_pass_it(test_cors.written(mine.unsafe_names)))
    granted = engine.preflight(request.origin.encode(), request.method.encode(), lines)
    preflight = Response(granted.status, text(granted.headers))
    answer = Response(404, text(engine.decide(request.origin.encode()).headers))

    passed = judge_preflight(mine, preflight) is None and judge(mine, answer) is None
    assert passed is test_cors.browser_lets_through(engine, request, lines)
    if granted.allowed and (
        not mine.credentials or ALLOW_CREDENTIALS.lower() in dict(preflight.headers)
    ):
        assert passed


def text(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    return tuple((name.decode(), value.decode()) for name, value in headers)
