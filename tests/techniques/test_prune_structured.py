"""Structured pruning: the right channels go, widths fit the kernels, and what can't be proven stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgebuild.errors import DataError, ModelError
from edgebuild.models import compressed_model
from edgebuild.models.edits import AddHead
from edgebuild.models.interpreter import apply_edits
from edgebuild.techniques.pruning import importance
from edgebuild.techniques.pruning.structured import PruneStructured
from edgebuild.techniques.report import TechniqueReport, read_report
from edgebuild.techniques.workspace import Workspace
from tests.techniques import zoo
from tests.techniques.zoo import CLASSES, Animal

if TYPE_CHECKING:
    from pathlib import Path

#: Channels of `dead` that do nothing.
DEAD = (1, 4, 6, 7)


def dead() -> nn.Module:
    """A convolution with dead channels, normalisation, a dense layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, CLASSES)
    )
    conv: Any = model[0]
    norm: Any = model[1]
    dense: Any = model[4]
    with torch.no_grad():
        for channel in DEAD:
            conv.weight[channel] *= 0.01
            norm.weight[channel] = norm.bias[channel] = 0.001
            dense.weight[:, channel * 64 : (channel + 1) * 64] *= 0.01
    return model


class Twice(nn.Module):
    """One convolution that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.free, self.head = nn.Linear(8, 16), nn.Linear(16, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.again(functional.relu(self.again(functional.relu(self.enter(image)))))
        logits: torch.Tensor = self.head(functional.relu(self.free(x.mean((2, 3)))))
        return logits


class ByHand(nn.Module):
    """Channels that are weighed against each other, and a number of channels that only forward() knows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.next = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, CLASSES, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = functional.softmax(self.enter(image), dim=1)
        y = functional.relu(self.next(x).view(-1, 8, 64).view(-1, 8, 8, 8))
        logits: torch.Tensor = self.last(y).mean((2, 3))
        return logits


def frozen() -> nn.Module:
    model = dead()
    model[0].requires_grad_(False)  # type: ignore[index]
    return model


def make(factory: Any, **tags: Any) -> Animal:
    return Animal(factory.__name__, factory, **tags)


def run(factory: Any, folder: Path, **parameters: Any) -> tuple[nn.Module, TechniqueReport]:
    """Prune a model that a function of this module makes."""
    animal = make(factory)
    code = compressed_model.UserCode(factory=animal.reference, load=lambda _: factory)
    inputs = zoo.write_inputs(animal, folder)
    step = zoo.step_of(PruneStructured, animal, **{"multiple": 1, **parameters})
    out = folder / "out"
    out.mkdir()
    step.run(inputs, out, zoo.context(folder / "scratch", lambda _: factory))
    return compressed_model.load_model(out, code)[0], read_report(out)


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_dead_channels_go_first(importance: str, tmp_path: Path) -> None:
    pruned, _ = run(dead, tmp_path, importance=importance, keep=0.5)
    original, _ = compressed_model.load_model(
        tmp_path / "model", compressed_model.UserCode(factory=make(dead).reference, load=lambda _: dead)
    )
    alive = [channel for channel in range(8) if channel not in DEAD]
    assert torch.equal(pruned[0].weight, original[0].weight[alive])  # type: ignore[index]


def test_random_is_another_choice_and_seeded(tmp_path: Path) -> None:
    first, _ = run(dead, tmp_path / "a", importance="random")
    second, _ = run(dead, tmp_path / "b", importance="random")
    best, _ = run(dead, tmp_path / "c", importance="l2")
    assert torch.equal(first[0].weight, second[0].weight)  # type: ignore[index]
    assert not torch.equal(first[0].weight, best[0].weight)  # type: ignore[index]


@pytest.mark.parametrize(
    ("parameters", "width"),
    [
        ({"keep": 0.5}, 4),
        ({"keep": 0.01}, 2),
        ({"keep": 0.01, "least": 0.5}, 4),
        ({"keep": 0.01, "least": 0.01}, 1),
        ({"keep": 0.7, "multiple": 4}, 4),
        ({"keep": 0.25, "least": 0.2, "rounds": 2}, 2),
    ],
)
def test_widths_keep_to_the_share_the_cap_and_the_steps(parameters: dict[str, Any], width: int, tmp_path: Path) -> None:
    pruned, report = run(dead, tmp_path, importance="l2", spread="uniform", **parameters)
    assert pruned[0].weight.shape[0] == width  # type: ignore[index]
    assert [(said.layer, said.before, said.after) for said in report.layers][:1] == [("0", "8", str(width))]
    assert report.macs_after < report.macs_before


def test_normalisations_settle_after_a_cut(tmp_path: Path) -> None:
    pruned, _ = run(dead, tmp_path, importance="l2", keep=0.5)
    original, _ = compressed_model.load_model(
        tmp_path / "model", compressed_model.UserCode(factory=make(dead).reference, load=lambda _: dead)
    )
    alive = [channel for channel in range(8) if channel not in DEAD]
    assert not torch.equal(pruned[1].running_var, original[1].running_var[alive])  # type: ignore[index]
    with torch.no_grad():
        seen = pruned[0](zoo.feeds(zoo.ZOO["residual"], 24, seed=1)[0])  # type: ignore[index]
    torch.testing.assert_close(pruned[1].running_mean, seen.mean((0, 2, 3)))  # type: ignore[index]


def test_a_layer_that_is_used_twice_stays_and_says_so(tmp_path: Path) -> None:
    pruned, report = run(Twice, tmp_path)
    assert pruned.free.out_features == 8  # type: ignore[union-attr]
    assert pruned.again.out_channels == 8  # type: ignore[union-attr]
    assert any("'again' is used 2 times" in said.reason for said in report.layers)


def test_what_cannot_be_proven_stays_and_a_model_of_nothing_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        run(ByHand, tmp_path)
    assert "can narrow no layer" in caught.value.message
    assert "'enter': without its channels the model isn't the one with them at zero" in caught.value.message
    assert "next: The model failed in the model itself" in caught.value.message


def test_a_frozen_part_is_pruned_like_any_other(tmp_path: Path) -> None:
    pruned, _ = run(frozen, tmp_path)
    assert pruned[0].weight.shape[0] == 4  # type: ignore[index]


def test_no_room_for_a_step_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its 8 channels can't be fewer in steps of 16"):
        run(dead, tmp_path, multiple=16)


def test_skipped_layers_stay(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="'0' is to be skipped"):
        run(dead, tmp_path, skip=("0",))


def test_blocks_are_removed_by_name_where_shapes_allow_it(tmp_path: Path) -> None:
    pruned, report = run(zoo.Residual, tmp_path / "a", remove=("two",), skip=("*",))
    assert report.layers[0].after == "removed"
    assert sum(p.numel() for p in pruned.parameters()) < sum(p.numel() for p in zoo.Residual().parameters())
    with pytest.raises(ModelError, match="'down' can't be removed"):
        run(zoo.Residual, tmp_path / "b", remove=("down",), skip=("*",))


def test_attention_loses_its_least_important_heads(tmp_path: Path) -> None:
    pruned, report = run(zoo.Vit, tmp_path, keep=0.5, skip=("patches", "blocks.*.up"))
    assert [block.attention.heads for block in pruned.blocks] == [2, 2]  # type: ignore[union-attr]
    assert {said.layer for said in report.layers if said.after == "2"} == {"blocks.0.attention", "blocks.1.attention"}


def test_a_loss_that_is_not_finite_is_told(tmp_path: Path) -> None:
    animal = make(dead)
    inputs = zoo.write_inputs(animal, tmp_path)
    step = zoo.step_of(PruneStructured, animal, multiple=1)
    losses: dict[str, Any] = {
        "loss:nan": lambda outputs, _: outputs.sum() * float("nan"),
        "loss:many": lambda outputs, _: outputs,
        "loss:failing": lambda outputs, _: outputs.nothing,
        animal.reference: dead,
    }
    for loss, kind, words in (
        ("loss:nan", ModelError, "NaN or infinite"),
        ("loss:many", DataError, "one number"),
        ("loss:failing", ModelError, "The loss failed: AttributeError: .* no attribute .nothing"),
    ):
        ill = step.model_copy(update={"loss": loss})
        (tmp_path / loss).mkdir()
        with pytest.raises(kind, match=words):
            ill.run(inputs, tmp_path / loss, zoo.context(tmp_path / "scratch", losses.__getitem__))


def test_unknown_labels_have_no_share_in_importance_and_wrong_ones_are_told(tmp_path: Path) -> None:
    animal = make(dead)
    inputs = zoo.write_inputs(animal, tmp_path)
    step = zoo.step_of(PruneStructured, animal, multiple=1)
    target = inputs["calibration"] / "target.npy"
    labels = np.load(target)
    kept = []
    for name, known in (("all", labels), ("some", np.where(np.arange(len(labels)) < 8, labels, -1))):
        np.save(target, known)
        (tmp_path / name).mkdir()
        step.run(inputs, tmp_path / name, zoo.context(tmp_path / f"{name}-scratch"))
        kept.append(compressed_model.read_model(tmp_path / name).edits)
    assert kept[0] == kept[1]  # the dead channels go, whoever says so
    np.save(target, np.full_like(labels, CLASSES))
    with pytest.raises(ModelError, match=f"The loss failed: IndexError: Target {CLASSES} is out of bounds"):
        step.run(inputs, tmp_path / "wrong", zoo.context(tmp_path / "wrong-scratch"))


def test_a_model_with_an_exit_is_pruned_through_it(tmp_path: Path) -> None:
    animal = make(dead)
    code = compressed_model.UserCode(factory=animal.reference, load=lambda _: dead)
    inputs = zoo.write_inputs(animal, tmp_path)
    head = AddHead(name="early", after="2", features=8, outputs=CLASSES)
    module, model = compressed_model.load_model(inputs["model"], code)
    (tmp_path / "headed").mkdir()
    headed = model.model_copy(update={"edits": (head,)})
    compressed_model.write_model(apply_edits(module, [head]), headed, tmp_path / "headed")
    step = zoo.step_of(PruneStructured, animal, multiple=1, importance="l2")
    (tmp_path / "out").mkdir()
    context = zoo.context(tmp_path / "scratch", lambda _: dead)
    step.run({**inputs, "model": tmp_path / "headed"}, tmp_path / "out", context)
    pruned, after = compressed_model.load_model(tmp_path / "out", code)
    assert after.edits[0] == head
    assert pruned.heads["early"].out.in_features == 4  # type: ignore[index, union-attr]
    assert [part.shape for part in pruned(zoo.feeds(zoo.ZOO["residual"], 2)[0])] == [(2, CLASSES), (2, CLASSES)]


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Deep(nn.Module):
    """Three residual blocks, of which the second harms: without it the loss is least."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Around() for _ in range(3)))
        self.head = nn.Linear(8, CLASSES)
        harmful: Any = self.blocks[1]
        with torch.no_grad():
            harmful.second.weight *= 100

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.blocks(functional.relu(self.stem(image))).mean((2, 3)))
        return logits


def test_the_residual_block_that_costs_least_goes(tmp_path: Path) -> None:
    pruned, report = run(Deep, tmp_path, blocks=1, skip=("stem", "blocks.*.*"))
    assert [said.layer for said in report.layers if said.after == "removed"] == ["blocks.1"]
    assert not list(pruned.blocks[1].parameters())  # type: ignore[index, union-attr]
    assert "1 blocks removed" in report.summary


def test_a_net_without_residual_blocks_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="finds no residual block that could go"):
        run(dead, tmp_path, blocks=1)


def test_the_net_is_tuned_after_each_cut_without_labels(tmp_path: Path) -> None:
    how: dict[str, Any] = {"rounds": 2, "multiple": 4, "spread": "uniform", "importance": "l2"}
    bare, _ = run(zoo.Residual, tmp_path / "a", **how)
    tuned, report = run(zoo.Residual, tmp_path / "b", **how, epochs=4, batch_size=8, learning_rate=0.005)
    assert [note.split(":")[0] for note in report.notes] == ["Tuned after cut 1", "Tuned after cut 2"]
    assert _gap(tuned, tmp_path / "b") < _gap(bare, tmp_path / "a")


def _gap(module: nn.Module, folder: Path) -> float:
    """How far a module's answers are from the original's on the data that it learnt from."""
    animal = make(zoo.Residual)
    original, _ = compressed_model.load_model(folder / "model", zoo.code_of(animal))
    (image,) = zoo.feeds(animal, 24, seed=1)
    with torch.no_grad():
        expected, got = original(image).log_softmax(1), module(image).log_softmax(1)
    return float((expected.exp() * (expected - got)).sum(1).mean())


def test_tuning_needs_training_data_and_no_labels() -> None:
    plain = PruneStructured.needs(PruneStructured.Parameters())
    tuned = PruneStructured.needs(PruneStructured.Parameters.model_validate({"steps": 5}))
    assert not plain.train
    assert (tuned.train, tuned.labels) == (True, False)
    assert "lightning-fabric" in tuned.modules


def test_gradients_are_taken_of_as_many_samples_as_memory_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    animal = zoo.ZOO["residual"]
    found = zoo.write_inputs(animal, tmp_path / "inputs")
    step = zoo.step_of(PruneStructured, animal, keep=0.5)
    work = Workspace.open(step, found, zoo.context(tmp_path / "scratch"))
    each = importance.kept_bytes(work, work.module.requires_grad_(True))
    assert each >= sum(example[0].nbytes for example in work.examples)  # the first layer keeps its input
    asked: list[int] = []

    def batches(dataset: Any, size: int, **options: Any) -> Any:
        asked.append(size)
        return original(dataset, size, **options)

    original = work.batches
    monkeypatch.setattr(work, "batches", batches)
    for room in (3 * each, 1, 1000 * each):
        monkeypatch.setattr(importance, "TAYLOR_BYTES", room)
        importance.taylor_scores(work, 4, lambda _: [torch.ones(1)])
    assert asked == [3, 1, importance.TAYLOR_BATCH]
