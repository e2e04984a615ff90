"""The types of setting values, each with its own error sentences.

The text of a ValueError continues the setting's key: `server.port: 'abc' is not a …`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, SecretStr, ValidationError
from pydantic_core import core_schema

from dicomweb_cors_proxy.config.issues import redacted
from dicomweb_cors_proxy.dicomweb.routes import parse_extra_path
from dicomweb_cors_proxy.http.forwarding import TrustedProxies
from dicomweb_cors_proxy.http.hosts import DEFAULT_PORTS, MAX_PORT, is_loopback, split_port
from dicomweb_cors_proxy.http.messages import TCHAR

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidatorFunctionWrapHandler
    from pydantic_core import CoreSchema

__all__ = [
    "AllowedHost",
    "ArchiveURL",
    "Audience",
    "BasePath",
    "BodyLimit",
    "ClientID",
    "Count",
    "ExtraPath",
    "HeadLimit",
    "IssuerURL",
    "KeySetURL",
    "Leeway",
    "ListenAddress",
    "MaxAge",
    "NonNegativeSeconds",
    "Password",
    "PeerNetwork",
    "Port",
    "PublicURL",
    "Scope",
    "ScopeName",
    "Seconds",
    "SignatureAlgorithm",
    "Token",
    "TokenSecret",
    "TokenURL",
    "UserName",
    "Workers",
    "is_eavesdrop_safe",
    "own_origin",
]


@dataclass(frozen=True, slots=True)
class _Number:
    """The check that a number has the field's type, and is from `low` to `high`."""

    kind: str
    low: float
    high: float

    def __get_pydantic_core_schema__(
        self,
        source: Any,  # noqa: ANN401
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {"minimum": self.low, "maximum": self.high}

    def _check(self, value: Any, read: ValidatorFunctionWrapHandler) -> float:  # noqa: ANN401
        try:
            number: float | None = None if isinstance(value, bool) else read(value)
        except ValidationError:
            number = None
        if number is None or not self.low <= number <= self.high:
            raise ValueError(
                f"{redacted(value)} is not a {self.kind} between {self.low} and {self.high}"
            )
        return number


Port = Annotated[int, _Number("whole number", 0, 65535)]
Count = Annotated[int, _Number("whole number", 1, 1_000_000)]
Workers = Annotated[int, _Number("whole number", 1, 256)]
HeadLimit = Annotated[int, _Number("number of bytes", 64, 16 * 2**20)]
BodyLimit = Annotated[int, _Number("number of bytes", 0, 2**50)]
Seconds = Annotated[float, _Number("number of seconds", 0.001, 86400)]
NonNegativeSeconds = Annotated[float, _Number("number of seconds", 0, 86400)]
Leeway = Annotated[float, _Number("number of seconds", 0, 600)]
MaxAge = Annotated[int, _Number("whole number of seconds", -1, 86400)]

# RFC 3986 §3.2.2 and §3.3; underscores are in no DNS name, but in those of Docker's services.
_HOST_NAME: Final = re.compile(r"(?=.{1,254}\Z)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_ENDS_IN_NUMBER: Final = re.compile(r"(?:\A|\.)[0-9]+\.?\Z")
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_PATH: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")


def _authority_fault(authority: str) -> str | None:
    host, colon, port = split_port(authority)
    if not authority.startswith("[") and authority.count(":") > 1:
        return "needs brackets around its IPv6 address, as in [2001:db8::1]:8042"
    if not host:
        return "has no host; write one, such as pacs.example"
    if not _is_host(host):
        return "has an invalid host; write a DNS name, an IPv4 address, or IPv6 as in [2001:db8::1]"
    if colon and not (_PORT.fullmatch(port) and int(port) <= MAX_PORT):
        return f"has an invalid port; write a number from 1 to {MAX_PORT}"
    return None


def _is_host(host: str) -> bool:
    try:
        if host.startswith("["):
            return host.endswith("]") and IPv6Address(host[1:-1]).scope_id is None
        if _ENDS_IN_NUMBER.search(host):
            IPv4Address(host)
    except ValueError:
        return False
    return _HOST_NAME.fullmatch(host) is not None


def _path_fault(path: str) -> str | None:
    if re.search("%(?![0-9A-Fa-f]{2})", path):
        return "has a % without two hexadecimal digits after it; write a literal % as %25"
    if not _PATH.fullmatch(path):
        return "has a character that a URL's path cannot have; percent-encode it"
    if not {".", ".."}.isdisjoint(re.split(r"[/\\]", unquote(path))):
        return "has a dot segment, . or ..; write the path that it leads to"
    return None


def _http_url_fault(url: str, credentials: str) -> str | None:
    """Return why `url` is not http or https, a host, and a path; None if it is."""
    if not re.fullmatch("[!-~]+", url):
        return "has a character that a URL cannot have; percent-encode it, in a host write Punycode"
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "has no scheme"
    if scheme.lower() not in DEFAULT_PORTS:
        return (
            "has quotes around it: leave them out"
            if scheme[:1] in ("'", '"')
            else "has a scheme other than http and https; write one of these"
        )
    for mark, name in (("?", "a query"), ("#", "a fragment")):
        if mark in rest:
            return f"has {name}, which does not belong there; leave it out"
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        return f"has user information in it; {credentials}"
    return _authority_fault(authority) or _path_fault(slash + path)


def _http_url(url: str, *, credentials: str, example: str) -> str:
    fault = _http_url_fault(url, credentials)
    if fault is None:
        scheme, separator, rest = url.partition("://")
        return scheme.lower() + separator + rest
    if fault == "has no scheme":
        begun = re.match("(https?)(?:/+|:/)", url)  # and mistyped
        scheme, rest = (begun[1], url[begun.end() :]) if begun else ("", url.removeprefix("//"))
        mended = f"{scheme or urlsplit(example).scheme}://{rest}"
        if mended.count("/") == len("//"):
            mended += urlsplit(example).path
        usable = _http_url_fault(mended, credentials) is None
        fault += f"; write {mended if usable else example}"
    raise ValueError(f"{redacted(url)} {fault}")


def _archive_url(url: str) -> str:
    return _http_url(
        url,
        credentials="credentials for the archive belong in upstream.auth",
        example="http://orthanc:8042/dicom-web",
    )


# Each URL in a response is rewritten to one that begins with these: longer ones would multiply it.
_MAX_PUBLIC_URL_BYTES: Final = 1024
_MAX_BASE_PATH_BYTES: Final = 512


def _public_url(url: str) -> str:
    if len(url) > _MAX_PUBLIC_URL_BYTES:
        raise ValueError(
            f"{redacted(url)} is longer than {_MAX_PUBLIC_URL_BYTES} bytes; use a shorter URL"
        )
    return _http_url(
        url, credentials="leave it out", example="https://pacs.example/dicom-web"
    ).rstrip("/")


def _url_with_query(url: str, *, credentials: str, example: str) -> str:
    endpoint, mark, query = url.partition("?")
    if not re.fullmatch("[!$-~]*", query):
        raise ValueError(
            f"{redacted(url)} has a # or another character that no query has; percent-encode it"
        )
    return _http_url(endpoint, credentials=credentials, example=example) + mark + query


def _token_url(url: str) -> str:
    # RFC 6749 §3.2: it may have a query, and it stays.
    return _url_with_query(
        url,
        credentials="write upstream.auth.client_id and client_secret",
        example="https://login.example/oauth2/token",
    )


def _key_set_url(url: str) -> str:
    return _url_with_query(url, credentials="leave it out", example="https://id.example/jwks.json")


def _issuer_url(url: str) -> str:
    return _http_url(url, credentials="leave it out", example="https://id.example/realms/hospital")


def is_eavesdrop_safe(url: str) -> bool:
    """Return whether traffic to a URL is safe from eavesdropping: https, or this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def own_origin(public_url: str) -> str:
    """Return the origin of a URL that `PublicURL` has let pass, as browsers write it."""
    parts = urlsplit(public_url)
    host, _, port = split_port(parts.netloc.lower())
    suffix = "" if port in ("", str(DEFAULT_PORTS[parts.scheme])) else f":{port}"
    return f"{parts.scheme}://{host}{suffix}"


ArchiveURL = Annotated[str, AfterValidator(_archive_url)]
PublicURL = Annotated[str, AfterValidator(_public_url)]
TokenURL = Annotated[str, AfterValidator(_token_url)]
IssuerURL = Annotated[str, AfterValidator(_issuer_url)]
KeySetURL = Annotated[str, AfterValidator(_key_set_url)]

_OWN_PATHS: Final = frozenset({"healthz", "readyz", "metrics"})


def _base_path(path: str) -> str:
    if "://" in path:
        fault: str | None = "is a URL; write its path, as in /dicom-web (the URL is public_url's)"
    elif not path.startswith("/"):
        fault = f"does not start with a slash; write {'/' + path.strip('/')!r}"
    elif path != "/" and ("//" in path or path.endswith("/")):
        fault = f"has an empty segment; write {re.sub('/+', '/', path).rstrip('/') or '/'!r}"
    elif path.split("/")[1] in _OWN_PATHS:
        fault = "hides a path of the proxy's own; choose another"
    elif len(path) > _MAX_BASE_PATH_BYTES:
        fault = f"is longer than {_MAX_BASE_PATH_BYTES} bytes; use a shorter path"
    else:
        fault = _path_fault(path)
    if fault:
        raise ValueError(f"{redacted(path)} {fault}")
    return path


def _listen_address(address: str) -> str:
    try:
        ip_address(address)
    except ValueError:
        if not address.startswith("[") and _is_host(address):
            return address
        raise ValueError(
            f"{redacted(address)} is not an address to listen on; write 127.0.0.1, a host name, "
            "or 0.0.0.0 or :: for all interfaces (the port is server.port)"
        ) from None
    return address


def _allowed_host(host: str) -> str:
    if "*" in host:
        fault: str | None = "has a wildcard, which is not supported; list each host"
    elif "/" in host:
        fault = "is not the form of a Host header; write host or host:port"
    elif host != host.lower():
        fault = f"has upper-case letters; write {host.lower()}"
    else:
        fault = _authority_fault(host)
    if fault:
        raise ValueError(f"{redacted(host)} {fault}")
    return host


def _peer_network(network: str) -> str:
    TrustedProxies([network])
    return network


def _extra_path(path: str) -> str:
    parse_extra_path(path)
    return path


def _token(name: str) -> str:
    if not re.fullmatch(rf"{TCHAR}{{1,64}}", name):
        raise ValueError(
            f"{redacted(name)} cannot be used in Via; write 1 to 64 letters, digits, dots, hyphens"
        )
    return name


BasePath = Annotated[str, AfterValidator(_base_path)]
ListenAddress = Annotated[str, AfterValidator(_listen_address)]
AllowedHost = Annotated[str, AfterValidator(_allowed_host)]
PeerNetwork = Annotated[str, AfterValidator(_peer_network)]
ExtraPath = Annotated[str, AfterValidator(_extra_path)]
Token = Annotated[str, AfterValidator(_token)]

# Surrogates are bytes of the environment that are not UTF-8.
_CREDENTIAL: Final = re.compile("[^\0-\x1f\x7f\ud800-\udfff]+")


def _credential(text: str) -> str:
    if not _CREDENTIAL.fullmatch(text):
        raise ValueError("is empty or has control characters, such as a line break; remove them")
    return text


def _user_name(name: str) -> str:
    if ":" in name:  # RFC 7617 §2; likely name:password, so it isn't shown
        raise ValueError("has a colon; write only the name; the password has its own key")
    return _credential(name)


def _password(password: SecretStr) -> SecretStr:
    _credential(password.get_secret_value())
    return password


def _scope(scope: str) -> str:
    if not re.fullmatch(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*", scope):  # RFC 6749 §3.3
        raise ValueError(
            f"{redacted(scope)} is not a list of scopes: words of visible ASCII except quotes and "
            "backslashes, with a single space between them"
        )
    return scope


def _scope_name(scope: str) -> str:
    if " " in scope:
        raise ValueError(f"{redacted(scope)} has a space; write each scope as an item of the list")
    return _scope(scope)


# Asymmetric ones, for which the provider publishes keys (RFC 7518 §3.1, RFC 8037 §3.1).
_SIGNATURE_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


def _signature_algorithm(name: str) -> str:
    if name not in _SIGNATURE_ALGORITHMS:
        raise ValueError(
            f"{redacted(name)} is not an asymmetric signature algorithm; write some of "
            f"{', '.join(_SIGNATURE_ALGORITHMS)}"
        )
    return name


def _audience(audience: str) -> str:
    if not _CREDENTIAL.fullmatch(audience):
        raise ValueError("holds an empty audience, or one with control characters")
    return audience


def _bearer_token(token: SecretStr) -> SecretStr:
    if not re.fullmatch("[!-~]+", token.get_secret_value()):  # RFC 6750 §2.1
        raise ValueError(
            "has characters other than visible ASCII; write the token alone, without 'Bearer'"
        )
    return token


UserName = Annotated[str, AfterValidator(_user_name)]
ClientID = Annotated[str, AfterValidator(_credential)]
Scope = Annotated[str, AfterValidator(_scope)]
ScopeName = Annotated[str, AfterValidator(_scope_name)]
Audience = Annotated[str, AfterValidator(_audience)]
SignatureAlgorithm = Annotated[str, AfterValidator(_signature_algorithm)]
Password = Annotated[SecretStr, AfterValidator(_password)]
TokenSecret = Annotated[SecretStr, AfterValidator(_bearer_token)]
