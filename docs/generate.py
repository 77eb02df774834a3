"""Write docs/configuration.md from the configuration schema: `uv run python docs/generate.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stepcredit.config import TrainConfig

HEADER = """# Configuration

Every key of a recipe, with its default. Written by `docs/generate.py` from `stepcredit/config.py`; do not edit by hand.

A recipe is a YAML file of these sections; keys left out keep their defaults, unknown keys are refused. On the command
line any key is set as `section.key=value`. The defaults are the recipe `embedded_jpeg`.
"""


def configuration() -> str:
    """The page's text."""
    schema = TrainConfig.model_json_schema()
    parts = [HEADER]
    for name in TrainConfig.model_fields:
        section = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
        parts += [
            f"## {name}\n",
            section["description"] + "\n",
            "| key | default | allowed | meaning |",
            "|---|---|---|---|",
        ]
        parts += [_row(name, key, field) for key, field in section["properties"].items()]
        parts.append("")
    return "\n".join(parts)


def _row(section: str, key: str, field: dict[str, Any]) -> str:
    default, meaning = json.dumps(field.get("default")), field.get("description", "").replace("|", "\\|")
    return f"| `{section}.{key}` | `{default}` | {_allowed(field)} | {meaning} |"


def _allowed(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_allowed(option) for option in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    bounds = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[bound]:g}" for bound, sign in bounds.items() if bound in field]
    return " ".join([field.get("type", "any"), *limits])


if __name__ == "__main__":
    (Path(__file__).parent / "configuration.md").write_text(configuration())
