from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model, trained_grids
from edgebuild.models.edits import Mask
from edgebuild.models.interpreter import apply_edits
from edgebuild.techniques.low_bit.apprentice import Apprentice, ApprenticeParameters, begin_anew
from edgebuild.techniques.report import read_report

from . import zoo
from .deployed import ship, weights_shipped

if TYPE_CHECKING:
    from pathlib import Path

RESIDUAL = zoo.ZOO["residual"]
ENDS = {"stem.0", "head"}


def trained(tmp_path: Path, animal: str = "residual", **parameters: Any) -> tuple[Path, Path]:
    inputs = zoo.write_inputs(zoo.ZOO[animal], tmp_path / "inputs")
    step = zoo.step_of(Apprentice, zoo.ZOO[animal], **{"epochs": 2, "batch_size": 8, **parameters})
    out = tmp_path / "out"
    out.mkdir()
    step.run(inputs, out, zoo.context(tmp_path / "scratch"))
    return out, inputs["calibration"]


def weights(out: Path) -> dict[str, torch.Tensor]:
    module, _ = compressed_model.load_model(out, zoo.code_of(RESIDUAL))
    return {name: layer.weight.detach() for name, layer in module.named_modules() if hasattr(layer, "input_grid")}


@pytest.mark.parametrize("bits", [2, 4])
def test_weights_lie_on_their_grid_in_every_file(bits: int, tmp_path: Path) -> None:
    out, data = trained(tmp_path, bits=bits)
    found = weights(out)
    assert len(found) == 6
    for name, weight in found.items():
        levels = max(len(row.unique()) for row in weight.flatten(1))
        assert levels <= (255 if name in ENDS else 2**bits - 1)
    ship(out, data, RESIDUAL, tmp_path / "shipped")
    shipped = weights_shipped(tmp_path / "shipped" / "int8" / "model.onnx")
    for weight in found.values():
        codes = trained_grids.row_codes(weight.flatten(1).numpy())
        assert codes is not None
        assert trained_grids.digest(codes[0]) in shipped
    assert sorted(int(np.abs(codes).max()) for codes, _, _ in shipped.values())[:4] == [2 ** (bits - 1) - 1] * 4
    notes = " ".join(read_report(out).notes)
    assert f"{bits}-bit weights are simulated" in notes
    assert f"{(out / compressed_model.WEIGHTS_FILE).stat().st_size:,} bytes on disk" in notes


def test_schemes_begin_where_they_say(tmp_path: Path) -> None:
    found = {
        scheme: weights(trained(tmp_path / scheme, scheme=scheme, bits=4, learning_rate=1e-6)[0])["two.0"]
        for scheme in ("A", "B", "C")
    }
    original: Any = dict(zoo.grown(RESIDUAL).named_parameters())["two.0.weight"].detach()

    def alike(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])

    assert alike(found["C"], original) > 0.9
    assert abs(alike(found["A"], original)) < 0.2
    assert abs(alike(found["B"], original)) < 0.2


def test_scheme_a_trains_its_teacher_and_the_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgebuild.training import pairs

    seen = []
    made = pairs.Pair.__init__

    def kept(self: pairs.Pair, teacher: Any, apprentice: Any) -> None:
        made(self, teacher, apprentice)
        seen.append((teacher, [p.detach().clone() for p in teacher.parameters()]))

    monkeypatch.setattr(pairs.Pair, "__init__", kept)
    for scheme in ("A", "C"):
        trained(tmp_path / scheme, scheme=scheme)
    moved = [any(not torch.equal(p, q) for p, q in zip(t.parameters(), before, strict=True)) for t, before in seen]
    assert moved == [True, False]


def test_beginning_anew_is_seeded_and_leaves_no_trace_of_training() -> None:
    one, other = zoo.grown(RESIDUAL, seed=1), zoo.grown(RESIDUAL, seed=2)
    state = torch.get_rng_state()
    begin_anew(one, 5)
    begin_anew(other, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_a_masked_layer_begins_anew_too() -> None:
    masked = apply_edits(zoo.grown(RESIDUAL), [Mask(module="one.0")])
    layer: Any = masked.get_submodule("one.0")
    before = layer.weight.detach().clone()
    begin_anew(masked, 5)
    plain = zoo.grown(RESIDUAL)
    begin_anew(plain, 5)
    assert not torch.equal(layer.weight, before)
    assert torch.equal(layer.weight, plain.state_dict()["one.0.weight"])


def test_all_layers_can_have_low_precision_and_some_stay_in_float(tmp_path: Path) -> None:
    out, _ = trained(tmp_path, ends=False, skip=["two.*"])
    report = read_report(out)
    assert {said.layer for said in report.layers if said.reason} == {"two.0"}
    assert report.summary.startswith("5 layers with 2-bit weights")


@pytest.mark.parametrize(
    ("animal", "message"), [("unet", "the data have no labels"), ("transposed", "the data have no labels")]
)
def test_what_is_no_classifier_is_refused(animal: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        trained(tmp_path, animal)


@pytest.mark.parametrize("parameters", [{"bits": 1}, {"bits": 5}, {"scheme": "D"}, {"gamma": -1}])
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ApprenticeParameters(**parameters)
    assert Apprentice.needs(ApprenticeParameters()).labels
