"""The JSON Schema of `edgebuild.toml` and its reference page, both made from the tables themselves.

``python -m edgebuild.catalogue.reference`` writes them into a checkout; a test says when they are out of date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from edgebuild.catalogue.project_tables import ProjectFile

SCHEMA_FILE = Path(__file__).resolve().parent / "edgebuild.schema.json"
REFERENCE_FILE = Path(__file__).resolve().parents[2] / "docs" / "edgebuild-toml.md"

_SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"

_INTRODUCTION = """\
# edgebuild.toml

Everything that edgebuild knows of a project. `edgebuild init` writes a commented one. Paths are relative to the file;
`module:function` is imported with the project's folder first. Editors check the file against
`edgebuild/catalogue/edgebuild.schema.json`.

*Made by `python -m edgebuild.catalogue.reference`; don't edit by hand.*
"""


def project_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `edgebuild.toml`."""
    schema = ProjectFile.model_json_schema()
    return {"$schema": _SCHEMA_URI, **schema, "title": "edgebuild.toml"}


def schema_text() -> str:
    """Return the schema as the text of the committed file."""
    return json.dumps(project_schema(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def reference_markdown() -> str:
    """Return the reference page: every table and key, with type, default and meaning."""
    schema = project_schema()
    parts = [_INTRODUCTION]
    for name, field in ProjectFile.model_fields.items():
        properties = schema["properties"][name]
        table = _table(field.annotation)
        heading = f"[[{name}]]" if _is_list(properties) else f"[{name}]"
        about = " ".join((table.__doc__ or "").split()) if table else properties.get("description", "")
        required = "Required." if field.is_required() else "Optional."
        parts.append(f"## `{heading}`\n\n{about} {required}\n")
        if table is None:
            parts.append("Any key; the value is a whole number of at least 1.\n")
            continue
        rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
        described = schema["$defs"][table.__name__]
        required_keys = described.get("required", [])
        for key, value in described["properties"].items():
            default = "required" if key in required_keys else _default(value.get("default"))
            rows.append(f"| `{key}` | {_type(value, schema)} | {default} | {value.get('description', '')} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _is_list(value: dict[str, Any]) -> bool:
    return value.get("type") == "array"


def _table(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _table(inner))), None)


def _default(value: Any) -> str:
    return "–" if value is None or value in ({}, []) else f"`{json.dumps(value)}`"


_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "table",
}


def _type(value: dict[str, Any], schema: dict[str, Any]) -> str:
    if "enum" in value:
        return " \\| ".join(f"`{json.dumps(choice)}`" for choice in value["enum"])
    if "anyOf" in value:
        kinds = [_type(option, schema) for option in value["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if _is_list(value):
        return f"list of {_type(value['items'], schema)}" if "items" in value else "list"
    kinds = value.get("type", "table")
    return " or ".join(_WORDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))


def write(schema_file: Path = SCHEMA_FILE, reference_file: Path = REFERENCE_FILE) -> None:
    """Write both files."""
    schema_file.write_text(schema_text(), encoding="utf-8")
    reference_file.parent.mkdir(exist_ok=True)
    reference_file.write_text(reference_markdown(), encoding="utf-8")


if __name__ == "__main__":
    write()
