"""Golden records: the shape of a build's ``build.json``, and of its values those that no machine and no noise changes.

``EDGEBUILD_GOLDEN=write pytest -k golden`` renews the files beside this one: after a change that is meant to change
records. The difference that git shows then is what changes for whoever reads them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Of a record and of each of its candidates: what says which build it is, and what was decided.
RECORD_VALUES = ("target", "objective", "budget", "outcome", "chosen", "kept", "baseline", "emulated", "notes")
CANDIDATE_VALUES = ("id", "spec", "status")


def shape(value: Any, path: str = "") -> set[str]:
    """Return every path in plain data with the kind of value there; entries of a list and absent values are alike."""
    if isinstance(value, dict):
        return set().union(*(shape(inner, f"{path}.{name}") for name, inner in value.items()), set())
    if isinstance(value, list):
        return set().union(*(shape(inner, f"{path}[]") for inner in value), set())
    kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    return set() if value is None else {f"{path.lstrip('.')}: {kind}"}


def essence(record: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what is held against a golden file. ``without`` names values that measuring decides."""
    steps = {(step["label"], step["kind"]) for step in record["steps"]}
    return {
        "record": {name: record[name] for name in RECORD_VALUES if name not in without},
        "candidates": [
            {name: candidate[name] for name in CANDIDATE_VALUES if name in candidate and name not in without}
            for candidate in record["candidates"]
        ],
        "refused_in_planning": record["refused_in_planning"],
        "steps": sorted(map(list, steps)),
        "shape": sorted(shape({k: v for k, v in record.items() if k not in {"facts", "versions", "environment"}})),
    }


def assert_golden(record: dict[str, Any], name: str, *, without: tuple[str, ...] = ()) -> None:
    """Compare a record with the golden file of this name."""
    path = HERE / f"{name}.json"
    found = json.loads(json.dumps(essence(record, without)))
    if os.environ.get("EDGEBUILD_GOLDEN") == "write":
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(path.read_text())
