"""One seed contradicts a claim about many only where all of its interval does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROWS = Path(__file__).resolve().parents[2] / "benchmarks" / "technique_rows" / "rows.py"


def _rows() -> ModuleType:
    spec = importlib.util.spec_from_file_location("technique_rows_rows", ROWS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


rows = _rows()


@pytest.mark.parametrize(
    ("at", "figure", "contradicted"),
    [
        ("least", {"value": 0.6, "low": 0.2, "high": 1.1}, False),
        ("least", {"value": -0.01, "low": -0.4, "high": 0.4}, False),
        ("least", {"value": -0.6, "low": -1.1, "high": -0.2}, True),
        ("most", {"value": 0.6, "low": 0.2, "high": 1.1}, True),
        ("most", {"value": 0.1, "low": -0.2, "high": 0.4}, False),
        ("least", -0.01, True),
        ("least", 0.01, False),
    ],
)
def test_one_seed_contradicts_only_with_all_of_its_interval(at: str, figure: Any, contradicted: bool) -> None:
    claim = rows.Claim(key="it", what="it", at=at, bound=0)
    assert rows.contradicts(claim, {"it": figure}) is contradicted
