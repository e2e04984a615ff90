"""Load the settings of `serve`, again on each reload."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dicomweb_cors_proxy.config.issues import ConfigurationError, SettingIssue
from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.operations.self_signed import self_signed, state_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dicomweb_cors_proxy.config.settings import Settings

SELF_SIGNED = "--tls-self-signed"


class SettingsSource:
    """The source of the settings of `serve`, each time it reads them.

    Attributes:
        fingerprint: SHA-256 of the self-signed certificate, "" without one.
    """

    def __init__(
        self, config_file: Path | None, flags: Mapping[str, Any], *, is_self_signed: bool
    ) -> None:
        self._config_file = config_file
        self._flags = flags
        self._is_self_signed = is_self_signed
        self.fingerprint = ""

    def load(self) -> Settings:
        """Load the settings. Raises ConfigurationError."""
        flags = dict(self._flags)
        if self._is_self_signed:
            for key, flag in (
                ("server.tls_cert_file", "--tls-cert"),
                ("server.tls_key_file", "--tls-key"),
            ):
                if flags.pop(key) is not None:
                    reason = f"is given together with {flag}; keep one of the two"
                    raise ConfigurationError([SettingIssue(SELF_SIGNED, reason)])
        settings = load(config_file=self._config_file, flags=flags)
        if not self._is_self_signed:
            return settings
        folder = None
        try:
            folder = state_directory(os.environ)
            file, self.fingerprint = self_signed(settings.server.host, folder)
        except OSError as error:
            reason = (
                f"can't keep its certificate{f' in {folder}' if folder else ''} "
                f"({error.strerror}); set STATE_DIRECTORY to a folder that the proxy may write"
            )
            raise ConfigurationError([SettingIssue(SELF_SIGNED, reason)]) from None
        own = {"server.tls_cert_file": file, "server.tls_key_file": file}
        return load(config_file=self._config_file, flags=flags | own)
