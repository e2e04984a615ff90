"""DICOM JSON responses (PS3.18 F.2): the instance they name, and where their URLs lead a page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from dicomweb_cors_proxy.probe.origins import is_trustworthy, origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Instance",
    "Link",
    "instance_of",
    "instances_of",
    "is_dicom_json",
    "links",
    "shown_origin",
]

STUDY, SERIES, INSTANCE, RETRIEVE_URL = "0020000D", "0020000E", "00080018", "00081190"

_TAG: Final = re.compile("[0-9A-Fa-f]{8}")
_UID: Final = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_DNS_NAME: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9_-]{1,63}\.)*[a-z_-][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class Link:
    """A URL that leads out of the root: the attribute that had it, its origin if it has one.

    Attributes:
        is_mixed: whether a page on https can't follow it.
        keeps_path: whether its path is below the root's, on another origin.
    """

    attribute: str
    origin: str | None
    is_mixed: bool = False
    keeps_path: bool = False


@dataclass(frozen=True, slots=True)
class Instance:
    """UIDs that a search gave; None for those that it didn't."""

    study: str | None = None
    series: str | None = None
    instance: str | None = None


def _parsed(body: bytes) -> list[object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return value if isinstance(value, list) else []


def is_dicom_json(body: bytes) -> bool:
    """Tell whether a response is a list of datasets (PS3.18 F.2), or the beginning of one."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return body.lstrip().startswith(b"[{")
    return isinstance(value, list) and all(
        isinstance(each, dict) and all(map(_TAG.fullmatch, each)) for each in value
    )


def instance_of(body: bytes) -> Instance:
    """Read the UIDs of a search's first result."""
    return next(instances_of(body), Instance())


def instances_of(body: bytes) -> Iterator[Instance]:
    """Read the UIDs of a search's results."""
    for result in _parsed(body):
        if isinstance(result, dict):
            yield Instance(*(_uid(result.get(tag)) for tag in (STUDY, SERIES, INSTANCE)))


def _uid(attribute: object) -> str | None:
    match attribute:
        case {"Value": [str(uid), *_]} if len(uid) <= 64 and _UID.fullmatch(uid):
            return uid
    return None


def links(body: bytes, *, url: str, root: str, origin: str) -> Iterator[Link]:
    """Find the URLs of a response from `url` that a page on `origin` can't reach below `root`.

    Relative ones are resolved. Those of other schemes than http and https are left out.
    """
    home = urlsplit(root).path.rstrip("/") + "/"
    for attribute, value in _urls(_parsed(body)):
        try:
            there = urljoin(url, value)
            parts = urlsplit(there)
            if parts.scheme not in ("http", "https"):
                continue
            keeps_path = parts.path.startswith(home)
            if origin_of(there) == origin_of(root) and keeps_path:
                continue
            mixed = origin.startswith("https:") and not is_trustworthy(there)
        except ValueError:
            yield Link(attribute, None)
        else:
            yield Link(attribute, shown_origin(there), is_mixed=mixed, keeps_path=keeps_path)


def _urls(part: object) -> Iterator[tuple[str, str]]:
    todo = [part]
    while todo:
        match todo.pop():
            case list() as items:
                todo += items
            case dict() as attributes:
                for name, value in attributes.items():
                    match name, value:
                        case "BulkDataURI", str():
                            yield "BulkDataURI", value
                        case str(), {"Value": list(values)} if name == RETRIEVE_URL:
                            yield from (("RetrieveURL", v) for v in values if isinstance(v, str))
                        case _:
                            todo.append(value)


def shown_origin(url: str) -> str | None:
    """Return a URL's origin if its host is a plain host name or an address, else None.

    So nothing that was put into a URL in the wrong place can be shown.
    """
    try:
        host = urlsplit(url).hostname or ""
        if not _DNS_NAME.fullmatch(host):
            ip_address(host)
        return origin_of(url)
    except ValueError:
        return None


def destinations(found: set[Link], root: str) -> str:
    """Return where URLs lead, in words: up to three origins, or another path of the root's."""
    origins = sorted({link.origin for link in found if link.origin})
    if origins == [origin_of(root)]:
        return f"another path of {origins[0]}"
    return ", ".join(origins[:3]) or "a URL that can't be read"


def aliases(found: set[Link], root: str) -> list[str]:
    """Return the base URL by which the archive calls itself; other paths may be anything."""
    path = urlsplit(root).path
    names = {
        f"{link.origin}{path if link.keeps_path else '/PATH'}" for link in found if link.origin
    }
    return sorted(names)[:3]
