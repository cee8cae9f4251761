"""Files behind the data and the metric that change while no line of the project's code does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.cli.example import record, run, write_project

if TYPE_CHECKING:
    from pathlib import Path

METRIC = """
import json
from pathlib import Path

def weighted(outputs, targets):
    weight = json.loads(Path(__file__).with_name("weight.json").read_text())
    return weight * float((next(iter(outputs.values())).argmax(axis=1) == targets).mean())
"""
TABLES = {"metric": 'callable = "metric:weighted"\ndirection = "maximise"\nscale = [0.0, 1.0]'}


def built(project: Path) -> dict[str, Any]:
    ended = run("build", cwd=project)
    assert ended.code in {0, 4}, ended
    return record(project)


def drop_of(found: dict[str, Any]) -> dict[str, Any]:
    drop: dict[str, Any] = found["candidates"][0]["test"]["drop"]
    return drop


def test_changed_labels_and_a_changed_metric_give_new_verdicts_and_only_new_data_a_new_seal(tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", TABLES)
    (project / "metric.py").write_text(METRIC)
    (project / "weight.json").write_text("1.0")
    first = built(project)
    (project / "weight.json").write_text("0.5")
    halved = built(project)
    assert drop_of(halved)["reference"] == drop_of(first)["reference"] / 2
    assert halved["test_set"] == first["test_set"]
    with np.load(project / "test_arrays") as arrays:
        image, label = arrays["image"], arrays["label"]
    with (project / "test_arrays").open("wb") as file:
        np.savez(file, image=image, label=(label + 1) % 4)
    changed = built(project)
    assert drop_of(changed)["reference"] < 0.1
    assert changed["test_set"]["number"] == 1
    assert changed["test_set"]["others"] == 1
    steps = {step["label"]: step for step in changed["steps"]}
    assert not steps["read the test data"]["reused"]
    assert steps["read the validation data"]["why"] == "unchanged"
