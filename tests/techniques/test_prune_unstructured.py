"""Unstructured pruning: the smallest weights go, stay gone, and no layer is emptied."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from edgebuild.core.steps import ProjectCode
from edgebuild.errors import DataError, Interrupted, ModelError
from edgebuild.models import compressed_model
from edgebuild.models.edits import AddHead, Mask
from edgebuild.models.interpreter import apply_edits
from edgebuild.techniques.distilling.distil import Distil
from edgebuild.techniques.low_bit.share_weights import ShareWeights
from edgebuild.techniques.pruning.masking import WeightOf, prunable, prune_to, prune_two_of_four, sparsity_of
from edgebuild.techniques.pruning.unstructured import PruneUnstructured, cubic
from edgebuild.techniques.report import read_report

from . import zoo

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.techniques.technique import Technique

HERE = "tests.techniques.test_prune_unstructured"


def early(original: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    return type(original)()


def other(original: nn.Module) -> nn.Module:
    return nn.Linear(3, 4)


def folders(tmp_path: Path, animal: str = "residual") -> dict[str, Path]:
    inputs = tmp_path / "inputs" / animal
    if inputs.exists():
        return {n: inputs / n for n in ("model", "calibration")} | {"teacher": inputs / "model"}
    return zoo.write_inputs(zoo.ZOO[animal], inputs)


def step_of(technique: type[Technique] = PruneUnstructured, animal: str = "residual", **parameters: Any) -> Technique:
    return zoo.step_of(technique, zoo.ZOO[animal], **{"epochs": 1, "batch_size": 8, **parameters})


def pruned(tmp_path: Path, animal: str = "residual", *, name: str = "out", **parameters: Any) -> Path:
    out = tmp_path / name
    out.mkdir()
    step_of(animal=animal, **parameters).run(folders(tmp_path, animal), out, zoo.context(tmp_path / f"{name}-scratch"))
    return out


def rebuilt(out: Path, animal: str = "residual") -> nn.Module:
    return compressed_model.load_model(out, zoo.code_of(zoo.ZOO[animal]))[0]


def zeros(module: nn.Module) -> dict[str, float]:
    return {w.layer: float((w.values(module) == 0).double().mean()) for w in prunable(module)[0]}


def masked(*sizes: int) -> tuple[nn.Sequential, list[WeightOf]]:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(size, 4) for size in sizes])
    weights = [WeightOf(str(i)) for i in range(len(sizes))]
    apply_edits(model, [Mask(module=w.layer) for w in weights])
    return model, weights


@pytest.mark.parametrize("spread", ["global", "uniform"])
@pytest.mark.parametrize("cuts", ["gradual", "iterative"])
def test_the_share_is_met_and_reported(tmp_path: Path, cuts: str, spread: str) -> None:
    out = pruned(tmp_path, sparsity=0.7, cuts=cuts, spread=spread, rounds=2)
    found = zeros(rebuilt(out))
    assert sparsity_of(rebuilt(out), [WeightOf(name) for name in found]) == pytest.approx(0.7, abs=0.001)
    assert (max(found.values()) - min(found.values()) < 0.02) == (spread == "uniform")
    report = read_report(out)
    assert report.summary == "70.0 % of the weights of 6 layers are zero"
    assert {layer.layer for layer in report.layers} == set(found)


def test_the_smallest_go_and_what_is_gone_stays_gone() -> None:
    model, weights = masked(40, 8)
    values = torch.cat([w.values(model).flatten() for w in weights]).abs()
    prune_to(model, weights, 0.5, uniform=False, most=0.9)
    kept = torch.cat([w.values(model).flatten() for w in weights]).abs()
    assert torch.equal(kept > 0, values > values.sort().values[len(values) // 2 - 1])
    before = {w: w.mask(model).mask.clone() for w in weights}  # type: ignore[union-attr]
    with torch.no_grad():
        for layer in model:
            layer.parametrizations.weight.original.normal_()  # type: ignore[operator, union-attr]
    prune_to(model, weights, 0.5, uniform=False, most=0.9)
    assert all(torch.equal(w.mask(model).mask, before[w]) for w in weights)  # type: ignore[union-attr]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.floats(0.01, 0.99), st.floats(0.1, 0.99), st.booleans())
@settings(deadline=None, max_examples=40)
def test_no_layer_is_ever_emptied(sizes: list[int], share: float, most: float, uniform: bool) -> None:
    model, weights = masked(*sizes)
    possible = (
        all(round(share * 4 * size) < 4 * size for size in sizes)
        if uniform
        else round(share * 4 * sum(sizes)) <= sum(int(most * 4 * size) for size in sizes)
    )
    if not possible:
        with pytest.raises(ModelError, match="leave layer"):
            prune_to(model, weights, share, uniform=uniform, most=most)
        return
    prune_to(model, weights, share, uniform=uniform, most=most)
    total = sum(4 * size for size in sizes)
    lost = [int((~w.mask(model).mask).sum()) for w in weights]  # type: ignore[union-attr]
    assert all(n < 4 * size for n, size in zip(lost, sizes, strict=True))
    if not uniform:
        assert sum(lost) == round(share * total)
        assert all(n <= most * 4 * size for n, size in zip(lost, sizes, strict=True))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"spread": "uniform", "sparsity": 0.998}, "leave layer 'head' none of its 160 weights"),
        ({"sparsity": 0.95, "most": 0.5}, "would leave layers empty: with at most 0.5 of each layer"),
        ({"skip": ["*"]}, "finds no layer to prune"),
        ({"cuts": "iterative", "rewind": f"{HERE}:other"}, "gives no weights for"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        pruned(tmp_path, **parameters)
    assert caught.value.hint


def test_a_layer_used_twice_and_recurrent_ones_are_left_with_the_reason(tmp_path: Path) -> None:
    out = pruned(tmp_path, "recurrent")
    reasons = {layer.layer: layer.reason for layer in read_report(out).layers if layer.reason}
    assert set(reasons) == {"lstm", "gru"}


def test_two_of_four() -> None:
    model = nn.Sequential(nn.Conv2d(8, 4, 3), nn.Linear(12, 5))
    weights = [WeightOf("0"), WeightOf("1")]
    apply_edits(model, [Mask(module=w.layer) for w in weights])
    before = [w.values(model).clone() for w in weights]
    prune_two_of_four(model, weights)
    for weight, was in zip(weights, before, strict=True):
        now, was = (t.movedim(1, -1).reshape(-1, 4) for t in (weight.values(model), was))
        assert bool(((now != 0).sum(1) == 2).all())
        assert torch.equal(now.abs().sort(1).values[:, 2:], was.abs().sort(1).values[:, 2:])


def test_two_of_four_as_a_step_needs_the_feature_and_leaves_odd_layers(tmp_path: Path) -> None:
    out = pruned(tmp_path, pattern="2:4")
    assert PruneUnstructured.needs(step_of(pattern="2:4").parameters).features == ("2:4",)
    assert PruneUnstructured.needs(step_of().parameters).features == ()
    found = zeros(rebuilt(out))
    assert found.pop("stem.0") == 0
    assert set(found.values()) == {0.5}


def test_survivors_go_back_to_their_early_weights(tmp_path: Path) -> None:
    settings_of: dict[str, Any] = {"cuts": "iterative", "rounds": 2, "rewind": f"{HERE}:early", "learning_rate": 1e-12}
    module = rebuilt(pruned(tmp_path, **settings_of))
    start = early(module)
    for weight in prunable(module)[0]:
        values = weight.values(module)
        torch.testing.assert_close(values, weight.values(start) * (values != 0))
    assert 0.7 < sparsity_of(module, prunable(module)[0]) < 0.9


def test_a_killed_gradual_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = pruned(tmp_path, epochs=3)
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise Interrupted("stopped")

    scratch, out = zoo.context(tmp_path / "killed-scratch"), tmp_path / "killed"
    out.mkdir()
    step = step_of(epochs=3)
    with pytest.raises(Interrupted):
        step.run(folders(tmp_path), out, replace(scratch, check=stop))
    step.run(folders(tmp_path), out, scratch)
    assert (out / compressed_model.WEIGHTS_FILE).read_bytes() == (whole / compressed_model.WEIGHTS_FILE).read_bytes()


def test_later_training_keeps_the_zeros_and_a_second_cut_goes_on_from_the_first(tmp_path: Path) -> None:
    first = pruned(tmp_path, sparsity=0.6)
    before = {name: rebuilt(first).state_dict()[name] for name in rebuilt(first).state_dict() if name.endswith("mask")}
    inputs = {**folders(tmp_path), "model": first}
    taught, again = tmp_path / "taught", tmp_path / "again"
    for out, step in ((taught, step_of(Distil)), (again, step_of(sparsity=0.8))):
        out.mkdir()
        step.run(inputs, out, zoo.context(tmp_path / f"{out.name}-scratch"))
    after = rebuilt(taught).state_dict()
    assert all(torch.equal(after[name], mask) for name, mask in before.items())
    more = rebuilt(again).state_dict()
    assert all(not bool((more[name] & ~mask).any()) for name, mask in before.items())
    assert compressed_model.read_model(again).edits == compressed_model.read_model(first).edits


@pytest.mark.parametrize(
    "wrong",
    [{"rewind": "a:b"}, {"pattern": "2:4", "rounds": 3}, {"pattern": "2:4", "cuts": "gradual"}, {"sparsity": 1.0}],
)
def test_parameters_that_do_not_go_together(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PruneUnstructured.Parameters(**wrong)


def test_the_cubic_schedule_begins_fast_and_ends_flat() -> None:
    shares = [cubic(0.0, 0.9, done / 10) for done in range(11)]
    steps = [b - a for a, b in itertools.pairwise(shares)]
    assert (shares[0], shares[-1]) == (0.0, 0.9)
    assert steps == sorted(steps, reverse=True)


def failing(original: nn.Module) -> nn.Module:
    raise KeyError("nothing there")


def number(original: nn.Module) -> int:
    return 3


@pytest.mark.parametrize(
    ("rewind", "message"), [("failing", "failing failed: KeyError"), ("number", "number returned a int, not a torch")]
)
def test_early_weights_that_are_none_are_told(rewind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        pruned(tmp_path, cuts="iterative", rewind=f"{HERE}:{rewind}")


class Endless(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(3, 8, 8), 1)] * 8)


@pytest.mark.parametrize("technique", [PruneUnstructured, ShareWeights])
def test_the_users_loader_is_used_whatever_it_says_of_its_length(technique: type[Technique], tmp_path: Path) -> None:
    loaders: dict[str, Any] = {"u:none": list, "u:stream": lambda: torch.utils.data.DataLoader(Endless(), batch_size=4)}
    step = step_of(technique, epochs=None, steps=2)
    code = ProjectCode(load=lambda r: loaders.get(r) or zoo.load(r), digest="")
    (tmp_path / "out").mkdir()

    def run(loader: str, scratch: str) -> None:
        context = replace(zoo.context(tmp_path / scratch), code=code)
        step.model_copy(update={"loader": loader}).run(folders(tmp_path), tmp_path / "out", context)

    run("u:stream", "a")
    with pytest.raises(DataError, match="loader is empty"):
        run("u:none", "b")


@pytest.mark.parametrize("technique", [PruneUnstructured, ShareWeights])
def test_a_model_with_an_exit_is_not_trained_alone(technique: type[Technique], tmp_path: Path) -> None:
    inputs = folders(tmp_path)
    module, model = compressed_model.load_model(inputs["model"], zoo.code_of(zoo.ZOO["residual"]))
    head = AddHead(name="early", after="two", features=16, outputs=zoo.CLASSES)
    for name in ("headed", "out"):
        (tmp_path / name).mkdir()
    compressed_model.write_model(
        apply_edits(module, [head]), model.model_copy(update={"edits": (head,)}), tmp_path / "headed"
    )
    # A layer to skip is called as before the exit was added.
    step = step_of(technique, skip=("two",))
    with pytest.raises(ModelError, match="early exits are trained together"):
        step.run({**inputs, "model": tmp_path / "headed"}, tmp_path / "out", zoo.context(tmp_path / "s"))
