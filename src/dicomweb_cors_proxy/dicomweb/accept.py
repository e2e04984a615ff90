"""Put back the quotes that viewers leave out of Accept."""

from __future__ import annotations

import re
from typing import Final

from dicomweb_cors_proxy.http.messages import TCHAR

__all__ = ["repair_accept"]

_QUOTED: Final = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_VISIBLE: Final = r"[!#-+\--:<-\[\]-~]"  # except what separates or quotes: " , ; \

# A parameter that lacks its quotes; within a quoted string it may be a false alarm.
_SUSPECT: Final = re.compile(rf"={TCHAR}*+{_VISIBLE}".encode())
_PARAMETER: Final = re.compile(rf"(;[\t ]*+{TCHAR}++=)(?:{_QUOTED}|({_VISIBLE}++))".encode())
_MEDIA_RANGE: Final = (
    rf"[\t {_VISIBLE[1:]}*+"
    rf"(?:;[\t ]*+(?:{TCHAR}++(?:=(?:{_QUOTED}|{_VISIBLE}++))?)?[\t ]*+)*"
)
_REPAIRABLE: Final = re.compile(rf"{_MEDIA_RANGE}(?:,{_MEDIA_RANGE})*\Z".encode())
_IS_TOKEN: Final = re.compile(rf"{TCHAR}++\Z".encode())


def repair_accept(value: bytes) -> bytes:
    """Put back the quotes that the grammar wants around parameter values that are no tokens.

    `type=application/dicom` becomes `type="application/dicom"`. Viewers leave the quotes out
    because with them the browser sends a preflight first; strict archives answer 406 without
    them. A well-formed value, or one whose meaning is not certain, is returned as it is.

    Source: RFC 9110 §5.6.6 and §12.5.1, RFC 2387 §3.
    """
    if _SUSPECT.search(value) is None or _REPAIRABLE.match(value) is None:
        return value
    return _PARAMETER.sub(_with_quotes, value)


def _with_quotes(parameter: re.Match[bytes]) -> bytes:
    start, value = parameter.groups()
    if value is None or _IS_TOKEN.match(value):
        return parameter[0]
    return b'%b"%b"' % (start, value)
