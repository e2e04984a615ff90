"""HPACK: the examples of RFC 7541, malformed input, and the library hpack as a referee."""

from __future__ import annotations

import tracemalloc
from typing import NamedTuple

import hpack
import pytest
from hpack import huffman_constants
from hpack.huffman import HuffmanEncoder
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from dicomweb_cors_proxy.server.hpack import (
    DEFAULT_TABLE_BYTES,
    SENSITIVE_NAMES,
    HeaderDecoder,
    HeaderEncoder,
    HeaderListTooLarge,
    HPACKError,
)
from dicomweb_cors_proxy.server.hpack_tables import (
    MAX_CACHED_RUNS,
    STATIC_LINES,
    HuffmanDecoder,
    HuffmanError,
)

Lines = list[tuple[bytes, bytes]]

MAX_LIST_BYTES = 16384

to_huffman = HuffmanEncoder(
    huffman_constants.REQUEST_CODES, huffman_constants.REQUEST_CODES_LENGTH
).encode


def decoder(max_table_bytes: int = DEFAULT_TABLE_BYTES) -> HeaderDecoder:
    return HeaderDecoder(max_table_bytes, MAX_LIST_BYTES)


class Example(NamedTuple):
    """Header blocks of one connection, and their lines, as RFC 7541 Appendix C shows them."""

    section: str
    blocks: list[bytes]
    lists: list[Lines]
    max_table_bytes: int = DEFAULT_TABLE_BYTES


def hexadecimal(text: str) -> list[bytes]:
    """Return the header blocks in a text that separates them with semicolons."""
    return [bytes.fromhex(block) for block in text.split(";")]


def listed(*texts: str) -> list[Lines]:
    """Return the lines in texts that separate them with vertical bars."""
    lists: list[Lines] = []
    for text in texts:
        pairs = (line.strip().split("=", 1) for line in text.split("|"))
        lists.append([(name.encode(), value.encode()) for name, value in pairs])
    return lists


REQUESTS = listed(
    ":method=GET|:scheme=http|:path=/|:authority=www.example.com",
    ":method=GET|:scheme=http|:path=/|:authority=www.example.com|cache-control=no-cache",
    ":method=GET|:scheme=https|:path=/index.html|:authority=www.example.com|custom-key=custom-value",
)
RESPONSES = listed(
    """:status=302|cache-control=private|date=Mon, 21 Oct 2013 20:13:21 GMT
    |location=https://www.example.com""",
    """:status=307|cache-control=private|date=Mon, 21 Oct 2013 20:13:21 GMT
    |location=https://www.example.com""",
    """:status=200|cache-control=private|date=Mon, 21 Oct 2013 20:13:22 GMT
    |location=https://www.example.com|content-encoding=gzip
    |set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1""",
)

EXAMPLES = [
    Example(
        "C.2.1",
        hexadecimal("400a637573746f6d2d6b65790d637573746f6d2d686561646572"),
        listed("custom-key=custom-header"),
    ),
    Example("C.2.2", hexadecimal("040c2f73616d706c652f70617468"), listed(":path=/sample/path")),
    Example("C.2.3", hexadecimal("100870617373776f726406736563726574"), listed("password=secret")),
    Example("C.2.4", hexadecimal("82"), listed(":method=GET")),
    Example(
        "C.3",
        hexadecimal(
            """828684410f7777772e6578616d706c652e636f6d;
            828684be58086e6f2d6361636865;
            828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565"""
        ),
        REQUESTS,
    ),
    Example(
        "C.4",
        hexadecimal(
            """828684418cf1e3c2e5f23a6ba0ab90f4ff;
            828684be5886a8eb10649cbf;
            828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"""
        ),
        REQUESTS,
    ),
    Example(
        "C.5",
        hexadecimal(
            """4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a32
            3120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d;
            4803333037c1c0bf;
            88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a6970
            7738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d61
            67653d333630303b2076657273696f6e3d31"""
        ),
        RESPONSES,
        max_table_bytes=256,
    ),
    Example(
        "C.6",
        hexadecimal(
            """488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad
            171863c78f0b97c8e9ae82ae43d3;
            4883640effc1c0bf;
            88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2
            e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"""
        ),
        RESPONSES,
        max_table_bytes=256,
    ),
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.section)
def test_decoder_reads_the_examples_of_the_rfc(example: Example) -> None:
    ours = decoder(example.max_table_bytes)
    assert [ours.decode(block) for block in example.blocks] == example.lists


MALFORMED = {
    "index 0": "80",
    "index after both tables": "be",
    "large index after both tables": "ff8001",
    "name's index after both tables": "7e0161",
    "name's index after both tables, not indexed": "0f2f0161",
    "integer of six bytes": "ff8080808080",
    "integer of large value": "7fffffffffffff01",
    "integer without its end": "ff80",
    "no name": "40",
    "no value": "400161",
    "name longer than the block": "400561",
    "value longer than the block": "4001610261",
    "indexed name, no value": "44",
    "table size without its end": "3f",
    "table size over the limit": "3fe21f",
    "table size after a line": "8220",
    "Huffman: empty padding byte": "0081ff00",
    "Huffman: padding of zeros": "00816000",
    "Huffman: padding of eight ones": "00821fff00",
    "Huffman: end of string": "0084ffffffff00",
    "Huffman: end of string within": "0085ffffffffff00",
    "Huffman: code without its end": "0081fe00",
}


@pytest.mark.parametrize("block", MALFORMED.values(), ids=MALFORMED)
def test_decoder_malformed_block_raises(block: str) -> None:
    with pytest.raises(HPACKError):
        decoder().decode(bytes.fromhex(block))
    with pytest.raises(hpack.HPACKError):
        hpack.Decoder().decode(bytes.fromhex(block), raw=True)


@pytest.mark.parametrize(
    ("block", "lines"),
    [
        ("", []),
        ("20", []),
        ("203fe11f82", [(b":method", b"GET")]),
        ("3fe19f8000", []),  # an integer with superfluous bytes
        ("000000", [(b"", b"")]),
        ("00811f00", [(b"a", b"")]),
    ],
)
def test_decoder_unusual_block_is_read(block: str, lines: Lines) -> None:
    assert decoder().decode(bytes.fromhex(block)) == lines
    assert hpack.Decoder().decode(bytes.fromhex(block), raw=True) == lines


def test_decoder_after_an_oversized_list_goes_on() -> None:
    ours, theirs = HeaderDecoder(DEFAULT_TABLE_BYTES, 1000), hpack.Encoder()
    head = [(":method", "GET"), (":path", "/x"), ("x-first", "1")]
    late = [("x-big", "b" * 400), ("origin", "http://late"), ("origin", "http://other")]
    with pytest.raises(HeaderListTooLarge) as caught:
        ours.decode(theirs.encode([*head, *[("x-fill", "f" * 600)] * 9, *late]))
    assert caught.value.headers == [
        (b":method", b"GET"),
        (b":path", b"/x"),
        (b"origin", b"http://late"),
    ]
    block = theirs.encode([*head, late[0]])
    assert len(block) < 10
    assert ours.decode(block) == [(a.encode(), b.encode()) for a, b in [*head, late[0]]]


def test_decoder_oversized_list_keeps_few_lines() -> None:
    ours, theirs = HeaderDecoder(DEFAULT_TABLE_BYTES, 1000), hpack.Encoder()
    names = [":method", ":path", "origin", "cookie", ":authority"]
    with pytest.raises(HeaderListTooLarge) as caught:
        ours.decode(theirs.encode([(name, f"/{i}") for i in range(500) for name in names]))
    assert caught.value.headers == [
        (b":method", b"/0"),
        (b":path", b"/0"),
        (b"origin", b"/0"),
        (b":authority", b"/0"),
    ]


def test_decoder_cached_end_counts_towards_the_list() -> None:
    ours, theirs = HeaderDecoder(DEFAULT_TABLE_BYTES, 1000), hpack.Encoder()
    end = [("x-a", "a" * 200), ("x-b", "b" * 200)]
    for _ in range(3):
        assert len(ours.decode(theirs.encode([(":path", "/", True), *end]))) == 3
    long_path = theirs.encode([(":path", "/" + "p" * 600, True), *end])
    with pytest.raises(HeaderListTooLarge):
        ours.decode(long_path)


def test_decoder_oversized_block_that_is_malformed_raises_hpack_error() -> None:
    ours, theirs = HeaderDecoder(DEFAULT_TABLE_BYTES, 100), hpack.Encoder()
    with pytest.raises(HPACKError):
        ours.decode(theirs.encode([("x", "y" * 200)]) + b"\x80")


def test_huffman_code_is_that_of_the_referee() -> None:
    ours = HuffmanDecoder()
    for byte in range(256):
        text = bytes((byte, byte))
        assert ours.decode(to_huffman(text)) == text


@given(st.binary(max_size=80))
def test_huffman_decoder_reads_what_the_referee_writes(text: bytes) -> None:
    assert HuffmanDecoder().decode(to_huffman(text)) == text


def test_huffman_decoder_with_a_full_cache_decodes() -> None:
    ours = HuffmanDecoder()
    for number in range(MAX_CACHED_RUNS + 100):
        assert ours.decode(to_huffman(b"%d" % number)) == b"%d" % number
    with pytest.raises(HuffmanError):
        ours.decode(b"\xff" * 40)


# Few names and values, so that lines repeat; long ones, so that tables overflow.
NAMES = [b":path", b":method", b":status", b"accept", b"authorization", b"cookie", b"x-a", b"x-b"]
VALUES = [b"", b"GET", b"/", b"200", b"\x00\xff", b"value", b"v" * 100, b"w" * 700, b"x" * 4100]
LINES = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=9))
TABLE_BYTES = st.integers(0, DEFAULT_TABLE_BYTES) | st.sampled_from([0, 32, 200, 4096])


class Block(NamedTuple):
    """A header block to encode, after changes of the table's size."""

    lines: list[tuple[bytes, bytes]]
    is_sensitive: list[bool]
    is_huffman: bool
    table_bytes: list[int]


BLOCKS = st.lists(
    st.builds(
        Block,
        st.lists(LINES, max_size=8),
        st.lists(st.booleans(), min_size=8, max_size=8),
        st.booleans(),
        st.just([]) | st.lists(TABLE_BYTES, max_size=2),
    ),
    min_size=1,
    max_size=12,
)


@given(BLOCKS)
def test_decoder_reads_what_the_referee_writes(blocks: list[Block]) -> None:
    ours, theirs = HeaderDecoder(DEFAULT_TABLE_BYTES, 1 << 20), hpack.Encoder()
    for block in blocks + blocks:
        for size in block.table_bytes:
            # Setting the same size twice makes the referee forget to announce it.
            if size != theirs.header_table_size:
                theirs.header_table_size = size
        flags = zip(block.lines, block.is_sensitive, strict=False)
        encoded = theirs.encode(
            [(*line, sensitive) for line, sensitive in flags], huffman=block.is_huffman
        )
        assert ours.decode(encoded) == block.lines


@given(BLOCKS)
def test_encoder_writes_what_the_referee_reads(blocks: list[Block]) -> None:
    ours, theirs = HeaderEncoder(), hpack.Decoder()
    for block in blocks + blocks:
        for size in block.table_bytes:
            ours.set_max_table_bytes(size)
            theirs.max_allowed_table_size = size
        decoded = theirs.decode(ours.encode(block.lines), raw=True)
        assert decoded == block.lines
        for line in decoded:
            assert line.indexable or line[0] in SENSITIVE_NAMES
            assert not line.indexable or line[0] not in SENSITIVE_NAMES or not line[1]


PIECES = st.sampled_from(
    [block for example in EXAMPLES for block in example.blocks]
    + [bytes.fromhex(block) for block in MALFORMED.values()]
)


@given(st.lists(st.lists(PIECES | st.binary(max_size=6), max_size=4).map(b"".join), max_size=5))
def test_decoder_any_input_agrees_with_the_referee(blocks: list[bytes]) -> None:
    ours, theirs = HeaderDecoder(DEFAULT_TABLE_BYTES, 1 << 16), hpack.Decoder()
    for block in blocks:
        try:
            expected: Lines | None = list(theirs.decode(block, raw=True))
        except hpack.HPACKError:
            expected = None
        try:
            lines: Lines | None = ours.decode(block)
        except HPACKError:
            lines = None
        assert lines == expected
        if lines is None:
            break


def test_encoder_repeated_head_becomes_indexes() -> None:
    ours = HeaderEncoder()
    lines = [(b":status", b"200"), (b"vary", b"Origin"), (b"access-control-max-age", b"600")]
    sizes = [len(ours.encode([*lines, (b"x-request-id", b"%d" % n)])) for n in range(100)]
    assert sizes[0] > 40
    assert sizes[-1] == len(lines) + len(b"\x00\x0cx-request-id\x0299")


def test_encoder_larger_limit_than_our_own_has_no_effect() -> None:
    ours = HeaderEncoder()
    ours.set_max_table_bytes(1 << 20)
    assert ours.encode([(b":status", b"200")]) == b"\x88"


def test_encoder_limit_of_zero_and_back_announces_both() -> None:
    ours = HeaderEncoder()
    ours.set_max_table_bytes(0)
    ours.set_max_table_bytes(4096)
    assert ours.encode([]) == bytes.fromhex("203fe11f")
    assert ours.encode([]) == b""


def test_memory_of_a_connection_with_ever_new_lines_is_bounded() -> None:
    ours, back = decoder(), HeaderEncoder()
    theirs = hpack.Encoder()

    def send(start: int) -> None:
        for n in range(start, start + 1500):
            lines = [(b":path", b"/%d" % n), (b"x-id", b"%d" % n * 60)]
            block = theirs.encode([(*lines[0], True), (*lines[1], n % 2 > 0)], huffman=False)
            assert ours.decode(block) == lines
            back.encode([lines[1]] * 2)

    send(10_000)  # fills the caches
    tracemalloc.start()
    send(20_000)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 500_000


def test_static_table_is_that_of_the_referee() -> None:
    assert STATIC_LINES == HeaderTable.STATIC_TABLE
