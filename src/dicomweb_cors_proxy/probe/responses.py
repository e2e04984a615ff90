"""The head of a response, read as the Fetch standard reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from dicomweb_cors_proxy.probe.safelists import TOKEN

__all__ = ["Headers", "Response", "combined", "is_malformed", "listed"]

Headers: TypeAlias = "tuple[tuple[str, str], ...]"  # names in any case, values in Latin-1

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})  # "redirect status"


@dataclass(frozen=True, slots=True)
class Response:
    """The head of an HTTP response, its headers line by line."""

    status: int
    headers: Headers = ()

    @property
    def is_ok(self) -> bool:
        """An "ok status"."""
        return 200 <= self.status <= 299

    @property
    def is_redirect(self) -> bool:
        """A "redirect status" with a place to go to."""
        return self.status in _REDIRECTS and bool(self.lines("location"))

    def lines(self, name: str) -> list[str]:
        """Return the value of every line of a header; `name` in lower case."""
        return [value for key, value in self.headers if key.lower() == name]


def combined(response: Response, name: str) -> str | None:
    """Get a header's value, its lines joined by `, ` ("get", header list)."""
    lines = response.lines(name)
    return ", ".join(lines) if lines else None


def listed(response: Response, name: str) -> list[str] | None:
    """Extract a header's list of tokens ("extracting header list values"); None without it.

    Empty elements are passed over (RFC 9110 §5.6.1.2). Raises ValueError if it is not such a list.
    """
    value = combined(response, name)
    if value is None:
        return None
    elements = [element for part in value.split(",") if (element := part.strip(" \t"))]
    if not all(map(TOKEN.fullmatch, elements)):
        raise ValueError(f"{name} is not a list of names")
    return elements


def is_malformed(response: Response, name: str) -> bool:
    """Return whether a header is not a list of tokens."""
    try:
        listed(response, name)
    except ValueError:
        return True
    return False
