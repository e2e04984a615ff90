"""Find the rule of HTTP that the head of a response breaks; the text quotes no value."""

from __future__ import annotations

import re
from typing import Final

from dicomweb_cors_proxy.http.messages import TCHAR

__all__ = ["as_clause", "coding_fault", "find_fault"]

_STATUS_LINE: Final = re.compile(rb"HTTP/[0-9]\.[0-9] ([0-9])[0-9]{2}(?: .*)?", re.DOTALL)
_TOKEN: Final = re.compile(rf"{TCHAR}+".encode("ascii"))
_BLANK: Final = re.compile(rb"[ \t]")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENGTH: Final = re.compile(rb"[ \t]*[0-9]{1,19}[ \t]*")

# Names that say what a header is for. Other bytes at their place could be of a patient.
_PRINTABLE: Final = re.compile(rb"[A-Za-z]{1,20}(?:-[A-Za-z]{1,20}){0,4}")


def _printable_name(name: bytes) -> str:
    """Return how a text names a header: by its name, if that can be nothing else."""
    is_name = _PRINTABLE.fullmatch(name) is not None
    return f"the header {name.decode('ascii')}" if is_name else "a header"


def as_clause(sentence: str) -> str:
    """Return a sentence as the part of another one."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def coding_fault(value: bytes, version: str, *, is_repeated: bool) -> str | None:
    """Return what is wrong with a Transfer-Encoding; None for one `chunked` of HTTP/1.1."""
    if version == "1.0":
        return "it has Transfer-Encoding, which HTTP/1.0 lacks"
    if is_repeated:
        return "it has Transfer-Encoding twice"
    if value.lower() != b"chunked":
        return "its Transfer-Encoding names another coding than chunked"
    return None


def find_fault(head: bytes) -> str | None:
    """Return the first rule that the bytes of a head break, as a clause; None if it is not HTTP.

    The last line may be incomplete. Interim responses may stand in front. Source: RFC 9112.
    """
    head = head.lstrip(b"\r\n")
    if not head.startswith(b"HTTP/"):
        return None
    lines = head.split(b"\n")
    seen: set[bytes] = set()
    before: str | None = None  # the header of the line before
    is_status = True
    for number, line in enumerate(lines):
        is_complete = number < len(lines) - 1
        if is_status:
            if not line.strip(b"\r"):
                continue
            place = "its status line"
            fault = _status_fault(line.removesuffix(b"\r"), is_complete=is_complete)
        else:
            name = line.partition(b":")[0]
            place = _printable_name(name)
            fault = _header_fault(line, before, seen, is_complete=is_complete)
        if fault:
            return fault
        if is_complete and not line.endswith(b"\r"):
            return f"{place if line else 'its head'} ends with LF alone, not with CR LF"
        if b"\r" in line[:-1]:
            return f"{place} has a CR that no LF follows"
        before = None if is_status else place
        if line == b"\r":  # the end of an interim response
            seen.clear()
        is_status = line == b"\r"
    return "its head is malformed"


def _status_fault(line: bytes, *, is_complete: bool) -> str | None:
    is_right = _STATUS_LINE.fullmatch(line) is not None
    return "its status line is malformed" if is_complete and not is_right else None


def _header_fault(
    line: bytes, before: str | None, seen: set[bytes], *, is_complete: bool
) -> str | None:
    """Return the fault of a header line; `seen` are the framing headers before it."""
    if line in (b"", b"\r"):
        return None
    if line[:1] in (b" ", b"\t"):
        return f"{before or 'its status line'} is folded over several lines"
    name, colon, value = line.rstrip(b"\r").partition(b":")
    if fault := _name_fault(name):
        return fault
    if not colon:
        ended = is_complete or line.endswith(b"\r")
        return "a header has no colon" if ended else None
    if _CONTROL.search(value):
        return f"{_printable_name(name)} has a control character"
    return _framing_fault(name.lower(), value, seen, is_complete=is_complete)


def _name_fault(name: bytes) -> str | None:
    if not name:
        return "a header has no name"
    if _BLANK.search(name):
        stripped = name.rstrip(b" \t")
        where = "before the colon of" if _TOKEN.fullmatch(stripped) else "in the name of"
        return f"a blank stands {where} {_printable_name(stripped)}"
    if not _TOKEN.fullmatch(name):
        return "the name of a header has a character that is not allowed"
    return None


def _framing_fault(name: bytes, value: bytes, seen: set[bytes], *, is_complete: bool) -> str | None:
    """Return what makes the end of the body uncertain (RFC 9112 §6.3)."""
    if name not in (b"content-length", b"transfer-encoding"):
        return None
    title = name.title().decode("ascii")
    if name in seen:
        return f"it has {title} twice"
    seen.add(name)
    if len(seen) > 1:
        return "it has both Content-Length and Transfer-Encoding"
    if name == b"content-length" and not _LENGTH.fullmatch(value):
        return "its Content-Length is not a number" if is_complete or value.strip() else None
    if name == b"transfer-encoding" and is_complete and not value.strip():
        return "its Transfer-Encoding is empty"
    return None
