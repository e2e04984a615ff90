"""The settings in force, and the part of new ones that a running process can adopt."""

from __future__ import annotations

import logging
from functools import reduce
from typing import TYPE_CHECKING, Final

from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.issues import ConfigurationError
from dicomweb_cors_proxy.observability.records import traceback_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from dicomweb_cors_proxy.config.settings import Settings

__all__ = ["LiveSettings", "reloaded"]

logger = logging.getLogger(__name__)

_TLS: Final = ("tls_cert_file", "tls_key_file")


class LiveSettings:
    """The settings in force.

    Args:
        settings: those in force.
        load: reads them again from everywhere; raises ConfigurationError or OSError.

    Attributes:
        settings: those in force.
    """

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        self.settings = settings
        self._load = load

    def reload(self) -> Settings | None:
        """Read the settings again; None, with all that is wrong in the log, if they can't be used.

        What can't change while the process runs stays as it is, and is logged.
        """
        try:
            new = self._load()
        except ConfigurationError as error:
            for problem in error.problems:
                logger.error("not reloaded: %s", problem)  # noqa: TRY400
            return None
        except Exception as error:  # noqa: BLE001  (whatever it is, the proxy goes on)
            logger.error("not reloaded: %s", traceback_summary(error))  # noqa: TRY400
            return None
        old = self.settings
        self.settings, waiting = reloaded(old, new)
        if waiting:
            logger.warning("needs a restart: %s", ", ".join(waiting))
        changed = ", ".join(_changed(old, self.settings)) or "nothing"
        logger.info("the configuration is read again; changed: %s", changed)
        for warning in self.settings.warnings():
            if warning not in old.warnings():
                logger.warning(warning)
        return self.settings


def reloaded(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """Return what is in force after a reload, and the changed keys that need a restart.

    All of `server` does, except the files of a certificate where there was one.
    """
    tls = {name: getattr(new.server, name) for name in _TLS}
    is_renewal = None not in (old.server.tls_cert_file, new.server.tls_cert_file)
    server = old.server.model_copy(update=tls if is_renewal else {})
    settings = new.model_copy(update={"server": server})
    return settings, _changed(settings, new)


def _changed(old: Settings, new: Settings) -> list[str]:
    return [key for key in SCHEMA.settings if _value(old, key) != _value(new, key)]


def _value(settings: Settings, key: str) -> object:
    return reduce(getattr, key.split("."), settings)
