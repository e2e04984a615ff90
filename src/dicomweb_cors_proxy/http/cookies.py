"""Find out whether a browser returns a cookie to the URL from which it got it (RFC 6265)."""

from __future__ import annotations

from typing import Literal

__all__ = ["unreturnable"]


def unreturnable(
    set_cookie: bytes, *, host: bytes, path: bytes
) -> Literal["Path", "Domain"] | None:
    """Return the attribute of a Set-Cookie for which no request to a URL has the cookie.

    Args:
        set_cookie: the value of the header.
        host: of the URL, with or without a port.
        path: of the URL. Requests go to paths below it.
    """
    attributes = {b"path": b"", b"domain": b""}
    for attribute in set_cookie.split(b";")[1:]:
        name, _, value = attribute.partition(b"=")
        attributes[name.strip(b" \t").lower()] = value.strip(b" \t")
    domain = attributes[b"domain"].lower().removeprefix(b".")
    if domain and not _is_in_domain(_name(host), domain):
        return "Domain"
    cookie_path = attributes[b"path"].rstrip(b"/")
    below = path.rstrip(b"/")
    if cookie_path.startswith(b"/") and not (
        _is_below(cookie_path, below) or _is_below(below, cookie_path)
    ):
        return "Path"
    return None


def _name(host: bytes) -> bytes:
    """Return a host without its port, in lower case."""
    end = host.find(b":", host.rfind(b"]") + 1)
    return (host if end < 0 else host[:end]).lower()


def _is_in_domain(host: bytes, domain: bytes) -> bool:
    """Return whether a host matches a domain (RFC 6265 §5.1.3)."""
    is_address = host.startswith(b"[") or host.replace(b".", b"").isdigit()
    return host == domain or (not is_address and host.endswith(b"." + domain))


def _is_below(path: bytes, parent: bytes) -> bool:
    return path == parent or path.startswith(parent + b"/")
