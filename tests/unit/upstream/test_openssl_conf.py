"""OpenSSL's configuration file, applied to a TLS context."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from dicomweb_cors_proxy.upstream.tls import archive_context

if TYPE_CHECKING:
    from pathlib import Path

SECTIONS = "openssl_conf = a\n[a]\nssl_conf = b\n[ b ]\nsystem_default = c\n[c]\n"


def context(conf: Path | None) -> ssl.SSLContext:
    return archive_context(
        ca_file=None, verify=True, client_certificate=None, client_key=None, openssl_conf=conf
    )


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("text", "version"),
    [
        (f"{SECTIONS}MinProtocol = TLSv1.1", ssl.TLSVersion.TLSv1_1),
        (f"{SECTIONS}MinProtocol = TLSv1  # old", ssl.TLSVersion.TLSv1),
        (f"{SECTIONS}system_default.MinProtocol=TLSv1.3", ssl.TLSVersion.TLSv1_3),
        (f"{SECTIONS}MinProtocol = SSLv9", None),
        ("MinProtocol = TLSv1.1", None),
        ("[c]\nMinProtocol = TLSv1.1", None),
        ("openssl_conf = a\n[a]\nssl_conf = missing", None),
    ],
)
def test_the_minimum_version(tmp_path: Path, text: str, version: ssl.TLSVersion | None) -> None:
    """Without one, it is that of this build of Python, which in Debian's is none."""
    conf = tmp_path / "openssl.cnf"
    conf.write_text(text)
    expected = context(None).minimum_version if version is None else version
    assert context(conf).minimum_version is expected


def test_ciphers_and_options(tmp_path: Path) -> None:
    conf = tmp_path / "openssl.cnf"
    conf.write_text(
        f"{SECTIONS}CipherString = AES128-SHA:@SECLEVEL=0\nOptions = UnsafeLegacyServerConnect"
    )
    changed = context(conf)
    assert "AES128-SHA" in {cipher["name"] for cipher in changed.get_ciphers()}
    assert changed.options & 0x4
    assert not context(None).options & 0x4


@pytest.mark.parametrize("text", [None, b"\xff", f"{SECTIONS}CipherString = nothing".encode()])
def test_what_cannot_be_applied_is_warned_of(
    tmp_path: Path, text: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    conf = tmp_path / "openssl.cnf"
    if text is not None:
        conf.write_bytes(text)
    assert context(conf).minimum_version is context(None).minimum_version
    assert "OPENSSL_CONF" in caplog.text
