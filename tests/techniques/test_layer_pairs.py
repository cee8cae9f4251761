"""Layers by themselves and what would take their place: exported with the weights and inputs that they really have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from edgebuild.core.artifact import Contract
from edgebuild.models import compressed_model
from edgebuild.models.dataset import Dataset
from edgebuild.models.host_session import HostSession
from edgebuild.techniques.factorising.factorise import Factorise
from edgebuild.techniques.factorising.substitute import Substitute
from edgebuild.techniques.timing.layer_pairs import ExportLayerPairs, input_of
from edgebuild.techniques.timing.layer_times import PairList, read_pairs
from tests.techniques import zoo

if TYPE_CHECKING:
    from pathlib import Path


def exported(folder: Path, batch: int = 1, **parameters: Any) -> tuple[Path, PairList]:
    animal = zoo.ZOO["residual"]
    inputs = zoo.write_inputs(animal, folder)
    step = ExportLayerPairs(
        step=zoo.step_of(Factorise, animal, **{**zoo.SMALL["factorise"], **parameters}), batch=batch
    )
    out = folder / "out"
    out.mkdir()
    step.run(inputs, out, zoo.context(folder / "scratch"))
    return out, read_pairs(out)


@pytest.mark.parametrize("batch", [1, 3])
def test_both_sides_run_on_what_reaches_the_layer(batch: int, tmp_path: Path) -> None:
    out, pairs = exported(tmp_path, batch, share=0.6)
    numbers = dict(pairs.layers)
    assert numbers["one.0"] == numbers["two.0"], "they are alike in all but their weights"
    assert pairs.count == len(set(numbers.values())) == len(pairs.layers) - 1
    folder = out / str(numbers["one.0"])
    contract = Contract.model_validate_json((folder / "contract.json").read_bytes())
    assert contract.batch == batch
    data = Dataset.open(folder / "data")
    assert data.frames == batch

    model: Any = compressed_model.load_model(tmp_path / "model", zoo.code_of(zoo.ZOO["residual"]))[0]
    images = Dataset.open(tmp_path / "calibration").array("image")[:batch]
    with torch.no_grad():
        reached = model.stem(torch.from_numpy(np.array(images)))
        expected = model.one[0](reached)
    torch.testing.assert_close(torch.from_numpy(np.array(data.array("x"))), reached)
    sides = {
        side: HostSession(folder / side / "model.onnx")({"x": reached.numpy()})["y"] for side in ("before", "after")
    }
    np.testing.assert_allclose(sides["before"], expected.numpy(), rtol=1e-4, atol=1e-5)
    assert sides["after"].shape == expected.shape
    # The thin one has the layer's factors, not weights of its own.
    lost = np.linalg.norm(sides["after"] - expected.numpy()) / np.linalg.norm(expected.numpy())
    assert lost < 0.95


def test_what_is_left_alone_has_no_pair(tmp_path: Path) -> None:
    _, pairs = exported(tmp_path, skip=("stem.*", "one.*"))
    assert {"two.0", "down.0"} <= {layer for layer, _ in pairs.layers}
    assert not any(layer.startswith(("stem", "one", "short")) for layer, _ in pairs.layers)


class Odd(nn.Module):
    """A layer called with a keyword, one that is never called, one that sees infinity, one that is fed doubles."""

    def __init__(self) -> None:
        super().__init__()
        self.named, self.unused, self.endless = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.wide = nn.Linear(4, 4).double()
        self.fine = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.endless(x / 0)
        self.wide(x.double())
        result: torch.Tensor = self.fine(self.named(input=x))
        return result


def test_a_layer_that_cannot_be_fed_by_itself_is_left_out() -> None:
    model = Odd()

    class Work:
        module = model

        def dataset(self, *, train: bool) -> None:
            del train

        def batches(self, *_: Any, **__: Any) -> Any:
            yield (torch.ones(1, 4),), None

        def run(self, module: nn.Module, inputs: Any) -> Any:
            return [module(*inputs)]

    work: Any = Work()
    found = {name: input_of(work, layer, 1) for name, layer in model.named_children()}
    assert {name for name, seen in found.items() if seen is not None} == {"fine"}


def test_the_key_holds_what_the_technique_is_told() -> None:
    animal = zoo.ZOO["residual"]
    one, two = (
        ExportLayerPairs(step=zoo.step_of(Factorise, animal, ranks="share", share=share), batch=1)
        for share in (0.2, 0.3)
    )
    assert one.key_fields() != two.key_fields()
    assert {"scipy", "onnx", "torch"} <= set(one.all_tools())


def test_a_technique_that_times_nothing_proposes_nothing() -> None:
    assert not Substitute.times_layers
    with pytest.raises(NotImplementedError):
        Substitute.proposals(object(), object())  # type: ignore[arg-type]
