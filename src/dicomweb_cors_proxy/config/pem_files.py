"""Certificate and key files: readable, valid today, and a matching pair."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

from dicomweb_cors_proxy.config.file_errors import unreadable
from dicomweb_cors_proxy.config.issues import redacted

__all__ = ["CertificateFile", "KeyFile", "key_fault", "pair_fault"]


_REMEDY: Final = "name a PEM file that the proxy may read"


def _readable_file(path: Path) -> Path:
    try:
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:
        raise ValueError(f"{redacted(path)} {unreadable(error, _REMEDY)}") from None


def _certificate_file(path: Path) -> Path:
    _readable_file(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        is_key = b"PRIVATE KEY-----" in path.read_bytes()
        instead = (
            ", but a private key, which has a setting of its own"
            if is_key
            else "; name a file that does"
        )
        raise ValueError(f"{redacted(path)} has no certificate in PEM form{instead}") from None
    except OSError as error:  # it is being replaced
        raise ValueError(f"{redacted(path)} {unreadable(error, _REMEDY)}") from None
    return path


CertificateFile = Annotated[Path, AfterValidator(_certificate_file)]
KeyFile = Annotated[Path, AfterValidator(_readable_file)]


def validity_fault(certificate: Path) -> str | None:
    """Say of a file that its first certificate is not valid today; None: it is, or isn't there."""
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 (takes 50 ms)

    try:
        first = load_pem_x509_certificates(certificate.read_bytes())[0]
    except (OSError, ValueError):
        return None
    if datetime.now(UTC) > first.not_valid_after_utc:
        return f"{redacted(certificate)} expired on {first.not_valid_after_utc:%Y-%m-%d}; renew it"
    if datetime.now(UTC) < first.not_valid_before_utc:
        begins = first.not_valid_before_utc
        return f"{redacted(certificate)} is valid only from {begins:%Y-%m-%d} on; renew it"
    return None


# OpenSSL's reasons for refusing a pair that fits.
_WEAK: Final = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})


def key_fault(certificate: Path, key: Path) -> str | None:
    """Say why `key` can't be used with `certificate`, a file that holds one; None if it can."""
    asked = []

    def passphrase() -> str:
        asked.append(True)
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, passphrase)
    except ssl.SSLError as error:
        if asked:
            return "is encrypted; name a key without a passphrase"
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"is not the key of {redacted(certificate)}; name the key that belongs to it"
        if error.reason in _WEAK:
            return (
                f"is too weak, or the signature of {redacted(certificate)} is; use a key of 2048 "
                "bits (RSA) or 256 (elliptic curve), and sign with SHA-256"
            )
        return "has no private key in PEM form; name a file that does"
    except OSError as error:  # one of them is being replaced
        return unreadable(error, _REMEDY)
    return None


def pair_fault(certificate: Path, key: Path) -> str | None:
    """Say why a certificate and its key can't be used; None if they can."""
    try:
        _certificate_file(certificate)
        _readable_file(key)
    except ValueError as error:
        return str(error)
    fault = key_fault(certificate, key)
    return fault and f"{redacted(key)} {fault}"
