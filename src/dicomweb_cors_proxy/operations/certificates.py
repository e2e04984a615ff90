"""The certificate that clients are shown: renewed while it is in use, or made for trying out."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import re
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Final, NamedTuple

from dicomweb_cors_proxy.config.kinds import pair_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography import x509

    from dicomweb_cors_proxy.config.settings import ServerSettings

__all__ = ["POLL", "Certificates", "SelfSigned", "self_signed", "state_directory"]

logger = logging.getLogger(__name__)

NAME: Final = "dicomweb-cors-proxy"

# Seconds between two looks at the files.
POLL: Final = 1.0

# A year: browsers refuse certificates that are valid for several. And how long before its end a
# start makes a new one.
VALIDITY: Final = timedelta(days=365)
EARLY: Final = timedelta(days=30)

_Files = tuple[Path, Path]
_State = tuple[tuple[int, ...] | None, ...]


class Certificates:
    """A certificate with its key, which may be renewed while it is in use.

    Args:
        certificate: file of the chain, PEM.
        key: file of its private key, PEM, without a passphrase.

    Attributes:
        context: for the listener; a handshake is given what was read last.

    Raises OSError or ssl.SSLError if the files are of no use.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._read = self._seen = _state(self._files)
        self.context = self._latest = _context(self._files)
        # Called in every handshake, whether the client names a server or not.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        if self._latest is not self.context:
            connection.context = self._latest

    def poll(self) -> bool:
        """Read the files if they have changed and are at rest: at the second look, not the first.

        A pair is written one file after the other. Returns whether they were read.
        """
        state = _state(self._files)
        is_at_rest, self._seen = state == self._seen, state
        if state == self._read or not is_at_rest or not self.renew():
            return False
        logger.info("the certificate is renewed: %s", self._files[0])
        return True

    def follow(self, settings: ServerSettings) -> None:
        """Read the pair that the settings name now."""
        if settings.tls_cert_file is not None and settings.tls_key_file is not None:
            self._files = (settings.tls_cert_file, settings.tls_key_file)
            self.renew()

    def renew(self) -> bool:
        """Show clients what is in the files now, unless something is wrong with it.

        Connections that are open stay as they are. Returns whether it is in use.
        """
        self._read = self._seen = _state(self._files)
        fault = pair_fault(*self._files)
        if fault is None:
            try:
                self._latest = _context(self._files)
            except (OSError, ValueError) as error:  # the files changed in between
                fault = f"{str(self._files[0])!r} can't be used ({type(error).__name__})"
        if fault is not None:
            logger.error("server.tls_cert_file: %s; the certificate in use stays", fault)
        return fault is None


def _context(files: _Files) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files, password="")  # or it would ask on the terminal
    context.set_alpn_protocols(["http/1.1"])
    # A session that is resumed goes on with the certificate it began with, and TLS 1.3 lets it be
    # resumed again and again, past the end of that certificate. Viewers keep their connections.
    context.num_tickets = 0
    return context


def _state(files: _Files) -> _State:
    """What is another one whenever the content is; None for what isn't there."""
    states: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            states.append(None)
        else:
            states.append((status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev))
    return tuple(states)


class SelfSigned(NamedTuple):
    """A certificate of our own: the file that holds it and its key, and its SHA-256."""

    file: Path
    fingerprint: str


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where things are kept between starts: systemd's `$STATE_DIRECTORY`, else the XDG folder.

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
        if datetime.now(UTC) < kept.not_valid_after_utc - EARLY:
            if names <= kept_names:
                return SelfSigned(file, _fingerprint(kept))
            names |= kept_names
    made, pem = _make(sorted(names))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One file for both, so that they always fit, and nobody else may read it (0600).
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
