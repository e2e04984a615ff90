"""Make and keep a self-signed certificate for trying the proxy out."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Final, NamedTuple

from dicomweb_cors_proxy.config.pem_files import pair_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography import x509

__all__ = ["SelfSigned", "self_signed", "state_directory"]

NAME: Final = "dicomweb-cors-proxy"

# A year: browsers refuse certificates that are valid for several. And how long before its end a
# start makes a new one.
VALIDITY: Final = timedelta(days=365)
RENEW_BEFORE: Final = timedelta(days=30)


class SelfSigned(NamedTuple):
    """A certificate of our own: the file that holds it and its key, and its SHA-256."""

    file: Path
    fingerprint: str


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return the folder for files kept between starts: `$STATE_DIRECTORY` or the XDG folder.

    Raises OSError for a user without a home.
    """
    if given := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(given)
    if (base := environ.get("XDG_STATE_HOME", "")) and Path(base).is_absolute():
        return Path(base, NAME)
    try:
        return Path.home() / ".local" / "state" / NAME
    except RuntimeError:
        raise OSError(errno.ENOENT, "there is no home directory") from None


def self_signed(host: str, folder: Path) -> SelfSigned:
    """Return the certificate kept in `folder`; a new one if it doesn't do for `host`, or not long.

    It is good for this machine's own names too, and for those of the one before.

    Raises OSError if it can't be kept.
    """
    file = folder / "self-signed.pem"
    names = _own_names(host)
    with suppress(OSError, ValueError):
        kept = _kept(file)
        kept_names = _names(kept)
        if datetime.now(UTC) < kept.not_valid_after_utc - RENEW_BEFORE:
            if names <= kept_names:
                return SelfSigned(file, _fingerprint(kept))
            names |= kept_names
    made, pem = _make(sorted(names))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One file for both, so that they always fit; only the owner may read it (0600).
    with NamedTemporaryFile(dir=folder, prefix=".self-signed", delete=False) as temporary:
        try:
            temporary.write(pem)
            temporary.flush()
            os.replace(temporary.name, file)  # noqa: PTH105
        except BaseException:
            os.unlink(temporary.name)  # noqa: PTH108
            raise
    return SelfSigned(file, _fingerprint(made))


def _own_names(host: str) -> set[str]:
    names = {"localhost", "127.0.0.1", "::1"}
    for name in (host.lower(), socket.gethostname().lower()):
        with suppress(ValueError):
            address = ipaddress.ip_address(name.partition("%")[0])
            if not address.is_unspecified:
                names.add(str(address))
            continue
        if re.fullmatch(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63}){0,20}", name):
            names.add(name)
    return names


def _kept(file: Path) -> x509.Certificate:
    """Read what was kept. Raises OSError, or ValueError if it is of no use."""
    from cryptography import x509  # noqa: PLC0415  (takes long, and few need it)

    if pair_fault(file, file) is not None:
        raise ValueError
    return x509.load_pem_x509_certificate(file.read_bytes())


def _names(certificate: x509.Certificate) -> set[str]:
    from cryptography import x509  # noqa: PLC0415

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return {str(name.value) for name in extension.value}


def _fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 as browsers show it."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415

    return certificate.fingerprint(SHA256()).hex(":").upper()


def _make(names: list[str]) -> tuple[x509.Certificate, bytes]:
    """Make a certificate; it and its key in PEM."""
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{NAME}, self-signed")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName(map(general, names)), critical=False)
        # No authority: whoever trusts it trusts this server, and nothing signed with its key.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return certificate, pem
