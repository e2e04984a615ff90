"""What is compressed, for whom, and that nothing waits or is lost."""

from __future__ import annotations

import gzip
import sys
import zlib
from importlib.util import module_from_spec, spec_from_file_location
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.http import content
from dicomweb_cors_proxy.http.content import (
    Gzip,
    accepts_gzip,
    compressed_headers,
    has_wildcard,
    is_compressible,
    is_range,
    names_text,
)

if TYPE_CHECKING:
    from types import ModuleType

JSON = (b"content-type", b"application/dicom+json")


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        (b"gzip", True),
        (b"gzip, deflate, br, zstd", True),
        (b"GZIP;q=0.5", True),
        (b"x-gzip", True),
        (b"*", True),
        (b"br, *;q=0.1", True),
        (b"gzip;q=1, identity;q=0.5", True),
        (b"gzip; q=0.001", True),
        (b"", False),
        (b"identity", False),
        (b"br", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000", False),
        (b"*;q=0", False),
        (b"*, gzip;q=0", False),
        (b"gzip;q=0.5, identity", False),
        (b"gzip;q=many", False),
        (b"gzipped", False),
    ],
)
def test_clients_say_whether_they_accept_it(accept_encoding: bytes, accepted: bool) -> None:
    assert accepts_gzip(accept_encoding) is accepted


@pytest.mark.parametrize(
    ("content_type", "is_text"),
    [
        (b"application/dicom+json", True),
        (b"application/json; charset=utf-8", True),
        (b"application/fhir+json", True),
        (b"application/dicom+xml", True),
        (b"text/xml", True),
        (b'multipart/related; type="application/dicom+xml"; boundary=b', True),
        (b"multipart/related;boundary=b;type=application/dicom+json", True),
        (b'multipart/related; type="application/dicom"; boundary=b', False),
        (b"multipart/related; boundary=b", False),
        (b"application/dicom", False),
        (b"image/svg+xml", True),
        (b"image/jpeg", False),
        (b"application/jsonlines", False),
        (b"text/plain", False),
        (b"", False),
    ],
)
def test_text_is_compressed(content_type: bytes, is_text: bool) -> None:
    assert is_compressible(200, {b"content-type": content_type}) is is_text


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (204, []),
        (206, [(b"content-range", b"bytes 0-3/4")]),
        (206, [(b"content-range", b"bytes */4")]),
        (304, []),
        (200, [(b"content-encoding", b"gzip")]),
        (200, [(b"content-encoding", b"br")]),
        (200, [(b"content-length", b"0")]),
        (200, [(b"cache-control", b"private, No-Transform")]),
    ],
)
def test_what_is_encoded_cut_short_or_sealed_is_not(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    assert not is_compressible(status, dict([JSON, *headers]))


@pytest.mark.parametrize(
    ("accept", "is_named", "is_covered"),
    [
        (b"application/dicom+json", True, False),
        (b"Application/JSON", True, False),
        (b"application/fhir+json;q=0.5", True, False),
        (b"image/jpeg, application/dicom+xml;q=0.1", True, False),
        (b'multipart/related; type="application/dicom+xml"', True, False),
        (b"multipart/related;transfer-syntax=*;type=application/dicom+json", True, False),
        (b"application/json;q=0", False, False),
        (b"application/json; q=0.000, image/png", False, False),
        (b"application/json;q=0.001", True, False),
        (b"application/dicom", False, False),
        (b'multipart/related; type="application/octet-stream"', False, False),
        (b'multipart/related; type="image/jpeg"; a="x, application/json"', False, False),
        (b'image/jpeg; a="unclosed, application/json', False, False),
        (b"image/*", False, False),
        (b"*/*", False, True),
        (b"image/webp, */*;q=0.8", False, True),
        (b"image/jpeg, */*;q=0", False, False),
        (b"application/*", False, True),
        (b"text/* , image/png", False, True),
        (b"multipart/*", False, True),
        (b"application/json, */*", True, True),
        (b"", False, False),
    ],
)
def test_an_accept_tells_whether_text_may_come(
    accept: bytes, *, is_named: bool, is_covered: bool
) -> None:
    assert names_text(accept) is is_named
    assert has_wildcard(accept) is is_covered


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (206, [JSON, (b"content-range", b"bytes 0-3/4")], True),
        (206, [(b"content-type", b"multipart/byteranges; boundary=b")], True),
        (206, [(b"content-type", b"Multipart/ByteRanges;boundary=b")], True),
        (206, [JSON], False),
        (206, [(b"content-type", b'multipart/related; type="application/dicom"')], False),
        (206, [], False),
        (200, [(b"content-range", b"bytes 0-3/4")], False),
        (416, [(b"content-range", b"bytes */4")], False),
    ],
)
def test_a_range_is_told_from_dicoms_206(
    status: int, headers: list[tuple[bytes, bytes]], *, expected: bool
) -> None:
    assert is_range(status, dict(headers)) is expected


def test_an_identity_that_is_named_is_none() -> None:
    headers = [JSON, (b"content-encoding", b"identity"), (b"content-length", b"2")]
    assert is_compressible(200, dict(headers))
    assert compressed_headers(headers) == [
        JSON,
        (b"content-length", b"2"),
        (b"content-encoding", b"gzip"),
    ]


def content_without_isal() -> ModuleType:
    """Import the module again, as it is where isal is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "isal.isal_zlib", None)
        spec = spec_from_file_location("content_without_isal", content.__file__)
        assert spec
        assert spec.loader
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
    assert module.compressobj is zlib.compressobj
    return module


GZIPS = pytest.mark.parametrize(
    "new", [Gzip, content_without_isal().Gzip], ids=["isal", "without isal"]
)


@GZIPS
@given(chunks=st.lists(st.binary()))
def test_every_chunk_can_be_read_at_once(new: type[Gzip], chunks: list[bytes]) -> None:
    compressor, decompressor = new(), zlib.decompressobj(31)
    sent = b""
    for chunk in chunks:
        piece = compressor.feed(chunk)
        assert decompressor.decompress(piece) == chunk
        sent += piece
    assert gzip.decompress(sent + compressor.flush()) == b"".join(chunks)


@GZIPS
@given(body=st.binary())
def test_a_whole_body_is_compressed_in_one_call(new: type[Gzip], body: bytes) -> None:
    assert gzip.decompress(new().whole(body)) == body


@GZIPS
@pytest.mark.parametrize("size", [Gzip.piece - 1, Gzip.piece, 3 * Gzip.piece + 1])
def test_long_bodies_come_back_as_they_were(new: type[Gzip], size: int) -> None:
    body = (b'{"00080018":{"vr":"UI","Value":["1.2.3"]}}' * (size // 42 + 1))[:size]
    compressor = new()
    pieces = [compressor.feed(body[at : at + new.piece]) for at in range(0, size, new.piece)]
    sent = b"".join(pieces) + compressor.flush()
    assert gzip.decompress(sent) == body
    assert len(sent) < size / 20
