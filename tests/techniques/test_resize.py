"""Resizing: the smallest size that is good enough, finer maps, and nets that take one size only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgebuild.core.artifact import TensorSpec
from edgebuild.core.data import Sample
from edgebuild.core.steps import NoProgress, never_stop
from edgebuild.errors import EdgebuildError
from edgebuild.models import compressed_model
from edgebuild.models.dataset import write_dataset
from edgebuild.models.edits import CompressedModel, ResizeInput, SetStride
from edgebuild.techniques.report import read_report
from edgebuild.techniques.resizing.parameters import ResizeParameters
from edgebuild.techniques.resizing.resize import Resize
from edgebuild.techniques.resizing.resolution import overlap

from . import zoo

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.techniques.report import TechniqueReport

SIDE = 16


def stripes() -> nn.Module:
    """Tells fine stripes (class 1) from coarse ones (class 0): what is fine is lost at small sizes."""
    net = nn.Sequential(nn.Conv2d(3, 3, (1, 2)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    convolution: Any = net[0]
    linear: Any = net[4]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        convolution.weight[0, 0, 0] = torch.tensor([1.0, -1.0])
        linear.weight[1, 0], linear.bias[1] = 1.0, -0.2
    return net


def shapes() -> nn.Module:
    """Marks what is bright, on a map of a quarter of the size that is brought back by interpolation."""
    net = nn.Sequential(
        nn.Conv2d(3, 2, 3, 2, 1),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 2, 3, padding=1),
        nn.Conv2d(2, 2, 1),
        nn.Upsample((SIDE, SIDE)),
    )
    first: Any = net[0]
    last: Any = net[2]
    same: Any = net[3]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        first.weight[1, 0] = 1 / 9
        last.weight[1, 1, 1, 1], last.bias[0] = 1.0, 0.5
        same.weight[:, :, 0, 0] = torch.eye(2)
    return net


STRIPES = zoo.Animal("stripes", stripes, (TensorSpec(name="image", shape=("batch", 3, SIDE, SIDE), dtype="float32"),))
SHAPES = zoo.Animal("shapes", shapes, STRIPES.specs, outputs=("map",))


def striped(fine: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    period = 2 if fine else 8
    row = (np.arange(SIDE) % period < period // 2).astype(np.float32)
    return np.ascontiguousarray(np.broadcast_to(row, (3, SIDE, SIDE)))


def marked(place: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    target = np.zeros((SIDE, SIDE), np.int64)
    target[place : place + 8, 2:10] = 1
    return np.broadcast_to(target, (3, SIDE, SIDE)).astype(np.float32), target


def inputs_of(animal: zoo.Animal, folder: Path, *, labelled: bool = True) -> dict[str, Path]:
    if animal is STRIPES:
        pairs: list[tuple[Any, Any]] = [(striped(fine), int(fine)) for fine in (False, True) * 8]
    else:
        pairs = [marked(place) for place in range(8)]
    for name in ("model", "calibration"):
        (folder / name).mkdir(parents=True)
    module = animal.factory().eval()
    compressed_model.write_model(module, CompressedModel(factory=animal.reference), folder / "model")
    samples = [Sample(inputs={"image": image}, target=target if labelled else None) for image, target in pairs]
    write_dataset(
        samples,
        folder / "calibration",
        specs=animal.specs,
        stateful=False,
        source="here",
        task=NoProgress(),
        check=never_stop,
    )
    return {"model": folder / "model", "teacher": folder / "model", "calibration": folder / "calibration"}


def resized(
    tmp_path: Path, animal: zoo.Animal = STRIPES, *, labelled: bool = True, **parameters: Any
) -> tuple[CompressedModel, TechniqueReport]:
    known = animal.name in zoo.ZOO
    inputs = zoo.write_inputs(animal, tmp_path) if known else inputs_of(animal, tmp_path, labelled=labelled)
    out = tmp_path / "out"
    out.mkdir()
    zoo.step_of(Resize, animal, **parameters).run(inputs, out, zoo.context(tmp_path / "scratch"))
    return compressed_model.read_model(out), read_report(out)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_smallest_size_that_loses_no_more_than_allowed_is_taken(tmp_path: Path, labelled: bool) -> None:
    model, report = resized(tmp_path, labelled=labelled, step=4)
    (edit,) = model.edits
    assert isinstance(edit, ResizeInput)
    # Stripes of one pixel are gone where two become one.
    assert edit.size == (12, 12)
    assert report.macs_after < report.macs_before
    assert report.notes[-1].startswith("8x8: ")
    assert report.notes[-1].endswith("100.00 points lost on calibration data.")


def test_samples_without_a_label_do_not_water_down_what_is_lost(tmp_path: Path) -> None:
    inputs = inputs_of(STRIPES, tmp_path)
    target = inputs["calibration"] / "target.npy"
    np.save(target, np.where(np.arange(16) < 2, np.load(target), -1))
    (tmp_path / "out").mkdir()
    zoo.step_of(Resize, STRIPES, step=4, points=10.0).run(inputs, tmp_path / "out", zoo.context(tmp_path / "scratch"))
    (edit,) = compressed_model.read_model(tmp_path / "out").edits
    assert isinstance(edit, ResizeInput)
    assert edit.size == (12, 12)


def test_a_head_that_is_tuned_goes_further(tmp_path: Path) -> None:
    before, _ = resized(tmp_path / "a", points=0.0, step=4)
    after, _ = resized(tmp_path / "b", points=0.0, step=4, tune="head", epochs=60, learning_rate=0.5, batch_size=16)
    (one,), (other,) = before.edits, after.edits
    assert isinstance(one, ResizeInput)
    assert isinstance(other, ResizeInput)
    assert other.size < one.size


def test_only_the_last_layer_changes_when_the_head_is_tuned(tmp_path: Path) -> None:
    resized(tmp_path, tune="head", size=12, epochs=1)
    module, _ = compressed_model.load_model(tmp_path / "out", zoo.code_of(STRIPES))
    changed = {
        name
        for (name, new), old in zip(module.named_parameters(), stripes().parameters(), strict=True)
        if not torch.equal(new, old)
    }
    assert changed
    assert all(name.startswith("4.") for name in changed)


def test_maps_are_made_finer_where_images_get_smaller(tmp_path: Path) -> None:
    model, report = resized(tmp_path, SHAPES, size=8, finer=1)
    assert [edit for edit in model.edits if isinstance(edit, SetStride)] == [
        SetStride(module="1", stride=(1, 1), dilation=(1, 1)),
        SetStride(module="2", stride=(1, 1), dilation=(2, 2)),
    ]
    assert [layer.layer for layer in report.layers] == ["input image", "1", "2"]


def test_a_map_is_judged_by_its_overlap(tmp_path: Path) -> None:
    model, report = resized(tmp_path, SHAPES, points=15, finer=1)
    assert isinstance(model.edits[0], ResizeInput)
    assert any("1 strides out" in note for note in report.notes)
    # The net's stride is 4: at other remainders every place of the map would be moved.
    assert {int(note.split("x")[0]) % 4 for note in report.notes} == {0}


@pytest.mark.parametrize(
    ("animal", "parameters", "message"),
    [
        ("grouped", {"size": 4}, "doesn't take images of 4x4: .* '8'"),
        ("grouped", {}, "finds no smaller size .* '8'"),
        ("vit", {"size": 4}, "doesn't take images of 4x4"),
        ("recurrent", {"size": 4}, r"takes a model with one image, .*'series'"),
        ("residual", {"size": 8}, "own side is 8"),
        ("residual", {"size": 4, "finer": 1}, "no map among its outputs"),
        ("transposed", {}, "isn't known"),
        ("unet", {"size": 4, "finer": 1}, "doesn't take images of 4x4"),
    ],
)
def test_what_can_not_be_resized_is_told(tmp_path: Path, animal: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgebuildError, match=message):
        resized(tmp_path, zoo.ZOO[animal], **parameters)


def test_no_size_that_is_good_enough_is_a_refusal_that_says_how_close_it_came(tmp_path: Path) -> None:
    with pytest.raises(EdgebuildError, match=r"finds no smaller size .* loses 100\.00 points, 1 were allowed"):
        resized(tmp_path, points=1, step=8)


def test_what_it_needs_follows_from_what_adapts() -> None:
    assert not Resize.needs(ResizeParameters()).train
    tuned = Resize.needs(ResizeParameters(tune="head", augment="a:b"))
    assert (tuned.train, tuned.labels, tuned.references) == (True, True, ("a:b",))


def test_overlap_counts_classes_alike_and_leaves_unknown_labels_out() -> None:
    expected = np.array([[0, 0, 1, -1]])
    assert overlap(np.array([[0, 0, 1, 1]]), expected) == 1.0
    assert overlap(np.array([[0, 1, 1, 0]]), expected) == pytest.approx((1 / 2 + 1 / 2) / 2)
