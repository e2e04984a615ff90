"""Response headers that keep browsers from running stored content on our origin."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dicomweb_cors_proxy.http.messages import Header

__all__ = ["sandboxed"]

_NO_SNIFFING: Final[Header] = (b"x-content-type-options", b"nosniff")
_SANDBOX: Final[Header] = (b"content-security-policy", b"sandbox")

# Media types that a browser runs scripts from if a user opens the URL: HTML and all XML (a script
# element needs only its namespace); and scripts themselves, which can be workers. PDF is not among
# them: viewers give its scripts no access to the origin, and Chromium shows none in a sandbox.
_ACTIVE: Final = re.compile(
    rb"[\t ]*+(?:text/(?:html|xml|xsl|jscript|livescript)|application/xml|[^;]*\+xml"
    rb"|(?:text|application)/(?:x-)?(?:java|ecma)script[0-9.]*+|multipart/x-mixed-replace)"
    rb"[\t ]*+(?:;|\Z)",
    re.IGNORECASE,
)

# The types of almost all responses: a look-up takes a tenth of the time of a match.
_PASSIVE: Final = frozenset(
    {
        b"application/dicom",
        b"application/dicom+json",
        b"application/json",
        b"application/octet-stream",
        b"image/jpeg",
        b"multipart/related",
    }
)


def sandboxed(headers: list[Header], fields: Mapping[bytes, bytes]) -> list[Header]:
    """Return the headers of the archive's response with what keeps its content from running.

    `fields` are the headers by their names in lower case, repeated ones joined by commas. Browsers
    may not guess another type than the one that is sent. Types with scripts get a sandbox, which
    is an origin of its own without scripts, unless the archive sent a Content-Security-Policy.
    """
    if _NO_SNIFFING[0] in fields:
        headers = [header for header in headers if header[0] != _NO_SNIFFING[0]]
    headers = [*headers, _NO_SNIFFING]
    if _SANDBOX[0] not in fields and _is_active(fields.get(b"content-type", b"")):
        headers.append(_SANDBOX)
    return headers


def _is_active(content_type: bytes) -> bool:
    if b"," in content_type:  # of several lines, browsers take the last that they can read
        return any(map(_ACTIVE.match, content_type.split(b",")))
    essence = content_type.partition(b";")[0]
    return essence not in _PASSIVE and _ACTIVE.match(essence) is not None
