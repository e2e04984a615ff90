"""The settings in force, printed as YAML with secrets masked."""

from __future__ import annotations

import json
from typing import Final, NamedTuple

from pydantic import BaseModel, SecretStr

__all__ = ["Effective", "printable"]

_MASK: Final = "********"


class Effective(NamedTuple):
    """A setting as it is in force: its value as YAML, secrets masked, and where it comes from."""

    key: str
    value: str
    source: str


def printable(value: object) -> str:
    """Return a setting's value as YAML has it, on one line; a secret is masked."""
    if isinstance(value, SecretStr):
        return _MASK
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    if isinstance(value, BaseModel):  # an entry of cors.per_origin
        return json.dumps(value.model_dump(exclude_none=True))
    if isinstance(value, tuple):
        return f"[{', '.join(map(printable, value))}]"
    return str(value)
