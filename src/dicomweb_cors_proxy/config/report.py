"""Report on valid settings: the values in force, secrets masked, and likely mistakes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr

from dicomweb_cors_proxy.config.cors_policies import any_origin_keys, policy_warnings
from dicomweb_cors_proxy.config.issues import SettingIssue, redacted
from dicomweb_cors_proxy.config.kinds import is_eavesdrop_safe
from dicomweb_cors_proxy.config.pem_files import validity_fault
from dicomweb_cors_proxy.dicomweb.resources import WADO
from dicomweb_cors_proxy.dicomweb.routes import ResourceTable
from dicomweb_cors_proxy.http.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dicomweb_cors_proxy.config.fields import SettingFields, UpstreamSettings

__all__ = ["Effective", "effective", "printable", "warnings"]

_MASK: Final = "********"


class Effective(NamedTuple):
    """A setting as it is in force: its value as YAML, secrets masked, and where it comes from.

    `is_default` is True for a value that equals the default, wherever it comes from.
    """

    key: str
    value: str
    source: str
    is_default: bool


def printable(value: object) -> str:
    """Return a setting's value as YAML has it, on one line; a secret is masked."""
    if isinstance(value, SecretStr):
        return _MASK
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    if isinstance(value, BaseModel):  # an entry of cors.per_origin
        return json.dumps(value.model_dump(exclude_none=True))
    if isinstance(value, tuple):
        return f"[{', '.join(map(printable, value))}]"
    return str(value)


def effective(
    settings: SettingFields, sources: Mapping[str, str], defaults: Mapping[str, object]
) -> list[Effective]:
    """Return all settings as they are in force.

    `sources` and `defaults` have the source and the default of each key.
    """
    values = {key: settings.value(key)[0] for key in sources}
    return [
        Effective(key, printable(value), sources[key], value == defaults[key])
        for key, value in values.items()
    ]


def warnings(settings: SettingFields) -> Iterator[SettingIssue]:
    """Yield warnings about valid settings that are probably mistakes."""
    upstream, server = settings.upstream, settings.server
    yield from policy_warnings(settings.cors)
    yield from _upstream_warnings(upstream)
    if server.tls_cert_file is not None and (fault := validity_fault(server.tls_cert_file)):
        yield SettingIssue("server.tls_cert_file", fault)
    yield from _access_auth_warnings(settings)
    if settings.access.auth.type != "none":
        pass  # who has no token reaches nothing
    elif upstream.auth.type != "none":
        yield from _exposure_warnings(settings, "upstream.auth")
    elif upstream.uses_tls and upstream.client_cert_file is not None:
        yield from _exposure_warnings(settings, "upstream.client_cert_file")
    access = settings.access
    if access.mode == "read-write" and next(any_origin_keys(settings.cors), None) is not None:
        reason = (
            "is true, so any web page that a user opens can change the archive; list the "
            "origins of your viewers"
        )
        yield SettingIssue("access.dangerously_allow_writes_from_any_origin", reason)
    if "/**" in access.extra_paths:
        reason = "'/**' opens every path of the archive, its administration included; list those"
        yield SettingIssue("access.extra_paths", f"{reason} that are meant")
    yield from _extra_path_warnings(settings)
    for network in server.trusted_proxies:
        if network.endswith("/0"):
            reason = f"{redacted(network)} trusts every client's X-Forwarded-*; list the proxies"
            yield SettingIssue("server.trusted_proxies", reason)


# Paths that the proxy answers itself, at the root of its origin.
_OWN_ENDPOINTS: Final = ("/healthz", "/readyz", "/metrics")


def _extra_path_warnings(settings: SettingFields) -> Iterator[SettingIssue]:
    """Yield the extra paths that change nothing."""
    base_path = settings.server.base_path.rstrip("/")
    resources = ResourceTable(read_write=False, wado_uri=True)
    for path in settings.access.extra_paths:
        route = None if "*" in path else resources.match(path.encode("ascii"))
        if route is not None and route.template == WADO:
            if settings.upstream.wado_uri_url is None:
                reason = "is WADO-URI, which has a setting of its own: set upstream.wado_uri_url"
            else:
                reason = "is WADO-URI, which upstream.wado_uri_url forwards already; leave it out"
        elif route is not None and settings.access.mode == "read-only" and "GET" in route.allow:
            reason = (
                "is a DICOMweb resource, which is forwarded already; further methods are added "
                "only with access.mode: read-write"
            )
        elif base_path and (path + "/").startswith(base_path + "/"):
            below = path.removeprefix(base_path) or "/"
            reason = f"repeats server.base_path, which it is relative to; write {below!r}"
        elif not base_path and path in _OWN_ENDPOINTS:
            reason = "is an endpoint of the proxy's own; set server.base_path to tell them apart"
        else:
            continue
        yield SettingIssue("access.extra_paths", f"{path!r} {reason}")


def _upstream_warnings(upstream: UpstreamSettings) -> Iterator[SettingIssue]:
    token_url = upstream.auth.token_url
    if token_url is not None and not is_eavesdrop_safe(token_url):
        reason = (
            "is plain http, so anyone on the network's path can read the client's secret; use https"
        )
        yield SettingIssue("upstream.auth.token_url", reason)
    for name in ("url", "qido_url", "wado_url", "stow_url", "ups_url"):
        url = getattr(upstream, name)
        if url is not None and not urlsplit(url).path.strip("/"):
            reason = (
                f"{redacted(url)} has no path, but most archives serve DICOMweb below one, and "
                "return 404 elsewhere; add it: Orthanc below /dicom-web, dcm4chee below "
                "/dcm4chee-arc/aets/{AET}/rs"
            )
            yield SettingIssue(f"upstream.{name}", reason)
    if upstream.uses_tls and not upstream.verify_tls:
        reason = (
            "is false, so anyone on the network's path can read and change everything; "
            "set upstream.ca_file to trust the archive's own certificate"
        )
        yield SettingIssue("upstream.verify_tls", reason)
    if upstream.client_cert_file is not None and (
        fault := validity_fault(upstream.client_cert_file)
    ):
        yield SettingIssue("upstream.client_cert_file", fault)


def _exposure_warnings(settings: SettingFields, credentials: str) -> Iterator[SettingIssue]:
    """Yield warnings about who can reach the archive with the proxy's own credentials.

    `credentials` is the key that sets them.
    """
    server = settings.server
    if not server.allowed_hosts:
        reason = (
            "is empty, so a page can rebind its host name to this proxy and read all that "
            f"{credentials} opens; list the hosts by which clients reach the proxy"
        )
        yield SettingIssue("server.allowed_hosts", reason)
    if server.tls_cert_file is None and not is_loopback(server.host):
        reason = (
            f"{redacted(server.host)} is reached from other machines, over plain http, and the "
            "proxy logs in for whoever comes; set server.tls_cert_file, or listen on "
            "127.0.0.1 behind a server with TLS"
        )
        yield SettingIssue("server.host", reason)
    for key in any_origin_keys(settings.cors):
        reason = (
            f"'*' lets any page that a user opens read all that {credentials} opens; list "
            "the origins of your viewers"
        )
        yield SettingIssue(key, reason)


def _access_auth_warnings(settings: SettingFields) -> Iterator[SettingIssue]:
    """Yield warnings about tokens that can be forged, or that pages cannot send."""
    auth = settings.access.auth
    if auth.type == "none":
        return
    for name in ("issuer", "jwks_url"):
        url = getattr(auth, name)
        if url is not None and not is_eavesdrop_safe(url):
            reason = (
                "is plain http, so anyone on the network's path can replace its keys and "
                "log in as any user; use https"
            )
            yield SettingIssue(f"access.auth.{name}", reason)
    if auth.issuer is None:
        reason = (
            "is not set, so iss is not checked: of all that have keys at access.auth.jwks_url, "
            "any may issue tokens; set the issuer"
        )
        yield SettingIssue("access.auth.issuer", reason)
    allowed = {name.lower() for name in settings.cors.allow_headers}
    if allowed.isdisjoint({"authorization", "*"}):
        reason = "lacks authorization, so pages cannot send the token; add it"
        yield SettingIssue("cors.allow_headers", reason)
