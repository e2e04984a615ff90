"""Renew the schema of `config` in the values of the Helm chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from dicomweb_cors_proxy.config.json_schema import json_schema

FILE: Final = Path(__file__).parent.parent / "deploy" / "helm" / "values.schema.json"


def renewed(text: str) -> str:
    """Return the schema of the values with the current schema of the configuration."""
    schema = json.loads(text)
    # Its own identifier, because its references begin at its root.
    schema["properties"]["config"] = {"$id": "config.schema.json"} | json_schema()
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(renewed(FILE.read_text(encoding="utf-8")), encoding="utf-8")
