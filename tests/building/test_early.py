"""What can be known of the data early is told early: before minutes of work, and before the test set is opened."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnx
import pytest

from edgebuild.building.context import Options, budget_of
from edgebuild.building.early import LOOK_SHARE, _peek_train, peek, warnings
from edgebuild.building.timebox import TimeBox
from edgebuild.catalogue.project import load_project
from edgebuild.core.budget import Budget
from edgebuild.errors import ConfigError
from edgebuild.judging.budget import parse_budget
from edgebuild.judging.enough import too_few
from edgebuild.judging.intervals import least_pairs, level_for_opening, paired_proportion
from edgebuild.judging.metrics import named_metric
from edgebuild.pipeline import build, plan
from tests.cli.example import BOARD_TARGET, classifier_weights, classify, write_project

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from edgebuild.catalogue.project import Project

NPZ = 'calibration = "calibration.npz"\nvalidation = "validation.npz"\ntest = "test.npz"'


def project(
    folder: Path,
    rows: Mapping[str, Sequence[int]],
    groups: Mapping[str, list[str]] | None = None,
    tables: Mapping[str, str | None] | None = None,
) -> Project:
    """A project whose splits are rows of one array, and perhaps groups."""
    data = NPZ + ('\ntrain = "train.npz"' if "train" in rows else "")
    write_project(folder, {"data": data, **(tables or {})})
    images = np.random.default_rng(0).standard_normal((5_000, 1, 8, 8)).astype(np.float32)
    for split, chosen in rows.items():
        index = np.array(chosen)
        arrays: dict[str, Any] = {"image": images[index], "target": index % 4}
        if groups and split in groups:
            arrays["group"] = np.array(groups[split])
        np.savez(folder / f"{split}.npz", **arrays)
    return load_project(folder)


def told(made: Project, level: float = 0.95) -> list[str]:
    found = peek(made)
    return [*found.unread, *warnings(made, budget_of(made, Options()), found.described, test_level=level)]


APART = {"calibration": range(20), "validation": range(100, 300), "test": range(300, 500)}


def test_nothing_is_said_of_data_that_are_right(tmp_path: Path) -> None:
    assert told(project(tmp_path / "p", APART)) == []


@pytest.mark.parametrize("split", ["validation", "test"])
def test_too_few_samples_for_the_budget_are_told(tmp_path: Path, split: str) -> None:
    made = project(tmp_path / "p", {**APART, split: range(1_000, 1_188)})
    assert told(made) == [
        f"too few {split} data: 188 samples: within 2 points (95 % interval) at least 189 are needed, even for an "
        "artifact that decides every sample as the original does"
    ]
    assert told(project(tmp_path / "q", {**APART, split: range(1_000, 1_189)})) == []


def test_in_a_time_box_train_data_are_looked_at_for_a_part_of_it_and_that_is_said(tmp_path: Path) -> None:
    made, ticks = project(tmp_path / "p", {**APART, "train": range(1_000, 1_400)}), count()
    said: list[str] = []
    box = TimeBox(asked_s=1_000, begins_s=0, deadline_s=1_000, clock=lambda: float(next(ticks)))
    context = SimpleNamespace(project=made, box=box, say=lambda _, text: said.append(text))
    found = _peek_train(cast("Any", context))
    assert (found.samples, found.whole) == (1_000 * LOOK_SHARE + 1, False)
    assert said == [
        "whether others are among the train samples is known of the first 21 alone, to stay inside the time asked for"
    ]
    context.box = None
    found = _peek_train(cast("Any", context))
    assert (found.samples, found.whole, len(said)) == (400, True, 1)


def test_a_later_opening_takes_more_samples(tmp_path: Path) -> None:
    made = project(tmp_path / "p", {**APART, "test": range(1_000, 1_200)})
    assert told(made) == []
    (said,) = told(made, level_for_opening(2))
    assert said.startswith("too few test data: 200 samples: within 2 points (97.5 % interval) at least 247 are needed")


def test_too_few_groups_are_told_however_many_samples_they_have(tmp_path: Path) -> None:
    groups = {"validation": [f"r{i % 9}" for i in range(200)], "test": [f"s{i % 10}" for i in range(200)]}
    assert told(project(tmp_path / "p", APART, groups)) == [
        "too few validation data: 9 groups: at least 10 are needed to certify anything, so every verdict is "
        "inconclusive"
    ]


@pytest.mark.parametrize("learnt", ["train", "calibration"])
@pytest.mark.parametrize("judged", ["validation", "test"])
def test_samples_that_the_model_learns_from_and_is_judged_on_are_told(tmp_path: Path, learnt: str, judged: str) -> None:
    rows: dict[str, Sequence[int]] = {**APART, "train": range(2_000, 2_100)}
    rows[learnt] = [*range(4_000, 4_010), *range(rows[judged][0], rows[judged][0] + 30)]
    made = project(tmp_path / "p", rows)
    said = [each for each in told(made) if f"{learnt} inputs" in each]
    assert said == [
        f"30 of 200 {judged} inputs are {learnt} inputs too: what is measured on them says little about new data"
    ]


def test_groups_that_are_in_two_splits_are_told(tmp_path: Path) -> None:
    groups = {split: [f"{split}{i % 20}" for i in range(200)] for split in ("validation", "test")}
    groups["validation"][:40] = [f"shared{i % 4}" for i in range(40)]
    groups["train"] = ["shared3", "shared1", "alone"] * 10
    made = project(tmp_path / "p", {**APART, "train": range(2_000, 2_030)}, groups)
    assert told(made) == [
        "2 of 24 validation groups are train groups too, such as 'shared1': what is measured on them says little about "
        "new data"
    ]


def test_a_plan_says_it_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    made = project(tmp_path / "p", {**APART, "test": range(300, 305)})
    (tmp_path / "p" / "validation.npz").unlink()
    (planned,) = plan(made)
    assert any("the validation data can't be read" in note for note in planned.notes)
    assert any(note.startswith("too few test data: 5 samples: at least 10 are needed") for note in planned.notes)
    assert not any("data not read yet" in note for note in planned.notes)


def test_a_plan_looks_at_the_beginning_of_long_data_only(tmp_path: Path) -> None:
    rows = {**APART, "train": range(1_000, 5_000), "validation": range(4_000, 4_200)}
    assert not any("train" in each for each in told(project(tmp_path / "p", rows)))
    rows["validation"] = range(2_990, 3_190)
    (said,) = (each for each in told(project(tmp_path / "q", rows)) if "train" in each)
    assert said.startswith("10 of 200 validation inputs are train inputs too, looking at the first 2,000 samples")


@pytest.mark.parametrize("budget", [0.001, 0.005, 0.01, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.975, 0.9999])
def test_the_least_number_of_pairs_is_that_of_the_interval(budget: float, level: float) -> None:
    needed = least_pairs(budget=budget, level=level)
    assert paired_proportion(0, 0, needed, level).high <= budget + 1e-9
    if needed > 1:
        assert paired_proportion(0, 0, needed - 1, level).high > budget


@pytest.mark.parametrize(
    ("budget", "metric", "one_label", "needed"),
    [
        ("2 points", "accuracy", True, 189),
        ("2 points", "top5_accuracy", True, 189),
        ("1%", "accuracy", True, 381),
        ("floor 0.9", "accuracy", True, 35),
        ("agreement 99%", None, False, 381),
        ("2 points", "accuracy", False, 183),
        ("2 points", "auroc", True, 183),
        ("1%", "cer", False, 368),
        ("1%", "mae", False, 368),
        ("floor 0.9", "f1_macro", True, 36),
        ("floor 0.1", "cer", False, 36),
        ("floor 0.1", "mae", False, 10),
        ("floor 1.5", "accuracy", True, 10),
        ("agreement 100%", None, True, 10),
    ],
)
def test_how_many_are_needed(budget: str, metric: str | None, one_label: bool, needed: int) -> None:
    def said(count: int) -> str | None:
        return too_few(
            frames=count,
            units=count,
            grouped=False,
            budget=parse_budget(budget),
            metric=None if metric is None else named_metric(metric),
            one_label=one_label,
            level=0.95,
        )

    assert said(needed - 1) is not None
    assert said(needed) is None


def test_few_groups_of_many_frames_are_few() -> None:
    said = too_few(
        frames=9_000, units=9, grouped=True, budget=Budget(points=2), metric=None, one_label=True, level=0.95
    )
    assert said is not None
    assert "9 groups" in said


@pytest.mark.parametrize("output", [None, "boxes"])
def test_which_of_several_outputs_the_metric_reads_is_asked_before_data_are_read(
    tmp_path: Path, output: str | None
) -> None:
    folder = tmp_path / "p"
    metric = 'name = "accuracy"' + (f'\noutput = "{output}"' if output else "")
    made = project(folder, APART, tables={"metric": metric})
    model = onnx.load(str(folder / "model.onnx"))
    first = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Identity", [first], ["second"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("second", onnx.TensorProto.FLOAT, None))
    onnx.save(onnx.shape_inference.infer_shapes(model), str(folder / "model.onnx"))
    (folder / "test.npz").unlink()
    for ask in (plan, build):
        with pytest.raises(ConfigError, match=r"the model has 2 outputs") as caught:
            ask(made)
        assert f'output = "{first}"' in caught.value.hint
        assert ("none is called" if output else "accuracy reads one") in caught.value.message


def said_of_the_reference(folder: Path, answers: Callable[[NDArray[Any]], NDArray[Any]], **tables: str) -> list[str]:
    """Build with targets that are a function of the model's own answers; return what is said of the original."""
    made = project(folder, APART, tables={"budget": "points = 2.0", **tables})
    for split in ("validation", "test"):
        with np.load(folder / f"{split}.npz") as arrays:
            images = arrays["image"]
        own = classify(images, classifier_weights()).argmax(axis=1)
        np.savez(folder / f"{split}.npz", image=images, target=answers(own))
    (folder / "targets" / "board.toml").write_text(BOARD_TARGET)
    records = build(made, Options(no_measure=True, targets=("board",)))
    return [note.text for note in records[0].notes if "the original" in note.text]


def test_an_original_that_is_always_right_or_always_wrong_is_told_before_anything_is_built(tmp_path: Path) -> None:
    (right,) = said_of_the_reference(tmp_path / "right", lambda own: own)
    assert right == (
        "the original makes no mistake on validation (accuracy 1.0000, n = 200): if it was trained on them, what is "
        "measured on them says little about new data"
    )
    (wrong,) = said_of_the_reference(tmp_path / "wrong", lambda own: (own + 1) % 4)
    assert wrong.startswith("the original gets nothing right on validation (accuracy 0.0000, n = 200)")


def test_a_split_that_cannot_be_read_is_told_with_what_to_do(tmp_path: Path) -> None:
    splits = ("calibration", "validation", "test")
    data = "\n".join(f'{split} = "data:{split}"' for split in splits)
    code = "".join(f"def {split}():\n    return [{{}}]\n" for split in splits)
    (write_project(tmp_path, {"data": data}) / "data.py").write_text(code)
    assert peek(load_project(tmp_path)).unread[0] == (
        "the calibration data can't be read: data:calibration yielded a dict as sample 0. "
        "Yield edgebuild.Sample(inputs={...}, target=...)."
    )


@pytest.mark.parametrize(
    ("metric", "target", "said"),
    [
        ("accuracy", np.zeros(200), None),
        ("accuracy", np.full(200, 7), "metric accuracy: the target of sample 0 is 7, but the model has 4 classes"),
        ("accuracy", np.full(200, 0.5), "metric accuracy: targets must be class numbers, they are float64 values"),
        ("mse", np.zeros(200), "metric mse: the output has shape (1, 4), the targets (1,)"),
        ("accuracy", np.full(200, "cat"), "metric accuracy: targets must be class numbers, they are <U3 values"),
        ("accuracy", None, "accuracy needs targets, and the first validation sample has none"),
    ],
)
def test_targets_that_do_not_fit_the_metric_are_told_by_a_plan(
    tmp_path: Path, metric: str, target: NDArray[Any] | None, said: str | None
) -> None:
    folder = tmp_path / "p"
    made = project(folder, APART, tables={"metric": f'name = "{metric}"', "budget": "relative = 0.1"})
    with np.load(folder / "validation.npz") as arrays:
        images = arrays["image"]
    arrays_now: dict[str, Any] = {"image": images} if target is None else {"image": images, "target": target}
    np.savez(folder / "validation.npz", **arrays_now)
    (planned,) = plan(made)
    notes = [note for note in planned.notes if metric in note]
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]
