"""What a model computes its weights from becomes plain weights, and the model says what it said before."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from edgebuild.errors import ModelError
from edgebuild.models.baking import bake
from edgebuild.models.interpreter import copied
from edgebuild.models.torch_models import call_module, make_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Symmetric(nn.Module):
    """A user's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def pruned_twice(layer: nn.Module) -> nn.Module:
    prune.random_unstructured(layer, "weight", 0.3)  # type: ignore[no-untyped-call]
    prune.l1_unstructured(layer, "weight", 0.3)  # type: ignore[no-untyped-call]
    prune.l1_unstructured(layer, "bias", 0.5)  # type: ignore[no-untyped-call]
    return layer


def symmetric(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


WAYS: dict[str, Callable[[Any], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": symmetric,
    "own on top": lambda layer: symmetric(parametrizations.weight_norm(layer)),
    "old weight_norm": lambda layer: torch.nn.utils.weight_norm(layer),
    "old spectral_norm": lambda layer: torch.nn.utils.spectral_norm(layer),
    "masks": pruned_twice,
    "a mask of nothing": lambda layer: prune.identity(layer, "weight"),  # type: ignore[no-untyped-call]
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")


def net(way: Callable[[Any], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(way(nn.Linear(6, 6)), nn.ReLU(), way(nn.Linear(6, 6)), nn.Linear(6, 3))
    model.train()
    model(torch.randn(4, 6))
    return model


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_outputs_stay_bit_for_bit_and_nothing_computed_is_left(way: Callable[[Any], nn.Module]) -> None:
    x = torch.randn(5, 6)
    model = net(way).eval()
    with torch.no_grad():
        before = model(x)
        names = bake(model)
        assert torch.equal(model(x), before)
        assert "0.weight" in names
        assert set(model.state_dict()) == set(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), *model[2:]).state_dict())  # type: ignore[index]
        assert all(isinstance(layer.weight, nn.Parameter) for layer in model if isinstance(layer, nn.Linear))  # type: ignore[attr-defined]
        other = copy.deepcopy(model)
        model[0].weight.zero_()  # type: ignore[index]
        assert not torch.equal(model(x), before)
        other.load_state_dict(other.state_dict(), strict=True)
        assert torch.equal(other(x), before)
    assert all(p.requires_grad for p in other.parameters())


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_the_users_file_has_the_names_of_before(way: Callable[[Any], nn.Module], tmp_path: Path) -> None:
    model = net(way)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    x = torch.randn(5, 6)
    with torch.no_grad():
        torch.testing.assert_close(
            make_module(lambda: net(way), "f", tmp_path / "w.safetensors")(x), model.eval()(x), rtol=0, atol=0
        )


def test_a_recurrent_layer_computes_with_what_was_baked() -> None:
    torch.manual_seed(0)
    model = nn.LSTM(4, 4, batch_first=True)
    parametrizations.weight_norm(model, "weight_hh_l0")
    old: Any = torch.nn.utils.weight_norm(nn.GRU(4, 4), "weight_ih_l0")
    x = torch.randn(2, 3, 4)
    for layer in (model.eval(), old.eval()):
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                if "original0" in name or name.endswith("_g"):
                    parameter.mul_(2)
            before = layer(x)[0]
            assert bake(layer)
            assert torch.equal(layer(x)[0], before)


def test_what_changes_from_time_to_time_or_fails_is_one_sentence() -> None:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Random())
    with pytest.raises(ModelError, match=r"^0.weight of the model changes from one time"):
        bake(nn.Sequential(layer))
    made = nn.Linear(3, 3)
    parametrize.register_parametrization(made, "weight", Symmetric(), unsafe=True)
    made_by: Any = made
    parametrization = made_by.parametrizations.weight[0]
    parametrization.forward = lambda x: x.nothing
    with pytest.raises(ModelError, match=r"^0.weight of the model can't be computed: AttributeError"):
        bake(nn.Sequential(made))


def test_a_parametrised_buffer_stays_a_buffer() -> None:
    layer = nn.Linear(3, 3)
    layer.register_buffer("table", torch.randn(3, 3))
    parametrize.register_parametrization(layer, "table", Symmetric())
    value = getattr(layer, "table").clone()  # noqa: B009 - torch knows no type of it
    assert bake(layer) == ("table",)
    assert torch.equal(dict(layer.named_buffers())["table"], value)


def test_frozen_and_plain_models_stay_so() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 3)).requires_grad_(False)
    bake(layer)
    assert not layer.weight.requires_grad
    assert bake(nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3))) == ()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.output = nn.Linear(4, 7, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.output(self.mix(self.embedding(ids)))
        return result


def test_tied_weights_load_as_save_model_writes_them(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model, ids = Tied().eval(), torch.tensor([1, 5])
    save_model(model, str(tmp_path / "w.safetensors"))
    loaded = make_module(Tied, "f", tmp_path / "w.safetensors")
    assert torch.equal(loaded(ids), model(ids))
    assert loaded.output.weight is loaded.embedding.weight
    whole = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(whole, tmp_path / "whole.safetensors")
    assert torch.equal(make_module(Tied, "f", tmp_path / "whole.safetensors")(ids), model(ids))
    for missing in ("mix.bias", "embedding.weight"):
        some = {name: value for name, value in whole.items() if name != missing}
        some.pop("output.weight")
        save_file(some, tmp_path / "some.safetensors")
        with pytest.raises(ModelError, match=f"Missing key.*{missing}"):
            make_module(Tied, "f", tmp_path / "some.safetensors")


@pytest.mark.parametrize(("prefix", "who"), [("module.", "DataParallel"), ("_orig_mod.", "torch.compile")])
def test_names_of_a_wrapper_are_recognised(prefix: str, who: str, tmp_path: Path) -> None:
    save_file({f"{prefix}{k}": v for k, v in nn.Linear(2, 2).state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=f"every name in it starts with '{prefix}', as {who}"):
        make_module(lambda: nn.Linear(2, 2), "f", tmp_path / "w.safetensors")


def test_a_lazy_layer_that_never_ran_is_said() -> None:
    with pytest.raises(ModelError, match=r"whose 0.weight has no shape yet"):
        make_module(lambda: nn.Sequential(nn.LazyLinear(3)), "f", None)


def test_an_output_that_is_no_array_is_said() -> None:
    class Half(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16()

    with pytest.raises(ModelError, match="output 'y' is a bfloat16 tensor on cpu"):
        call_module(Half(), ("x",), ("y",))({"x": torch.zeros(2).numpy()})


def test_a_model_that_cannot_be_copied_is_said() -> None:
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(ModelError, match=r"can't be copied.*_thread.lock"):
        copied(model)


def test_half_precision_weights_in_the_file_are_taken(tmp_path: Path) -> None:
    model = nn.Linear(2, 2).half()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = make_module(lambda: nn.Linear(2, 2), "f", tmp_path / "w.safetensors")
    assert torch.equal(loaded.weight, model.weight.float())
