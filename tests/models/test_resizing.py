"""A resized model: what it computes, what it refuses, and that both exporters say the same."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgebuild.core.artifact import TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models import compressed_model, torch_models
from edgebuild.models.compressed_model import UserCode
from edgebuild.models.edits import (
    AddHead,
    CompressedModel,
    Edit,
    Identity,
    ReplaceModule,
    ResizeInput,
    Restored,
    SetStride,
)
from edgebuild.models.host_session import HostSession
from edgebuild.models.interpreter import apply_edits

if TYPE_CHECKING:
    from pathlib import Path

SPECS = (TensorSpec(name="x", shape=("batch", 3, 12, 16), dtype="float32"),)
X = torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(0))
SMALLER = ResizeInput(input=0, size=(6, 8), mean=(2, 2), restored=(Restored(output=1, size=(3, 4)),))


class Maps(nn.Module):
    """A row of numbers and a map at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.three, self.head = nn.Conv2d(8, 4, 3, padding=2, dilation=2), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.three(functional.relu(self.two(functional.relu(self.one(x)))))
        return self.head(maps.mean((2, 3))), maps


def fresh() -> nn.Module:
    torch.manual_seed(1)
    return Maps().eval().requires_grad_(False)


def test_a_resized_model_sees_means_and_gives_maps_at_their_old_size() -> None:
    original = fresh()
    row, maps = apply_edits(copy.deepcopy(original), [SMALLER])(X)
    expected_row, expected_maps = original(functional.avg_pool2d(X, 2))
    assert torch.equal(row, expected_row)
    assert torch.equal(maps, functional.interpolate(expected_maps, size=(3, 4), mode="bilinear", align_corners=False))


def test_an_input_that_is_passed_by_name_is_resized_too() -> None:
    small = apply_edits(fresh(), [SMALLER])
    assert torch.equal(small(x=X)[0], small(X)[0])


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    "resizing",
    [SMALLER, ResizeInput(input=0, size=(5, 7), mean=(2, 2), restored=(Restored(output=1, size=(3, 4)),))],
    ids=["means", "between"],
)
def test_it_is_exported_with_its_resizing_and_takes_the_old_size(
    resizing: ResizeInput, quick: bool, tmp_path: Path
) -> None:
    model = apply_edits(fresh(), [resizing])
    path = tmp_path / "model.onnx"
    torch_models.export(model, (X,), SPECS, ("row", "map"), path, quick=quick)
    got = HostSession(path)({"x": X[:2].numpy()})
    for name, expected in zip(("row", "map"), model(X[:2]), strict=True):
        np.testing.assert_allclose(got[name], expected.numpy(), rtol=1e-4, atol=1e-5)


def test_without_a_stride_a_map_holds_the_old_values_and_those_between() -> None:
    original = fresh()
    finer = apply_edits(
        copy.deepcopy(original),
        [
            SetStride(module="two", stride=(1, 1), dilation=(1, 1)),
            SetStride(module="three", stride=(1, 1), dilation=(4, 4)),
        ],
    )
    old, new = original(X)[1], finer(X)[1]
    assert new.shape[2:] == (6, 8)
    torch.testing.assert_close(new[:, :, ::2, ::2], old)


def test_a_stored_model_comes_back_resized(tmp_path: Path) -> None:
    edits = (SMALLER, SetStride(module="one", stride=(1, 2), dilation=(1, 1)))
    model = apply_edits(fresh(), edits)
    compressed_model.write_model(model, CompressedModel(factory="here:fresh", edits=edits), tmp_path)
    rebuilt, _ = compressed_model.load_model(tmp_path, UserCode(factory="here:fresh", load=lambda _: fresh))
    assert all(torch.equal(one, other) for one, other in zip(model(X), rebuilt(X), strict=True))


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ((SMALLER, SMALLER), "its input is resized already"),
        ((AddHead(name="early", after="one", features=8, outputs=2), SMALLER), "it has heads"),
        ((SMALLER, ReplaceModule(module="", by=Identity())), "its input is resized, which another model"),
        ((SetStride(module="head", stride=(1, 1), dilation=(1, 1)),), "'head'.*a Linear can't be given another stride"),
        ((SetStride(module="three", stride=(1, 1), dilation=(3, 3)),), "'three'.*doesn't divide"),
    ],
)
def test_what_does_not_fit_is_refused(edits: tuple[Edit, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        apply_edits(fresh(), edits)


def test_a_head_reads_a_resized_model() -> None:
    model = apply_edits(fresh(), [SMALLER, AddHead(name="early", after="one", features=8, outputs=2)])
    early, row, maps = model(X)
    assert (early.shape, row.shape, maps.shape) == ((3, 2), (3, 5), (3, 4, 3, 4))
