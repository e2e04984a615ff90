"""Certificates in files, as a server reads them and tools renew them."""

from __future__ import annotations

import hashlib
import ssl
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.servers import LOOPBACK

if TYPE_CHECKING:
    from pathlib import Path


def fingerprint(certificate: bytes | None) -> str:
    """The SHA-256 of a certificate in DER, as browsers show it."""
    assert certificate
    return hashlib.sha256(certificate).digest().hex(":").upper()


def _spki(leaf: trustme.LeafCert) -> str:
    """The hash of the public key, by which Chromium is told to trust a certificate."""
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b64encode(sha256(key).digest()).decode()


def trust_flag(*leaves: trustme.LeafCert) -> str:
    """The flag by which Chromium trusts these certificates."""
    return f"--ignore-certificate-errors-spki-list={','.join(map(_spki, leaves))}"


def replace(file: Path, content: bytes) -> None:
    """As tools for renewal do it: a reader finds the old file or the new one."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    new.replace(file)


class Pair:
    """A certificate for this machine and its key, in two files."""

    def __init__(self, folder: Path, leaf: trustme.LeafCert | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate, self.key = folder / "cert.pem", folder / "key.pem"
        self.server = {"tls_cert_file": str(self.certificate), "tls_key_file": str(self.key)}
        self.issue(leaf)

    def issue(self, leaf: trustme.LeafCert | None = None, *, with_key: bool = True) -> str:
        """Renew it, or but half of it; returns the new fingerprint."""
        leaf = leaf or trustme.CA().issue_cert("localhost", LOOPBACK)
        pem = leaf.cert_chain_pems[0].bytes()
        replace(self.certificate, pem)
        if with_key:
            replace(self.key, leaf.private_key_pem.bytes())
        return fingerprint(ssl.PEM_cert_to_DER_cert(pem.decode()))
