"""Header compression for HTTP/2 (RFC 7541): a decoder and an encoder that do no I/O.

Both cache what a connection repeats. Browsers send the same lines with each request for a frame,
and most lines of our responses are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.server.hpack_tables import (
    STATIC_LINES,
    STATIC_NAME_NUMBERS,
    STATIC_NUMBERS,
    HeaderLine,
    HuffmanDecoder,
    HuffmanError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

# The size of each dynamic table until a peer sets another one (RFC 9113 §6.5.2).
DEFAULT_TABLE_BYTES: Final = 4096

# Added to the bytes of name and value, in tables (RFC 7541 §4.1) and in lists (RFC 9113 §6.5.2).
LINE_OVERHEAD_BYTES: Final = 32

# Lines that an intermediary must not index either, because the size of a response could otherwise
# confirm a guess (RFC 7541 §7.1.3).
SENSITIVE_NAMES: Final = frozenset(
    {b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"}
)

_STATIC_COUNT: Final = len(STATIC_LINES)

# An integer's bytes after its prefix, and therefore the bits of its largest value. No valid
# integer of a header block comes near it.
_MAX_INTEGER_SHIFT: Final = 28

# Ends of header blocks that a decoder caches, and the size of each, encoded and decoded.
_MAX_CACHED_ENDS: Final = 16
_MAX_CACHED_END_BYTES: Final = 4096

# Lines that an encoder remembers to have sent once; larger ones are never indexed.
_MAX_SEEN_LINES: Final = 64
_MAX_INDEXED_BYTES: Final = 512

# Lines that a response to an oversized request depends on.
_KEPT_NAMES: Final = frozenset(
    {b":method", b":scheme", b":authority", b":path", b"host", b"origin"}
)

_huffman = HuffmanDecoder()


class HPACKError(ValueError):
    """A header block that is not valid. The connection must end with COMPRESSION_ERROR."""


class HeaderListTooLarge(ValueError):  # noqa: N818  (the connection goes on)
    """A valid header block with more bytes of lines than allowed. The connection can go on.

    Attributes:
        headers: the first line each of the pseudo-headers for requests, Host and Origin.
    """

    def __init__(self, headers: list[HeaderLine]) -> None:
        super().__init__("The header list is too large.")
        self.headers = headers


class HeaderDecoder:
    """A decoder for the header blocks of one connection, in their order."""

    def __init__(self, max_table_bytes: int, max_list_bytes: int) -> None:
        self._max_table_bytes = max_table_bytes
        self._max_list_bytes = max_list_bytes
        self._table_limit = max_table_bytes
        self._table: list[HeaderLine] = []  # the newest last
        self._table_bytes = 0
        # By the bytes after a :path that is not indexed: the lines to the end, and their size.
        # Each change of the table invalidates all of them.
        self._ends: dict[bytes, tuple[list[HeaderLine], int]] = {}

    def decode(self, block: bytes) -> list[HeaderLine]:
        """Return the lines of a header block.

        Raises:
            HPACKError: The block is not valid.
            HeaderListTooLarge: The lines are larger than `max_list_bytes`.
        """
        try:
            return self._decode(block)
        except IndexError:
            raise HPACKError("A header block is truncated.") from None
        except HuffmanError as error:
            raise HPACKError(str(error)) from None

    def _decode(self, block: bytes) -> list[HeaderLine]:
        lines: list[HeaderLine] = []
        list_bytes = 0
        at, end = 0, len(block)
        cached_from, cached_lines, cached_bytes = 0, 0, 0
        while at < end:
            first = block[at]
            if first >= 0x80:  # an indexed line
                index, at = _integer(block, at, 0x7F)
                line = self._line(index)
            elif first >= 0x40:  # a line to be added to the table
                line, at = self._literal(block, at, 0x3F)
                self._add(line)
                cached_from = 0
            elif first >= 0x20:
                at = self._resize(block, at, at_start=not list_bytes)
                continue
            else:  # a line that is not indexed
                line, at = self._literal(block, at, 0x0F)
                if line[0] == b":path" and not cached_from:
                    lines.append(line)
                    list_bytes += _line_bytes(line)
                    known = self._ends.get(block[at:])
                    if known is not None and list_bytes + known[1] <= self._max_list_bytes:
                        return lines + known[0]
                    cached_from, cached_lines, cached_bytes = at, len(lines), list_bytes
                    continue
            list_bytes += len(line[0]) + len(line[1]) + LINE_OVERHEAD_BYTES
            if list_bytes > self._max_list_bytes:
                lines = _kept(lines, line)
            else:
                lines.append(line)
        if list_bytes > self._max_list_bytes:
            raise HeaderListTooLarge(_kept(lines))
        if cached_from:
            self._cache_end(block[cached_from:], lines[cached_lines:], list_bytes - cached_bytes)
        return lines

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[HeaderLine, int]:
        index, at = _integer(block, at, mask)
        if index:
            name = self._line(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _line(self, index: int) -> HeaderLine:
        if 0 < index <= _STATIC_COUNT:
            return STATIC_LINES[index - 1]
        index -= _STATIC_COUNT
        if 0 < index <= len(self._table):
            return self._table[-index]
        raise HPACKError("The index of a header line is in neither table.")

    def _add(self, line: HeaderLine) -> None:
        self._ends.clear()
        self._table.append(line)
        self._table_bytes += _line_bytes(line)
        self._evict()

    def _resize(self, block: bytes, at: int, *, at_start: bool) -> int:
        limit, at = _integer(block, at, 0x1F)
        if not at_start:
            raise HPACKError("A header block changes the table's size after its first line.")
        if limit > self._max_table_bytes:
            raise HPACKError("The peer sets a larger table than allowed.")
        self._table_limit = limit
        self._ends.clear()
        self._evict()
        return at

    def _evict(self) -> None:
        count = 0
        while self._table_bytes > self._table_limit:
            self._table_bytes -= _line_bytes(self._table[count])
            count += 1
        del self._table[:count]

    def _cache_end(self, block: bytes, lines: list[HeaderLine], list_bytes: int) -> None:
        if len(block) <= _MAX_CACHED_END_BYTES and list_bytes <= _MAX_CACHED_END_BYTES:
            if len(self._ends) >= _MAX_CACHED_ENDS:
                self._ends.clear()
            self._ends[block] = lines, list_bytes


class HeaderEncoder:
    """An encoder for the header blocks of one connection, in their order.

    A line that is sent a second time enters the table. So lines that are sent once, such as those
    with a request's ID, displace none that repeat.
    """

    def __init__(self) -> None:
        self._table_limit = DEFAULT_TABLE_BYTES
        self._announced_limit = DEFAULT_TABLE_BYTES
        self._smallest_limit = DEFAULT_TABLE_BYTES  # since the last block
        self._limit_changed = False
        self._table: list[HeaderLine] = []  # the newest last
        self._table_bytes = 0
        # Encoded lines: of the tables, and of those that were sent once.
        self._indexed: dict[HeaderLine, bytes] = dict(_STATIC_ENCODED)
        self._seen: dict[HeaderLine, bytes] = {}

    def set_max_table_bytes(self, max_bytes: int) -> None:
        """Apply the peer's SETTINGS_HEADER_TABLE_SIZE, up to the size that we use ourselves."""
        self._table_limit = min(max_bytes, DEFAULT_TABLE_BYTES)
        self._smallest_limit = min(self._smallest_limit, self._table_limit)
        self._limit_changed = True
        self._evict(self._table_limit)

    def encode(self, headers: Iterable[HeaderLine]) -> bytes:
        """Return the header block for these lines. Names must be in lower case."""
        pieces = self._size_updates() if self._limit_changed else []
        indexed = self._indexed
        for line in headers:
            pieces.append(indexed.get(line) or self._literal(line))
        return b"".join(pieces)

    def _literal(self, line: HeaderLine) -> bytes:
        name, value = line
        if name in SENSITIVE_NAMES:
            return _encoded_literal(name, value, first=0x10, mask=0x0F)
        size = _line_bytes(line)
        if size > _MAX_INDEXED_BYTES or size > self._table_limit:
            return _encoded_literal(name, value, first=0, mask=0x0F)
        if self._seen.pop(line, None) is None:
            if len(self._seen) >= _MAX_SEEN_LINES:
                self._seen.clear()
            encoded = self._seen[line] = _encoded_literal(name, value, first=0, mask=0x0F)
            return encoded
        self._add(line, size)
        return _encoded_literal(name, value, first=0x40, mask=0x3F)

    def _add(self, line: HeaderLine, size: int) -> None:
        self._evict(self._table_limit - size)
        self._table.append(line)
        self._table_bytes += size
        # The numbers of all lines change.
        for number, known in enumerate(reversed(self._table), _STATIC_COUNT + 1):
            self._indexed[known] = _encoded_integer(number, 0x80, 0x7F)

    def _evict(self, limit: int) -> None:
        count = 0
        while self._table_bytes > limit:
            line = self._table[count]
            self._table_bytes -= _line_bytes(line)
            del self._indexed[line]
            count += 1
        del self._table[:count]

    def _size_updates(self) -> list[bytes]:
        """Return the updates that the next block starts with (RFC 7541 §4.2)."""
        updates: list[bytes] = []
        if self._smallest_limit < min(self._announced_limit, self._table_limit):
            updates.append(_encoded_integer(self._smallest_limit, 0x20, 0x1F))
            self._announced_limit = self._smallest_limit
        if self._table_limit != self._announced_limit:
            updates.append(_encoded_integer(self._table_limit, 0x20, 0x1F))
        self._announced_limit = self._smallest_limit = self._table_limit
        self._limit_changed = False
        return updates


def _line_bytes(line: HeaderLine) -> int:
    return len(line[0]) + len(line[1]) + LINE_OVERHEAD_BYTES


def _kept(lines: list[HeaderLine], *more: HeaderLine) -> list[HeaderLine]:
    """Return the first line for each of the names that a response depends on."""
    found: dict[bytes, bytes] = {}
    for name, value in (*lines, *more):
        if name in _KEPT_NAMES:
            found.setdefault(name, value)
    return list(found.items())


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return an integer (RFC 7541 §5.1), and the place after it."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > _MAX_INTEGER_SHIFT:
            raise HPACKError("An integer of a header block is too long.")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """Return a string (RFC 7541 §5.2), and the place after it."""
    is_huffman = block[at] >= 0x80
    length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HPACKError("A header block is truncated.")
    data = block[at:end]
    return (_huffman.decode(data) if is_huffman else data), end


def _encoded_integer(value: int, first: int, mask: int) -> bytes:
    if value < mask:
        return bytes((first | value,))
    encoded = bytearray((first | mask,))
    value -= mask
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _encoded_literal(name: bytes, value: bytes, *, first: int, mask: int) -> bytes:
    number = STATIC_NAME_NUMBERS.get(name, 0)
    head = _encoded_integer(number, first, mask)
    if not number:
        head += _encoded_integer(len(name), 0, 0x7F) + name
    return head + _encoded_integer(len(value), 0, 0x7F) + value


_STATIC_ENCODED: Final = {
    line: _encoded_integer(number, 0x80, 0x7F) for line, number in STATIC_NUMBERS.items()
}
