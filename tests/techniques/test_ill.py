"""Every technique on models that are easily got wrong: it keeps what they promise, or says which layer and why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from edgebuild.models import compressed_model
from edgebuild.models.torch_models import flatten
from edgebuild.techniques.registry import TABLE
from edgebuild.testing.techniques import Tried, run_step

from . import ill, zoo

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

#: What techniques change that is exported, and compared with torch, within the step itself.
EXPORTED = {"structure", "heads"}
ALONE = [name for name in TABLE if not EXPORTED & TABLE[name].changes]
#: Those that give weights another form, layer by layer.
LAYERED = [name for name in TABLE if name not in {"distil", "exit-early", "resize", "substitute"}]


def tried(technique: str, animal: str, folder: Path) -> Tried:
    inputs = zoo.write_inputs(ill.ILL[animal], folder)
    step = zoo.step_of(TABLE[technique], ill.ILL[animal], **zoo.parameters_for(technique, animal))
    return run_step(step, inputs, folder / "out", zoo.context(folder / "scratch"))


def before_and_after(animal: str, folder: Path) -> tuple[nn.Module, nn.Module]:
    code = zoo.code_of(ill.ILL[animal])
    return compressed_model.load_model(folder / "model", code)[0], compressed_model.load_model(folder / "out", code)[0]


def reasons(found: Tried) -> dict[str, str]:
    assert found.report is not None, found.refusal
    return {said.layer: said.reason for said in found.report.layers if said.reason}


@pytest.mark.parametrize("name", TABLE)
def test_branches_on_data_survive_or_are_refused(name: str, tmp_path: Path) -> None:
    found = tried(name, "branching", tmp_path)
    if name in ALONE:
        assert found.report is not None, found.refusal
        return
    assert found.report is None, "an export follows one branch only"
    assert "differs from torch: output 'logits' of sample" in found.refusal or "'dark'" in found.refusal


@pytest.mark.parametrize("name", TABLE)
def test_tied_weights_stay_tied(name: str, tmp_path: Path) -> None:
    found = tried(name, "tied", tmp_path)
    if name in LAYERED:
        assert "it shares its weights with 'other'" in reasons(found)["one"]
        assert "it shares its weights with 'one'" in reasons(found)["other"]
    assert found.report is not None, found.refusal
    _, after = before_and_after("tied", tmp_path)
    one, other = (next(m for name, m in after.named_modules() if name.split(".")[-1] == w) for w in ("one", "other"))
    assert one.weight is other.weight


@pytest.mark.parametrize("name", TABLE)
def test_a_layer_that_is_used_twice_stays_one_layer(name: str, tmp_path: Path) -> None:
    found = tried(name, "twice", tmp_path)
    assert found.report is not None, found.refusal
    if name == "prune-structured":
        assert reasons(found)["enter"] == "'again' is used 2 times"
    _, after = before_and_after("twice", tmp_path)
    with torch.no_grad():
        assert flatten(after(*zoo.feeds(ill.ILL["twice"], 2)))[-1].shape == (2, zoo.CLASSES)


@pytest.mark.parametrize("name", TABLE)
def test_a_custom_operator_survives_or_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    found = tried(name, "custom-op", tmp_path)
    if name in ALONE:
        assert found.report is not None, found.refusal
    else:
        assert "doesn't export to ONNX" in found.refusal
        assert "squash" in found.refusal


@pytest.mark.parametrize("name", ["distil", "exit-early", "prune-unstructured", "resize"])
def test_training_leaves_a_frozen_part_alone(name: str, tmp_path: Path) -> None:
    found = tried(name, "frozen", tmp_path)
    assert found.report is not None, found.refusal
    before, after = before_and_after("frozen", tmp_path)
    now = {key.replace("parametrizations.weight.original", "weight"): held for key, held in after.named_parameters()}
    frozen = [(key, was) for key, was in before.named_parameters() if not was.requires_grad]
    assert len(frozen) == 3
    for key, was in frozen:
        held = next(value for name, value in now.items() if f".{name}".endswith(f".{key}"))
        assert torch.equal(held, was)
        assert not held.requires_grad
