"""What of a metric that isn't edgebuild's own is in the key of a verdict: all that the verdict hangs on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.building.judge import JudgeOutputs, metric_values
from edgebuild.catalogue.callables import project_code
from edgebuild.catalogue.project_tables import MetricTable
from edgebuild.core.artifact import TensorSpec
from edgebuild.core.budget import Budget
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.judging.metrics import named_metric
from edgebuild.models.dataset import write_dataset
from edgebuild.models.outputs import write_outputs

if TYPE_CHECKING:
    from pathlib import Path

ACCURACY = named_metric("accuracy")
CHANGES: dict[str, dict[str, Any]] = {
    "another direction": {"direction": "minimise"},
    "another scale": {"scale": (0.0, 100.0)},
    "not by class": {"by_class": False},
    "another version of its package": {"package": "somebody's 2"},
    "no scores of its own": {"scores": None},
    "other scores with the same mean": {"scores": lambda _, targets: np.full(len(targets), 0.5)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_a_verdict_hangs_on_changes_its_key(change: dict[str, Any], tmp_path: Path) -> None:
    targets = np.array([0, 1, 0, 1])
    for name in ("data", "out"):
        (tmp_path / name).mkdir()
    samples = (Sample(inputs={"x": np.full(2, each, np.float32)}, target=int(each)) for each in targets)
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 2))
    write_dataset(
        samples, tmp_path / "data", specs=(spec,), stateful=False, source="s", task=NoProgress(), check=never_stop
    )
    logits = np.eye(2, dtype=np.float32)[[0, 0, 0, 0]]
    write_outputs([{"y": logits}], tmp_path / "out", count=4, names=("y",), task=NoProgress())
    before = metric_values(ACCURACY, [tmp_path / "out"], tmp_path / "data")
    assert before == metric_values(ACCURACY, [tmp_path / "out"], tmp_path / "data")
    assert before != metric_values(replace(ACCURACY, **change), [tmp_path / "out"], tmp_path / "data")


METRICS = """
import numpy as np

def plain(outputs, targets):
    return float((outputs["y"].argmax(axis=1) == targets).mean() ** 2)

def right(outputs, targets):
    return outputs["y"].argmax(axis=1) == targets

def squared(entries):
    return entries.mean() ** 2
"""


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ({"callable": "metrics:plain"}, 0.25),
        ({"per_sample": "metrics:right"}, 0.5),
        ({"per_sample": "metrics:right", "combine": "metrics:squared"}, 0.25),
        ({"callable": "metrics:plain", "per_sample": "metrics:right", "combine": "metrics:squared"}, 0.25),
    ],
)
def test_a_project_names_its_functions(keys: dict[str, str], value: float, tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text(METRICS)
    table = MetricTable.model_validate({**keys, "direction": "maximise"})
    step = JudgeOutputs(metric=table, budget=Budget(relative=0.5), split="validation", level=0.95)
    metric = step.build_metric(project_code(tmp_path).load)
    assert step.uses_code
    assert metric is not None
    assert metric.value({"y": np.eye(2)[[0, 0, 1, 1]]}, np.array([0, 1, 0, 1])) == value
