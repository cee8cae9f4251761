"""The step that reads the user's ONNX file: only a module that gives the file's answers is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgebuild.core.artifact import Contract, TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models.compressed_model import SOURCE_FILE, UserCode, load_model, read_model, write_model
from edgebuild.models.compressed_steps import SaveOnnx
from edgebuild.models.dataset import Dataset
from edgebuild.models.edits import KeepChannels
from edgebuild.models.interpreter import apply_edits
from edgebuild.models.onnx_torch.reading import read_module
from edgebuild.models.steps import ReferenceOutputs
from tests.models import example

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SPEC = TensorSpec(name="x", shape=("batch", 3, 4, 4), dtype="float32")
CONTRACT = Contract(
    inputs=(SPEC.model_copy(update={"shape": (1, 3, 4, 4)}),),
    outputs=(TensorSpec(name="y", shape=(1, 5), dtype="float32"),),
)


def no_code(reference: str) -> Callable[..., Any]:
    raise AssertionError(reference)


CODE = UserCode(factory=SOURCE_FILE, load=no_code)


def written_for_one() -> Any:
    """A net whose file knows no other batch than 1."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "s": np.array([1, 8 * 4]),
        "v": random.standard_normal((32, 5)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Sigmoid", ["c"], ["g"], name="gate"),
        helper.make_node("Reshape", ["g", "s"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "v"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def stored(folder: Path) -> Path:
    (folder / "imported").mkdir()
    onnx.save(written_for_one(), str(folder / "imported" / "model.onnx"))
    rows = ({"x": x} for x in np.random.default_rng(1).standard_normal((7, 3, 4, 4)).astype(np.float32))
    inputs = {"model": folder / "imported", "data": example.data(folder / "data", (SPEC,), rows)}
    reference = ReferenceOutputs(contract=CONTRACT, batch=1, split="validation")
    inputs["reference"] = example.run(reference, inputs, folder / "reference")
    inputs["samples"] = inputs.pop("data")
    return example.run(SaveOnnx(specs=(SPEC,), contract=CONTRACT), inputs, folder / "stored")


def test_a_file_for_a_batch_of_one_becomes_a_model_for_any(tmp_path: Path) -> None:
    module, model = load_model(stored(tmp_path), CODE)
    assert model.factory == SOURCE_FILE
    images = torch.from_numpy(Dataset.open(tmp_path / "data").array("x")[:].copy())
    expected = np.load(next((tmp_path / "reference").glob("*.npy")))
    np.testing.assert_allclose(module(images).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_what_was_changed_is_rebuilt_from_its_folder_alone(tmp_path: Path) -> None:
    before = stored(tmp_path)
    module, model = load_model(before, CODE)
    inputs = tuple(range(4 * 4))
    edits = (KeepChannels(module="conv", outputs=(0, 1, 2, 3)), KeepChannels(module="head", inputs=inputs))
    module = apply_edits(module, edits)
    (tmp_path / "narrow").mkdir()
    write_model(module, model.model_copy(update={"edits": edits}), tmp_path / "narrow", source=before)
    again, _ = load_model(tmp_path / "narrow", CODE)
    assert read_model(tmp_path / "narrow").edits == edits
    x = torch.ones(3, 3, 4, 4)
    assert torch.equal(again(x), module(x))
    assert again(x).shape == (3, 5)


def test_a_module_that_answers_otherwise_is_refused_with_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Sigmoid, "forward", lambda _, x: torch.sigmoid(x) * 0.9)
    with pytest.raises(ModelError, match="answers otherwise at batch size 1: output 'y' of sample") as caught:
        stored(tmp_path)
    assert "from node 'gate' on" in caught.value.message


def test_an_input_of_text_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
    )
    with pytest.raises(ModelError, match="Input 'x' can't be read as torch: it works on STRING"):
        read_module(helper.make_model(graph))
