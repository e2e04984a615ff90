"""Web origins, and the patterns that a policy allows them by."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, Self

from dicomweb_cors_proxy.cors.fetch_names import ANY
from dicomweb_cors_proxy.cors.problems import PolicyError, PolicyIssue, listed
from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS, MAX_PORT

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

__all__ = ["APP_SCHEMES", "Origin", "OriginPattern", "is_hostless"]

MAX_ORIGIN_BYTES: Final = 327  # scheme of 64, "://", host of 253 and a dot, ":65535"
APP_SCHEMES: Final = frozenset(
    {
        "app",
        "capacitor",
        "chrome-extension",
        "ionic",
        "moz-extension",
        "safari-web-extension",
        "tauri",
    }
)
_OPAQUE_SCHEMES: Final = frozenset({"about", "blob", "data", "file", "javascript"})
_PAGELESS_SCHEMES: Final = frozenset({"ftp", "ws", "wss"})
_WAY_OUT: Final = (
    "and list that origin; or, if pages send no cookies, allow any origin by a plain *"
)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,63}")  # RFC 3986 §3.1
_ORIGIN: Final = re.compile(
    rf"({_SCHEME.pattern})://([a-z0-9._-]+|\[[0-9a-f:]+\])(?::([1-9][0-9]{{0,4}}))?"
)
# An origin that some apps send, without a host.
_HOSTLESS: Final = re.compile(rf"(?!https?:|ftp:|wss?:)({_SCHEME.pattern}):(?://+)?")
_DNS_NAME: Final = re.compile(r"(?=.{1,253}\.?\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*\.?")
_ENDS_IN_NUMBER: Final = re.compile(r"(?:\A|\.)(?:[0-9]+|0x[0-9a-f]*)\.?\Z")  # URL, §3.5


def is_hostless(origin: bytes) -> bool:
    """Return whether an Origin is one that apps send for local files or pages without a host."""
    scheme, separator, rest = origin.partition(b"://")
    return bool(separator) and not rest and scheme.decode("latin-1") in APP_SCHEMES | {"file"}


@dataclass(frozen=True, slots=True)
class Origin:
    """A tuple origin (HTML standard, "Origin"). `port` is None for the scheme's default.

    `host` is serialised as in a URL: lower case, IPv6 in brackets.
    """

    scheme: str
    host: str
    port: int | None = None

    @classmethod
    def parse(cls, value: bytes) -> Self | None:
        """Read an Origin header's value; None for anything that no browser would have written.

        There is one way to write an origin, so `str(Origin.parse(value)).encode() == value`.
        """
        if len(value) > MAX_ORIGIN_BYTES:
            return None
        match = _ORIGIN.fullmatch(value.decode("latin-1"))
        if match is None:
            return None
        scheme, host, digits = match.groups()
        port = int(digits) if digits else None
        if port is not None and (port > MAX_PORT or port == DEFAULT_PORTS.get(scheme)):
            return None
        return cls(scheme, host, port) if _canonical_host(host) == host else None

    def __str__(self) -> str:
        """Return the origin as browsers write it."""
        return _serialise(self.scheme, self.host, self.port)


@dataclass(frozen=True, slots=True)
class OriginPattern:
    """The origins that one entry of `allow_origins` stands for; a plain `*` is not a pattern.

    | pattern                      | matches                                                   |
    |------------------------------|-----------------------------------------------------------|
    | `https://viewer.example`     | that origin                                               |
    | `https://*.example.edu`      | subdomains of any depth, never `https://example.edu`      |
    | `https://*--v.netlify.app`   | labels that end so, of one more character at least        |
    | `http://localhost:*`         | any port, the default one included                        |
    | `app://viewer`               | that origin; only http and https have the wildcards       |

    `host` is what follows `*.` or the label with the star, `label` is the text before and after
    that star. `port` is None for the scheme's default.
    """

    scheme: str
    host: str
    port: int | None = None
    any_subdomain: bool = False
    any_port: bool = False
    label: tuple[str, str] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern as strictly as browsers write origins.

        Raises PolicyError with one problem of the key `allow_origins`; where the user's meaning is
        evident, its reason ends with the corrected pattern.
        """
        faults: list[str] = []
        try:
            pattern = cls._read(text, faults)
            if not faults:
                return pattern
        except _UnreadableError as error:
            reason = f"has {listed(faults)} and {error}" if faults else str(error)
        else:
            reason = f"has {listed(faults)}, so no browser's Origin equals it; write {pattern}"
        raise PolicyError([PolicyIssue("allow_origins", text, reason)])

    @classmethod
    def _read(cls, text: str, faults: list[str]) -> Self:
        """Read a pattern, mending what can be mended and noting it in `faults`."""
        stripped = text.strip()
        lowered = stripped.lower()
        if stripped != text:
            faults.append("white space around it")
        if lowered != stripped:
            faults.append("upper-case letters")
        scheme, authority = _split_scheme(lowered, faults)
        host, port = _split_port(authority)
        any_subdomain, any_port = host.startswith("*."), port == "*"
        label, host = (None, host[2:]) if any_subdomain else _split_label(host)
        if "*" in host or ("*" in port and not any_port):
            raise _UnreadableError(
                "has a wildcard in a wrong place; it stands for subdomains, as in "
                "https://*.example.edu, for a part of the first label, as in "
                "https://*--viewer.netlify.app, or for any port, as in http://localhost:*; "
                "a * alone is any origin"
            )
        below = "x." if any_subdomain else "" if label is None else f"{label[0]}x{label[1]}."
        host = _read_host(host, faults, below=below)
        if label is not None:
            _check_label(label, host)
        if not scheme:
            scheme = "http" if _is_loopback(host) else "https"
        if scheme not in DEFAULT_PORTS and (any_subdomain or any_port or label is not None):
            raise _UnreadableError(
                "has a wildcard, which only http and https may have; list each origin"
            )
        if scheme in DEFAULT_PORTS and not all(map(_is_valid_label, host.split("."))):
            raise _UnreadableError(
                "has a label that begins with xn-- and is no valid Punycode; write the name in "
                "Unicode to be told its Punycode"
            )
        number = None if any_port else _read_port(port, scheme, faults)
        return cls(scheme, host, number, any_subdomain, any_port, label)

    @property
    def has_wildcard(self) -> bool:
        """Return whether the pattern matches more than one origin."""
        return self.any_subdomain or self.any_port or self.label is not None

    @property
    def is_secure(self) -> bool:
        """Return whether the origin is safe from impersonation on the network.

        True for https, for apps and extensions (they come with their code), and for hosts that
        never leave the machine.
        """
        return self.scheme != "http" or _is_loopback(self.host)

    def covers_public_suffix(self) -> bool:
        """Return whether strangers can register names that match (publicsuffix.org)."""
        if not (self.any_subdomain or self.label) or _is_loopback(self.host):
            return False
        return _public_suffixes().is_public(self.host)

    def matches(self, origin: Origin) -> bool:
        """Return whether the pattern matches `origin`."""
        return (
            origin.scheme == self.scheme
            and (self.any_port or origin.port == self.port)
            and self._matches_host(origin.host)
        )

    def _matches_host(self, host: str) -> bool:
        if self.any_subdomain:
            return host.endswith(f".{self.host}")
        if self.label is None:
            return host == self.host
        label, _, rest = host.partition(".")
        start, end = self.label
        return (
            rest == self.host
            and len(label) > len(start) + len(end)
            and label.startswith(start)
            and label.endswith(end)
        )

    def __str__(self) -> str:
        """Return the pattern as the configuration has it."""
        host = self.host
        if self.any_subdomain:
            host = f"*.{host}"
        elif self.label is not None:
            host = f"{'*'.join(self.label)}.{host}"
        return _serialise(self.scheme, host, ANY if self.any_port else self.port)


class _UnreadableError(Exception):
    """The reason why an origin pattern is beyond mending."""


def _split_scheme(text: str, faults: list[str]) -> tuple[str, str]:
    """Split a lower-case pattern into its scheme, "" if it has none, and its authority."""
    if text == "null" or text.partition(":")[0] in _OPAQUE_SCHEMES:
        raise _UnreadableError(
            "cannot be told apart: browsers send null for local files and sandboxed frames of any "
            f"site, and some apps send file://; serve the viewer over http or https {_WAY_OUT}"
        )
    if (begun := _HOSTLESS.fullmatch(text)) and (begun[1] in APP_SCHEMES or "://" in text):
        raise _UnreadableError(
            "has no host; apps that send it cannot be told apart; give the app's pages a host, as "
            f"in {begun[1]}://localhost, {_WAY_OUT}"
        )
    if text[:1] in ("'", '"', "["):
        raise _UnreadableError("has quotes or brackets around it: leave them out")
    if re.search(r"[\s,;].*://", text):
        raise _UnreadableError(
            "has several origins; give each an entry, or an --allow-origin, of its own"
        )
    scheme, separator, rest = text.partition("://")
    if not separator and (begun := re.match("(https?)(?:/+|:/?(?=[a-z*[]))", text)):
        faults.append("no :// behind the scheme")
        scheme, rest = begun[1], text[begun.end() :]
    elif not separator:
        faults.append("no scheme")
        scheme, rest = "", text.lstrip("/")
    elif scheme in _PAGELESS_SCHEMES or not _SCHEME.fullmatch(scheme):
        raise _UnreadableError("has a scheme that no page has; begin with https:// or http://")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    if tail := rest[len(authority) :]:
        names = {"?": "a query", "#": "a fragment"}
        faults.append("a trailing slash" if tail == "/" else names.get(tail[0], "a path"))
    if "@" in authority:
        faults.append("user information")
    return scheme, authority.rpartition("@")[2]


def _split_port(authority: str) -> tuple[str, str]:
    """Split host and port; ":" stands for a port that was announced and left out."""
    bracket = authority.rfind("]") + 1
    host, colon, port = authority[bracket:].partition(":")
    return authority[:bracket] + host, port or colon


def _split_label(host: str) -> tuple[tuple[str, str] | None, str]:
    """Split a host with a star inside its first label: the text around the star, and the rest."""
    label, _, rest = host.partition(".")
    start, star, end = label.partition("*")
    if not (star and rest and label.isascii()) or "*" in end or label.startswith("xn--"):
        return None, host
    return (start, end), rest


def _check_label(label: tuple[str, str], host: str) -> None:
    """Check that strangers cannot register a name that matches by accident.

    Below a registry's suffix such as co.uk, names of any spelling are for sale. A hosting platform
    such as Netlify, whose domain is a public suffix too, separates a preview from its site by --.
    """
    suffixes = _public_suffixes()
    if _is_loopback(host) or not suffixes.is_public(host):
        return
    if _public_suffixes(only_icann=True).is_public(host):
        raise _UnreadableError(
            f"has a star in a name below {host}, where anyone can register a name that matches; "
            f"for subdomains write *. in front of your domain"
        )
    if not (label[0].endswith("--") or label[1].startswith("--")):
        raise _UnreadableError(
            f"has a star in a name below {host}, where anyone can choose a name that matches; only "
            "a part that -- separates may vary, as in https://*--viewer.netlify.app"
        )


def _read_host(host: str, faults: list[str], *, below: str) -> str:
    """Return the host as browsers serialise it; `below` stands for labels in front of it."""
    if not host.isascii():
        from idna import IDNAError, encode  # noqa: PLC0415 (its tables are large)

        try:
            host = encode(host, uts46=True).decode()
        except IDNAError:
            raise _UnreadableError("has a Unicode host; write it in Punycode, xn--…") from None
        faults.append("a Unicode host")
    canonical = _canonical_host(below + host) if host else None
    if canonical is None:
        raise _UnreadableError(
            "has an invalid host: after https:// comes a DNS name, an IPv4 address such as "
            "192.0.2.1 or an IPv6 address such as [2001:db8::1]"
        )
    canonical = canonical.removeprefix(below)
    if canonical != host:
        faults.append("an IPv6 address that is not in its shortest form")
    return canonical


def _is_valid_label(label: str) -> bool:
    """Return whether a label is valid: one with xn-- must be the Punycode of a name for URLs.

    Source: URL standard, §3.3 "domain to ASCII", by UTS #46 §4. Its rules for the direction of
    writing and for joiners are left out, because browsers differ over them.
    """
    if not label.startswith("xn--"):
        return True
    from idna import uts46_remap  # noqa: PLC0415 (its tables are large)

    encoded = label.removeprefix("xn--").encode("ascii")
    try:
        name = encoded.decode("punycode")
        return (
            not name.isascii()
            and name.encode("punycode") == encoded
            and uts46_remap(name, std3_rules=False) == name
        )
    except UnicodeError:  # IDNAError is one
        return False


def _read_port(port: str, scheme: str, faults: list[str]) -> int | None:
    if not port:
        return None
    digits = port.lstrip("0")
    number = int(digits) if re.fullmatch("[0-9]{1,5}", digits) else 0
    if not 1 <= number <= MAX_PORT:
        raise _UnreadableError(f"has an invalid port: use a number from 1 to {MAX_PORT}")
    if digits != port:
        faults.append("a port with leading zeros")
    if number == DEFAULT_PORTS.get(scheme):
        faults.append(f"the default port of {scheme}")
        return None
    return number


def _canonical_host(host: str) -> str | None:
    """Return the host as a URL's serialisation has it (URL standard, §3.5), None if it is none."""
    try:
        if host.startswith("["):
            if not host.endswith("]"):
                return None
            address = IPv6Address(host[1:-1])
            # Serialisers differ over mapped addresses, and a zone is never part of an origin.
            return None if address.ipv4_mapped or address.scope_id else f"[{address}]"
        if _DNS_NAME.fullmatch(host) is None:
            return None
        return str(IPv4Address(host)) if _ENDS_IN_NUMBER.search(host) else host
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    """Return whether a canonical host is this machine (RFC 6761 §6.3, RFC 1122 §3.2.1.3)."""
    name = host.removesuffix(".")
    return (
        name in {"localhost", "[::1]"}
        or name.endswith(".localhost")
        or (name.startswith("127.") and _ENDS_IN_NUMBER.search(name) is not None)
    )


@cache
def _public_suffixes(*, only_icann: bool = False) -> PublicSuffixList:
    """Return the public suffixes; `only_icann` leaves out the domains of hosting platforms."""
    from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 (reads a list of 300 KB)

    return PublicSuffixList(only_icann=only_icann)


def _serialise(scheme: str, host: str, port: int | str | None) -> str:
    return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"
