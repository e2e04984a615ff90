"""TLS contexts for the archive and for the token endpoint."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from dicomweb_cors_proxy.upstream import openssl_conf as openssl_conf_file

if TYPE_CHECKING:
    from pathlib import Path


def archive_context(
    *,
    ca_file: Path | None,
    verify: bool,
    client_certificate: Path | None,
    client_key: Path | None,
    openssl_conf: Path | None = None,
) -> ssl.SSLContext:
    """Return the context for the archive: which certificates it trusts, and our own.

    `openssl_conf` is OpenSSL's configuration file, for archives with old TLS.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if openssl_conf is not None:
        openssl_conf_file.apply(openssl_conf, context)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _introduce(context, client_certificate, client_key)
    return context


def token_context(
    *, ca_file: Path | None, client_certificate: Path | None, client_key: Path | None
) -> ssl.SSLContext:
    """Return the context for the token endpoint, which is always verified: it gets a secret.

    Its certificate may come from a public authority while the archive's comes from a
    private one, so both are trusted.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    _introduce(context, client_certificate, client_key)
    return context


def _introduce(context: ssl.SSLContext, certificate: Path | None, key: Path | None) -> None:
    """Offer HTTP/1.1, and our certificate to servers that ask for one."""
    context.set_alpn_protocols(["http/1.1"])
    if certificate is not None:
        context.load_cert_chain(certificate, key)
