"""The certificate that the server shows, renewed while it is in use."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.config.pem_files import pair_fault

if TYPE_CHECKING:
    from dicomweb_cors_proxy.config.fields import ServerSettings

__all__ = ["POLL_INTERVAL", "Certificates"]

logger = logging.getLogger(__name__)

# Seconds between two looks at the files.
POLL_INTERVAL: Final = 1.0

_Files = tuple[Path, Path]
_State = tuple[tuple[int, ...] | None, ...]


class Certificates:
    """A certificate with its key, which may be renewed while it is in use.

    Args:
        certificate: file of the chain, PEM.
        key: file of its private key, PEM, without a passphrase.
        http2: offer HTTP/2 (by ALPN, RFC 7301).

    Attributes:
        context: for the listener; a handshake is given what was read last.

    Raises OSError or ssl.SSLError if the files are of no use.
    """

    def __init__(self, certificate: Path, key: Path, *, http2: bool = True) -> None:
        self._protocols = ["h2", "http/1.1"] if http2 else ["http/1.1"]
        self._files = (certificate, key)
        self._read = self._seen = _state(self._files)
        self.context = self._latest = _context(self._files, self._protocols)
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
        """Use the certificate that the files hold now, unless it is invalid.

        Connections that are open stay as they are. Returns whether it is in use.
        """
        self._read = self._seen = _state(self._files)
        fault = pair_fault(*self._files)
        if fault is None:
            try:
                self._latest = _context(self._files, self._protocols)
            except (OSError, ValueError) as error:  # the files changed in between
                fault = f"{str(self._files[0])!r} can't be used ({type(error).__name__})"
        if fault is not None:
            logger.error("server.tls_cert_file: %s; the certificate in use stays", fault)
        return fault is None


def _context(files: _Files, protocols: list[str]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files, password="")  # or it would ask on the terminal
    context.set_alpn_protocols(protocols)
    # A resumed session keeps the certificate that it began with. TLS 1.3 lets a session be
    # resumed again and again, past the end of that certificate. Viewers keep their connections.
    context.num_tickets = 0
    return context


def _state(files: _Files) -> _State:
    """Return the files' state, which changes with their content; None for a missing file."""
    states: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            states.append(None)
        else:
            states.append((status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev))
    return tuple(states)
