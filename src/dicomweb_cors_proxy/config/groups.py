"""The base of all groups of settings."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from dicomweb_cors_proxy.config.schema import is_group, read_list, types_in

__all__ = ["Group"]


class Group(BaseModel):
    """A group of settings, which are fixed once they are read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _read_list(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        """Read a list from text, as variables have it: `*`, or one origin."""
        if isinstance(value, str) and info.field_name is not None:
            types = set(types_in(cls.model_fields[info.field_name].annotation))
            if tuple in map(get_origin, types) and not any(map(is_group, types)):
                with suppress(ValueError, RecursionError):
                    return read_list(value)
        return value
