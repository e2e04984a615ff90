"""The YAML file of settings, and messages about one that is not YAML.

`loading` imports this only if there is a file, because a start without one needs no parser.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import yaml

from dicomweb_cors_proxy.config.file_errors import unreadable
from dicomweb_cors_proxy.config.issues import SettingIssue
from dicomweb_cors_proxy.config.sources import SourceValues

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dicomweb_cors_proxy.config.schema import Schema

__all__ = ["read_file"]

_INDENTATION: Final = (
    "indent this line like the others of its section, by spaces; a section's keys begin in one "
    "column"
)
# Remedies by what the parser's message has in it; the first that fits counts.
_REMEDIES: Final = (
    (r"alias|alphabetic", "put quotes around what begins with *"),
    (r"'\\t'", "indent with spaces, not with tabs"),
    (r"cannot start any token", "put quotes around what begins with this character"),
    (r"quoted scalar", "a quote opens in this line and is not closed; close it"),
    (r"flow (?:sequence|mapping)", "a bracket opens in this line and is not closed; close it"),
    (r"flow node|stream end", "a bracket opens above and is not closed; close it"),
    (
        r"mapping values",
        (
            "indent this line like its neighbours, write a space after each key's colon (in the "
            "line above, too), and put quotes around values with a colon"
        ),
    ),
    (r"block (?:end|mapping|collection)", _INDENTATION),
    (r"simple key", "write a colon and a space between key and value, or close the quote"),
)
# The message gives the place where the reader noticed; these begin earlier.
_OPENED: Final = re.compile("quoted scalar|flow (?:sequence|mapping)|simple key")


class _Loader(yaml.SafeLoader):
    """YAML whose scalars are text or null, and whose keys stand once."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (as in the parent)
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.endswith((":null", ":str", ":seq", ":map"))
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 (as in the parent)
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"duplicate key {key.value}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def read_file(path: Path, schema: Schema) -> SourceValues:
    """Read a YAML file."""
    source = f"file {path}"
    try:
        document = yaml.load(path.read_bytes(), _Loader)  # noqa: S506 (a safe loader)
    except (OSError, ValueError) as error:
        reason = unreadable(error, "name a YAML file that the proxy may read")
        return SourceValues(problems=[SettingIssue(source, reason)], is_whole=False)
    except (yaml.YAMLError, RecursionError) as error:
        return SourceValues(problems=[_syntax_problem(source, error)], is_whole=False)
    if not isinstance(document, dict | None):
        reason = "has no mapping at its top; begin with a key such as upstream:"
        return SourceValues(problems=[SettingIssue(source, reason)], is_whole=False)
    place = SourceValues()
    _flatten(document or {}, "", source, schema, place)
    return place


def _flatten(
    node: Mapping[Any, Any], prefix: str, source: str, schema: Schema, place: SourceValues
) -> None:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if not isinstance(name, str) or "." in name:
            reason = "is not known; keys are nested by indentation, as in the example"
            place.problems.append(SettingIssue(key, reason, source))
        elif key in schema.settings:
            place.set(schema.settings[key], value, source)
        elif key not in schema.groups or not (value is None or isinstance(value, dict)):
            place.problems.append(SettingIssue(key, schema.explain_unknown(key), source))
        elif value:
            _flatten(value, f"{key}.", source, schema, place)


def _syntax_problem(source: str, error: Exception) -> SettingIssue:
    """Say where the file stops being YAML and what to do, without the text that stands there."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return SettingIssue(source, "is not YAML; write UTF-8 text, and no deeper than the example")
    message = f"{error.context or ''} {error.problem or ''}"
    mark = error.problem_mark or error.context_mark
    if error.context_mark and _OPENED.search(message):
        mark = error.context_mark
    where = f"{source}, line {mark.line + 1}" if mark else source
    remedy = next(
        (remedy for pattern, remedy in _REMEDIES if re.search(pattern, message)),
        "check indentation and quotes",
    )
    # Quoted there are characters and tokens, '<block end>', but also the names of aliases and tags,
    # which can be an unquoted *secret or !secret.
    cause = re.sub(r"""'(?!<|\\|.')[^']+'|"[^"]+\"""", "…", error.problem or "")
    return SettingIssue(where, f"is not valid YAML ({cause}); {remedy}")
