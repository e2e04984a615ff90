"""Apply OpenSSL's configuration file to a TLS context.

OpenSSL applies it to every context, but most builds of Python then set their own minimum of TLS
version and key sizes. An archive with old TLS could not be reached at all.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["apply"]

logger = logging.getLogger(__name__)

_VERSIONS: Final = {
    "None": ssl.TLSVersion.MINIMUM_SUPPORTED,
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.0": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
# SSL_OP_LEGACY_SERVER_CONNECT; the ssl module names it from Python 3.12 on.
_LEGACY_SERVER_CONNECT: Final = 0x4


def apply(file: Path, context: ssl.SSLContext) -> None:
    """Apply MinProtocol, CipherString and UnsafeLegacyServerConnect of the file to a context."""
    try:
        settings = _system_default(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        logger.warning("OPENSSL_CONF names a file that cannot be read; it is not applied")
        return
    version = settings.get("MinProtocol", "")
    ciphers = settings.get("CipherString", "")
    if version in _VERSIONS:
        context.minimum_version = _VERSIONS[version]
    if ciphers:
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            logger.warning("OPENSSL_CONF has a CipherString without a cipher; it is not applied")
    if "UnsafeLegacyServerConnect" in settings.get("Options", ""):
        context.options |= _LEGACY_SERVER_CONNECT


def _system_default(text: str) -> Mapping[str, str]:
    """Return the settings of the section to which openssl_conf, ssl_conf and system_default lead.

    Source: OpenSSL's manual pages config(5) and SSL_CONF_cmd(3).
    """
    sections: dict[str, dict[str, str]] = {"": {}}
    name = ""
    for line in text.splitlines():
        content = line.partition("#")[0].strip()
        if content.startswith("["):
            name = content.strip("[] \t")
            sections.setdefault(name, {})
        elif "=" in content:
            key, _, value = content.partition("=")
            sections[name][key.strip().rpartition(".")[2]] = value.strip()
    section = sections[""]
    for key in ("openssl_conf", "ssl_conf", "system_default"):
        section = sections.get(section[key], {}) if key in section else {}
    return section
