from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.torch import load_file

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.techniques.low_bit.binary_weights import BinaryParameters, BinaryWeights
from edgebuild.techniques.report import read_report

from . import zoo
from .deployed import ship, weights_shipped

if TYPE_CHECKING:
    from pathlib import Path

RESIDUAL = zoo.ZOO["residual"]


def trained(tmp_path: Path, animal: str = "residual", **parameters: Any) -> tuple[Path, Path]:
    inputs = zoo.write_inputs(zoo.ZOO[animal], tmp_path / "inputs")
    step = zoo.step_of(BinaryWeights, zoo.ZOO[animal], **{"epochs": 2, "batch_size": 8, **parameters})
    out = tmp_path / "out"
    out.mkdir()
    step.run(inputs, out, zoo.context(tmp_path / "scratch"))
    return out, inputs["calibration"]


def test_every_weight_is_one_of_two_and_takes_one_bit(tmp_path: Path) -> None:
    out, _ = trained(tmp_path)
    module: Any = compressed_model.load_model(out, zoo.code_of(RESIDUAL))[0]
    tensors = load_file(str(out / compressed_model.WEIGHTS_FILE))
    names = [name for name, layer in module.named_modules() if hasattr(layer, "parametrizations")]
    assert len(names) == 6
    for name in names:
        weight = module.get_submodule(name).weight.detach()
        low, high = weight.unique().tolist()
        assert low == -high
        assert tensors[f"{name}.parametrizations.weight.original"].numel() == -(-weight.numel() // 8)
    size = (out / compressed_model.WEIGHTS_FILE).stat().st_size
    assert f"take {size:,} bytes on disk" in " ".join(read_report(out).notes)


def test_real_weights_stay_within_the_two_values_and_signs_change(tmp_path: Path) -> None:
    from edgebuild.training import hooks

    beyond: list[float] = []
    clip = hooks.ClipWeights.__call__

    def watched(self: hooks.ClipWeights, module: Any, done: float) -> None:
        clip(self, module, done)
        beyond.extend(float(module.get_parameter(name).abs().max()) - self.bound for name in self.names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.ClipWeights, "__call__", watched)
        out, _ = trained(tmp_path, learning_rate=0.02)
    assert len(beyond) == 6 * 6
    assert max(beyond) <= 1e-6
    module: Any = compressed_model.load_model(out, zoo.code_of(RESIDUAL))[0]
    original: Any = dict(zoo.grown(RESIDUAL).named_parameters())["two.0.weight"]
    assert bool(((module.two[0].weight > 0) != (original >= 0)).any())


def test_the_8_bit_file_holds_the_signs(tmp_path: Path) -> None:
    out, data = trained(tmp_path, skip=["head"])
    ship(out, data, RESIDUAL, tmp_path / "shipped")
    shipped = weights_shipped(tmp_path / "shipped" / "int8" / "model.onnx")
    assert sorted(int(np.abs(codes).max()) for codes, _, _ in shipped.values()) == [1, 1, 1, 1, 1, 127]


def test_it_learns_without_labels_and_with_any_outputs(tmp_path: Path) -> None:
    out, _ = trained(tmp_path, "unet")
    assert "layers with one bit a weight" in read_report(out).summary
    assert not BinaryWeights.needs(BinaryParameters()).labels
    assert BinaryWeights.needs(BinaryParameters(hard_weight=1)).labels


def test_nothing_left_to_be_binary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="binary-weights can put no layer"):
        trained(tmp_path, skip=["*"])
