"""Factorisation: what has low rank is reproduced, ranks are found in noise, and nothing gets dearer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgebuild.errors import ModelError
from edgebuild.models import compressed_model
from edgebuild.models.interpreter import apply_edits
from edgebuild.models.replacements import Monarch
from edgebuild.techniques.factorising.factorise import BY_OPERATIONS, Factorise
from edgebuild.techniques.factorising.factors import thin
from edgebuild.techniques.factorising.vbmf import signal_rank
from edgebuild.techniques.report import TechniqueReport, read_report
from tests.techniques import zoo
from tests.techniques.test_layer_times import timed, write_times
from tests.techniques.zoo import CLASSES, Animal

if TYPE_CHECKING:
    from pathlib import Path

    from edgebuild.core.measurement import LayerTime


def low_rank() -> nn.Module:
    """A convolution of Tucker ranks 3 and 2, a dense layer of rank 2, a small one."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.Linear(32, CLASSES),
    )
    conv: Any = model[2]
    dense: Any = model[5]
    with torch.no_grad():
        core, outs, ins = torch.randn(2, 3, 3, 3), torch.randn(16, 2), torch.randn(16, 3)
        conv.weight.copy_(torch.einsum("abhw,oa,ib->oihw", core, outs, ins) / 10)
        dense.weight.copy_(torch.randn(32, 2) @ torch.randn(2, 256) / 10)
    return model


def run(
    factory: Any, folder: Path, times: dict[str, LayerTime | None] | None = None, **parameters: Any
) -> tuple[nn.Module, nn.Module, TechniqueReport]:
    """Return the factorised model, the original, and what was said."""
    animal = Animal(factory.__name__, factory)
    code = compressed_model.UserCode(factory=animal.reference, load=lambda _: factory)
    inputs = zoo.write_inputs(animal, folder)
    inputs |= {} if times is None else write_times(folder / "times", times)
    step = zoo.step_of(Factorise, animal, **parameters)
    out = folder / "out"
    out.mkdir()
    step.run(inputs, out, zoo.context(folder / "scratch", lambda _: factory))
    return (
        compressed_model.load_model(out, code)[0],
        compressed_model.load_model(folder / "model", code)[0],
        read_report(out),
    )


def test_what_has_low_rank_loses_nothing(tmp_path: Path) -> None:
    thin, original, report = run(low_rank, tmp_path, skip=("0", "6"))
    x = zoo.feeds(zoo.ZOO["residual"], 4)[0]
    with torch.no_grad():
        torch.testing.assert_close(thin(x), original(x), rtol=1e-4, atol=1e-4)
    said = {layer.layer: layer.after for layer in report.layers}
    assert said["2"] == "ranks 3 and 2"
    assert said["5"] == "rank 2"
    assert report.macs_after < report.macs_before / 2


def test_a_layer_that_would_not_get_cheaper_stays_with_the_reason(tmp_path: Path) -> None:
    thin, original, report = run(low_rank, tmp_path, multiple=16)
    reasons = {layer.layer: layer.reason for layer in report.layers}
    assert "more operations, not fewer" in reasons["0"]
    assert torch.equal(thin[0].weight, original[0].weight)  # type: ignore[index]
    assert {layer.layer for layer in report.layers if not layer.reason} == {"5"}


def test_a_layer_to_skip_that_the_model_does_not_have_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match='`skip` names "7", which fits no layer'):
        run(low_rank, tmp_path, skip=("0", "7"))


def test_nothing_gets_cheaper_is_a_refusal(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="makes no layer of the model cheaper"):
        run(low_rank, tmp_path, skip=("*",))


def test_a_share_of_the_rank(tmp_path: Path) -> None:
    _, _, report = run(low_rank, tmp_path, ranks="share", share=0.25)
    said = {layer.layer: layer.after for layer in report.layers}
    assert said["2"] == "ranks 4 and 4"
    assert said["5"] == "rank 8"


@given(st.integers(1, 6), st.integers(20, 40), st.integers(0, 1000), st.booleans())
@settings(deadline=None, max_examples=30)
def test_the_rank_of_a_signal_in_noise_is_found(rank: int, rows: int, seed: int, turned: bool) -> None:
    generator = np.random.default_rng(seed)
    signal = generator.standard_normal((rows, rank)) @ generator.standard_normal((rank, 60))
    noisy = signal + 0.05 * generator.standard_normal((rows, 60))
    assert signal_rank(noisy.T if turned else noisy) == rank


@pytest.mark.parametrize("matrix", [np.zeros((3, 4)), np.ones((1, 5)), np.eye(2)])
def test_degenerate_matrices_have_a_rank(matrix: Any) -> None:
    assert 1 <= signal_rank(matrix) <= min(matrix.shape)


def shuffled() -> nn.Module:
    """A dense layer that is a Monarch product, and of full rank."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, CLASSES))
    dense: Any = model[3]
    product = Monarch(64, 64, 8, bias=False)
    with torch.no_grad():
        dense.weight.copy_(product(torch.eye(64)).T)
    return model


@pytest.mark.parametrize(("dense", "after"), [("best", "Monarch of 8 blocks"), ("low-rank", "rank 10")])
def test_the_product_that_is_nearer_is_taken(dense: str, after: str, tmp_path: Path) -> None:
    thin_model, original, report = run(shuffled, tmp_path, ranks="share", share=0.15, dense=dense, skip=("1", "4"))
    assert {layer.layer: layer.after for layer in report.layers}["3"] == after
    (x,) = zoo.feeds(zoo.ZOO["residual"], 4)
    with torch.no_grad():
        close = torch.allclose(thin_model(x), original(x), atol=1e-4)
    assert close == (dense == "best")


@pytest.mark.parametrize(("inputs", "outputs", "blocks"), [(64, 64, 8), (64, 32, 4), (48, 24, 3), (36, 36, 6)])
def test_a_monarch_product_is_found_again(inputs: int, outputs: int, blocks: int) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(Monarch(inputs, outputs, blocks, bias=False)(torch.eye(inputs)).T)
    found = thin(layer, "0", lambda _: inputs // blocks, "monarch")
    module: Any = apply_edits(nn.Sequential(layer), (found.edit,))
    found.fill(module[0])
    with torch.no_grad():
        again = (module[0](torch.eye(inputs)) - layer.bias).T
    assert found.error < 1e-4
    torch.testing.assert_close(again, layer.weight.detach(), atol=1e-4, rtol=1e-4)


def test_sizes_without_common_blocks_have_no_monarch_product() -> None:
    with pytest.raises(ModelError, match="no number of blocks divides both its sizes"):
        thin(nn.Linear(32, 5), "0", lambda _: 3, "monarch")


def test_tuning_brings_the_outputs_nearer(tmp_path: Path) -> None:
    how: dict[str, Any] = {"ranks": "share", "share": 0.25, "multiple": 1}
    bare, original, _ = run(low_rank, tmp_path / "a", **how)
    tuned, _, report = run(low_rank, tmp_path / "b", **how, epochs=4, batch_size=8, learning_rate=0.002)
    (x,) = zoo.feeds(zoo.ZOO["residual"], 24, seed=1)
    with torch.no_grad():
        gaps = [float((module(x) - original(x)).pow(2).mean()) for module in (bare, tuned)]
    assert gaps[1] < gaps[0]
    assert report.notes[0].startswith("Tuned: the loss went from ")
    assert report.notes[1] == BY_OPERATIONS


def test_only_layers_that_were_measured_faster_are_replaced(tmp_path: Path) -> None:
    times = {"2": timed("better"), "5": timed("worse"), "6": None}
    thin_model, original, report = run(low_rank, tmp_path, times=times, skip=("0",), multiple=1)
    said = {layer.layer: layer for layer in report.layers}
    assert said["2"].after.startswith("ranks 3 and 2; 12.1 → 8.4 µs, between ")
    assert said["5"].reason.startswith("it gets no faster on the target: 12.1 → 8.4 µs, ")
    assert said["0"].reason == "it is to be skipped"
    assert torch.equal(thin_model[5].weight, original[5].weight)  # type: ignore[index]
    assert report.notes == ("Measured on the target, each layer in isolation, 2: 12.1 → 8.4 µs.",)


def test_a_layer_without_a_time_stays(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no layer of the model faster .*2: it could not be timed on the target"):
        run(low_rank, tmp_path, times={"2": None}, skip=("0", "5", "6"))


class Standardised(nn.Conv2d):
    """A convolution that computes with another weight than its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - torch's name
        spread, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
        result: torch.Tensor = self._conv_forward(input, (self.weight - mean) / spread, self.bias)
        return result


def standardised() -> nn.Module:
    model = low_rank()
    replaced = Standardised(16, 16, 3, stride=2, padding=1)
    replaced.load_state_dict(model.get_submodule("2").state_dict())
    model.register_module("2", replaced)
    return model


def test_a_layer_that_computes_in_a_way_of_its_own_stays(tmp_path: Path) -> None:
    thin_model, _, report = run(standardised, tmp_path, ranks="share", share=0.2)
    assert isinstance(thin_model[2], Standardised)  # type: ignore[index]
    assert any("as a Standardised it computes in a way of its own" in said.reason for said in report.layers)
