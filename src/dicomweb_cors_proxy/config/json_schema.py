"""The JSON Schema of the configuration file, for editors and other programs."""

from __future__ import annotations

from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema

from dicomweb_cors_proxy.config.fields import SettingFields

__all__ = ["json_schema"]

_TITLE: Final = "Configuration of dicomweb-cors-proxy"


class _Generator(GenerateJsonSchema):
    """A generator that accepts a text for a list, and omits titles."""

    def tuple_schema(self, schema: Any) -> dict[str, Any]:  # noqa: ANN401
        array = super().tuple_schema(schema)
        is_list_of_groups = "$ref" in array.get("items", {})
        return array if is_list_of_groups else {"anyOf": [array, {"type": "string"}]}

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401, ARG002
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the configuration file.

    It describes names, types and ranges. `check` also tests what fields mean together.
    """
    schema = SettingFields.model_json_schema(schema_generator=_Generator)
    for group in (schema, *schema["$defs"].values()):
        group.pop("title", None)
    return {"$schema": _Generator.schema_dialect, "title": _TITLE} | schema
