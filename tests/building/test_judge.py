"""What of a metric that isn't edgebuild's own is in the key of a verdict: all that the verdict hangs on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgebuild.building.judge import JudgeOutputs, judged, metric_values
from edgebuild.building.prepare import check_output
from edgebuild.catalogue.callables import project_code
from edgebuild.catalogue.project_tables import MetricTable
from edgebuild.core.artifact import TensorSpec
from edgebuild.core.budget import Budget
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, StepContext, never_stop
from edgebuild.core.verdict import Outcome
from edgebuild.errors import ConfigError, EnvironmentGap
from edgebuild.judging import detection
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


READING = """
def texts(outputs):
    return ["".join("abc"[code] for code in row) for row in outputs["y"].argmax(axis=2)]
"""


def test_outputs_are_decoded_and_compared_with_texts(tmp_path: Path) -> None:
    """16 texts of different lengths, each of which the artifact reads with one letter wrong."""
    (tmp_path / "reading.py").write_text(READING)
    codes = np.array([[0, 1, 2], [2, 1, 0]] * 8)
    for name in ("data", "reference", "outputs", "verdict"):
        (tmp_path / name).mkdir()
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 2))
    samples = [
        Sample(
            inputs={"x": np.full(2, number, np.float32)},
            target="".join("abc"[code] for code in row) + "c" * (number % 2),
        )
        for number, row in enumerate(codes)
    ]
    write_dataset(
        samples, tmp_path / "data", specs=(spec,), stateful=False, source="s", task=NoProgress(), check=never_stop
    )
    for name, read in (("reference", codes), ("outputs", np.where(np.arange(3) == 1, 0, codes))):
        write_outputs(
            [{"y": np.eye(3, dtype=np.float32)[read]}], tmp_path / name, count=16, names=("y",), task=NoProgress()
        )
    step = JudgeOutputs(
        metric=MetricTable(name="cer", decode="reading:texts"), budget=Budget(points=2), split="validation", level=0.95
    )
    ctx = StepContext(progress=NoProgress(), check=never_stop, seed=0, scratch=tmp_path, code=project_code(tmp_path))
    assert step.uses_code
    assert step.own_metric(ctx.load) is not None
    step.run({name: tmp_path / name for name in ("data", "reference", "outputs")}, tmp_path / "verdict", ctx)
    verdict, _ = judged(tmp_path / "verdict")
    assert verdict.outcome is Outcome.REFUSED
    assert verdict.drop is not None
    assert (verdict.drop.reference, verdict.drop.artifact) == pytest.approx((8 / 56, 24 / 56))


def test_a_metric_of_decoded_outputs_reads_all_of_them() -> None:
    check_output(MetricTable(name="cer", decode="reading:texts"), ("a", "b"))
    with pytest.raises(ConfigError, match=r"the model has 2 outputs \(a, b\), and cer reads one"):
        check_output(MetricTable(name="cer"), ("a", "b"))
    with pytest.raises(ConfigError, match="the model has 1 outputs") as raised:
        check_output(MetricTable(name="accuracy", output="scores"), ("output",))
    assert "[model].outputs" in raised.value.hint


def test_a_package_that_a_metric_needs_is_asked_for_before_anything_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "find_spec", lambda _: None)
    with pytest.raises(EnvironmentGap, match="the metric coco_map needs pycocotools"):
        check_output(MetricTable(name="coco_map"), ("boxes",))
