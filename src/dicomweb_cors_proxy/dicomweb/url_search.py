"""Find and replace the archive's URLs in JSON or XML text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from dicomweb_cors_proxy.dicomweb.archive_urls import URLMap
    from dicomweb_cors_proxy.dicomweb.syntaxes import Syntax

__all__ = ["LearnedForm", "URLReplacer"]

# How far in front of a value its key may begin, and how much of a value is looked at, in bytes:
# no more of a body is remembered or held back.
_REACH: Final = 2048
_NEAR: Final = 256
_LONGEST_BASE: Final = 1024


class _Match(NamedTuple):
    """A base URL that is to be replaced.

    Attributes:
        length: of it, as written.
        end: where what shows its end, the next byte of the URL or the one after it, ends.
        replacement: for it.
        context: what precedes it and, wherever it stands, makes it the value of one of our keys.
    """

    length: int
    end: int
    replacement: bytes
    context: bytes


class LearnedForm(NamedTuple):
    """The form in which a base URL was found; the same form is recognized without parsing.

    Attributes:
        forms: the base URL with its context in front of it, and what shows its end.
        start, stop, end: of the base URL, and of the forms, relative to the needle.
        replacement: for the base URL.
    """

    forms: tuple[bytes, ...] = ()
    start: int = 0
    stop: int = 0
    end: int = 0
    replacement: bytes = b""


_NOTHING: Final = LearnedForm()
_MOST_FORMS: Final = 8


class URLReplacer:
    """A filter for text in one syntax: a JSON body, or XML except its sections.

    Args:
        urls: the public URL for each of the archive's.
        syntax: of the text.
        learned: forms found in earlier texts, by escape of the syntax and needle; is added to.
        piece: bytes to feed at a time.
    """

    def __init__(
        self,
        urls: URLMap,
        syntax: Syntax,
        learned: dict[tuple[bytes, bytes], LearnedForm],
        *,
        piece: int,
    ) -> None:
        self._urls = urls
        self._syntax = syntax
        self._learned = learned
        self.piece = piece
        self._needle, self._run = urls.search
        self._begins = b"hH" + syntax.escape
        self._usual = learned.get((syntax.escape, self._needle), _NOTHING)
        self._held = b""
        self._passed = b""  # the last bytes in front of `_held`

    def feed(self, chunk: bytes) -> bytes:
        data = self._held + chunk
        start = self._start(data, len(data))
        if start is None or data[start : start + 1] not in self._begins:
            start = len(data)
        self._held = data[start:]
        return self._rewritten(data[:start])

    def flush(self) -> bytes:
        data, self._held = self._held, b""
        return self._rewritten(data)

    def whole(self, body: bytes) -> bytes:
        return self._rewritten(body)

    def _start(self, data: bytes, at: int) -> int | None:
        """Return where the value around `data[at]` begins, if its base URL can reach as far."""
        low = max(0, at - _LONGEST_BASE)
        start = max([data.rfind(byte, low, at) for byte in self._syntax.closers]) + 1
        return start if start or not low else None

    def _before(self, data: bytes, at: int) -> bytes:
        """Return what is in front of `data[at]`, as far as a context reaches."""
        return data[at - _REACH : at] if at >= _REACH else (self._passed + data[:at])[-_REACH:]

    def _rewritten(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._syntax.escapes_letters(data):
            rewritten = self._search_starts(data)
        else:
            rewritten = self._replace_usual(data) or self._search_needle(data)
        self._passed = self._before(data, len(data))
        return rewritten

    def _search_starts(self, data: bytes) -> bytes:
        """Rewrite `data` by a look at every value that may be a URL: its letters may be escaped."""
        pieces: list[bytes] = []
        done = 0
        for start in (0, *(match.end() for match in self._syntax.candidate.finditer(data))):
            found = self._found(data, start)
            if found is not None:
                pieces += data[done:start], found.replacement
                done = start + found.length
        return b"".join((*pieces, data[done:]))

    def _replace_usual(self, data: bytes) -> bytes | None:
        """Replace the usual form by a split at it; None if there may be URLs in another form."""
        usual = self._usual
        if len(usual.forms) != 1:
            return None
        form = usual.forms[0]
        first, done = b"", 0
        if data[:1] in self._begins and (found := self._found(data, 0)) is not None:
            # The context of this one was passed with an earlier piece.
            first, done = found.replacement, found.length
        needle_at = len(form) - usual.end
        before, after = form[: needle_at + usual.start], form[needle_at + usual.stop :]
        parts = data[done:].split(form)
        # A context may hold other URLs. No needle contains a line feed.
        if len(parts) == 1 or self._needle in (before + b"\n").join(parts):
            return None
        return first + (before + usual.replacement + after).join(parts)

    def _search_needle(self, data: bytes) -> bytes:
        """Do the same where all letters are written as they are."""
        find, endswith, view = data.find, data.endswith, memoryview(data)
        needle = self._needle
        forms, start, stop, end, replacement = self._usual
        last = len(data) - end
        pieces: list[bytes | memoryview] = []  # `replacement` follows each
        done = misses = 0
        missed = -1  # the last value that is none of ours: it may have many needles
        at = find(needle)
        while at >= 0:
            if at <= last and endswith(forms, 0, at + end):
                pieces.append(view[done : at + start])
                done = at + stop
            elif (value := self._start(data, at)) is not None and value >= done and value != missed:
                found = self._found(data, value)
                if found is None:
                    misses += 1
                    missed = value
                else:
                    pieces.append(view[done:value])
                    done = value + found.length
                    if found.replacement != replacement:
                        pieces = [replacement.join(pieces)]
                    self._usual = self._learn(data, value, at, found)
                    self._learned[self._syntax.escape, needle] = self._usual
                    forms, start, stop, end, replacement = self._usual
                    last = len(data) - end
            at = find(needle, at + 1)
        if misses > len(data) // 2048:
            self._needle = self._run
            self._usual = self._learned.get((self._syntax.escape, self._needle), _NOTHING)
        return replacement.join((*pieces, view[done:])) if pieces else data

    def _learn(self, data: bytes, start: int, at: int, found: _Match) -> LearnedForm:
        usual = LearnedForm(
            forms=(found.context + data[start : found.end],),
            start=start - at,
            stop=start + found.length - at,
            end=found.end - at,
            replacement=found.replacement,
        )
        if usual[1:] != self._usual[1:]:
            return usual
        others = tuple(form for form in self._usual.forms if form not in usual.forms)
        return usual._replace(forms=(usual.forms + others)[:_MOST_FORMS])

    def _found(self, data: bytes, start: int) -> _Match | None:
        """Return the base URL that begins at `data[start]`, if a value of our keys does."""
        syntax = self._syntax
        closer = syntax.closers.get(data[start - 1 : start] or self._passed[-1:])
        if closer is None or syntax.scheme.match(data, start) is None:
            return None
        text, closed, _ = data[start : start + _LONGEST_BASE].partition(closer)
        url, ends = syntax.unescape(text, self._urls.longest)
        base = self._urls.base(url, complete=bool(closed))
        if base is None:
            return None
        before = self._before(data, start)
        # Most are near, and a shorter search is a faster one.
        context = syntax.context.search(before, max(0, len(before) - _NEAR))
        context = context or syntax.context.search(before)
        if context is None:
            return None
        length, replacement = base
        return _Match(
            length=ends[length - 1],
            end=start + (ends[length] if length < len(url) else len(text) + 1),
            replacement=syntax.quoted(replacement),
            context=before[max(0, context.start() - 1) :],
        )
