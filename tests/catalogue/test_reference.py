from __future__ import annotations

from typing import Any

import jsonschema

from edgebuild.catalogue.project_tables import ProjectFile
from edgebuild.catalogue.reference import (
    REFERENCE_FILE,
    SCHEMA_FILE,
    project_schema,
    reference_markdown,
    schema_text,
)
from edgebuild.techniques.registry import TABLE
from tests.catalogue.example import TABLES, tables

OURS = {name: technique.Parameters for name, technique in TABLE.items()}


def test_the_committed_files_are_up_to_date() -> None:
    again = "run `python -m edgebuild.techniques.reference`"
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(OURS), again
    assert REFERENCE_FILE.read_text(encoding="utf-8") == reference_markdown(OURS), again


def test_the_schema_agrees_with_the_loader() -> None:
    schema = project_schema(OURS)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(TABLES)) == []
    recipe = {"name": "a", "steps": [{"technique": "prune-structured", "keep": 0.5}, {"technique": "factorise"}]}
    assert list(validator.iter_errors(tables(recipes=[recipe]))) == []
    wrongs: tuple[dict[str, Any], ...] = (
        {"budget": {"points": "two"}},
        {"limts": {}},
        {"build": {"threads": 0}},
        {"data": None},
        {"recipes": [{"name": "a", "steps": [{"technique": "prune-structured", "kep": 0.5}]}]},
        {"recipes": [{"name": "a", "steps": [{"technique": "prune"}]}]},
    )
    for wrong in wrongs:
        assert list(validator.iter_errors(tables(**wrong)))


def test_every_key_has_a_description() -> None:
    schema = project_schema(OURS)
    for name, table in schema["$defs"].items():
        for key, value in table["properties"].items():
            assert value.get("description") or name == "ProjectFile", f"{name}.{key}"
    page = reference_markdown(OURS)
    for name in ProjectFile.model_fields:
        assert f"[{name}]" in page
