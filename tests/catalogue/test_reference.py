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
from tests.catalogue.example import TABLES, tables


def test_the_committed_files_are_up_to_date() -> None:
    again = "run `python -m edgebuild.catalogue.reference`"
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), again
    assert REFERENCE_FILE.read_text(encoding="utf-8") == reference_markdown(), again


def test_the_schema_agrees_with_the_loader() -> None:
    schema = project_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(TABLES)) == []
    wrongs: tuple[dict[str, Any], ...] = (
        {"budget": {"points": "two"}},
        {"limts": {}},
        {"build": {"threads": 0}},
        {"data": None},
    )
    for wrong in wrongs:
        assert list(validator.iter_errors(tables(**wrong)))


def test_every_key_has_a_description() -> None:
    schema = project_schema()
    for name, table in schema["$defs"].items():
        for key, value in table["properties"].items():
            assert value.get("description") or name == "ProjectFile", f"{name}.{key}"
    page = reference_markdown()
    for name in ProjectFile.model_fields:
        assert f"[{name}]" in page
