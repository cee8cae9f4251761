"""Substitution: convolutions become separable where that is cheaper, or the best of several models takes over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.models.edits import CompressedModel, KeepChannels, ReplaceModule, SeparableConv, UserModule
from edgebuild.models.interpreter import apply_edits
from edgebuild.techniques.factorising.substitute import Substitute, SubstituteParameters
from edgebuild.techniques.pruning.structured import PruneStructured
from edgebuild.techniques.report import TechniqueReport, read_report
from tests.techniques import zoo
from tests.techniques.zoo import CLASSES, ZOO

if TYPE_CHECKING:
    from pathlib import Path

HERE = "tests.techniques.test_substitute"


class Blind(nn.Module):
    """Says the same of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([90.0, 0.0, 0.0, 0.0, 0.0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(image), CLASSES)


def blind(original: nn.Module) -> nn.Module:
    del original
    return Blind()


def twin(original: nn.Module) -> nn.Module:
    """A model that is what the original is, and as large."""
    del original
    return zoo.grown(ZOO["residual"])


def run(folder: Path, animal: str = "residual", **parameters: Any) -> tuple[nn.Module, TechniqueReport]:
    inputs = zoo.write_inputs(ZOO[animal], folder)
    step = zoo.step_of(Substitute, ZOO[animal], **{"epochs": 1, "block_epochs": 1, **parameters})
    out = folder / "out"
    out.mkdir()
    step.run(inputs, out, zoo.context(folder / "scratch"))
    return compressed_model.load_model(out, zoo.code_of(ZOO[animal], *step.code.modules))[0], read_report(out)


def test_convolutions_that_get_cheaper_become_separable_and_others_say_why(tmp_path: Path) -> None:
    module, report = run(tmp_path, skip=("stem.*",))
    assert isinstance(module.one[0], nn.Sequential)  # type: ignore[index]
    said = {layer.layer: layer for layer in report.layers}
    assert said["one.0"].after == "depthwise-separable"
    assert said["stem.0"].reason == "it is to be skipped"
    assert "more operations, not fewer" in said["short"].reason
    assert report.macs_after < report.macs_before / 3
    assert isinstance(_first(tmp_path), SeparableConv)
    assert any(note.startswith("Tuned (separable)") for note in report.notes)


def test_blocks_learn_what_the_old_layers_did(tmp_path: Path) -> None:
    _, report = run(tmp_path, block_epochs=12, batch_size=8)
    note = next(note for note in report.notes if note.startswith("Block by block"))
    first, last = (float(number) for number in note.rstrip(".").partition("from ")[2].split(" to "))
    assert last < 0.9 * first


def test_without_norm_the_two_halves_stand_side_by_side(tmp_path: Path) -> None:
    module, _ = run(tmp_path, norm=False)
    assert [type(part) for part in module.one[0]] == [nn.Conv2d, nn.Conv2d]  # type: ignore[index]


def test_a_net_with_nothing_to_swap_is_refused_with_the_layers(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"makes no layer of the model cheaper .*3: it has 24 groups already"):
        run(tmp_path / "a", "depthwise")
    with pytest.raises(ModelError, match="it has no convolution, but 'into', 'lstm'"):
        run(tmp_path / "b", "recurrent")


def test_the_backbone_with_the_least_validation_loss_within_the_limit_is_kept(tmp_path: Path) -> None:
    backbones = (f"{HERE}:blind", f"{HERE}:twin", "tests.techniques.zoo:narrow")
    module, report = run(tmp_path, backbones=backbones, most_macs=100_000)
    assert type(module[0]) is nn.Sequential  # type: ignore[index]
    assert report.layers[0].after == "tests.techniques.zoo:narrow"
    assert report.summary == "tests.techniques.zoo:narrow is the best of 2 backbones"
    assert any("twin takes" in note and note.endswith("more than 100,000: not trained.") for note in report.notes)
    assert isinstance(_first(tmp_path), UserModule)


def test_no_backbone_within_the_limit_is_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none of the backbones '.*twin' takes at most 10 MACs"):
        run(tmp_path, backbones=(f"{HERE}:twin",), most_macs=10)


def test_backbones_come_first(tmp_path: Path) -> None:
    animal = ZOO["residual"]
    inputs = zoo.write_inputs(animal, tmp_path)
    edit = KeepChannels(module="head", outputs=tuple(range(CLASSES - 1)))
    edited = tmp_path / "edited"
    edited.mkdir()
    model = apply_edits(compressed_model.load_model(inputs["model"], zoo.code_of(animal))[0], (edit,))
    compressed_model.write_model(model, CompressedModel(factory=animal.reference, edits=(edit,)), edited)
    step = zoo.step_of(Substitute, animal, backbones=("tests.techniques.zoo:narrow",))
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="throw away what earlier steps made"):
        step.run({**inputs, "model": edited}, tmp_path / "out", zoo.context(tmp_path / "scratch"))


def test_what_it_needs_is_known_beforehand() -> None:
    assert not Substitute.needs(SubstituteParameters()).validation
    chosen = Substitute.needs(SubstituteParameters(backbones=("a:b",)))
    assert (chosen.train, chosen.validation, chosen.references) == (True, True, ("a:b",))
    for wrong, words in (({"most_macs": 5}, "goes with"), ({"backbones": ["a:b"], "skip": ["c"]}, "whole model")):
        with pytest.raises(ValueError, match=words):
            SubstituteParameters.model_validate(wrong)


def _first(folder: Path) -> object:
    edit = compressed_model.read_model(folder / "out").edits[0]
    assert isinstance(edit, ReplaceModule)
    return edit.by


def test_blocks_learn_from_the_model_as_earlier_steps_left_it(tmp_path: Path) -> None:
    inputs = zoo.write_inputs(ZOO["residual"], tmp_path)
    narrow, out = tmp_path / "narrow", tmp_path / "out"
    for folder in (narrow, out):
        folder.mkdir()
    pruning = zoo.step_of(PruneStructured, ZOO["residual"], multiple=4, importance="l2")
    pruning.run(inputs, narrow, zoo.context(tmp_path / "narrow-scratch"))
    step = zoo.step_of(Substitute, ZOO["residual"], epochs=1, block_epochs=1)
    step.run({**inputs, "model": narrow}, out, zoo.context(tmp_path / "out-scratch"))
    assert any(said.after == "depthwise-separable" for said in read_report(out).layers)
