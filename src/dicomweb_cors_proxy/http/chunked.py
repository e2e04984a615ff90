"""A strict decoder for chunked bodies (RFC 9112 §7.1), for requests and responses alike.

It does no I/O. It returns one object for each call instead of one for each chunk. So a body in
tiny chunks needs no more memory than its content.
"""

from __future__ import annotations

import re

# Chunks decoded in one call; about 0.1 ms of work.
MAX_CHUNKS_PER_CALL = 256

# Minimum size of a piece for which a view of it takes less time than a copy.
VIEW_BYTES = 4096

# Maximum size of the trailer section.
MAX_TRAILER_BYTES = 8192

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TEXT = rb"[\t -~\x80-\xff]"  # all of it on one line
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\' + _TEXT + rb')*"'
_BLANKS = rb"[ \t]*"

# RFC 9112 §7.1.1 has recipients accept blanks before a `;`. Some servers pad the size with blanks;
# nginx and HAProxy accept those.
_SIZE = rb"(0{0,255}[0-9A-Fa-f]{1,16})[ \t]{0,255}"
_EXTENSION_LENGTH = b"{0,4095}"
_VALUE = _BLANKS + b"=" + _BLANKS + b"(?:" + _TOKEN + b"|" + _QUOTED + b")"
_EXTENSION = b";" + _BLANKS + _TOKEN + b"(?:" + _VALUE + b")?" + _BLANKS
_EXTENSIONS = rb"(?:(?=;[^\r]" + _EXTENSION_LENGTH + rb"\r)(?:" + _EXTENSION + b")*)?"

# The end of a chunk's data, and the line with the size of the next chunk.
_CHUNK = re.compile(rb"\r\n" + _SIZE + _EXTENSIONS + rb"\r\n")
_PARTIAL_CHUNK = re.compile(
    rb"\r?|\r\n(?:" + _SIZE + b"(?:;" + _TEXT + _EXTENSION_LENGTH + rb")?\r?)?"
)

# More than the longest match of _CHUNK.
_LONGEST_LINE_BYTES = 5000

# RFC 9110 §6.5.1: fields for framing must not be trailers. Other recipients might use them.
_FIELD = rb"(?!(?i:content-length|transfer-encoding):)" + _TOKEN + b":" + _TEXT + b"*"
_FIELDS = re.compile(b"(?:" + _FIELD + rb"\r\n)*")
_PARTIAL_FIELD = re.compile(_TOKEN + b"(?::" + _TEXT + rb"*\r?)?|\r?")


class ChunkedError(ValueError):
    """A violation of chunked framing."""


class ChunkedDecoder:
    """A decoder for one chunked body. Extensions and trailers are checked and dropped.

    Attributes:
        complete: whether the end of the body was read.
    """

    def __init__(self) -> None:
        self.complete = False
        self._trailer_bytes = 0
        self._in_trailers = False
        self._remaining = 0  # bytes of the current chunk
        # The incomplete line at the end of the input. The line end before the first chunk is
        # added, because every other size follows one.
        self._partial = b"\r\n"

    def decode(self, data: bytes, start: int = 0) -> tuple[bytes, int]:
        """Decode `data` from `start` on; return the content and the position where it stopped.

        That is the end of `data`, unless the body is complete or `MAX_CHUNKS_PER_CALL` chunks
        were decoded: then call again with this position.

        Raises:
            ChunkedError: the framing is malformed. The decoder can't be used any more.
        """
        at = start
        end = len(data)
        pieces: list[bytes | memoryview] = []
        view = memoryview(data)  # a long piece is copied once, when all are joined
        if self._partial and not self._in_trailers and at < end:
            at = self._complete_line(data, at)
        remaining = self._remaining
        while at < end and len(pieces) < MAX_CHUNKS_PER_CALL and not self._in_trailers:
            if remaining:
                is_all = at == 0 and remaining >= end  # a slice of all of it is no copy
                source = data if is_all or remaining < VIEW_BYTES else view
                piece = source[at : at + remaining]
                pieces.append(piece)
                at += len(piece)
                remaining -= len(piece)
            elif (line := _CHUNK.match(data, at)) is not None:
                at = line.end()
                remaining = int(line[1], 16)
                self._in_trailers = not remaining
            else:
                self._keep_partial(data[at:])
                at = end
        self._remaining = remaining
        if self._in_trailers and at < end:
            at = self._skip_trailers(data, at)
        return b"".join(pieces), at

    def _complete_line(self, data: bytes, at: int) -> int:
        """Read the rest of an incomplete size line; return the position behind it."""
        partial, self._partial = self._partial, b""
        joined = partial + data[at : at + _LONGEST_LINE_BYTES]
        line = _CHUNK.match(joined)
        if line is None:
            self._keep_partial(joined)
            return len(data)
        self._remaining = int(line[1], 16)
        self._in_trailers = not self._remaining
        return at + line.end() - len(partial)

    def _keep_partial(self, rest: bytes) -> None:
        if _PARTIAL_CHUNK.fullmatch(rest) is None:
            raise ChunkedError("The size of a chunk is malformed, or its line is too long.")
        self._partial = rest

    def _skip_trailers(self, data: bytes, at: int) -> int:
        """Skip the fields of the trailer section; return the position behind them."""
        partial, self._partial = self._partial, b""
        section = partial + data[at:]
        fields = _FIELDS.match(section)
        skipped = 0 if fields is None else fields.end()
        self.complete = section.startswith(b"\r\n", skipped)
        if self.complete:
            skipped += 2
            at += skipped - len(partial)
        else:
            self._partial = section[skipped:]
            at = len(data)
        self._trailer_bytes += skipped
        if self._trailer_bytes + len(self._partial) > MAX_TRAILER_BYTES:
            raise ChunkedError("The trailers are too long.")
        if _PARTIAL_FIELD.fullmatch(self._partial) is None:
            raise ChunkedError("A trailer is malformed.")
        return at
