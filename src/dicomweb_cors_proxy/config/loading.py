"""Gather the settings from flags, environment, secret files and a YAML file."""

from __future__ import annotations

import os
from collections import ChainMap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.issues import ConfigurationError, independent
from dicomweb_cors_proxy.config.settings import Settings
from dicomweb_cors_proxy.config.sources import (
    SourceValues,
    config_variable,
    exposure,
    lookalikes,
    nested,
    read_environment,
    read_flags,
    read_secret_files,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["load", "unchecked_values"]


def load(
    *,
    config_file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Gather the settings: flags come before environment, secret files, YAML file and defaults.

    Args:
        config_file: the YAML file; default: the one that the environment names, else none.
        flags: values of command-line flags by dotted key, `{"server.port": 8080}`.
        environ: environment variables.

    Raises ConfigurationError with the problems of all places.
    """
    config_file = config_file or config_variable(environ)
    places = _read_sources(config_file, flags or {}, environ)
    sources = ChainMap(*(place.sources for place in places))
    problems = [problem for place in reversed(places) for problem in place.problems]
    try:
        settings = Settings(**nested(ChainMap(*(place.values for place in places))))
    except ConfigurationError as error:
        empty_secrets = {
            key: where for place in places for key, where in place.empty_secrets.items()
        }
        found = (
            replace(p, source=sources.get(p.setting) or empty_secrets.get(p.setting, ""))
            for p in error.found
        )
        # A place that can't be read may hold what seems to be missing.
        is_known = all(place.is_whole for place in places)
        problems += [p for p in independent(found, of=problems) if is_known or p.source]
    ignored = tuple(lookalikes(environ, SCHEMA))
    if problems:
        raise ConfigurationError((*problems, *ignored))
    settings._sources = dict(sources)  # noqa: SLF001
    settings._source_warnings = ignored  # noqa: SLF001
    if config_file:
        in_file = places[-1]
        secrets = [
            key
            for key, value in in_file.values.items()
            if SCHEMA.settings[key].is_secret
            and value is not None
            and sources[key] == in_file.sources[key]
        ]
        settings._source_warnings += tuple(exposure(config_file, secrets))  # noqa: SLF001
    return settings


def unchecked_values(
    config_file: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Mapping[str, object]:
    """Return the values of all settings by dotted key, as written, with the defaults.

    Unlike `load`, this takes no flags, and passes over values with problems.
    """
    places = _read_sources(config_file or config_variable(environ), {}, environ)
    defaults = {setting.key: setting.default for setting in SCHEMA.settings.values()}
    return ChainMap(*(place.values for place in places), defaults)


def _read_sources(
    config_file: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str]
) -> list[SourceValues]:
    """Read each source, in order of precedence."""
    return [
        read_flags(flags, SCHEMA),
        read_environment(environ, SCHEMA),
        read_secret_files(environ, SCHEMA),
        _read_file(config_file) if config_file else SourceValues(),
    ]


def _read_file(path: Path) -> SourceValues:
    from dicomweb_cors_proxy.config.yaml_file import read_file  # noqa: PLC0415  (slow)

    return read_file(path, SCHEMA)
