from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.targets import target_problem

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
