"""The JSON Schema of the configuration file, and each YAML file of the repository against it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from dicomweb_cors_proxy.config.fields import SCHEMA
from dicomweb_cors_proxy.config.json_schema import json_schema
from tests.support.guides import PAGES, ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

PUBLISHED = ROOT / "docs" / "config.schema.json"


def configurations() -> Iterator[tuple[str, Any]]:
    """Yield the name and content of each configuration in the repository."""
    yield "example", yaml.safe_load((ROOT / "config.example.yaml").read_text(encoding="utf-8"))
    for page in PAGES:
        for block in blocks(page, "yaml"):
            for content in yaml.safe_load_all(block.text):
                if isinstance(content, dict) and content.keys() <= {
                    *SCHEMA.groups,
                    *SCHEMA.settings,
                }:
                    yield str(block), content
    for file in sorted((ROOT / "deploy" / "kubernetes").rglob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            for name, text in ((manifest or {}).get("data") or {}).items():
                if name.endswith(".yaml"):
                    yield f"{file.name}:{name}", yaml.safe_load(text)


CONFIGURATIONS = dict(configurations())


def faults(content: Any) -> list[str]:  # noqa: ANN401
    return [error.json_path for error in Draft202012Validator(json_schema()).iter_errors(content)]


def test_schema_is_valid_and_published() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == schema, (
        f"run `dicomweb-cors-proxy schema > {PUBLISHED.relative_to(ROOT)}`"
    )


def test_example_names_the_published_schema() -> None:
    first = (ROOT / "config.example.yaml").read_text(encoding="utf-8").partition("\n")[0]
    assert first == f"# yaml-language-server: $schema={PUBLISHED.relative_to(ROOT)}"


def test_guides_and_manifests_have_configurations() -> None:
    assert any(name.startswith("orthanc:") for name in CONFIGURATIONS)
    assert any(name.endswith("config.yaml") for name in CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_schema_accepts_every_configuration_of_the_repository(name: str) -> None:
    assert not faults(CONFIGURATIONS[name])


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"upstraem": {}}, "$"),
        ({"server": {"prot": 1}}, "$.server"),
        ({"server": {"port": 65536}}, "$.server.port"),
        ({"server": {"port": "http"}}, "$.server.port"),
        ({"server": {"header_timeout": 0}}, "$.server.header_timeout"),
        ({"access": {"mode": "write"}}, "$.access.mode"),
        ({"cors": {"allow_origins": [1]}}, "$.cors.allow_origins"),
        ({"cors": {"per_origin": "https://viewer.example"}}, "$.cors.per_origin"),
        ({"cors": {"per_origin": [{"origin": "x"}]}}, "$.cors.per_origin[0]"),
        ({"compress": "maybe"}, "$.compress"),
    ],
)
def test_schema_rejects(content: dict[str, Any], path: str) -> None:
    assert faults(content) == [path]


def test_schema_describes_every_setting() -> None:
    schema = json_schema()
    for key, setting in SCHEMA.settings.items():
        node = schema
        for name in key.split("."):
            node = node["properties"][name]
            node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        assert node["description"] == setting.description, key


def test_schema_accepts_a_text_for_a_list() -> None:
    assert not faults({"cors": {"allow_methods": "*", "per_origin": []}})
