"""Check the settings together: combinations that cannot be used."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.config.cors_policies import any_origin_keys, policy_problems
from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.issues import SettingIssue, redacted
from dicomweb_cors_proxy.config.pem_files import key_fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicomweb_cors_proxy.config.fields import SettingFields, UpstreamAuth, UpstreamSettings

__all__ = ["problems"]


def problems(settings: SettingFields) -> Iterator[SettingIssue]:
    """Yield the problems with settings that are valid on their own."""
    upstream, server = settings.upstream, settings.server
    if upstream.url is None:
        yield from _missing_urls(upstream)
    yield from _pair_problems(
        "upstream.client_cert_file",
        upstream.client_cert_file,
        "upstream.client_key_file",
        upstream.client_key_file,
    )
    yield from _auth_problems(upstream.auth)
    yield from _access_auth_problems(settings)
    yield from policy_problems(settings.cors)
    yield from _foreign_writes(settings)
    yield from _pair_problems(
        "server.tls_cert_file", server.tls_cert_file, "server.tls_key_file", server.tls_key_file
    )
    if server.workers > 1 and not hasattr(os, "fork"):  # Windows
        reason = "can only be 1 on this system; run several proxies behind a load balancer instead"
        yield SettingIssue("server.workers", reason)


def _missing_urls(upstream: UpstreamSettings) -> Iterator[SettingIssue]:
    keys = ("upstream.qido_url", "upstream.wado_url")
    missing = [
        key
        for key, url in zip(keys, (upstream.qido_url, upstream.wado_url), strict=True)
        if not url
    ]
    if len(missing) == 1:
        reason = "is missing; set it, or set upstream.url for all services"
        yield SettingIssue(missing[0], reason, because_of=("upstream.url",))
    elif missing:
        reason = (
            "is missing; set the root of the archive's DICOMweb services, "
            "such as http://orthanc:8042/dicom-web"
        )
        yield SettingIssue("upstream.url", reason, because_of=keys)


def _pair_problems(
    cert_key: str, certificate: Path | None, key_key: str, key: Path | None
) -> Iterator[SettingIssue]:
    """Check a certificate and its private key; `cert_key` and `key_key` are their settings."""
    if certificate is not None and key is not None:
        if fault := key_fault(certificate, key):
            yield SettingIssue(key_key, f"{redacted(key)} {fault}", because_of=(cert_key,))
    elif certificate is not key:
        missing, present = (cert_key, key_key) if certificate is None else (key_key, cert_key)
        reason = f"is missing; {present} needs it"
        yield SettingIssue(missing, reason, because_of=(present,))


_OAUTH: Final = "oauth2_client_credentials"

# The types that each field under upstream.auth is for.
_TYPES: Final = {
    "username": ("basic",),
    "password": ("basic",),
    "token": ("bearer",),
    "token_file": ("bearer",),
    "token_url": (_OAUTH,),
    "client_id": (_OAUTH, "azure"),
    "client_secret": (_OAUTH,),
    "scope": (_OAUTH, "google", "azure"),
    "audience": (_OAUTH,),
}
_OPTIONAL: Final = frozenset({"scope", "audience"})

# The vendors' libraries, which are extras of the same name.
_LIBRARIES: Final = {"google": "google.auth.transport.requests", "azure": "azure.identity"}


def _auth_problems(auth: UpstreamAuth) -> Iterator[SettingIssue]:
    """Yield the fields that are missing, and those that belong to another type."""
    because_of = ("upstream.auth.type",)
    for name, types in _TYPES.items():
        subject = f"upstream.auth.{name}"
        is_set = getattr(auth, name) is not None
        if auth.type in types and not is_set and _is_missing(auth, name):
            reason = f"is missing; upstream.auth.type: {auth.type} needs it"
            if SCHEMA.settings[subject].is_secret:
                reason += f", best in a secret file upstream__auth__{name}"
            if name == "token":
                reason += "; or set upstream.auth.token_file"
            yield SettingIssue(subject, reason, because_of=because_of)
        if auth.type not in types and is_set:
            reason = (
                f"is not for upstream.auth.type: {auth.type}; leave it out, or set "
                f"{' or '.join(types)}"
            )
            yield SettingIssue(subject, reason, because_of=because_of)
    library = _LIBRARIES.get(auth.type)
    if library is not None and not _has_library(library):
        reason = (
            f"{auth.type!r} needs a library that is not installed; install "
            f"dicomweb-cors-proxy[{auth.type}]"
        )
        yield SettingIssue("upstream.auth.type", reason)
    if auth.type == "bearer" and auth.token is not None and auth.token_file is not None:
        reason = "is set, and upstream.auth.token too; keep one of the two"
        yield SettingIssue("upstream.auth.token_file", reason, because_of=because_of)


def _has_library(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # of a package above it, or one that it needs
        return False


def _is_missing(auth: UpstreamAuth, name: str) -> bool:
    if name in ("token", "token_file"):
        return name == "token" and auth.token_file is None
    return name not in _OPTIONAL and auth.type != "azure"


def _access_auth_problems(settings: SettingFields) -> Iterator[SettingIssue]:
    """Yield what is missing for `jwt`, and the fields that without it would do nothing."""
    auth = settings.access.auth
    because_of = ("access.auth.type",)
    if auth.type == "none":
        for name in ("issuer", "jwks_url", "audience", "required_scopes", "forward"):
            if getattr(auth, name):
                reason = "does nothing with access.auth.type: none; leave it out, or set jwt"
                yield SettingIssue(f"access.auth.{name}", reason, because_of=because_of)
        return
    if auth.issuer is None and auth.jwks_url is None:
        reason = (
            "is missing; write the URL of the identity provider, such as "
            "https://id.example/realms/hospital"
        )
        because = (*because_of, "access.auth.jwks_url")
        yield SettingIssue("access.auth.issuer", reason, because_of=because)
    if not auth.audience:
        reason = (
            "is missing; list what the provider writes into aud of tokens for this archive, "
            "otherwise tokens for any other service would be accepted"
        )
        yield SettingIssue("access.auth.audience", reason, because_of=because_of)
    if not auth.algorithms:
        reason = "is empty; list at least one, such as RS256"
        yield SettingIssue("access.auth.algorithms", reason, because_of=because_of)
    if auth.forward and settings.upstream.auth.type != "none":
        reason = (
            "is true, and upstream.auth has the proxy's own credentials; a request has only one "
            "Authorization, so set one of the two"
        )
        because = (*because_of, "upstream.auth.type")
        yield SettingIssue("access.auth.forward", reason, because_of=because)


def _foreign_writes(settings: SettingFields) -> Iterator[SettingIssue]:
    """Yield the policies that let any web page that a user opens change the archive."""
    access = settings.access
    if access.mode != "read-write" or access.dangerously_allow_writes_from_any_origin:
        return
    switch = "access.dangerously_allow_writes_from_any_origin"
    for key in any_origin_keys(settings.cors):
        reason = (
            "'*' lets any web page that a user opens write to the archive with access.mode: "
            f"read-write; list the origins of your viewers, or set {switch}: true"
        )
        yield SettingIssue(key, reason, because_of=("access.mode", switch))
