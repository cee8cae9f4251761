from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgebuild.core.artifact import Int8Scheme
from edgebuild.errors import ModelError
from edgebuild.models import compressed_model, trained_grids
from edgebuild.models.host_session import HostSession
from edgebuild.models.weight_views import FakeQuantise
from edgebuild.techniques.low_bit import fake_quant
from edgebuild.techniques.low_bit.qat import Qat, QatParameters
from edgebuild.techniques.report import read_report
from edgebuild.techniques.workspace import Workspace

from . import zoo
from .deployed import VNNI, ship, weights_shipped

if TYPE_CHECKING:
    from pathlib import Path

RESIDUAL = zoo.ZOO["residual"]


def trained(
    tmp_path: Path, animal: zoo.Animal = RESIDUAL, *, int8: Int8Scheme | None = None, **parameters: Any
) -> tuple[Path, Path]:
    """The folder of a model that was trained for some steps, and its data."""
    inputs = zoo.write_inputs(animal, tmp_path / "inputs")
    step = zoo.step_of(Qat, animal, **{"steps": 6, "batch_size": 8, "learning_rate": 0.05, **parameters})
    step = step.model_copy(update={"int8": int8})
    out = tmp_path / "out"
    out.mkdir()
    step.run(inputs, out, zoo.context(tmp_path / "scratch"))
    return out, inputs["calibration"]


def rebuilt(out: Path, animal: zoo.Animal = RESIDUAL) -> Any:
    return compressed_model.load_model(out, zoo.code_of(animal))[0]


@pytest.mark.parametrize("name", ["residual", "depthwise", "concat"])
def test_what_was_trained_is_what_ships(name: str, tmp_path: Path) -> None:
    animal = zoo.ZOO[name]
    out, data = trained(tmp_path, animal)
    report = ship(out, data, animal, tmp_path / "shipped")
    shipped = weights_shipped(tmp_path / "shipped" / "int8" / "model.onnx")
    layers = [layer for layer in rebuilt(out, animal).modules() if hasattr(layer, "input_grid")]
    assert len(layers) == len(shipped)
    for layer in layers:
        found = trained_grids.row_codes(layer.weight.detach().flatten(1).numpy())
        assert found is not None
        codes, scale, zero = shipped[trained_grids.digest(found[0])]
        assert np.abs(codes).max() == 127
        assert scale == pytest.approx(float(layer.input_grid.scale), rel=1e-5)
        assert zero == int(layer.input_grid.zero_point)
    assert report["rungs"][0]["name"] == "as trained, min/max elsewhere"
    assert "trained" in {choice["rule"] for choice in report["ranges"].values()}


def test_the_shipped_file_answers_as_the_trained_model(tmp_path: Path) -> None:
    out, data = trained(tmp_path)
    ship(out, data, RESIDUAL, tmp_path / "shipped")
    image = zoo.feeds(RESIDUAL, 8, seed=1)[0]
    session = HostSession(tmp_path / "shipped" / "int8" / "model.onnx")
    got = np.concatenate([session({"image": image[i : i + 1].numpy()})["logits"] for i in range(8)])
    with torch.no_grad():
        expected = rebuilt(out)(image).numpy()
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_weights_of_7_bits_fit_every_scheme_and_8_bits_are_made_anew_for_7(tmp_path: Path) -> None:
    narrow = Int8Scheme(activations="uint8", reduce_range=True)

    def reach(out: Path, data: Path, scheme: Int8Scheme, folder: Path) -> set[int]:
        assert ship(out, data, RESIDUAL, folder, scheme)["rungs"][0]["name"].startswith("as trained")
        shipped = weights_shipped(folder / "int8" / "model.onnx")
        return {int(np.abs(codes).max()) for codes, _, _ in shipped.values()}

    out, data = trained(tmp_path / "7", int8=narrow)
    schemes = (VNNI, narrow, Int8Scheme(activations="uint8", weights="uint8"), Int8Scheme(activations="int8"))
    for number, scheme in enumerate(schemes):
        assert reach(out, data, scheme, tmp_path / f"shipped-{number}") == {63}
    assert reach(*trained(tmp_path / "8"), narrow, tmp_path / "anew") == {63}


def test_symmetric_activations_are_trained_so(tmp_path: Path) -> None:
    scheme = Int8Scheme(activations="int8", symmetric_activations=True)
    out, data = trained(tmp_path, int8=scheme)
    grids = [m for name, m in rebuilt(out).named_modules() if name.endswith("input_grid")]
    assert grids
    assert all(isinstance(grid, FakeQuantise) and grid.grid.symmetric for grid in grids)
    ship(out, data, RESIDUAL, tmp_path / "shipped", scheme)
    assert {zero for _, _, zero in weights_shipped(tmp_path / "shipped" / "int8" / "model.onnx").values()} == {0}


def test_normalisations_and_labels_are_left_alone(tmp_path: Path) -> None:
    out, _ = trained(tmp_path)
    before, after = zoo.grown(RESIDUAL).state_dict(), rebuilt(out).state_dict()
    norms = [name for name in before if "running" in name or name.endswith((".1.weight", ".1.bias"))]
    assert norms
    assert all(torch.equal(before[name], after[name]) for name in norms)
    assert not Qat.needs(QatParameters()).labels


def coarse() -> nn.Module:
    """Its head reads one channel that is always 0 by weights so large that all its others round to 0 on 8 bits.

    So int8 answers with the biases alone, and the distance is the whole signal; biases that learn its mean win it back.
    """
    first, head = nn.Linear(3 * 8 * 8, 16), nn.Linear(16, zoo.CLASSES)
    with torch.no_grad():
        first.weight[0] = 0.0
        first.bias[0] = 0.0
        first.bias[1:] = 8.0
        head.weight.copy_(torch.linspace(-0.8, 0.8, head.weight.numel()).reshape(head.weight.shape))
        head.weight[:, 0] = 256.0
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), head)


COARSE = zoo.Animal("coarse", coarse)


def test_training_lessens_the_distance_to_the_original(tmp_path: Path) -> None:
    out, _ = trained(tmp_path, COARSE, epochs=8, steps=None, learning_rate=0.01)
    first, last = (float(word) for word in read_report(out).summary.split()[-3::2])
    assert last < first / 10


def test_layers_that_stay_in_float_are_named(tmp_path: Path) -> None:
    out, _ = trained(tmp_path / "some", skip=["stem*", "head"])
    left = {said.layer: said.reason for said in read_report(out).layers if said.reason}
    assert set(left) == {"stem.0", "head"}
    out, _ = trained(tmp_path / "vit", zoo.ZOO["vit"])
    left = {said.layer: said.reason for said in read_report(out).layers if said.reason}
    assert left["blocks.0.attention.out_proj"] == "forward() doesn't call it with one tensor"
    out, _ = trained(tmp_path / "wide", int8=Int8Scheme(activations="uint8", float_below_channels=4))
    left = {said.layer: said.reason for said in read_report(out).layers if said.reason}
    assert left == {"stem.0": "it has fewer than 4 input channels, which int8 leaves in float"}
    with pytest.raises(ModelError, match=r"can put no layer .* on a grid \(.*to be skipped"):
        trained(tmp_path / "none", skip=["*"])


def test_a_run_within_one_epoch_tells_its_mean_loss(tmp_path: Path) -> None:
    out, _ = trained(tmp_path, steps=2)
    assert "2 steps; the loss was " in read_report(out).summary


class Masked(nn.Module):
    """What the second layer reads is minus infinity in places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(image))
        hidden = self.second(x.masked_fill(x == 0, -torch.inf))
        logits: torch.Tensor = self.head(torch.nan_to_num(hidden, 0, 0, 0).mean((2, 3)) + x.mean((2, 3)))
        return logits


def test_a_layer_that_reads_infinity_stays_float_with_the_reason(tmp_path: Path) -> None:
    animal = zoo.Animal("masked", Masked)
    inputs = zoo.write_inputs(animal, tmp_path)
    step = zoo.step_of(Qat, animal, steps=2)
    work = Workspace.open(step, inputs, zoo.context(tmp_path / "scratch", lambda _: Masked))
    assert list(fake_quant.reads(work, ())) == ["first", "head"]
    assert [(each.layer, "NaN or infinity" in each.reason) for each in work.said] == [("second", True)]
