"""TLS contexts for the archive and for the token endpoint."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicomweb_cors_proxy.config.settings import UpstreamSettings


def archive_context(upstream: UpstreamSettings) -> ssl.SSLContext | None:
    """How the archive's certificate is judged, and which one we show; None without https."""
    if not upstream.uses_tls:
        return None
    context = ssl.create_default_context(cafile=upstream.ca_file)
    if not upstream.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    _introduce(context, upstream)
    return context


def token_context(upstream: UpstreamSettings) -> ssl.SSLContext:
    """How the token endpoint's certificate is judged: it gets a secret, so always.

    It may be the cloud's while the archive's authority is a private one: either will do.
    """
    context = ssl.create_default_context()
    if upstream.ca_file is not None:
        context.load_verify_locations(upstream.ca_file)
    _introduce(context, upstream)
    return context


def _introduce(context: ssl.SSLContext, upstream: UpstreamSettings) -> None:
    """Say which protocol we speak, and show our certificate to who asks for one."""
    context.set_alpn_protocols(["http/1.1"])
    if upstream.client_cert_file is not None:
        context.load_cert_chain(upstream.client_cert_file, upstream.client_key_file)
