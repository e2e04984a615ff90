"""Bodies that contain text to rewrite: XML sections and multipart bodies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dicomweb_cors_proxy.dicomweb.url_search import URLReplacer
    from dicomweb_cors_proxy.http.messages import BodyFilter

__all__ = ["MultipartRewriter", "XMLSections"]


def _whole(data: bytes, *ends: bytes) -> int:
    """Return how much of `data` there is before what may be the beginning of one of `ends`."""
    return next(
        at
        for at in range(max(0, len(data) - max(map(len, ends)) + 1), len(data) + 1)
        if any(end.startswith(data[at:]) for end in ends)
    )


class XMLSections:
    """A filter for XML that passes comments, processing instructions and CDATA sections.

    But a CDATA section may begin with a value; that is rewritten if the public URL is written
    there as elsewhere, `verbatim`. A document type may define what follows: nothing is rewritten.
    """

    _CLOSERS: Final = {
        b"<!--": b"-->",
        b"<?": b"?>",
        b"<![CDATA[": b"]]>",
        b"<!DOCTYPE": b"\0",  # is in no XML
    }
    _OPENER: Final = re.compile(b"|".join(map(re.escape, _CLOSERS)))

    def __init__(self, text: URLReplacer, *, verbatim: bool) -> None:
        self._text = text
        self.piece = text.piece
        self._verbatim = verbatim
        self._held = b""
        self._closer = b""  # of the section that we are in
        self._is_text = True

    def feed(self, chunk: bytes) -> bytes:
        data = self._held + chunk
        pieces: list[bytes] = []
        done = 0
        while edge := self._edge(data, done):
            at, end = edge
            self._pass(data[done:at], pieces)
            pieces += self._text.flush(), data[at:end]
            opener = data[at:end]
            self._closer = b"" if self._closer else self._CLOSERS[opener]
            self._is_text = not self._closer or (opener == b"<![CDATA[" and self._verbatim)
            done = end
        rest = data[done:]
        cut = _whole(rest, *([self._closer] if self._closer else self._CLOSERS))
        self._pass(rest[:cut], pieces)
        self._held = rest[cut:]
        return b"".join(pieces)

    def flush(self) -> bytes:
        held, self._held = self._held, b""
        return self._text.flush() + held

    def whole(self, body: bytes) -> bytes:
        return self.feed(body) + self.flush()

    def _edge(self, data: bytes, start: int) -> tuple[int, int] | None:
        """Return where the section that we are in ends, or the next one begins."""
        if not self._closer:
            opener = self._OPENER.search(data, start)
            return opener and opener.span()
        at = data.find(self._closer, start)
        return None if at < 0 else (at, at + len(self._closer))

    def _pass(self, data: bytes, pieces: list[bytes]) -> None:
        if self._closer and self._is_text and (at := data.find(b"<")) >= 0:
            # A CDATA section holds no markup, even if a part of it looks like some.
            pieces += self._text.feed(data[:at]), self._text.flush(), data[at:]
            self._is_text = False
        else:
            pieces.append(self._text.feed(data) if self._is_text else data)


_LONGEST_HEAD: Final = 16384
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")


class MultipartRewriter:
    """A filter that rewrites the JSON and XML parts of a multipart/related body.

    Args:
        boundary: from the Content-Type of the body.
        rewriter: `(headers) ->` what rewrites the part with these headers, names in lower case;
            None for a part that is to pass as it is.
        piece: see `BodyRewriter`.

    Source: RFC 2046 §5.1.1, by which a line is a boundary if it begins like one.
    """

    def __init__(
        self,
        boundary: bytes,
        rewriter: Callable[[Mapping[bytes, bytes]], BodyFilter | None],
        piece: int,
    ) -> None:
        self.piece = piece
        self._boundary = b"\n--" + boundary
        self._rewriter = rewriter
        self._part: BodyFilter | None = None
        self._in_head = False
        self._held = b"\n"  # not of the body: its first boundary follows no line break
        self._surplus = len(self._held)

    def feed(self, chunk: bytes) -> bytes:
        return self._rewritten(self._held + chunk, ended=False)

    def flush(self) -> bytes:
        return self._rewritten(self._held, ended=True)

    def whole(self, body: bytes) -> bytes:
        return self._rewritten(self._held + body, ended=True)

    def _rewritten(self, data: bytes, *, ended: bool) -> bytes:
        pieces: list[bytes] = []
        done = 0  # of `data`, never cut on the way: there may be thousands of parts in it
        while True:
            if self._in_head:
                longest = done + _LONGEST_HEAD
                blank = _BLANK_LINE.search(data, done, longest)
                if blank is None and len(data) < longest and not ended:
                    break
                # The line break that ends the head may be the boundary's of an empty part.
                end = blank.end() - 1 if blank else min(longest, len(data))
                pieces.append(self._begin(data[done:end]) if blank else data[done:end])
                self._in_head = False
                done = end
            at = data.find(self._boundary, done)
            end = len(data) if ended else self._certain(data, done)
            if at >= 0:
                end = at + 1
            pieces.append(self._part.feed(data[done:end]) if self._part else data[done:end])
            done = end
            if self._part and (ended or at >= 0):
                pieces.append(self._part.flush())
                self._part = None
            if at < 0:
                break
            self._in_head = True
        self._held = data[done:]
        body = b"".join(pieces)
        skipped = self._surplus if body else 0
        self._surplus -= skipped
        return body[skipped:]

    def _certain(self, data: bytes, start: int) -> int:
        """Return where in `data`, from `start` on, the beginning of a boundary may be."""
        at = data.rfind(b"\n", max(start, len(data) - len(self._boundary)))
        return at if at >= 0 and self._boundary.startswith(data[at:]) else len(data)

    def _begin(self, head: bytes) -> bytes:
        """Take the head of a part; return it without the length, if that is going to change."""
        lines = head.split(b"\n")
        fields = [line.partition(b":") for line in lines]
        names = [name.strip().lower() for name, _, _ in fields]
        values = (value.strip() for _, _, value in fields)
        self._part = self._rewriter(dict(zip(names, values, strict=True)))
        if self._part is None:
            return head
        kept = (line for line, name in zip(lines, names, strict=True) if name != b"content-length")
        return b"\n".join(kept)
