"""Translate pydantic's errors into our sentences, and leave out the values that they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dicomweb_cors_proxy.config.issues import SettingIssue, redacted
from dicomweb_cors_proxy.config.schema import POLICIES_EXAMPLE, Schema

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic_core import ErrorDetails

__all__ = ["droppable", "issue_of", "without"]

_EXPECTED: Final = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "path_type": "a path",
    "tuple_type": "a list",
    "model_type": "a mapping with the keys of a policy",
}

_Location = tuple[int | str, ...]


def issue_of(error: ErrorDetails, schema: Schema, policy_schema: Schema) -> SettingIssue:
    """Say in our words what pydantic says of a value."""
    location, kind, value = error["loc"], error["type"], error["input"]
    subject = "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in location)[1:]
    if kind == "value_error":
        return SettingIssue(subject, str(error["ctx"]["error"]))
    if kind in ("extra_forbidden", "invalid_key"):
        is_in_entry = location[:2] == ("cors", "per_origin")
        if is_in_entry:
            return SettingIssue(subject, policy_schema.explain_unknown(str(location[-1])))
        return SettingIssue(subject, schema.explain_unknown(subject))
    if subject in schema.groups:
        return SettingIssue(subject, schema.explain_unknown(subject))
    expected = error["ctx"]["expected"] if kind == "literal_error" else _EXPECTED.get(kind, "text")
    setting = schema.settings.get(subject)
    reason = f"{'this' if setting and setting.is_secret else redacted(value)} is not {expected}"
    if value is None:
        reason += "; leave the key out for its default"
    elif expected == "text" and isinstance(value, (bool, int, float)):
        reason += "; put it in quotes"
    elif subject == "cors.per_origin":
        reason += f"; write {POLICIES_EXAMPLE}"
    return SettingIssue(subject, reason)


def droppable(location: _Location) -> _Location:
    """Return what to leave out for a value: the whole list for an item, unless it is a mapping."""
    *parent, last = location
    return location if isinstance(last, str) or parent[-1] == "per_origin" else tuple(parent)


def without(value: Any, locations: Collection[_Location]) -> Any:  # noqa: ANN401
    """Copy mappings and lists without what stands at `locations`; list items become empty.

    A name that is not text is never valid, and pydantic does not locate it as it is.
    """
    if isinstance(value, dict):
        return {
            name: without(each, _below(name, locations))
            for name, each in value.items()
            if isinstance(name, str) and (name,) not in locations
        }
    if isinstance(value, (list, tuple)):
        return [
            {} if (index,) in locations else without(each, _below(index, locations))
            for index, each in enumerate(value)
        ]
    return value


def _below(name: int | str, locations: Collection[_Location]) -> Collection[_Location]:
    return {location[1:] for location in locations if location[0] == name}
