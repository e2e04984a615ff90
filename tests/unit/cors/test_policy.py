from __future__ import annotations

import gc
import ipaddress
import re
import sys
import tracemalloc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicomweb_cors_proxy.cors import origins as cors_policy
from dicomweb_cors_proxy.cors.engine import (
    CACHED_ORIGINS,
    CACHED_PREFLIGHTS,
    MAX_PREFLIGHT_BYTES,
    CORSEngine,
)
from dicomweb_cors_proxy.cors.options import PolicyOptions
from dicomweb_cors_proxy.cors.origins import Origin, OriginPattern
from dicomweb_cors_proxy.cors.policy import (
    MAX_EMPTY_ELEMENTS,
    MAX_REQUEST_HEADERS,
    CompiledPolicy,
    Decision,
    PreflightDecision,
)
from dicomweb_cors_proxy.cors.problems import PolicyError, PolicyIssue
from dicomweb_cors_proxy.cors.validation import policy_warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dicomweb_cors_proxy.http.messages import Header

VIEWER: Final = "https://viewer.example"
ORIGIN: Final = VIEWER.encode()
VARY: Final = (
    b"vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)

DEFAULTS: Final[dict[str, Any]] = {
    "allow_origins": [VIEWER],
    "allow_methods": ["GET", "HEAD"],
    "allow_headers": ["accept", "authorization", "Range"],
    "expose_headers": ["Content-Range", "etag"],
    "max_age": 7200,
    "allow_credentials": False,
    "dangerously_allow_insecure_origins": False,
}


def options(**changes: Any) -> PolicyOptions:  # noqa: ANN401 (each key has its type)
    return PolicyOptions(**{**DEFAULTS, **changes})


def policy(**changes: Any) -> CompiledPolicy:  # noqa: ANN401 (each key has its type)
    return CompiledPolicy.compile(options(**changes), "cors")


def problems(**changes: Any) -> tuple[PolicyIssue, ...]:  # noqa: ANN401
    with pytest.raises(PolicyError) as caught:
        policy(**changes)
    return caught.value.problems


# Origins as browsers write them


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("https://viewer.example", Origin("https", "viewer.example")),
        ("http://viewer.example:8080", Origin("http", "viewer.example", 8080)),
        ("http://viewer.example:443", Origin("http", "viewer.example", 443)),
        ("https://viewer.example:65535", Origin("https", "viewer.example", 65535)),
        ("https://viewer.example.", Origin("https", "viewer.example.")),
        ("https://a_b.xn--mnchen-3ya.example", Origin("https", "a_b.xn--mnchen-3ya.example")),
        ("http://127.0.0.1:3000", Origin("http", "127.0.0.1", 3000)),
        ("http://[2001:db8::1]:3000", Origin("http", "[2001:db8::1]", 3000)),
        ("https://1.2.3.4.example", Origin("https", "1.2.3.4.example")),
        ("chrome-extension://abcdef", Origin("chrome-extension", "abcdef")),
        ("app://-", Origin("app", "-")),
    ],
)
def test_origin(value: str, origin: Origin) -> None:
    assert Origin.parse(value.encode()) == origin
    assert str(origin) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "null",
        "viewer.example",
        "https://",
        "https://viewer.example/",
        "https://viewer.example:443",
        "http://viewer.example:80",
        "https://viewer.example:",
        "https://viewer.example:0",
        "https://viewer.example:08",
        "https://viewer.example:65536",
        "https://Viewer.example",
        "HTTPS://viewer.example",
        "https://user@viewer.example",
        "https://viewer..example",
        "https://.viewer.example",
        "https://viewer.example..",
        "https://münchen.example",
        "https://viewer.example, https://viewer.example",
        " https://viewer.example",
        "https://viewer.example\n",
        "https://viewer.example\0",
        "http://127.1",
        "http://127.0.0.1.",
        "http://127.0.0.01",
        "http://1.2.3.4.5",
        "http://0x7f000001",
        "http://[::0:1]",
        "http://[2001:DB8::1]",
        "http://[::ffff:1.2.3.4]",
        "http://[::ffff:102:304]",
        "http://[fe80::1%eth0]",
        "http://[::1",
        "http://[::1]x",
        f"https://{'a' * 64}.example",
        f"https://{'a.' * 127}a",
        f"{'a' * 65}://viewer",
    ],
)
def test_no_origin(value: str) -> None:
    assert Origin.parse(value.encode()) is None


labels = st.from_regex(r"(?!xn--)[a-z0-9_-]{1,12}", fullmatch=True) | st.just("xn--mnchen-3ya")
dns_names = (
    st.lists(labels, min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda name: not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", name.rpartition(".")[2]))
)
hosts = (
    dns_names
    | st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6)
    .filter(lambda ip: not ipaddress.IPv6Address(ip).ipv4_mapped)
    .map(lambda ip: f"[{ip}]")
)
ports = st.none() | st.integers(1, 65535).filter(lambda port: port not in {80, 443})
origins = st.builds(Origin, st.sampled_from(["http", "https", "app"]), hosts, ports)


@given(origins)
def test_an_origin_is_read_back_and_is_its_own_pattern(origin: Origin) -> None:
    assert Origin.parse(str(origin).encode()) == origin
    pattern = OriginPattern.parse(str(origin))
    assert str(pattern) == str(origin)
    assert pattern.matches(origin)


@given(st.binary(max_size=40) | st.text(":/.*[]az09-", max_size=20).map(str.encode))
def test_an_origin_has_one_serialisation(value: bytes) -> None:
    origin = Origin.parse(b"https://" + value)
    assert origin is None or str(origin).encode() == b"https://" + value


# Origin patterns


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        (
            "https://viewer.example",
            ["https://viewer.example"],
            ["http://viewer.example", "https://viewer.example:8443", "https://a.viewer.example"],
        ),
        (
            "https://*.example.edu",
            ["https://a.example.edu", "https://a.b.example.edu"],
            [
                "https://example.edu",
                "https://evilexample.edu",
                "https://a.example.edu.evil",
                "https://a.example.edu.",
                "https://a-example.edu",
                "http://a.example.edu",
                "https://a.example.edu:8443",
            ],
        ),
        (
            "https://*--viewer.netlify.app",
            [
                "https://deploy-preview-12--viewer.netlify.app",
                "https://0123456789abcdef--viewer.netlify.app",
                "https://a--b--viewer.netlify.app",
            ],
            [
                "https://--viewer.netlify.app",
                "https://viewer.netlify.app",
                "https://a-viewer.netlify.app",
                "https://a--evilviewer.netlify.app",
                "https://a--viewer-evil.netlify.app",
                "https://evil.a--viewer.netlify.app",
                "https://evil.--viewer.netlify.app",
                "https://a--viewer.netlify.app.evil",
                "https://a--viewer.netlify.app.",
                "https://a--viewer.evil.app",
                "https://a--viewer.netlify.app:8443",
                "http://a--viewer.netlify.app",
            ],
        ),
        (
            "https://pr-*-viewer.example.edu:*",
            ["https://pr-1-viewer.example.edu", "https://pr-a-b-viewer.example.edu:8443"],
            ["https://pr--viewer.example.edu", "https://pr-viewer.example.edu"],
        ),
        ("https://viewer--*.web.app", ["https://viewer--pr1.web.app"], ["https://viewer.web.app"]),
        ("http://*-x.a.localhost", ["http://1-x.a.localhost"], ["http://1-y.a.localhost"]),
        (
            "http://localhost:*",
            ["http://localhost", "http://localhost:3000"],
            ["https://localhost", "http://localhost.evil", "http://a.localhost:3000"],
        ),
        (
            "https://*.example.edu:*",
            ["https://a.example.edu", "https://a.b.example.edu:8443"],
            ["https://example.edu:8443", "http://a.example.edu:8443"],
        ),
        ("http://[::1]:*", ["http://[::1]", "http://[::1]:3000"], ["http://[::2]:3000"]),
        ("app://viewer", ["app://viewer"], ["https://viewer", "app://a.viewer"]),
        ("app://xn--f", ["app://xn--f"], ["https://xn--f"]),  # names of apps are not converted
        ("https://xn--i-7iq.ws", ["https://xn--i-7iq.ws"], []),  # of an emoji
    ],
)
def test_pattern(pattern: str, matched: list[str], others: list[str]) -> None:
    compiled = policy(allow_origins=[pattern])
    assert str(OriginPattern.parse(pattern)) == pattern
    assert [origin for origin in matched + others if compiled.allows_origin(origin.encode())] == (
        matched
    )


@given(dns_names.filter(lambda name: len(name) < 50), labels, ports)
def test_subdomains_of_a_domain_are_nothing_else(domain: str, label: str, port: int | None) -> None:
    pattern = OriginPattern("https", domain, port, any_subdomain=True)
    assert OriginPattern.parse(str(pattern)) == pattern
    assert pattern.matches(Origin("https", f"{label}.{domain}", port))
    assert pattern.matches(Origin("https", f"{label}.{label}.{domain}", port))
    for origin in (
        Origin("https", domain, port),
        Origin("https", label + domain, port),
        Origin("https", f"{label}-{domain}", port),
        Origin("https", f"{label}.{domain}.", port),
        Origin("https", f"{label}.{domain}.longer-than-any-label", port),
        Origin("http", f"{label}.{domain}", port),
        Origin("https", f"{label}.{domain}", 444 if port is None else None),
    ):
        assert not pattern.matches(origin), origin


@given(labels.filter(lambda label: len(label) < 50), labels, ports)
def test_a_star_in_a_label_is_a_part_of_that_label(site: str, part: str, port: int | None) -> None:
    pattern = OriginPattern("https", "example.edu", port, label=("", f"--{site}"))
    assert OriginPattern.parse(str(pattern)) == pattern
    assert pattern.matches(Origin("https", f"{part}--{site}.example.edu", port))
    for host in (
        f"--{site}.example.edu",
        f"{site}.example.edu",
        f"{part}--{site}x.example.edu",
        f"{part}.x--{site}.example.edu",
        f"{part}--{site}.{part}.example.edu",
        f"{part}--{site}.evil-example.edu",
        f"{part}--{site}.example.edu.evil",
    ):
        assert not pattern.matches(Origin("https", host, port)), host


@pytest.mark.parametrize(
    ("text", "fault", "written"),
    [
        ("viewer.example", "no scheme", "https://viewer.example"),
        ("//viewer.example", "no scheme", "https://viewer.example"),
        ("https//viewer.example", "no :// behind the scheme", "https://viewer.example"),
        ("http:/viewer.example", "no :// behind the scheme", "http://viewer.example"),
        ("https:viewer.example", "no :// behind the scheme", "https://viewer.example"),
        ("*.example.edu", "no scheme", "https://*.example.edu"),
        ("localhost:3000", "no scheme", "http://localhost:3000"),
        ("127.0.0.1:3000", "no scheme", "http://127.0.0.1:3000"),
        ("https://viewer.example/", "a trailing slash", VIEWER),
        ("https://viewer.example/ohif", "a path", VIEWER),
        ("https://viewer.example\\ohif", "a path", VIEWER),
        ("https://viewer.example?a", "a query", VIEWER),
        ("https://viewer.example#a", "a fragment", VIEWER),
        ("https://user:secret@viewer.example", "user information", VIEWER),
        ("https://Viewer.example", "upper-case letters", VIEWER),
        ("HTTPS://viewer.example", "upper-case letters", VIEWER),
        (" https://viewer.example", "white space around it", VIEWER),
        ("https://münchen.example", "a Unicode host", "https://xn--mnchen-3ya.example"),
        ("https://*.straße.example", "a Unicode host", "https://*.xn--strae-oqa.example"),
        ("https://viewer.example:443", "the default port of https", VIEWER),
        ("http://viewer.example:80", "the default port of http", "http://viewer.example"),
        ("https://viewer.example:08443", "a port with leading zeros", f"{VIEWER}:8443"),
        ("http://[0:0::1]", "an IPv6 address that is not in its shortest form", "http://[::1]"),
        (
            "HTTPS://Viewer.example:443/",
            "upper-case letters, a trailing slash and the default port of https",
            VIEWER,
        ),
    ],
)
def test_a_pattern_that_never_matches_is_corrected(text: str, fault: str, written: str) -> None:
    assert problems(allow_origins=[text]) == (
        PolicyIssue(
            "allow_origins",
            text,
            f"has {fault}, so no browser's Origin equals it; write {written}",
        ),
    )
    assert str(OriginPattern.parse(written)) == written


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("null", "browsers send null"),
        ("null", "allow any origin by a plain *"),
        ("file:///srv/viewer", "browsers send null"),
        ("file://", "some apps send file://"),
        ("FILE:", "some apps send file://"),
        ("app://", "as in app://localhost, and list that origin; or, if pages send no cookies"),
        ("app:", "has no host"),
        ("app:///", "has no host"),
        ("capacitor://", "as in capacitor://localhost"),
        ("ionic:", "as in ionic://localhost"),
        ("x-viewer://", "as in x-viewer://localhost"),
        ("viewer:", "has an invalid port"),
        ("ftp://", "has a scheme that no page has"),
        ("https://\udcff.example", "has a Unicode host; write it in Punycode"),
        ("https://☃.example", "has a Unicode host; write it in Punycode"),
        ("", "has no scheme and has an invalid host"),
        *(
            (f"{written}{label}", "begins with xn-- and is no valid Punycode")
            for written in ("http://", "https://*.", "https://a.", "")
            for label in (
                "xn--f",  # ends in the middle of a number
                "xn--",  # of nothing
                "xn--abc-",  # of ASCII
                "xn--a-ecp",  # of a digit with a full stop, U+2488
                "xn--mnchen-psa",  # of a capital letter, which browsers make a small one
                "xn--rt99p",  # of a number beyond Unicode
            )
        ),
        ("https://", "has an invalid host"),
        ("https://viewer example", "has an invalid host"),
        ("https://viewer..example", "has an invalid host"),
        (f"https://{'a' * 64}.example", "has an invalid host"),
        ("https://*.", "has an invalid host"),
        (f"https://*.{'a.' * 125}aa", "has an invalid host"),
        ("https://*.10.0.0.1", "has an invalid host"),
        ("https://*.[::1]", "has an invalid host"),
        ("http://127.1", "has an invalid host"),
        ("http://010.0.0.1", "has an invalid host"),
        ("http://::1", "has an invalid host"),
        ("http://[::1", "has an invalid host"),
        ("http://[fe80::1%25eth0]", "has an invalid host"),
        ("http://[::ffff:127.0.0.1]", "has an invalid host"),
        ("https://viewer.example:", "has an invalid port"),
        ("https://viewer.example:http", "has an invalid port"),
        ("https://viewer.example:0", "has an invalid port"),
        ("https://viewer.example:65536", "has an invalid port"),
        ("https://viewer.example:٣", "has an invalid port"),
        ("https://viewer.example:" + "9" * 5000, "has an invalid port"),
        ("https://*", "has a wildcard in a wrong place"),
        ("https://*example.edu", "below edu, where anyone can register a name that matches"),
        ("https://*--viewer.com", "below com, where anyone can register a name that matches"),
        ("https://*--viewer.co.uk", "below co.uk, where anyone can register a name that matches"),
        ("https://*--viewer.unlisted", "anyone can register a name that matches"),
        ("https://*viewer.netlify.app", "below netlify.app, where anyone can choose a name"),
        ("https://*-viewer.netlify.app", "only a part that -- separates may vary"),
        ("https://viewer-*-team.vercel.app", "only a part that -- separates may vary"),
        ("https://viewer*.github.io", "only a part that -- separates may vary"),
        ("https://*-*--viewer.netlify.app", "has a wildcard in a wrong place"),
        ("https://a.*--viewer.netlify.app", "has a wildcard in a wrong place"),
        ("https://xn--*.example.edu", "has a wildcard in a wrong place"),
        ("https://*--ü.example.edu", "has a wildcard in a wrong place"),
        (f"https://*{'a' * 63}.example.edu", "has an invalid host"),
        ("https://*1.0.0.1", "has an invalid host"),
        ("app://*--v.viewer.example", "has a wildcard, which only http and https may have"),
        ("https://viewer.*.edu", "has a wildcard in a wrong place"),
        ("https://viewer.*", "has a wildcard in a wrong place"),
        ("https://**.example.edu", "has a wildcard in a wrong place"),
        ("https://viewer.example:80*", "has a wildcard in a wrong place"),
        ("*://viewer.example", "has a scheme that no page has"),
        ('"https://viewer.example"', "has quotes or brackets around it: leave them out"),
        ("[https://viewer.example]", "has quotes or brackets around it: leave them out"),
        ("https://a.example, https://b.example", "has several origins; give each an entry"),
        ("https://a.example;https://b.example", "has several origins; give each an entry"),
        ("wss://viewer.example", "has a scheme that no page has"),
        ("app://*.viewer", "has a wildcard, which only http and https may have"),
        ("app://viewer:*", "has a wildcard, which only http and https may have"),
    ],
)
def test_a_pattern_beyond_mending_is_refused(text: str, reason: str) -> None:
    (problem,) = problems(allow_origins=[text])
    assert (problem.key, problem.value) == ("allow_origins", text)
    assert reason in problem.reason


@given(
    st.tuples(
        st.sampled_from(["", " ", "https://", "HTTP://", "app://", "file://", "//", "http://u@"]),
        st.sampled_from(["", "", "*.", "*"]),
        hosts | st.sampled_from(["V.example", "ü.example", "[0:0::1]"]) | st.text("a.:[]*/"),
        st.sampled_from(["", "", ":", ":*", ":0", ":80", ":0443", ":8080", ":99999"]),
        st.sampled_from(["", "", "/", "/a", "?a", "#a", "\n"]),
    ).map("".join)
)
@example("https://*.")
def test_a_pattern_is_canonical_or_its_correction_is(text: str) -> None:
    try:
        assert str(OriginPattern.parse(text)) == text
    except PolicyError as error:
        (problem,) = error.problems
        _, corrected, written = problem.reason.partition("; write ")
        if corrected and "Punycode" not in written:
            assert str(OriginPattern.parse(written)) == written


# Configuration


@pytest.mark.parametrize(
    ("changes", "key", "value", "reason"),
    [
        ({"allow_origins": []}, "allow_origins", "[]", "has no origin"),
        ({"allow_methods": [""]}, "allow_methods", "", "is not a method"),
        ({"allow_methods": ["GET,PUT"]}, "allow_methods", "GET,PUT", "is not a method"),
        ({"allow_methods": ["MÉTHODE"]}, "allow_methods", "MÉTHODE", "is not a method"),
        # As undecodable bytes of the environment arrive.
        ({"allow_methods": ["\udcff"]}, "allow_methods", "\udcff", "is not a method"),
        ({"allow_methods": ["CONNECT"]}, "allow_methods", "CONNECT", "leave it out"),
        ({"allow_methods": ["Trace"]}, "allow_methods", "Trace", "leave it out"),
        ({"allow_methods": ["TRACK"]}, "allow_methods", "TRACK", "leave it out"),
        ({"allow_methods": ["get"]}, "allow_methods", "get", "case-sensitive; write GET"),
        ({"allow_methods": ["Patch"]}, "allow_methods", "Patch", "case-sensitive; write PATCH"),
        ({"allow_headers": ["a b"]}, "allow_headers", "a b", "is not a header name"),
        ({"allow_headers": ["Cookie"]}, "allow_headers", "Cookie", "browsers do not let pages set"),
        ({"allow_headers": ["HOST"]}, "allow_headers", "HOST", "browsers do not let pages set"),
        ({"allow_headers": ["Sec-A"]}, "allow_headers", "Sec-A", "browsers do not let pages set"),
        (
            {"allow_headers": ["proxy-a"]},
            "allow_headers",
            "proxy-a",
            "browsers do not let pages set",
        ),
        (
            {"allow_headers": ["Access-Control-Allow-Origin"]},
            "allow_headers",
            "Access-Control-Allow-Origin",
            "the proxy sends it by itself; leave it out",
        ),
        ({"allow_headers": ["ETag"]}, "allow_headers", "ETag", "move it to expose_headers"),
        ({"expose_headers": ["é"]}, "expose_headers", "é", "is not a header name"),
        ({"expose_headers": ["Set-Cookie"]}, "expose_headers", "Set-Cookie", "leave it out"),
        ({"expose_headers": ["set-cookie2"]}, "expose_headers", "set-cookie2", "leave it out"),
        (
            {"expose_headers": ["*"], "allow_credentials": True},
            "expose_headers",
            "*",
            "list the headers by name",
        ),
        (
            {"allow_origins": ["*"], "allow_credentials": True},
            "allow_origins",
            "*",
            "list the viewers' origins",
        ),
        ({"max_age": -2}, "max_age", "-2", "is outside -1..86400"),
        ({"max_age": 86401}, "max_age", "86401", "is outside -1..86400"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], key: str, value: str, reason: str) -> None:
    (problem,) = problems(**changes)
    assert (problem.key, problem.value) == (key, value)
    assert reason in problem.reason


def test_all_problems_are_reported_at_once_and_repeats_once() -> None:
    with pytest.raises(PolicyError) as caught:
        policy(
            allow_origins=["null", "null", VIEWER, "*", "http://a.example", "https://*.com"],
            allow_methods=["get", "get", "TRACE"],
            allow_headers=["Cookie", "ETag"],
            expose_headers=["*", "Set-Cookie"],
            max_age=-5,
            allow_credentials=True,
        )
    assert [(problem.key, problem.value) for problem in caught.value.problems] == [
        ("allow_origins", "null"),
        ("allow_origins", "*"),
        ("allow_origins", "http://a.example"),
        ("allow_origins", "https://*.com"),
        ("allow_methods", "get"),
        ("allow_methods", "TRACE"),
        ("allow_headers", "Cookie"),
        ("allow_headers", "ETag"),
        ("expose_headers", "*"),
        ("expose_headers", "Set-Cookie"),
        ("max_age", "-5"),
    ]
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    assert "allow_methods: 'get' is never sent" in str(caught.value)


SECURE = [
    "https://viewer.example",
    "http://localhost:3000",
    "http://localhost.:3000",
    "http://a.b.localhost",
    "http://*.localhost:*",
    "http://127.0.0.1:*",
    "http://127.255.0.1",
    "http://[::1]:3000",
    "app://viewer",
]
INSECURE = [
    "http://viewer.example",
    "http://*.example.edu",
    "http://notlocalhost",
    "http://localhost.example",
    "http://127.0.0.1.example",
    "http://128.0.0.1",
    "http://[::2]",
]


def test_plain_http_with_credentials_is_for_this_machine_alone() -> None:
    found = problems(allow_origins=SECURE + INSECURE, allow_credentials=True)
    assert [problem.value for problem in found] == INSECURE
    assert "dangerously_allow_insecure_origins" in found[0].reason
    policy(allow_origins=INSECURE, allow_credentials=True, dangerously_allow_insecure_origins=True)
    policy(allow_origins=INSECURE)


def test_all_of_a_public_suffix_with_credentials_is_refused() -> None:
    public = [
        "https://*.com",
        "https://*.co.uk",
        "https://*.github.io:*",
        "https://*.github.io.",
        "https://*.ck",
        "https://*.xn--p1ai",
        "https://*.unlisted",
        "https://*--viewer.netlify.app",
    ]
    own = [
        "https://*.example.edu",
        "https://*--viewer.example.edu",
        "https://*.me.github.io",
        "https://*.localhost",
        "https://com",
    ]
    found = problems(allow_origins=public + own, allow_credentials=True)
    assert [problem.value for problem in found] == public
    assert "below co.uk, a public suffix" in found[1].reason
    # No one can switch it off with the switch for plain http.
    problems(
        allow_origins=["https://*.com"],
        allow_credentials=True,
        dangerously_allow_insecure_origins=True,
    )


def test_the_public_suffix_list_is_loaded_only_where_it_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "publicsuffixlist", None)
    cors_policy._public_suffixes.cache_clear()  # noqa: SLF001 (as on start)
    policy(allow_origins=["https://*.com"])
    policy(allow_origins=[VIEWER], allow_credentials=True)
    with pytest.raises(ImportError):
        policy(allow_origins=["https://*.com"], allow_credentials=True)


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({}, []),
        ({"allow_origins": ["*"]}, [("allow_origins", "*")]),
        ({"allow_origins": ["capacitor://localhost", "http://*.a.example"]}, []),
        ({"allow_origins": ["htpps://viewer"]}, [("allow_origins", "htpps://viewer")]),
        ({"max_age": 7201}, [("max_age", "7201")]),
        ({"allow_headers": ["authorization"]}, [("allow_headers", "accept")]),
        ({"allow_headers": ["*"]}, [("allow_headers", "*")]),
        ({"allow_headers": ["*", "Authorization"]}, []),
        ({"allow_headers": ["*"], "allow_credentials": True}, []),
        ({"expose_headers": ["etag"]}, [("expose_headers", "content-range")]),
        ({"expose_headers": ["*"]}, []),
        ({"expose_headers": [], "allow_headers": ["accept"]}, []),
        (
            {"expose_headers": [], "allow_headers": ["*", "authorization"]},
            [("expose_headers", "content-range")],
        ),
    ],
)
def test_warnings(changes: dict[str, Any], warned: list[tuple[str, str]]) -> None:
    warnings = policy_warnings(options(**changes))
    assert [(warning.key, warning.value) for warning in warnings] == warned


# Responses: these headers and nothing more

ALLOW_ORIGIN = (b"access-control-allow-origin", ORIGIN)
ALLOW_ANY_ORIGIN = (b"access-control-allow-origin", b"*")
ALLOW_CREDENTIALS = (b"access-control-allow-credentials", b"true")
EXPOSE = (b"access-control-expose-headers", b"content-range, etag")
ALLOW_METHODS = (b"access-control-allow-methods", b"GET, HEAD")
ALLOW_HEADERS = (b"access-control-allow-headers", b"accept, authorization, range")
MAX_AGE = (b"access-control-max-age", b"7200")


@pytest.mark.parametrize(
    ("changes", "origin", "decision"),
    [
        ({}, ORIGIN, Decision("allowed", (ALLOW_ORIGIN, EXPOSE), (b"Origin",))),
        ({}, None, Decision("none", (), (b"Origin",))),
        ({}, b"", Decision("none", (), (b"Origin",))),
        ({}, b"https://proxy.example", Decision("none", (), (b"Origin",))),
        ({}, b"https://evil.example", Decision("refused", (), (b"Origin",))),
        ({}, b"null", Decision("refused", (), (b"Origin",))),
        ({}, ORIGIN.upper(), Decision("refused", (), (b"Origin",))),
        ({}, ORIGIN + b" ", Decision("refused", (), (b"Origin",))),
        ({}, ORIGIN + b"\xff" * 10240, Decision("refused", (), (b"Origin",))),
        ({"expose_headers": []}, ORIGIN, Decision("allowed", (ALLOW_ORIGIN,), (b"Origin",))),
        (
            {"allow_credentials": True},
            ORIGIN,
            Decision("allowed", (ALLOW_ORIGIN, ALLOW_CREDENTIALS, EXPOSE), (b"Origin",)),
        ),
        (
            {"expose_headers": ["etag", "*"]},
            ORIGIN,
            Decision(
                "allowed",
                (ALLOW_ORIGIN, (b"access-control-expose-headers", b"*")),
                (b"Origin",),
            ),
        ),
        ({"allow_origins": ["*"]}, ORIGIN, Decision("allowed", (ALLOW_ANY_ORIGIN, EXPOSE), ())),
        (
            {"allow_origins": ["*", VIEWER]},
            b"null",
            Decision("allowed", (ALLOW_ANY_ORIGIN, EXPOSE), ()),
        ),
        ({"allow_origins": ["*"]}, None, Decision("none", (ALLOW_ANY_ORIGIN, EXPOSE), ())),
    ],
)
def test_actual_requests(changes: dict[str, Any], origin: bytes | None, decision: Decision) -> None:
    answering = CORSEngine([policy(**changes)], own_origin="https://proxy.example")
    assert replace(answering.decide(origin), reason="") == decision


def test_a_decision_is_added_to_the_headers_of_a_response() -> None:
    decision = Decision("allowed", (ALLOW_ORIGIN,), (b"Origin",))
    headers = [(b"etag", b'"1"'), (b"vary", b"Accept")]
    assert decision.added_to(headers) == [headers[0], (b"vary", b"Accept, Origin"), ALLOW_ORIGIN]


@pytest.mark.parametrize(
    ("changes", "method", "request_headers", "headers"),
    [
        ({}, "GET", [], (ALLOW_ORIGIN, ALLOW_METHODS, ALLOW_HEADERS, MAX_AGE)),
        ({}, "POST", ["accept"], (ALLOW_ORIGIN, ALLOW_METHODS, ALLOW_HEADERS, MAX_AGE)),
        (
            {"allow_methods": [], "allow_headers": [], "max_age": 0},
            "HEAD",
            [],
            (ALLOW_ORIGIN, (b"access-control-max-age", b"0")),
        ),
        (
            {"allow_methods": ["PUT", "PUT"], "allow_headers": ["Accept", "accept"], "max_age": -1},
            "PUT",
            [],
            (
                ALLOW_ORIGIN,
                (b"access-control-allow-methods", b"PUT"),
                (b"access-control-allow-headers", b"accept"),
                (b"access-control-max-age", b"0"),
            ),
        ),
        (
            {"allow_credentials": True},
            "GET",
            ["accept"],
            (ALLOW_ORIGIN, ALLOW_CREDENTIALS, ALLOW_METHODS, ALLOW_HEADERS, MAX_AGE),
        ),
        (
            {"allow_origins": ["*"], "allow_methods": ["DELETE", "*"], "allow_headers": ["*"]},
            "CHICKEN",
            ["x-a"],
            (
                ALLOW_ANY_ORIGIN,
                (b"access-control-allow-methods", b"*"),
                (b"access-control-allow-headers", b"*"),
                MAX_AGE,
            ),
        ),
        (
            {"allow_headers": ["Authorization", "x-a", "*"]},
            "GET",
            ["authorization,x-b"],
            (
                ALLOW_ORIGIN,
                ALLOW_METHODS,
                (b"access-control-allow-headers", b"*, authorization"),
                MAX_AGE,
            ),
        ),
        (
            {"allow_credentials": True, "allow_methods": ["*"], "allow_headers": ["*"]},
            "PUT",
            [" X-B ,,authorization", "x-a,x-b"],
            (
                ALLOW_ORIGIN,
                ALLOW_CREDENTIALS,
                (b"access-control-allow-methods", b"PUT"),
                (b"access-control-allow-headers", b"x-b, authorization, x-a"),
                MAX_AGE,
            ),
        ),
        (
            {"allow_credentials": True, "allow_headers": ["*"]},
            "GET",
            [],
            (ALLOW_ORIGIN, ALLOW_CREDENTIALS, ALLOW_METHODS, MAX_AGE),
        ),
    ],
)
def test_preflights_allowed(
    changes: dict[str, Any],
    method: str,
    request_headers: list[str],
    headers: tuple[Header, ...],
) -> None:
    answer = CORSEngine([policy(**changes)]).preflight(
        ORIGIN, method.encode(), [line.encode() for line in request_headers]
    )
    assert answer == PreflightDecision(allowed=True, headers=(*headers, VARY))


REFUSALS: Final[list[tuple[dict[str, Any], bytes, bytes, list[bytes], str]]] = [
    ({}, ORIGIN, b"DELETE", [], "cors.allow_methods does not list DELETE."),
    ({}, ORIGIN, b"PROPFIND", [], "cors.allow_methods does not list PROPFIND."),
    ({}, ORIGIN, b"SECRET4711", [], "cors.allow_methods does not list the page's method."),
    ({}, ORIGIN, b"get", [], "Methods are case-sensitive: the page must send GET."),
    (
        {},
        ORIGIN,
        b"secret method",
        [],
        "Access-Control-Request-Method is not a method. Send one, such as GET.",
    ),
    (
        {},
        ORIGIN,
        b"GET",
        [b"range,x-secret-2", b"content-type,x-token,1.2.3.secret"],
        "cors.allow_headers does not list these headers: content-type, x-token and 2 more",
    ),
    ({}, ORIGIN, b"GET", [b"pragma"], "cors.allow_headers does not list these headers: pragma."),
    (
        {},
        ORIGIN,
        b"GET",
        [b"x-secret-2," + b"secret" * 7],
        "does not list these headers: 2, which the browser's network panel shows.",
    ),
    ({}, ORIGIN, b"GET", [b",".join(b"x-" + bytes([c]) for c in b"abcdefghij")], "x-h and 2 more"),
    ({}, ORIGIN, b"GET", [b"accept secret"], "Access-Control-Request-Headers is malformed"),
]
ORIGIN_REFUSALS: Final = [
    (b"https://evil.example", "cors.allow_origins does not list https://evil.example."),
    (b"null", "This page's origin is null"),
    (b"file://", "This page's origin has no host"),
    (b"app://", "This page's origin has no host"),
    (b"https://", "Origin is malformed"),
    (b"secret://", "Origin is malformed"),
    (b"app://a/", "Origin is malformed"),
    (b"https://evil/secret", "Origin is malformed"),
    (b"https://" + b"secret" * 2000, "have more than 8192 bytes"),
]


@pytest.mark.parametrize(("origin", "reason"), ORIGIN_REFUSALS)
def test_a_preflight_of_an_unknown_origin_gets_403_without_cors(origin: bytes, reason: str) -> None:
    answer = CORSEngine([policy()]).preflight(origin, b"GET", [])
    assert (answer.allowed, answer.status, answer.headers) == (False, 403, (VARY,))
    assert reason in answer.reason
    assert "secret" not in answer.reason


@pytest.mark.parametrize(("origin", "reason"), ORIGIN_REFUSALS[:-1])
def test_a_request_of_an_unknown_origin_has_the_same_reason(origin: bytes, reason: str) -> None:
    decision = CORSEngine([policy()]).decide(origin)
    assert (decision.outcome, decision.headers) == ("refused", ())
    assert decision.reason == CORSEngine([policy()]).preflight(origin, b"GET", []).reason
    assert reason in decision.reason


@pytest.mark.parametrize(("changes", "origin", "method", "request_headers", "reason"), REFUSALS)
def test_preflights_refused_show_the_policy_and_repeat_no_values(
    changes: dict[str, Any],
    origin: bytes,
    method: bytes,
    request_headers: list[bytes],
    reason: str,
) -> None:
    answer = CORSEngine([policy(**changes)]).preflight(origin, method, request_headers)
    assert (answer.allowed, answer.status) == (False, 204)
    assert answer.headers == (
        ALLOW_ORIGIN,
        ALLOW_METHODS,
        ALLOW_HEADERS,
        (b"access-control-max-age", b"0"),
        VARY,
    )
    assert reason in answer.reason
    assert "secret" not in answer.reason.lower()


@pytest.mark.parametrize(
    ("changes", "method", "names", "lists"),
    [
        # A browser stops at the first thing that is lacking, so what * covers has to be listed.
        ({"allow_methods": ["*"]}, b"PUT", b"x-a", (b"*", ALLOW_HEADERS[1])),
        (
            {"allow_methods": ["*"], "allow_credentials": True},
            b"PUT",
            b"x-a",
            (b"PUT", ALLOW_HEADERS[1]),
        ),
        ({"allow_headers": ["*"]}, b"PUT", b"x-a", (ALLOW_METHODS[1], b"*")),
        (
            {"allow_headers": ["*"], "allow_credentials": True},
            b"PUT",
            b"x-a",
            (ALLOW_METHODS[1], b"x-a"),
        ),
        ({"allow_headers": ["*"]}, b"GET", b"authorization,x-a", (ALLOW_METHODS[1], b"*")),
        # No browser sends these; * must not grant them nevertheless.
        ({"allow_headers": ["*"]}, b"GET", b"secret:", (ALLOW_METHODS[1], None)),
        ({"allow_methods": ["*"]}, b"secret:", b"accept", (None, ALLOW_HEADERS[1])),
        (
            {"allow_methods": ["*"], "allow_headers": ["*"], "allow_credentials": True},
            b"a\r\nb: c",
            b"d\r\ne: f",
            (None, None),
        ),
    ],
)
def test_a_wildcard_beside_what_is_refused(
    changes: dict[str, Any], method: bytes, names: bytes, lists: tuple[bytes | None, bytes | None]
) -> None:
    answer = CORSEngine([policy(**changes)]).preflight(ORIGIN, method, [names])
    got = dict(answer.headers)
    assert (answer.allowed, answer.status) == (False, 204)
    assert got[b"access-control-max-age"] == b"0"
    assert lists == (
        got.get(b"access-control-allow-methods"),
        got.get(b"access-control-allow-headers"),
    )


def test_the_first_policy_that_allows_an_origin_answers() -> None:
    answering = CORSEngine(
        [
            policy(allow_methods=["PUT"]),
            CompiledPolicy.compile(
                options(allow_origins=["https://*.example"], allow_methods=[]), "cors.per_origin[1]"
            ),
            policy(allow_origins=["*"], expose_headers=[]),
        ]
    )
    assert answering.preflight(ORIGIN, b"PUT", []).allowed
    other = answering.preflight(b"https://other.example", b"PUT", [b"x-a"])
    assert other.reason == "cors.per_origin[1].allow_methods does not list PUT."
    headers = answering.preflight(b"https://other.example", b"GET", [b"x-a"])
    assert headers.reason.startswith("cors.per_origin[1].allow_headers does not list")
    assert answering.preflight(b"null", b"PUT", []).reason == (
        "cors.allow_methods does not list PUT."
    )
    assert answering.decide(b"null") == Decision("allowed", (ALLOW_ANY_ORIGIN,), (b"Origin",))
    # The response depends on the origin now, so one without is not served from one with.
    assert answering.decide(None) == Decision("none", (), (b"Origin",))


def test_an_own_origin_that_a_policy_allows_too_gets_its_headers() -> None:
    # A page may reach the proxy under another name than its public one.
    assert CORSEngine([policy()], own_origin=VIEWER).decide(ORIGIN).outcome == "allowed"
    assert CORSEngine([policy()]).decide(b"https://proxy.example").outcome == "refused"


# The browser's side, step by step as the Fetch standard has it


@dataclass(frozen=True)
class Request:
    origin: str
    method: str = "GET"
    headers: frozenset[str] = frozenset()  # those that need a preflight
    include_credentials: bool = False


def values(headers: Iterable[Header], name: bytes) -> list[str] | None:
    """Extract header list values; no list here has members that aren't tokens."""
    lines = [value.decode() for key, value in headers if key == name]
    members = [member.strip(" \t") for line in lines for member in line.split(",")]
    assert all(re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*", member) for member in members)
    return [member for member in members if member] if lines else None


def cors_check(request: Request, headers: Iterable[Header]) -> bool:
    got = {name: value.decode() for name, value in headers}
    origin = got.get(b"access-control-allow-origin")
    if origin is None:  # step 2
        return False
    if not request.include_credentials and origin == "*":  # step 3
        return True
    if origin != request.origin:  # step 4
        return False
    if not request.include_credentials:  # step 5
        return True
    return got.get(b"access-control-allow-credentials") == "true"  # steps 7 and 8


def preflight_passes(request: Request, answer: PreflightDecision) -> bool:
    if not (cors_check(request, answer.headers) and 200 <= answer.status <= 299):  # step 7
        return False
    methods = values(answer.headers, b"access-control-allow-methods") or []
    names = values(answer.headers, b"access-control-allow-headers") or []
    lowered = [name.lower() for name in names]
    if (  # step 7.5
        request.method not in methods
        and request.method not in {"GET", "HEAD", "POST"}
        and (request.include_credentials or "*" not in methods)
    ):
        return False
    if "authorization" in request.headers and "authorization" not in lowered:  # step 7.6
        return False
    return all(  # step 7.7
        name in lowered or ("*" in names and not request.include_credentials)
        for name in request.headers
    )


def browser_lets_through(answering: CORSEngine, request: Request, lines: Sequence[bytes]) -> bool:
    answer = answering.preflight(request.origin.encode(), request.method.encode(), lines)
    if not preflight_passes(request, answer):
        return False
    return cors_check(request, answering.decide(request.origin.encode()).headers)


def written(headers: Iterable[str]) -> list[bytes]:
    """Write Access-Control-Request-Headers as browsers do (CORS-preflight fetch, step 5)."""
    return [",".join(sorted(headers)).encode()] if headers else []


STEPS: Final[list[tuple[str, dict[str, Any], Request, bool]]] = [
    ("CORS check 2: no Allow-Origin", {}, Request("https://evil.example"), False),
    ("CORS check 3: *", {"allow_origins": ["*"]}, Request("null"), True),
    (
        "CORS check 4: * with credentials",
        {"allow_origins": ["*"]},
        Request(VIEWER, include_credentials=True),
        False,
    ),
    ("CORS check 4: not the origin", {}, Request("http://viewer.example"), False),
    ("CORS check 5: the origin", {}, Request(VIEWER), True),
    (
        "CORS check 7: Allow-Credentials",
        {"allow_credentials": True},
        Request(VIEWER, include_credentials=True),
        True,
    ),
    ("CORS check 8: none", {}, Request(VIEWER, include_credentials=True), False),
    ("preflight 7.5: safelisted", {"allow_methods": []}, Request(VIEWER, "POST"), True),
    ("preflight 7.5: listed", {"allow_methods": ["PUT"]}, Request(VIEWER, "PUT"), True),
    ("preflight 7.5: not listed", {}, Request(VIEWER, "PUT"), False),
    ("preflight 7.5: other case", {"allow_methods": ["PATCH"]}, Request(VIEWER, "patch"), False),
    ("preflight 7.5: *", {"allow_methods": ["*"]}, Request(VIEWER, "CHICKEN"), True),
    (
        "preflight 7.5: * with credentials",
        {"allow_methods": ["*"], "allow_credentials": True},
        Request(VIEWER, "PUT", include_credentials=True),
        True,
    ),
    (
        "preflight 7.6: * leaves authorization out",
        {"allow_headers": ["*"]},
        Request(VIEWER, headers=frozenset({"authorization"})),
        False,
    ),
    (
        "preflight 7.6: authorization beside *",
        {"allow_headers": ["*", "authorization"]},
        Request(VIEWER, headers=frozenset({"authorization", "x-a"})),
        True,
    ),
    (
        "preflight 7.7: listed in any case",
        {"allow_headers": ["X-A"]},
        Request(VIEWER, headers=frozenset({"x-a"})),
        True,
    ),
    ("preflight 7.7: not listed", {}, Request(VIEWER, headers=frozenset({"x-a"})), False),
    (
        "preflight 7.7: * with credentials",
        {"allow_headers": ["*"], "allow_credentials": True},
        Request(VIEWER, headers=frozenset({"authorization", "x-a"}), include_credentials=True),
        True,
    ),
]


@pytest.mark.parametrize(
    ("changes", "request_", "passes"), [pytest.param(*case[1:], id=case[0]) for case in STEPS]
)
def test_outcomes_of_the_fetch_standard(
    changes: dict[str, Any], request_: Request, *, passes: bool
) -> None:
    answering = CORSEngine([policy(**changes)])
    assert browser_lets_through(answering, request_, written(request_.headers)) is passes


COVERED: Final = {
    VIEWER: {VIEWER},
    "https://*.example.edu": {"https://a.example.edu", "https://a.b.example.edu"},
    "http://localhost:*": {"http://localhost", "http://localhost:3000"},
    "https://*--v.example.org": {"https://1--v.example.org"},
    "app://viewer": {"app://viewer"},
}
UNCOVERED: Final = {"null", "https://example.edu", "https://a.example.edu:8443", "https://evil"}
HEADER_NAMES: Final = ["accept", "Authorization", "X-A", "range"]


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    credentials = draw(st.booleans())
    any_origin = [] if credentials else ["*"]

    def some(members: Iterable[str], *, at_least: int = 0) -> list[str]:
        return draw(st.lists(st.sampled_from(list(members)), min_size=at_least, max_size=4))

    return {
        "allow_origins": some([*COVERED, *any_origin], at_least=1),
        "allow_methods": some(["GET", "PUT", "DELETE", "PATCH", "CHICKEN", "*"]),
        "allow_headers": some([*HEADER_NAMES, "*"]),
        "expose_headers": some(["etag", "Content-Range", *any_origin]),
        "max_age": draw(st.integers(-1, 86400)),
        "allow_credentials": credentials,
        "dangerously_allow_insecure_origins": draw(st.booleans()),
    }


requests = st.builds(
    Request,
    st.sampled_from(sorted(UNCOVERED.union(*COVERED.values()))),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "patch", "CHICKEN"]),
    st.frozensets(st.sampled_from([name.lower() for name in HEADER_NAMES])),
    st.booleans(),
)


def read_literally(configuration: dict[str, Any], request: Request) -> bool:
    """What the configuration says of a request from one of its origins."""
    credentials = configuration["allow_credentials"]
    methods = {"GET", "HEAD", "POST", *configuration["allow_methods"]}
    headers = {name.lower() for name in configuration["allow_headers"]}
    if "*" in headers:
        headers |= {"accept", "x-a", "range"} | ({"authorization"} if credentials else set())
    return (
        (credentials or not request.include_credentials)
        and (request.method in methods or "*" in methods)
        and request.headers <= headers
    )


@st.composite
def as_gateways_pass_it(draw: st.DrawFn, lines: list[bytes]) -> list[bytes]:
    """Split the list over lines, space it, leave empty elements, change its case."""
    members = [member for line in lines for member in line.split(b",")]
    spaces = st.sampled_from([b"", b" ", b"\t", b"  \t"])
    texts = [draw(spaces) + member + draw(spaces) for member in members]
    for _ in range(draw(st.integers(0, MAX_EMPTY_ELEMENTS))):
        texts.insert(draw(st.integers(0, len(texts))), draw(spaces))
    if draw(st.booleans()):
        texts = [text.upper() for text in texts]
    cut = draw(st.integers(0, len(texts)))
    return [b",".join(part) for part in (texts[:cut], texts[cut:]) if part]


@given(st.lists(configurations(), min_size=1, max_size=3), requests, st.data())
def test_browsers_let_through_what_the_configuration_says_and_nothing_else(
    configuration: list[dict[str, Any]], request: Request, data: st.DataObject
) -> None:
    answering = CORSEngine(
        [CompiledPolicy.compile(PolicyOptions(**keys), "cors") for keys in configuration]
    )
    deciding = next(
        (
            keys
            for keys in configuration
            if any(
                pattern == "*" or request.origin in COVERED[pattern]
                for pattern in keys["allow_origins"]
            )
        ),
        None,
    )
    expected = deciding is not None and read_literally(deciding, request)
    lines = data.draw(as_gateways_pass_it(written(request.headers)))

    assert browser_lets_through(answering, request, lines) is expected
    if not request.include_credentials:
        # The server says so itself: no browser is needed to stop what a policy forbids.
        answer = answering.preflight(request.origin.encode(), request.method.encode(), lines)
        assert answer.allowed is expected
        assert (answer.reason == "") is expected
    outcome = "refused" if deciding is None else "allowed"
    assert answering.decide(request.origin.encode()).outcome == outcome


# Bounded work


def work(call: Callable[[], object]) -> int:
    """Count the function calls that a call takes."""
    count = 0

    def profile(_frame: object, event: str, _arg: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


HOSTILE: Final = {
    "commas": (ORIGIN, b"GET", [b"," * 61440]),
    "commas within the size": (ORIGIN, b"GET", [b"," * 8000]),
    "lines": (ORIGIN, b"GET", [b"x-a"] * 1000),
    "empty lines": (ORIGIN, b"GET", [b""] * 1000),
    "names": (ORIGIN, b"GET", [b",".join(b"x-%d" % number for number in range(1000))]),
    "white space": (ORIGIN, b"GET", [b" \t" * 4000 + b"a b"]),
    "a long name": (ORIGIN, b"GET", [b"x" * 61440]),
    "a long method": (ORIGIN, b"M" * 61440, []),
    "a long origin": (b"https://" + b"a." * 5120 + b"example.edu", b"GET", []),
    "a long port": (b"https://a.example.edu:" + b"9" * 10240, b"GET", []),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("any_", [True, False], ids=["any", "listed"])
def test_hostile_requests_are_refused_with_bounded_work(
    hostile: tuple[bytes, bytes, list[bytes]], *, any_: bool
) -> None:
    asked = ["*"] if any_ else ["x-a"]
    answering = CORSEngine(
        [
            policy(
                allow_origins=[VIEWER, "https://*.example.edu", "https://*.example.edu:*"],
                allow_methods=asked,
                allow_headers=asked,
                allow_credentials=True,
            )
        ]
    )
    origin, method, request_headers = hostile
    most = 4 * MAX_REQUEST_HEADERS + 64
    assert work(lambda: answering.preflight(origin, method, request_headers)) < most
    assert not answering.preflight(origin, method, request_headers).allowed
    assert work(lambda: answering.decide(origin)) < most


def test_a_value_too_long_for_an_origin_is_not_even_read() -> None:
    origin = b"https://" + b"a." * 5120 + b"example"
    assert work(lambda: Origin.parse(origin)) < work(lambda: Origin.parse(b""))


def names(count: int) -> bytes:
    return b",".join(b"x-%d" % number for number in range(count))


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        ([names(MAX_REQUEST_HEADERS)], True),
        ([names(MAX_REQUEST_HEADERS + 1)], False),
        ([b"x-a" + b"," * MAX_EMPTY_ELEMENTS], True),
        ([b"x-a" + b"," * (MAX_EMPTY_ELEMENTS + 1)], False),
        ([b"x-a"] + [b" "] * MAX_EMPTY_ELEMENTS, True),
        ([b"x-a"] + [b" "] * (MAX_EMPTY_ELEMENTS + 1), False),
        ([b"x" * (MAX_PREFLIGHT_BYTES - len(ORIGIN) - len(b"GET"))], True),
        ([b"x" * (MAX_PREFLIGHT_BYTES - len(ORIGIN) - len(b"GET") + 1)], False),
    ],
)
def test_limits_of_a_preflight(lines: list[bytes], *, allowed: bool) -> None:
    answering = CORSEngine([policy(allow_headers=["*"])])
    assert answering.preflight(ORIGIN, b"GET", lines).allowed is allowed


def test_decisions_are_kept_but_not_without_end() -> None:
    answering = CORSEngine([policy(allow_origins=["https://*.example.edu"])])
    seen = b"https://seen.example.edu"
    assert answering.decide(seen) is answering.decide(seen)
    assert answering.preflight(seen, b"GET", []) is answering.preflight(seen, b"GET", [])

    def kept() -> int:
        return sum(type(thing) in {Decision, PreflightDecision} for thing in gc.get_objects())

    before = kept()
    for number in range(2 * CACHED_ORIGINS):
        answering.decide(b"https://a%d.example.edu" % number)
        answering.preflight(b"https://a%d.example.edu" % number, b"GET", [])
    assert kept() - before < CACHED_ORIGINS + CACHED_PREFLIGHTS
    assert answering.decide(b"https://a0.example.edu").outcome == "allowed"


def test_long_origins_are_not_kept() -> None:
    answering = CORSEngine([policy()])
    tracemalloc.start()
    try:
        for number in range(CACHED_ORIGINS):
            answering.decide(b"https://%d.%s" % (number, b"a" * 10240))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < CACHED_ORIGINS * 1024
