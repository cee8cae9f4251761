from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from edgebuild.core.artifact import TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models.onnx_torch.reading import read_module
from edgebuild.models.onnx_torch.source import arranged

SPEC = TensorSpec(name="x", shape=("batch", 3), dtype="float32")


def net(output: str) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in ("x", "other", output)]
    graph = helper.make_graph([helper.make_node("Add", ["x", "other"], ["y"], name="add")], "g", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_an_input_that_the_project_doesnt_name_is_said() -> None:
    with pytest.raises(ModelError, match=r"'add'.* reads 'other', which is neither an input of the project"):
        read_module(arranged(net("y"), (SPEC,)))


def test_an_output_that_no_node_gives_is_said() -> None:
    both = (SPEC, SPEC.model_copy(update={"name": "other"}))
    with pytest.raises(ModelError, match=r"Output 'z' can't be read as torch: no node gives it"):
        read_module(arranged(net("z"), both))
