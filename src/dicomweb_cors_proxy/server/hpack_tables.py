"""The constant tables of HPACK (RFC 7541): header lines by number, and the Huffman code."""

from __future__ import annotations

from typing import Final

HeaderLine = tuple[bytes, bytes]


class HuffmanError(ValueError):
    """A string that is not valid in the Huffman code."""


# RFC 7541 Appendix A. The first line has number 1.
_STATIC_TEXT: Final = """\
:authority
:method GET
:method POST
:path /
:path /index.html
:scheme http
:scheme https
:status 200
:status 204
:status 206
:status 304
:status 400
:status 404
:status 500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
"""


def _static_lines() -> tuple[HeaderLine, ...]:
    parts = (line.encode().partition(b" ") for line in _STATIC_TEXT.splitlines())
    return tuple((name, value) for name, _, value in parts)


STATIC_LINES: Final = _static_lines()
STATIC_NUMBERS: Final = {line: number for number, line in enumerate(STATIC_LINES, 1)}

# The lowest number for each name.
STATIC_NAME_NUMBERS: Final = {
    line[0]: number for number, line in reversed([*enumerate(STATIC_LINES, 1)])
}

# RFC 7541 Appendix B is a canonical code: codes grow with their length, and within one length
# with the byte. The lengths therefore define it.
_BYTES_BY_CODE_BITS: Final = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4"
    b"\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4"
    b"\xb6\xb7\xbc\xbf\xc5\xe7\xef",
    24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b"
    b"\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    30: b"\n\r\x16",
}

# The symbol after the last byte has the last code: thirty ones.
_END_OF_STRING: Final = 256


# Input that is decoded together if it was seen before, and how many such pieces are cached. The
# paths of a series' frames differ in their last piece only.
_RUN_BYTES: Final = 16
MAX_CACHED_RUNS: Final = 2048


class HuffmanDecoder:
    """A decoder that reads a byte of input in each step, from a table that grows as needed.

    The states are the 256 inner nodes of the code's tree. So the table has at most 65,536 steps,
    or 12 MB, if clients send each of them. Header lines of browsers need a few hundred.
    """

    def __init__(self) -> None:
        self._children = _tree()
        self._padded_states = self._states_after_padding()
        # By `state << 8 | byte`: the next state, shifted likewise, and the bytes decoded.
        self._steps: dict[int, tuple[int, bytes]] = {}
        # By state and input: the same for several bytes.
        self._runs: dict[tuple[int, bytes], tuple[int, bytes]] = {}

    def decode(self, data: bytes) -> bytes:
        """Return the decoded string. Raise HuffmanError if it is not valid."""
        state = 0
        pieces = []
        for at in range(0, len(data), _RUN_BYTES):
            key = state, data[at : at + _RUN_BYTES]
            state, piece = self._runs.get(key) or self._add_run(key)
            pieces.append(piece)
        if state not in self._padded_states:
            raise HuffmanError("The padding of a string is not the start of a code of ones.")
        return b"".join(pieces)

    def _add_run(self, key: tuple[int, bytes]) -> tuple[int, bytes]:
        state, data = key
        pieces = []
        steps = self._steps
        for byte in data:
            state, piece = steps.get(state | byte) or self._add_step(state | byte)
            pieces.append(piece)
        if len(self._runs) >= MAX_CACHED_RUNS:
            self._runs.clear()
        run = self._runs[key] = state, b"".join(pieces)
        return run

    def _add_step(self, key: int) -> tuple[int, bytes]:
        node, byte = key >> 8, key & 255
        decoded = bytearray()
        for bit in range(7, -1, -1):
            node = self._children[node][byte >> bit & 1]
            if node < 0:
                symbol = ~node
                if symbol == _END_OF_STRING:
                    raise HuffmanError("A string contains the code for its end.")
                decoded.append(symbol)
                node = 0
        step = self._steps[key] = node << 8, bytes(decoded)
        return step

    def _states_after_padding(self) -> frozenset[int]:
        """Return the states after at most seven ones (RFC 7541 §5.2)."""
        states = [0]
        for _ in range(7):
            states.append(self._children[states[-1]][1])
        return frozenset(state << 8 for state in states)


def _tree() -> list[list[int]]:
    """Return the children of each inner node by bit; a leaf is the complement of its symbol."""
    children = [[0, 0]]
    code, code_bits = 0, 0
    for length, values in [*_BYTES_BY_CODE_BITS.items(), (30, [_END_OF_STRING])]:
        for symbol in values:
            code <<= length - code_bits
            code_bits = length
            node = 0
            for bit in range(length - 1, 0, -1):
                side = code >> bit & 1
                if not children[node][side]:
                    children[node][side] = len(children)
                    children.append([0, 0])
                node = children[node][side]
            children[node][code & 1] = ~symbol
            code += 1
    return children
