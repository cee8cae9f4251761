"""What follows what: the table of a gate is pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgebuild.cli.gating import EXIT_CODES, junit_text
from edgebuild.core.measurement import Comparison
from edgebuild.core.verdict import Drop
from edgebuild.releasing.accuracy import Accuracy, accuracy_row
from edgebuild.releasing.gate import Figures, concluded, rows_of, same_artifact

OLD = Figures(latency_ms=10.0, memory_bytes=100 << 20, size_bytes=4 << 20, load_ms=100.0)
LEVEL = Comparison(outcome="equivalent", effect=0.0, low=-0.01, high=0.01, pairs=9)
DROP = Drop(
    metric="accuracy", split="test", samples=1000, reference=0.95, artifact=0.947, drop=0.003, low=-0.001, high=0.007,
    level=0.95, method="a test", budget=0.02,
)  # fmt: skip


def outcomes(new: Figures, comparison: Comparison = LEVEL) -> dict[str, str]:
    return {row.what.split(",")[0]: row.outcome for row in rows_of(new, OLD, comparison)}


def test_a_release_like_the_last_one_passes() -> None:
    assert set(outcomes(OLD).values()) == {"equivalent"}
    assert concluded(rows_of(OLD, OLD, LEVEL)) == "equivalent"
    assert concluded(same_artifact()) == "equivalent"


@pytest.mark.parametrize(
    ("what", "changes", "outcome"),
    [
        ("peak memory", {"memory_bytes": 106 << 20}, "worse"),
        ("peak memory", {"memory_bytes": 104 << 20}, "equivalent"),
        ("size", {"size_bytes": 5 << 20}, "worse"),
        ("size", {"size_bytes": 3 << 20}, "better"),
        ("load", {"load_ms": 121.0}, "worse"),
        ("load", {"load_ms": 109.0}, "equivalent"),
    ],
)
def test_only_differences_beyond_their_noise_count(what: str, changes: dict[str, Any], outcome: str) -> None:
    found = outcomes(replace(OLD, **changes))
    assert found.pop(what) == outcome
    assert set(found.values()) == {"equivalent"}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"drop": 0.03, "low": 0.025, "high": 0.035}, "worse"),
        ({"drop": -0.03, "low": -0.035, "high": -0.025}, "better"),
        ({"drop": 0.012, "low": 0.002, "high": 0.022}, "inconclusive"),
        ({"reference": 0.94}, "inconclusive"),
        ({"samples": 900}, "inconclusive"),
        ({}, "equivalent"),
    ],
)
def test_accuracy_is_compared_where_both_had_the_same_original_and_data(changes: dict[str, Any], outcome: str) -> None:
    new, old = Accuracy(drop=DROP.model_copy(update=changes)), Accuracy(drop=DROP)
    assert accuracy_row(new, old).outcome == outcome


def test_one_worse_figure_is_what_a_gate_is_for() -> None:
    slower = LEVEL.model_copy(update={"outcome": "worse", "effect": 0.05, "low": 0.04, "high": 0.06})
    rows = rows_of(replace(OLD, size_bytes=3 << 20), OLD, slower)
    assert concluded(rows) == "worse"
    assert EXIT_CODES[concluded(rows)] == 3
    still_open = LEVEL.model_copy(update={"outcome": "inconclusive"})
    assert EXIT_CODES[concluded(rows_of(OLD, OLD, still_open))] == 4


def test_junit_counts_what_is_worse_and_what_is_open_and_escapes_names() -> None:
    unknown = accuracy_row(Accuracy(drop=None), Accuracy(drop=DROP))
    rows = (unknown, *rows_of(OLD, OLD, LEVEL.model_copy(update={"outcome": "worse"})))
    bundle = cast("Any", SimpleNamespace(project="<a & b>", version="1.0"))
    suite = ET.fromstring(junit_text(bundle, {'"t"': rows}))[0]  # noqa: S314  our own text
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("5", "1", "1")
    assert suite.get("name") == '<a & b> 1.0 on "t"'
