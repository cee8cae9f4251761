"""Torch modules by the user's factory: made, loaded, run, exported and compared."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgebuild.core.artifact import ConstantInput, Contract, StateLink, TensorSpec
from edgebuild.errors import DataError, ModelError
from edgebuild.models.host_session import HostSession
from edgebuild.models.steps import ExportTorch, ReferenceOutputs
from edgebuild.models.torch_models import call_module, example_inputs, export, flatten, make_module
from tests.models import example

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RNG = np.random.default_rng(0)


def spec(name: str, *shape: int | str, dtype: Any = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype)


def random(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


class Residual(nn.Module):
    """A residual block with batch normalisation, a second input, and two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, image: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(image + self.norm(self.conv(image)))
        pooled = x.mean(dim=(2, 3))
        return {"logits": self.head(pooled) + bias, "pooled": pooled}


class Branches(nn.Module):
    """Python control flow over data: tracing keeps one way only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if bool(x.sum() > 0) else x * -3


class Listening(nn.Module):
    """Stops in the middle of nowhere: no exporter gets past it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + float(np.asarray([v.item() for v in x.flatten()]).prod()) if x.shape[0] == 7 else stubborn(x)


@torch.library.custom_op("edgebuild_tests::stubborn", mutates_args=())
def stubborn(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


class Counting(nn.Module):
    """``y`` = mean(x) + 10 h; the next h is h + mean(x)."""

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = x.mean(dim=1, keepdim=True)
        return mean + 10 * h, mean + h


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, rate: torch.Tensor) -> torch.Tensor:
        return x / rate


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(first=nn.Linear(4, 8), act=nn.ReLU(), last=nn.Linear(8, 2)))


class TestMakingAModule:
    def test_a_factory_that_raises_is_named_with_its_error(self) -> None:
        def factory() -> nn.Module:
            raise FileNotFoundError("no classes.txt")

        with pytest.raises(ModelError, match=r"model:net failed: FileNotFoundError: no classes\.txt") as caught:
            make_module(factory, "model:net", None)
        assert isinstance(caught.value.__cause__, FileNotFoundError)

    @pytest.mark.parametrize(("made", "name"), [(None, "NoneType"), (nn.Linear, "type"), ({}, "dict")])
    def test_a_factory_that_returns_something_else(self, made: Any, name: str) -> None:
        with pytest.raises(ModelError, match=f"model:net returned a {name}, not a torch.nn.Module"):
            make_module(lambda: made, "model:net", None)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("way", ["script", "trace", "export", "export.module"])
    def test_a_compiled_program_is_refused_with_the_way_out(self, way: str) -> None:
        example = torch.zeros(2, 4)
        made: Any = {
            "script": lambda: torch.jit.script(linear()),
            "trace": lambda: torch.jit.trace(linear(), example),  # type: ignore[no-untyped-call]
            "export": lambda: torch.export.export(linear(), (example,)),
            "export.module": lambda: torch.export.export(linear(), (example,)).module(),
        }[way]
        with pytest.raises(ModelError, match="whose Python code is gone") as caught:
            make_module(made, "model:net", None)
        assert "torch.onnx.export" in caught.value.hint

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
    def test_what_only_runs_a_module_in_another_way_is_taken_off(self, wrap: Any, tmp_path: Path) -> None:
        inner = linear()
        save_file({f"{name}": t for name, t in wrap(inner).state_dict().items()}, tmp_path / "w.safetensors")
        assert make_module(lambda: wrap(inner), "model:net", tmp_path / "w.safetensors") is inner

    def test_codes_of_a_quantiser_are_no_weights(self, tmp_path: Path) -> None:
        state = linear().state_dict()
        save_file({**state, "first.weight": state["first.weight"].to(torch.int8)}, tmp_path / "w.safetensors")
        assert "its first.weight is int8, the model's float32" in self.refusal(tmp_path / "w.safetensors").message

    def test_weights_are_loaded_and_the_module_is_in_eval_mode(self, tmp_path: Path) -> None:
        state = {name: torch.full_like(tensor, 0.5) for name, tensor in linear().state_dict().items()}
        save_file(state, tmp_path / "w.safetensors")
        module = make_module(linear, "model:net", tmp_path / "w.safetensors")
        assert not module.training
        assert all(bool((tensor == 0.5).all()) for tensor in module.state_dict().values())

    def refusal(self, weights: Path) -> ModelError:
        with pytest.raises(ModelError) as caught:
            make_module(linear, "model:net", weights)
        return caught.value

    def test_weights_with_another_name_or_shape_or_one_missing(self, tmp_path: Path) -> None:
        state = linear().state_dict()
        path = tmp_path / "w.safetensors"
        for change, words in (
            (lambda s: s | {"extra.weight": torch.zeros(1)}, "extra.weight"),
            (lambda s: {k: v for k, v in s.items() if k != "last.bias"}, "last.bias"),
            (lambda s: s | {"first.weight": torch.zeros(8, 5)}, "first.weight"),
        ):
            save_file(change(dict(state)), path)
            message = self.refusal(path).message
            assert message.startswith(f"{path} doesn't fit the model: ")
            assert words in message

    def test_damaged_missing_and_pickled_weights(self, tmp_path: Path) -> None:
        path = tmp_path / "w.safetensors"
        save_file(linear().state_dict(), path)
        path.write_bytes(path.read_bytes()[:-10])
        assert f"{path} can't be read as safetensors" in self.refusal(path).message
        path.write_bytes(b"nothing like it")
        assert f"{path} can't be read as safetensors" in self.refusal(path).message
        path.unlink()
        assert f"{path} can't be read as safetensors" in self.refusal(path).message
        pickled = tmp_path / "w.pt"
        torch.save(linear().state_dict(), pickled)
        error = self.refusal(pickled)
        assert "a .pt can run code" in error.message
        assert "edgebuild init" in error.hint


class TestCalling:
    def call(self, module: nn.Module, *order: str, outputs: tuple[str, ...] = ("y",)) -> Any:
        return call_module(module.eval(), order, outputs)

    def test_a_wrong_shape_names_the_layer(self) -> None:
        call = self.call(nn.Sequential(OrderedDict(first=nn.Linear(4, 8), last=nn.Linear(9, 2))), "x")
        with pytest.raises(ModelError, match=r"failed in 'last': RuntimeError"):
            call({"x": random(1, 4)})

    def test_a_wrong_dtype_names_the_layer_and_inputs_are_the_hint(self) -> None:
        with pytest.raises(ModelError, match="failed in 'first': RuntimeError") as caught:
            self.call(linear(), "x")({"x": np.ones((1, 4))})
        assert "[[inputs]]" in caught.value.hint

    def test_a_module_that_raises_by_itself_is_the_model_itself(self) -> None:
        class Broken(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                raise ValueError(f"no\n{x}")

        with pytest.raises(ModelError, match=r"failed in the model itself: ValueError: no$"):
            self.call(Broken(), "x")({"x": random(1)})

    @pytest.mark.parametrize("outputs", [("y",), ("a", "b", "c")])
    def test_the_number_of_outputs_must_fit_their_names(self, outputs: tuple[str, ...]) -> None:
        call = self.call(Residual(), "image", "bias", outputs=outputs)
        with pytest.raises(ModelError, match=f"returned 2 outputs, {len(outputs)} are named: {', '.join(outputs)}"):
            call({"image": random(1, 2, 4, 4), "bias": random(1, 3)})

    def test_something_that_is_no_tensor_is_refused(self) -> None:
        class Chatty(nn.Module):
            def forward(self, x: torch.Tensor) -> Any:
                return x, None

        with pytest.raises(ModelError, match="returned a NoneType where a tensor belongs"):
            self.call(Chatty(), "x", outputs=("y", "z"))({"x": random(1)})

    def test_inputs_are_given_in_order_and_not_written_to(self) -> None:
        class Writing(nn.Module):
            def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
                a += 100
                return a - b

        a, b = np.ones(2, np.float32), np.full(2, 3, np.float32)
        a.setflags(write=False)
        assert self.call(Writing(), "a", "b")({"b": b, "a": a})["y"].tolist() == [98, 98]
        assert a.tolist() == [1, 1]

    def test_nested_results_are_flattened_in_order(self) -> None:
        a, b, c = (torch.tensor(i) for i in range(3))
        assert flatten({"z": a, "a": (b, [c])}) == [a, b, c]
        assert flatten(a) == [a]


class TestExamples:
    @pytest.mark.parametrize(("lead", "rows"), [("batch", 2), (1, 1), (4, 4)])
    def test_a_batch_is_as_large_as_the_model_says_and_two_where_it_doesn_t(self, lead: int | str, rows: int) -> None:
        (found,) = example_inputs((spec("x", lead, 3),), {"x": random(2, 3)})
        assert found.shape == (rows, 3)

    def test_states_are_zeros_and_constants_have_their_value(self) -> None:
        specs = (spec("h", "batch", 5), spec("rate", dtype="int64"))
        state, rate = example_inputs(specs, {}, {"rate": np.array(16000)})
        assert state.shape == (2, 5)
        assert not state.any()
        assert rate.item() == 16000


def export_step(
    tmp_path: Path,
    module: Callable[[], nn.Module],
    specs: tuple[TensorSpec, ...],
    rows: list[dict[str, Any]],
    *,
    outputs: tuple[str, ...] = ("y",),
    **contract: Any,
) -> Path:
    fed = tuple(s for s in specs if s.name in rows[0])
    full = Contract(inputs=fed, outputs=tuple(spec(name, "batch") for name in outputs), **contract)
    step = ExportTorch(factory="model:net", specs=specs, contract=full)
    samples = example.data(tmp_path / "data", fed, rows, stateful=bool(full.state))
    return example.run(step, {"samples": samples}, tmp_path / "exported", call=module) / "model.onnx"


class TestExport:
    def test_a_residual_net_with_two_inputs_and_two_outputs_at_any_batch(self, tmp_path: Path) -> None:
        def net() -> nn.Module:
            torch.manual_seed(0)
            made = Residual()
            made.norm.running_mean = torch.randn(2)
            return made

        specs = (spec("image", "batch", 2, 6, 6), spec("bias", "batch", 3))
        rows = [{"image": random(2, 6, 6), "bias": random(3)} for _ in range(7)]
        path = export_step(tmp_path, net, specs, rows, outputs=("logits", "pooled"))
        feeds = {"image": random(4, 2, 6, 6), "bias": random(4, 3)}
        wanted = net().eval()(*(torch.from_numpy(array) for array in feeds.values()))
        found = HostSession(path)(feeds)
        assert list(found) == ["logits", "pooled"]
        for name, array in found.items():
            np.testing.assert_allclose(array, wanted[name].detach().numpy(), rtol=1e-4, atol=1e-5)

    def test_a_net_of_one_fixed_batch_is_exported_at_that_batch(self, tmp_path: Path) -> None:
        path = export_step(tmp_path, linear, (spec("x", 1, 4),), [{"x": random(4)} for _ in range(3)])
        assert HostSession(path)({"x": random(1, 4)})["y"].shape == (1, 2)

    def test_a_state_and_a_constant_are_inputs_like_others(self, tmp_path: Path) -> None:
        class Both(nn.Module):
            def forward(
                self, x: torch.Tensor, h: torch.Tensor, rate: torch.Tensor
            ) -> tuple[torch.Tensor, torch.Tensor]:
                mean = x.mean(dim=1, keepdim=True) / rate
                return mean + 10 * h, mean + h

        path = export_step(
            tmp_path,
            Both,
            (spec("x", "batch", 3), spec("h", "batch", 1), spec("rate")),
            [{"x": random(4, 3)} for _ in range(2)],
            constants=(ConstantInput(name="rate", dtype="float32", value=2.0),),
            state=(StateLink(input="h", output="hn"),),
            state_specs=(spec("h", 1, 1),),
        )
        found = HostSession(path)({"x": np.full((1, 3), 4, np.float32), "h": np.ones((1, 1), np.float32), "rate": TWO})
        assert {name: array.item() for name, array in found.items()} == {"y": 12.0, "hn": 3.0}

    def test_an_export_that_changed_the_model_names_the_worst_sample(self, tmp_path: Path) -> None:
        rows = [{"x": np.full(3, value, np.float32)} for value in (1, 2, -1, -4, 3)]
        with pytest.raises(ModelError) as caught:
            export_step(tmp_path, Branches, (spec("x", "batch", 3),), rows)
        assert "The exported ONNX model at batch size 1 differs from torch" in caught.value.message
        assert "output 'y' of sample 3 is off by 20" in caught.value.message

    def test_a_model_that_changes_from_call_to_call_is_told_as_that(self, tmp_path: Path) -> None:
        class Counting(nn.Module):
            calls: torch.Tensor

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("calls", torch.zeros(1))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.calls += 1.0
                return x * self.calls

        with pytest.raises(ModelError, match="answers the same sample differently the next time: its output 'y'"):
            export_step(tmp_path, Counting, (spec("x", "batch", 3),), [{"x": np.ones(3, np.float32)}])

    def test_a_model_larger_than_one_onnx_file_is_refused_before_it_is_exported(self, tmp_path: Path) -> None:
        large = nn.Linear(1 << 15, 1 << 15, device="meta")
        with pytest.raises(ModelError, match=r"The model's tensors take 4\.3 GB") as caught:
            export(large, (), (), ("y",), tmp_path / "model.onnx")
        assert caught.value.hint is not None
        assert "2 GB" in caught.value.hint

    def test_a_model_that_no_exporter_takes_is_refused_with_both_reasons(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="doesn't export to ONNX") as caught:
            export(Listening(), (torch.ones(2, 3),), (spec("x", "batch", 3),), ("y",), tmp_path / "m.onnx")
        assert "dynamo: " in caught.value.message
        assert "tracing: " in caught.value.message
        assert "[model].onnx" in caught.value.hint

    def test_a_torch_model_that_answers_nan_is_told_as_that_and_not_as_a_bad_export(self, tmp_path: Path) -> None:
        class Log(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.log(x)

        rows = [{"x": np.full(3, value, np.float32)} for value in (1, 2, -1)]
        with pytest.raises(DataError, match="the torch model: output 'y' is NaN or infinite for frame 2"):
            export_step(tmp_path, Log, (spec("x", "batch", 3),), rows)


TWO = np.array(2, dtype=np.float32)


def test_the_reference_of_a_factory_is_torch_itself(tmp_path: Path) -> None:
    rows = [{"x": random(4)} for _ in range(5)]
    folder = example.data(tmp_path / "data", (spec("x", "batch", 4),), rows)
    contract = Contract(inputs=(spec("x", 1, 4),), outputs=(spec("y", "batch"),))
    save_file({k: torch.ones_like(v) for k, v in linear().state_dict().items()}, tmp_path / "w.safetensors")
    step = ReferenceOutputs(contract=contract, batch=2, split="validation", order=("x",), factory="model:net")
    inputs = {"data": folder, "weights": tmp_path / "w.safetensors"}
    out = example.run(step, inputs, tmp_path / "out", call=linear)
    wanted = [[8 * max(0.0, 1 + float(row["x"].sum())) + 1] * 2 for row in rows]
    np.testing.assert_allclose(np.load(out / "y.npy"), wanted, rtol=1e-5)
