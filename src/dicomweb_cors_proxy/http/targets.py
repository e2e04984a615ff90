"""Request targets: origin form, root path, and the checks before anything else."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote

__all__ = ["target_problem", "unreadable_target"]

# The characters of a path and of a query; what their escapes stand for is looked at apart.
_CHARACTERS: Final = re.compile(rb'/[!"$->@-\[\]-~]*+(?:\?[!"$-~]*+)?\Z')

_STRAY_PERCENT: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")

# Some archives decode a path before they resolve it, so its segments are those of the path decoded
# once: %2F and %5C part them like a slash, and %2E is a dot.
_DOT_SEGMENT: Final = re.compile(rb"(?:/|%2[Ff]|%5[Cc])(?:\.|%2[Ee]){1,2}(?:/|%2[Ff]|%5[Cc]|\Z)")

# RFC 9112 §3, but with whatever stands in the place of a target. The line may not be whole yet.
_REQUEST_LINE: Final = re.compile(rb"[\r\n]*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} ([^\r\n]*)")

_UNPRINTABLE: Final = re.compile(rb"[^!-~]")

_FAULTS: Final = tuple(
    (re.compile(pattern), f"The request target {reason}.")
    for pattern, reason in (
        (rb"\A(?!/)", 'does not start with a slash: send the path alone, "/dicom-web/studies"'),
        (rb"[^!-~]", "has a space, a control byte or a byte beyond ASCII: percent-encode it"),
        (rb"#", "has a fragment: leave it out, or write a literal # as %23"),
        (rb"%(?![0-9A-Fa-f]{2})", "has a % without two hexadecimal digits: write %25"),
        (rb"\A[^?]*\\", "has a backslash in its path: use slashes"),
        (rb"", 'has a dot segment in its path, "." or ".." or these percent-encoded: resolve it'),
    )
)


def target_problem(target: bytes) -> str | None:
    """Return what is wrong with a request target in origin form, as a sentence for a 400; or None.

    The sentence never echoes the target. Rejected are dot segments (raw, percent-encoded, or next
    to an encoded slash or backslash) and a `%` without two hexadecimal digits. So are a missing
    slash, a fragment, spaces, control and non-ASCII bytes, and a backslash in the path. Characters
    pass that browsers do not encode although RFC 3986 asks for it. One is the backslash in a query,
    which DICOM puts between the values of one key.

    Source: RFC 9112 §3.2, RFC 3986 §2.1 and §3.3, URL Standard "percent-encode sets".
    """
    has_escapes = b"%" in target
    may_have_dots = has_escapes or b"/." in target
    if (
        _CHARACTERS.match(target)
        and not (has_escapes and _STRAY_PERCENT.search(target))
        and not (may_have_dots and _DOT_SEGMENT.search(target.partition(b"?")[0]))
    ):
        return None
    return next(fault for pattern, fault in _FAULTS if pattern.search(target))


def unreadable_target(head: bytes) -> str | None:
    """Return what is wrong with the target of a head that no parser reads, as a sentence for a 400.

    `head` is its beginning, as far as it has come. None: the fault is another one than a byte that
    can't stand in a target.
    """
    line = _REQUEST_LINE.match(head)
    if line is None:
        return None
    target, version, _ = line[1].rpartition(b" HTTP/")
    if not version:  # it is still to come, or whatever stands behind the first space is no target
        target = line[1].partition(b" ")[0]
    unprintable = _UNPRINTABLE.search(target)
    return None if unprintable is None else target_problem(b"/" + unprintable[0])


# How a target begins: origin form, absolute form, asterisk form (RFC 9112 §3.2).
_TARGET_FORMS = (b"/", b"http://", b"https://", b"*")


def below_root_path(root_path: str, raw_path: bytes) -> bytes:
    """Return the path that the client sent, without the root path that a server put before it."""
    # Some servers put it there as it is, some percent-encoded.
    for root in (root_path.encode(), quote(root_path).encode()):
        below = raw_path.removeprefix(root)
        if below != raw_path and (not below or below.startswith(_TARGET_FORMS)):
            return below or b"/"
    return raw_path


def origin_form(target: bytes) -> tuple[bytes, bytes | None]:
    """Return a target's path, and its authority if it is in absolute form (RFC 9112 §3.2.2)."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return target, None
    authority, slash, path = rest.partition(b"/")
    return slash + path or b"/", authority
