"""The chunked decoder: one meaning for every split of the input, and never more than h11's."""

from __future__ import annotations

from itertools import pairwise

import h11
import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dicomweb_cors_proxy.http.chunked import (
    MAX_CHUNKS_PER_CALL,
    MAX_TRAILER_BYTES,
    ChunkedDecoder,
    ChunkedError,
)

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\n"


def decode(*pieces: bytes) -> tuple[bytes, bytes] | str:
    """Return the content and the bytes behind the body; or say that it is incomplete or bad."""
    decoder = ChunkedDecoder()
    content = b""
    for number, piece in enumerate(pieces):
        at = 0
        while at < len(piece):
            try:
                more, at = decoder.decode(piece, at)
            except ChunkedError:
                return "malformed"
            content += more
            if decoder.complete:
                return content, piece[at:] + b"".join(pieces[number + 1 :])
    return "incomplete"


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def by_h11(body: bytes) -> bytes | None:
    """Return the content if h11 reads the body to its end."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEAD + body)
    content = b""
    try:
        while True:
            match connection.next_event():
                case h11.Data(data=data):
                    content += data
                case h11.EndOfMessage():
                    return content
                case h11.NEED_DATA | h11.PAUSED:
                    return None
    except h11.RemoteProtocolError:
        return None


class Collector:
    def __init__(self) -> None:
        self.content = b""
        self.complete = False

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self.content += data

    def on_message_complete(self) -> None:
        self.complete = True


def by_httptools(body: bytes) -> bytes | None:
    """Return the content if httptools reads the body to its end."""
    collector = Collector()
    try:
        httptools.HttpRequestParser(collector).feed_data(HEAD + body)
    except httptools.HttpParserError:
        return None
    return collector.content if collector.complete else None


TEXT = st.text('abz09="; \t\x80\xff', max_size=8).map(lambda text: text.encode("latin-1"))
VALUE = st.sampled_from([b"", b"=b", b" = b", b'=""', b'="; b"', b'\t="\\" \xff"'])
EXTENSION = st.lists(
    st.builds(b"%b;%ba%b".__mod__, st.tuples(*[st.sampled_from([b"", b" ", b"\t "])] * 2, VALUE)),
    max_size=2,
).map(b"".join)
PADDING = st.sampled_from([b"", b"", b" ", b"   ", b"\t"])
FIELD = st.builds(b"%b:%b\r\n".__mod__, st.tuples(st.sampled_from([b"A", b"x-trailer"]), TEXT))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A well-formed body, and its content."""
    raw = content = b""
    for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=6)):
        zeros = draw(st.sampled_from(["", "0", "000"]))
        size = zeros + format(len(data), draw(st.sampled_from("xX")))
        raw += size.encode() + draw(PADDING) + draw(EXTENSION) + b"\r\n" + data + b"\r\n"
        content += data
    raw += draw(st.sampled_from([b"0", b"000"])) + draw(PADDING) + draw(EXTENSION) + b"\r\n"
    return raw + b"".join(draw(st.lists(FIELD, max_size=3))) + b"\r\n", content


# Pieces of which near misses are made.
TOKENS = st.sampled_from(
    [
        b"\r\n",
        b"\r",
        b"\n",
        b"0",
        b"1",
        b"2",
        b"a",
        b"ab",
        b" ",
        b"\t",
        b";",
        b"e=f",
        b'"',
        b"\\",
        b":",
        b"\0",
        b"1\r\n",
        b"0\r\n",
        b"2\r\nab\r\n",
        b"A: b\r\n",
        b"-1",
        b"0x1",
        b"\xa0",
    ]
)
NEAR = st.lists(TOKENS, max_size=12).map(b"".join)
CUTS = st.lists(st.integers(min_value=0), max_size=8)


@given(bodies(), CUTS)
def test_a_well_formed_body_is_decoded_in_any_split(
    body: tuple[bytes, bytes], cuts: list[int]
) -> None:
    raw, content = body
    assert decode(*split(raw + NEXT, cuts)) == (content, NEXT)


@given(NEAR, CUTS)
@example(b"2 \r\nab\r\n0\r\n\r\n", [2, 3])
def test_every_split_has_the_same_outcome(raw: bytes, cuts: list[int]) -> None:
    assert decode(*split(raw, cuts)) == decode(raw)
    assert decode(*(raw[at : at + 1] for at in range(len(raw)))) == decode(raw)


@given(st.one_of(NEAR, bodies().map(lambda body: body[0])))
def test_content_equals_that_of_other_parsers(raw: bytes) -> None:
    ours = decode(raw)
    others = [by_h11(raw), by_httptools(raw)]
    if isinstance(ours, tuple):
        assert set(others) <= {ours[0], None}
    elif None not in others:  # they are laxer only in what is between size and data, and in fields
        assert ours == "malformed"


ACCEPTED = {
    "padded size": b"2  \r\nok\r\n0\r\n\r\n",
    "blanks around an extension": b"2 ; a = b\r\nok\r\n0\r\n\r\n",
    "padded last size": b"2\r\nok\r\n0 \r\n\r\n",
    "quoted extension": b'2;a="b;c"\r\nok\r\n0\r\n\r\n',
    "zeros before the size": b"0" * 255 + b"2\r\nok\r\n0\r\n\r\n",
    "longest extension": b"2;" + b"a" * 4095 + b"\r\nok\r\n0\r\n\r\n",
    "longest trailers": b"2\r\nok\r\n0\r\nA:" + b"b" * (MAX_TRAILER_BYTES - 6) + b"\r\n\r\n",
}


@pytest.mark.parametrize("raw", ACCEPTED.values(), ids=ACCEPTED)
@pytest.mark.parametrize("size", [1, 2, 5, 100_000])
def test_blanks_extensions_and_trailers_are_dropped(raw: bytes, size: int) -> None:
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert decode(*pieces, NEXT) == (b"ok", NEXT)


MALFORMED = {
    "no size": b"\r\n",
    "no hexadecimal size": b"xyz\r\n",
    "signed size": b"-2\r\n",
    "prefixed size": b"0x2\r\n",
    "size of 17 digits": b"10000000000000002",
    "zeros without end": b"0" * 300,
    "blank before the size": b" 2\r\n",
    "blanks without end": b"2" + b" " * 300,
    "bare LF behind the size": b"2\nok",
    "bare CR behind the size": b"2\rok",
    "bare LF in an extension": b"2;a\n",
    "control character in an extension": b"2;a\0",
    "long extension": b"2;" + b"a" * 4096,
    "long extension that ends": b"2;" + b"a" * 4096 + b"\r\nok\r\n0\r\n\r\n",
    "extension without a name": b"2;\r\nok\r\n0\r\n\r\n",
    "end of line in quotes": b'2;a="\r\nok\r\n0\r\n\r\n',
    "trailer with a length": b"0\r\nContent-LENGTH: 2\r\n\r\n",
    "trailer with a coding": b"0\r\nA: b\r\ntransfer-encoding: chunked\r\n\r\n",
    "bare LF behind data": b"2\r\nok\n",
    "more data than announced": b"2\r\nokay\r\n",
    "less data than announced": b"3\r\nok\r\n0\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer without a colon": b"0\r\nA\r\n\r\n",
    "trailer without a name": b"0\r\n: b\r\n\r\n",
    "blank before a colon": b"0\r\nA : b\r\n\r\n",
    "bare LF behind a trailer": b"0\r\nA: b\n\r\n",
    "bare LF at the end": b"0\r\n\n",
    "long trailer": b"0\r\nA: " + b"b" * MAX_TRAILER_BYTES,
    "many trailers": b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_BYTES // 6 + 1) + b"\r\n",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("size", [1, 2, 5, 100_000])
def test_malformed_framing_is_an_error(raw: bytes, size: int) -> None:
    assert decode(*(raw[at : at + size] for at in range(0, len(raw), size))) == "malformed"


def test_one_call_decodes_a_bounded_number_of_chunks() -> None:
    raw = b"1\r\na\r\n" * 3 * MAX_CHUNKS_PER_CALL
    content, at = ChunkedDecoder().decode(raw)
    assert content == b"a" * MAX_CHUNKS_PER_CALL
    assert at < len(raw)


def test_a_piece_within_one_chunk_is_not_copied() -> None:
    decoder = ChunkedDecoder()
    decoder.decode(b"ffffff\r\n")
    piece = bytes(65_536)
    content, at = decoder.decode(piece)
    assert content is piece
    assert at == len(piece)
