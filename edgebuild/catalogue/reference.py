"""The JSON Schema of `edgebuild.toml` and its reference page, both made from the tables themselves.

``python -m edgebuild.techniques.reference`` writes them into a checkout, with the parameters of the techniques; a test
says when they are out of date.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from pydantic import BaseModel

from edgebuild.catalogue.project_tables import ProjectFile, RecipeStepTable

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_FILE = Path(__file__).resolve().parent / "edgebuild.schema.json"
REFERENCE_FILE = Path(__file__).resolve().parents[2] / "docs" / "edgebuild-toml.md"

_SCHEMA_URI = "https://json-schema.org/draft/2020-12/schema"

_INTRODUCTION = """\
# edgebuild.toml

Everything that edgebuild knows of a project. `edgebuild init` writes a commented one. Paths are relative to the file;
`module:function` is imported with the project's folder first. Editors check the file against
`edgebuild/catalogue/edgebuild.schema.json`.

*Made by `python -m edgebuild.techniques.reference`; don't edit by hand.*
"""


Techniques: TypeAlias = Mapping[str, type[BaseModel]]


def project_schema(techniques: Techniques) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of `edgebuild.toml`; ``techniques`` maps a name to its parameters."""
    schema = ProjectFile.model_json_schema()
    step = schema["$defs"]["RecipeStepTable"]
    step["additionalProperties"] = True
    step["oneOf"] = [_technique(name, model) for name, model in sorted(techniques.items())]
    return {"$schema": _SCHEMA_URI, **schema, "title": "edgebuild.toml"}


def _technique(name: str, model: type[BaseModel]) -> dict[str, Any]:
    own = model.model_json_schema()
    return {
        "type": "object",
        "properties": {"technique": {"const": name}, **own.get("properties", {})},
        "required": ["technique", *own.get("required", [])],
        "additionalProperties": False,
    }


def schema_text(techniques: Techniques) -> str:
    """Return the schema as the text of the committed file."""
    return json.dumps(project_schema(techniques), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


def reference_markdown(techniques: Techniques) -> str:
    """Return the reference page: every table and key, with type, default and meaning."""
    schema = project_schema(techniques)
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
        parts.append(_rows(schema["$defs"][table.__name__], schema))
        if name == "recipes":
            parts.extend(_step_reference(schema, techniques))
        else:
            parts.extend(_inner_tables(name, table, schema))
    return "\n".join(parts)


def _inner_tables(name: str, table: type[BaseModel], schema: dict[str, Any]) -> Iterator[str]:
    """Yield the tables inside a table that are named by the user: `[contract.inputs.NAME]`."""
    for key, field in table.model_fields.items():
        inner = _table(field.annotation)
        if inner is not None:
            yield f"### `[{name}.{key}.NAME]`\n\n{' '.join((inner.__doc__ or '').split())}\n"
            yield _rows(schema["$defs"][inner.__name__], schema)


def _step_reference(schema: dict[str, Any], techniques: Techniques) -> Iterator[str]:
    yield f"### Steps of a recipe\n\n{' '.join((RecipeStepTable.__doc__ or '').split())}\n"
    yield _rows(schema["$defs"]["RecipeStepTable"], schema)
    for name, model in sorted(techniques.items()):
        yield f"### `{name}`\n"
        yield _rows(model.model_json_schema(), schema)


def _rows(described: dict[str, Any], schema: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    required_keys = described.get("required", [])
    for key, value in described["properties"].items():
        default = "required" if key in required_keys else _default(value.get("default"))
        rows.append(f"| `{key}` | {_type(value, schema)} | {default} | {value.get('description', '')} |")
    return "\n".join(rows) + "\n"


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
    kinds = value.get("type", "object")
    return " or ".join(_WORDS[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))


def write(techniques: Techniques) -> None:
    """Write both files."""
    SCHEMA_FILE.write_text(schema_text(techniques), encoding="utf-8")
    REFERENCE_FILE.parent.mkdir(exist_ok=True)
    REFERENCE_FILE.write_text(reference_markdown(techniques), encoding="utf-8")
