from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.http.targets import target_problem, unreadable_target

UID = b"1.2.826.0.1.3680043"


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/dicom-web/studies",
        b"/dicom-web/studies/" + UID + b"/series/" + UID + b"/instances/" + UID + b"/frames/1,2",
        b"/studies?PatientName=M%C3%BCller*&includefield=all&limit=25&fuzzymatching=true",
        b"/studies?",
        b"/studies?a=../../b&c=/./",
        b"/studies?ModalitiesInStudy=CT\\MR",
        b"/studies?a=1?b=2",
        b'/studies?a=[1|2]&b={"c":^`<d>}',
        b"/a/...",
        b"/a/..b/.c/d.",
        b"/a/..;/b",
        b"/a//b/",
        b"//host/path",
        b"/a%2Fb",
        b"/%252e%252e/",
        b"/a%25",
    ],
)
def test_accepts(target: bytes) -> None:
    assert target_problem(target) is None


@pytest.mark.parametrize(
    ("target", "word"),
    [
        (b"", "start with"),
        (b"*", "start with"),
        (b"studies", "start with"),
        (b"?a", "start with"),
        (b"http://archive/studies", "start with"),
        (b"\n/studies", "start with"),
        (b"/.", "dot segment"),
        (b"/..", "dot segment"),
        (b"/./a", "dot segment"),
        (b"/a/../b", "dot segment"),
        (b"/a/..", "dot segment"),
        (b"/a/.?q", "dot segment"),
        (b"/a/%2e%2e/b", "dot segment"),
        (b"/a/%2E./b", "dot segment"),
        (b"/a/.%2e", "dot segment"),
        (b"/a/%2e", "dot segment"),
        (b"/a/..%2fb", "dot segment"),
        (b"/a%2f..%2Fb", "dot segment"),
        (b"/a%5C..%5cb", "dot segment"),
        (b"/a%5c%2E", "dot segment"),
        (b"/a%2f.?q", "dot segment"),
        (b"/a\\..\\b", "backslash"),
        (b"/a\\b", "backslash"),
        (b"/a%", "hexadecimal"),
        (b"/a%2", "hexadecimal"),
        (b"/a%zz", "hexadecimal"),
        (b"/a%+1", "hexadecimal"),
        (b"/a?b=50%", "hexadecimal"),
        (b"/a?b=%g0", "hexadecimal"),
        (b"/a#b", "fragment"),
        (b"/a?b#c", "fragment"),
        (b"/a b", "space"),
        (b"/a?b c", "space"),
        (b"/a\x00", "control"),
        (b"/a\n", "control"),
        (b"/a\x7f", "control"),
        (b"/a?\t", "control"),
        (b"/\xff", "ASCII"),
        (b"/a?b=M\xc3\xbcller", "ASCII"),
    ],
)
def test_refuses_with_a_sentence(target: bytes, word: str) -> None:
    problem = target_problem(target)
    assert problem is not None
    assert word in problem


def test_never_echoes_the_target() -> None:
    assert "Doe" not in (target_problem(b"/studies?PatientName=Doe^Jane%") or "Doe")


def well_formed(target: bytes) -> bool:
    path, _, query = target.partition(b"?")
    return (
        path.startswith(b"/")
        and b"\\" not in path
        and all(0x20 < byte < 0x7F for byte in target)
        and b"#" not in target
        and not any(re.search(rb"%(?![0-9A-Fa-f]{2})", part) for part in (path, query))
        and not {b".", b".."} & set(re.split(rb"[/\\]", unquote_to_bytes(path)))
    )


fragments = st.sampled_from(
    [b"/", b".", b"..", b"%2e", b"%2E", b"%2f", b"%5C", b"%25", b"%", b"?", b"#", b"\\", b"a", b";"]
)


@given(st.lists(fragments | st.binary(max_size=2), max_size=8).map(b"".join))
def test_agrees_with_the_rules_written_out(rest: bytes) -> None:
    for target in (rest, b"/" + rest):
        assert (target_problem(target) is None) == well_formed(target)


@pytest.mark.parametrize(
    ("head", "is_named"),
    [
        (b"GET /a b HTTP/1.1\r\nHost: p\r\n\r\n", True),
        (b"\r\n\r\nPROPFIND /a?b c HTTP/1.1\r\n", True),
        (b"GET /a  HTTP/1.1\n", True),
        (b"GET /a\tb HTTP/1.1\r\n", True),
        (b"GET /caf\xc3\xa9 HTTP/1.1\r\n", True),
        (b"GET /caf\xc3", True),
        (b"GET http://p/caf\xe9 HTTP/1.1\r\n", True),
        (b"GET /a b", False),  # " b" may be the beginning of anything
        (b"GET /a HTTP/1.1\r\nX Y: \xe9 HTTP/1.1\r\n", False),
        (b"GET /a HTTQ/1.1\r\n", False),
        (b"GET /a", False),
        (b"GET", False),
        (b"\x16\x03\x01 / HTTP/1.1", False),
        (b"", False),
    ],
)
def test_an_unreadable_target_is_named(head: bytes, *, is_named: bool) -> None:
    expected = target_problem(b"/ ") if is_named else None
    assert unreadable_target(head) == expected


@given(st.binary(max_size=40))
def test_an_unreadable_target_is_never_echoed(head: bytes) -> None:
    assert unreadable_target(b"GET /" + head) in (None, target_problem(b"/ "))
