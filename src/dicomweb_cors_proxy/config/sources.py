"""The sources of settings: flags, environment and secret files. The fourth is in yaml_file.

A value is read by its key, never by its look: whatever a file, a variable or a secret file says is
text until `Settings` knows what it is for. So `password: 007` stays 007, and `token: yes` is yes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_IRGRP, S_IROTH
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from dicomweb_cors_proxy.config.file_errors import unreadable
from dicomweb_cors_proxy.config.issues import SettingIssue
from dicomweb_cors_proxy.config.schema import (
    POLICIES_EXAMPLE,
    VARIABLE_PREFIX,
    Schema,
    Setting,
    key_of_name,
    read_list,
    variable_of_key,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "SourceValues",
    "config_variable",
    "exposure",
    "lookalikes",
    "nested",
    "read_environment",
    "read_flags",
    "read_secret_files",
]

_CONFIG: Final = "DICOMWEB_PROXY_CONFIG"
_SECRETS_DIR: Final = "DICOMWEB_PROXY_SECRETS_DIR"

# Kubernetes sets these variables in every container of a namespace for a Service named
# dicomweb-proxy or dicomweb-proxy-anything. A …_PORT that holds a number is a setting of ours.
_KUBERNETES: Final = re.compile(
    r"(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)=.*"
    r"|(?:\w+_)?PORT=(?:tcp|udp|sctp)://.*",
    re.IGNORECASE | re.DOTALL,
)

# Names of this program that are not the prefix, and what follows them.
_LOOKALIKE: Final = re.compile(
    r"DICOM_?WEB_?(?:CORS_?)?PROXY_+(\w+)|(?:DICOM|CORS)_PROXY_+(\w+)", re.IGNORECASE
)


@dataclass(slots=True)
class SourceValues:
    """The values of one source by dotted key, the place of each, and the problems found there.

    `is_whole` is False if the source could not be read, so its values are unknown. `empty_secrets`
    are places where secrets seem to be, and are not.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    problems: list[SettingIssue] = field(default_factory=list)
    is_whole: bool = True
    empty_secrets: dict[str, str] = field(default_factory=dict)

    def set(self, setting: Setting, value: object, source: str) -> None:
        """Take a value as it is."""
        if setting.is_secret and isinstance(value, str):
            value = SecretStr(value)
        self.values[setting.key] = value
        self.sources[setting.key] = source

    def read(self, setting: Setting, text: str, source: str) -> None:
        """Take a value that is written as text: empty is unset, null is null."""
        if not text:
            return
        if setting.key in self.sources:
            reason = f"is also set by {self.sources[setting.key]}; keep one of the two"
            self.problems.append(SettingIssue(setting.key, reason, source))
            return
        try:
            self.set(setting, _read(setting, text), source)
        except (ValueError, RecursionError):
            better = POLICIES_EXAMPLE if setting.form == "json" else "a, b"
            reason = f"is not well-formed JSON; write {better}"
            self.problems.append(SettingIssue(setting.key, reason, source))


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by dotted key as mappings in mappings."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


def _read(setting: Setting, text: str) -> object:
    if text == "null":
        return None
    if setting.form == "json":
        return json.loads(text)
    return read_list(text) if setting.form == "list" else text


def read_flags(flags: Mapping[str, Any], schema: Schema) -> SourceValues:
    """Take the values of command-line flags by dotted key; None and () are flags not given."""
    place = SourceValues()
    for key, value in flags.items():
        if value is None or value == ():
            continue
        if setting := schema.settings.get(key):
            place.set(setting, value, "flag")
        else:
            place.problems.append(SettingIssue(key, schema.explain_unknown(key), "flag"))
    return place


def read_environment(environ: Mapping[str, str], schema: Schema) -> SourceValues:
    """Read the environment's variables with our prefix, in any case."""
    place = SourceValues()
    for variable, text in environ.items():
        if not variable.upper().startswith(VARIABLE_PREFIX):
            continue
        name = variable[len(VARIABLE_PREFIX) :]
        if setting := schema.settings.get(key_of_name(name)):
            place.read(setting, text, f"environment {variable}")
        elif (
            text
            and variable.upper() not in (_CONFIG, _SECRETS_DIR)
            and not _KUBERNETES.fullmatch(f"{name}={text}")
        ):
            place.problems.append(
                SettingIssue(variable, schema.explain_unknown(key_of_name(name), variable_of_key))
            )
    return place


def lookalikes(environ: Mapping[str, str], schema: Schema) -> Iterator[SettingIssue]:
    """Yield a warning for each variable that seems to be ours but has another prefix."""
    for variable, text in environ.items():
        match = _LOOKALIKE.fullmatch(variable)
        if match is None or variable.upper().startswith(VARIABLE_PREFIX):
            continue
        name = match[1] or match[2]
        key = schema.nearest(key_of_name(name))
        if key is None or _KUBERNETES.fullmatch(f"{name}={text}"):
            continue
        reason = f"is not read, because its prefix is not {VARIABLE_PREFIX}; write "
        yield SettingIssue(variable, reason + variable_of_key(key))


def config_variable(environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file that the environment names."""
    return _path_variable(environ, _CONFIG)


def _path_variable(environ: Mapping[str, str], name: str) -> Path | None:
    return next((Path(v) for n, v in environ.items() if n.upper() == name and v), None)


def read_secret_files(environ: Mapping[str, str], schema: Schema) -> SourceValues:
    """Read the files that are named like a variable, with or without our prefix, in any case.

    The directory is the environment's, else systemd's, else Docker's; other files and folders in
    it are none of ours.
    """
    place = SourceValues()
    named = _path_variable(environ, _SECRETS_DIR)
    directory = named or Path(environ.get("CREDENTIALS_DIRECTORY") or "/run/secrets")
    try:
        files = sorted(directory.iterdir())
    except (OSError, ValueError) as error:
        if named:
            reason = unreadable(error, "name a folder that the proxy may read")
            place.problems.append(SettingIssue(str(named), reason, f"environment {_SECRETS_DIR}"))
        return place
    for file in files:
        is_prefixed = file.name.upper().startswith(VARIABLE_PREFIX)
        key = key_of_name(file.name[len(VARIABLE_PREFIX) * is_prefixed :])
        setting = schema.settings.get(key)
        if setting is None and not is_prefixed:
            continue
        source = f"secret file {file}"
        try:
            # Containers get a folder where there was no file to mount.
            text = file.read_text(encoding="utf-8") if file.is_file() else None
            if setting is not None and setting.is_secret and not text:
                place.empty_secrets[key] = f"{source} is {'no file' if text is None else 'empty'}"
            if text is None:
                continue
        except (OSError, ValueError) as error:
            reason = unreadable(error, "make it UTF-8 text that the proxy may read")
            place.problems.append(SettingIssue(source, reason))
            continue
        if setting is None:
            reason = schema.explain_unknown(key, lambda key: variable_of_key(key).lower())
            place.problems.append(SettingIssue(source, reason))
        else:
            place.read(setting, text.rstrip("\r\n"), source)
    return place


def exposure(path: Path, secrets: Sequence[str]) -> Iterator[SettingIssue]:
    """Yield a warning if others may read a file that holds `secrets`, which are dotted keys."""
    if not secrets or os.name == "nt":  # Windows shows its access lists in no mode
        return
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    readers = [who for bit, who in ((S_IRGRP, "its group"), (S_IROTH, "all users")) if mode & bit]
    if readers:
        reason = (
            f"holds {' and '.join(secrets)}, and {' and '.join(readers)} can read it; run "
            f"chmod 600 {shlex.quote(str(path))}, or move each secret into a secret file"
        )
        yield SettingIssue(f"file {path}", reason)
