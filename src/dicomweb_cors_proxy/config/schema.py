"""The keys of the settings, their variables, and how text is read for them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, Literal, TypeGuard, get_args, get_origin

from pydantic import BaseModel, SecretStr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "POLICIES_EXAMPLE",
    "VARIABLE_PREFIX",
    "Schema",
    "Setting",
    "is_group",
    "key_of_name",
    "read_list",
    "settings_of",
    "types_in",
    "variable_of_key",
]

VARIABLE_PREFIX: Final = "DICOMWEB_PROXY_"
POLICIES_EXAMPLE: Final = '[{"allow_origins": ["https://viewer.example"]}]'

_JSON_LIST: Final = re.compile(r'\s*\[\s*["\]]')  # which [::1]:8080 is not


@dataclass(frozen=True, slots=True)
class Setting:
    """A key of the configuration, without its value.

    `form` is how a text is read for it: as it is, as a list (comma-separated or JSON), or as JSON.
    """

    key: str
    description: str
    default: object
    form: Literal["text", "list", "json"]
    is_secret: bool

    @property
    def variable(self) -> str:
        """The name of the key's environment variable."""
        return variable_of_key(self.key)


class Schema:
    """The keys that exist, and each group that they stand in with its first key."""

    def __init__(self, settings: Iterable[Setting]) -> None:
        self.settings = {setting.key: setting for setting in settings}
        self.groups = {
            key[: dot.start()]: key
            for key in reversed(self.settings)
            for dot in re.finditer(r"\.", key)
        }

    def explain_unknown(self, key: str, spell: Callable[[str], str] = str) -> str:
        """Say why `key` cannot have a value; `spell` writes keys as their source does."""
        if key in self.groups:
            return f"is a section, not a value; set {spell(self.groups[key])} or another key in it"
        nearest = self.nearest(key)
        hint = (
            f"did you mean {spell(nearest)}?" if nearest else "docs/configuration.md lists all keys"
        )
        return f"is not known; {hint}"

    def nearest(self, key: str) -> str | None:
        """Find the key that was meant, whether under other separators or without its group."""
        parent = key
        while parent := parent.rpartition(".")[0]:
            if parent in self.settings:
                return parent
        # Of names that are spelt alike, the first wins, and a whole one over one without its group.
        spellings = {_plain(name.rpartition(".")[2]): name for name in reversed(self.settings)}
        spellings |= {_plain(name): name for name in (*self.groups, *self.settings)}
        return next(
            (spellings[s] for s in get_close_matches(_plain(key), spellings, 1, 0.75)), None
        )


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]+", "_", name.lower())


def key_of_name(name: str) -> str:
    """Return the dotted key of a variable without its prefix."""
    return name.lower().replace("__", ".")


def variable_of_key(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return VARIABLE_PREFIX + key.upper().replace(".", "__")


def read_list(text: str) -> object:
    """Read a list that is written as JSON, or with commas. Raises ValueError, RecursionError."""
    if _JSON_LIST.match(text):
        return json.loads(text)
    return [item for item in map(str.strip, text.split(",")) if item]


def settings_of(group: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Yield the settings that are fields of a group, and of the groups in it."""
    for name, field in group.model_fields.items():
        key = f"{prefix}{name}"
        kind = field.annotation
        if is_group(kind):
            yield from settings_of(kind, f"{key}.")
            continue
        types = set(types_in(kind))
        is_list = get_origin(kind) is tuple
        yield Setting(
            key=key,
            description=field.description or "",
            default=field.default,
            form="json" if any(map(is_group, types)) else "list" if is_list else "text",
            is_secret=SecretStr in types,
        )


def is_group(kind: object) -> TypeGuard[type[BaseModel]]:
    """Return whether a type is a group of settings."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def types_in(annotation: object) -> Iterator[object]:
    """Yield an annotation, and the types that it is made of."""
    yield annotation
    for argument in get_args(annotation):
        yield from types_in(argument)
