"""What of a metric that isn't edgebuild's own is in the key of a verdict: all that the verdict hangs on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.building.judge import metric_values
from edgebuild.core.artifact import TensorSpec
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
