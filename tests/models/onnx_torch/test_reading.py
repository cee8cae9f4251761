"""What is read is a torch module as any other: named, trainable, copied, exported; what isn't known is refused."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgebuild.core.artifact import TensorSpec
from edgebuild.errors import ModelError
from edgebuild.models.host_session import HostSession
from edgebuild.models.onnx_files import load_onnx
from edgebuild.models.onnx_torch.graph import Builder
from edgebuild.models.onnx_torch.reading import read_module
from edgebuild.models.onnx_torch.source import arranged, first_difference, why_unreadable
from edgebuild.models.torch_models import export, flatten
from tests.models import nets
from tests.models.onnx_torch.test_operators import ROWS, compared, ints, made, node, random
from tests.techniques import zoo

if TYPE_CHECKING:
    from pathlib import Path

SPEC = TensorSpec(name="x", shape=("batch", 3, 8, 8), dtype="float32")


def test_layers_are_torchs_own_with_the_files_weights_and_names() -> None:
    module = read_module(nets.conv())
    kinds = {name: type(layer) for name, layer in module.named_modules() if name}
    assert kinds == {
        "stem": nn.Conv2d,
        "norm": nn.BatchNorm2d,
        "r1": nn.ReLU,
        "grouped": nn.Conv2d,
        "p": nn.AdaptiveAvgPool2d,
        "head": nn.Linear,
    }
    assert not module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    stem = next(node for node in nets.conv().graph.node if node.output[0] == "w1").attribute[0].t
    np.testing.assert_array_equal(module.get_parameter("stem.weight").detach(), numpy_helper.to_array(stem))


def test_it_learns_and_its_normalisation_follows_the_data() -> None:
    module = read_module(nets.conv()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.from_numpy(random(4, 3, 8, 8))).square().mean().backward()
    optimiser.step()
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert {"stem.weight", "head.weight", "norm.weight", "norm.running_mean"} <= changed


def test_a_copy_is_of_its_own() -> None:
    module = read_module(nets.conv())
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.get_parameter("head.weight").zero_()
    x = torch.from_numpy(random(2, 3, 8, 8))
    assert bool((other(x) == 0).all())
    assert not bool((module(x) == 0).all())


def test_reading_leaves_torchs_random_numbers_alone_and_is_repeatable() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = read_module(nets.conv()).state_dict()
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, first[name]) for name, value in read_module(nets.conv()).state_dict().items())


@pytest.mark.parametrize("quick", [False, True])
def test_what_was_read_exports_with_the_batch_free(tmp_path: Path, quick: bool) -> None:
    module, path = read_module(nets.conv()).requires_grad_(False), tmp_path / "model.onnx"
    export(module, (torch.from_numpy(random(2, 3, 8, 8)),), (SPEC,), ("y",), path, quick=quick)
    x = random(5, 3, 8, 8)
    np.testing.assert_allclose(
        HostSession(path)({"x": x})["y"], HostSession(nets.conv())({"x": x})["y"], rtol=1e-4, atol=1e-5
    )


#: What takes dynamo several seconds to export; tracing exports all of them.
SLOW = ("recurrent", "vit")


@pytest.mark.parametrize(
    ("name", "quick"),
    [
        pytest.param(
            name,
            quick,
            id=f"{'tracing' if quick else 'dynamo'}-{name}",
            marks=[pytest.mark.proof] if name in SLOW and not quick else [],
        )
        for quick in (False, True)
        for name in zoo.ZOO
    ],
)
def test_what_torch_exports_is_read_and_exported_again(name: str, quick: bool, tmp_path: Path) -> None:
    animal = zoo.ZOO[name]
    given, path = zoo.grown(animal).requires_grad_(False), tmp_path / "model.onnx"
    export(given, zoo.feeds(animal, 2), animal.specs, animal.outputs, path, quick=quick)
    module = read_module(arranged(load_onnx(path), animal.specs)).requires_grad_(False)
    # What techniques compare by: the exporter that traces bakes what it doesn't see following from the batch.
    export(module, zoo.feeds(animal, 2), animal.specs, animal.outputs, path, quick=True)
    session = HostSession(path)
    for batch in (1, 5):
        feeds = zoo.feeds(animal, batch, seed=batch)
        named = {spec.name: each.numpy() for spec, each in zip(animal.specs, feeds, strict=True)}
        for expected, mine, again in zip(
            flatten(given(*feeds)), flatten(module(*feeds)), session(named).values(), strict=True
        ):
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)


def test_two_nodes_of_the_same_weights_stay_tied() -> None:
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h w")]
    module = compared(made(nodes, (4, 6), {"w": random(6, 6)}, 17, 1, np.float32), (4, 6))
    assert len(list(module.parameters())) == 1


def test_a_bias_of_one_of_two_uses_is_no_bias_of_the_layer() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "a"), node("MatMul", "a w")]
    compared(made(nodes, (4, 6), {"w": random(6, 6), "b": random(6)}, 17, 1, np.float32), (4, 6))
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "a"), node("Mul", "a h")]
    compared(made(nodes, (4, 6), {"w": random(6, 6), "b": random(6)}, 17, 1, np.float32), (4, 6))


#: Nodes that compute a shape or use one, and the shape of x; the batch must stay free in all of them.
SHAPED: dict[str, tuple[Any, ...]] = {
    "flattened for a batch of 1": ([node("Reshape", "x s")], ROWS, {"s": ints(1, 24)}),
    "flattened": ([node("Reshape", "x s")], ROWS, {"s": ints(-1, 24)}),
    "zero copies": ([node("Reshape", "x s")], ROWS, {"s": ints(0, -1)}),
    "heads for a batch of 1": ([node("Reshape", "x s")], ROWS, {"s": ints(1, 4, 2, 3)}),
    "heads, the rest open": ([node("Reshape", "x s")], ROWS, {"s": ints(1, -1, 2, 3)}),
    "rows of a batch of 1": (
        [node("Reshape", "x s", "h"), node("Mul", "h h", "m"), node("Reshape", "m t")],
        ROWS,
        {"s": ints(4, 6), "t": ints(1, 4, 6)},
    ),
    "by the input's own shape": (
        [
            node("Shape", "x", "h"),
            node("Gather", "h i", "b"),
            node("Unsqueeze", "b a", "u"),
            node("Concat", "u r", "t", axis=0),
            node("Reshape", "x t"),
        ],
        ROWS,
        {"i": np.int64(0), "a": ints(0), "r": ints(6, 4)},
    ),
    "by arithmetic on shapes": (
        [
            node("Shape", "x", "h"),
            node("Slice", "h s e", "f"),
            node("Cast", "f", "g", to=TensorProto.FLOAT),
            node("Mul", "g k", "m"),
            node("Floor", "m", "n"),
            node("Cast", "n", "o", to=TensorProto.INT64),
            node("Concat", "o r", "t", axis=0),
            node("Concat", "x x", "w", axis=1),
            node("Reshape", "w t", "v"),
            node("Reshape", "v q"),
        ],
        ROWS,
        {"s": ints(0), "e": ints(1), "k": np.float32(2.0), "r": ints(24), "q": ints(-1, 48)},
    ),
    "expanded as exporters write it": (
        [
            node("Shape", "x", "h"),
            node("ConstantOfShape", "n", "o", value=numpy_helper.from_array(np.ones(1, np.int64))),
            node("Equal", "h m", "q"),
            node("Where", "q o h", "t"),
            node("Expand", "c t", "e"),
            node("Add", "x e"),
        ],
        ROWS,
        {"n": ints(3), "m": ints(-1), "c": random(1, 4, 1)},
    ),
    "filled": (
        [node("Shape", "x", "h"), node("ConstantOfShape", "h", "o"), node("Sub", "o x")],
        ROWS,
        {},
    ),
    "counted": (
        [
            node("Shape", "x", "h", start=1, end=2),
            node("Squeeze", "h", "n"),
            node("Range", "z n p", "r"),
            node("Cast", "r", "f", to=TensorProto.FLOAT),
            node("Unsqueeze", "f a", "u"),
            node("Mul", "x u"),
        ],
        ROWS,
        {"z": np.int64(0), "p": np.int64(1), "a": ints(1)},
    ),
    "a size as a number": (
        [node("Size", "x", "n"), node("CastLike", "n x", "f"), node("Sub", "f f", "z"), node("Add", "x z")],
        ROWS,
        {},
    ),
    "gathered by elements": (
        [node("ArgMax", "x", "i", axis=2), node("GatherElements", "x i", axis=2)],
        ROWS,
        {},
    ),
    "sizes to resize to": (
        [
            node("Shape", "x", "h"),
            node("Slice", "h s e", "f"),
            node("Concat", "f r", "t", axis=0),
            helper.make_node("Resize", ["x", "", "", "t"], ["y"], name="/net/Resize", mode="linear"),
        ],
        (4, 6, 8),
        {"s": ints(0), "e": ints(2), "r": ints(9, 13)},
    ),
}


@pytest.mark.parametrize("name", SHAPED)
def test_a_shape_keeps_the_batch_free(name: str) -> None:
    nodes, shape, weights = SHAPED[name]
    compared(made(nodes, shape, weights, 17, 1, np.float32), shape)


REFUSED: dict[str, tuple[Any, str]] = {
    "an unknown operator": (node("Hardmax"), "it is an operator that isn't known"),
    "data as a shape": (node("Reshape", "x i"), "it computes its shape from data"),
    "a weight that is computed": (node("Conv", "x x"), "it computes its input 1 (x), which has to be a constant"),
    "a mode that torch hasn't": (
        node("Resize", "x x n", mode="cubic", coordinate_transformation_mode="asymmetric"),
        "it resizes by cubic with asymmetric",
    ),
    "what fails in torch": (node("Reshape", "x s"), "it fails in torch: RuntimeError: shape '[5, 5]' is invalid"),
    "an output that torch's layer hasn't": (
        helper.make_node("MaxPool", ["x"], ["y", "z"], name="/net/MaxPool", kernel_shape=[2, 2]),
        "it has a second output that is used (z)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused_with_the_node(name: str) -> None:
    refused, why = REFUSED[name]
    nodes = [node("Cast", "x", "i", to=TensorProto.INT64), refused]
    model = made(nodes, (3, 4, 4), {"n": np.ones(4, np.float32), "s": ints(5, 5)}, 17, 1, np.float32)
    if "z" in refused.output:
        model.graph.output.append(onnx.ValueInfoProto(name="z"))
    with pytest.raises(ModelError, match="can't be read as torch") as caught:
        read_module(model)
    assert f"Node {refused.name!r}, a {refused.op_type}" in caught.value.message
    assert why in caught.value.message


def test_other_operator_sets_are_refused() -> None:
    foreign = nets.model(
        [helper.make_node("FusedGemm", ["x", "x"], ["y"], domain="com.microsoft")],
        [nets.value("x", [1, 2])],
        [nets.value("y", None)],
        domains=["com.microsoft"],
    )
    with pytest.raises(ModelError, match=r"is an operator of com\.microsoft"):
        read_module(foreign)


def test_an_old_file_is_refused_as_a_whole() -> None:
    with pytest.raises(ModelError, match="of opset 6, and files can be read as torch from 7 on"):
        read_module(made([node("Relu")], ROWS, {}, 6, 1, np.float32))


def test_a_file_is_asked_before_anything_runs(tmp_path: Path) -> None:
    onnx.save(nets.conv(), str(tmp_path / "good.onnx"))
    assert why_unreadable(tmp_path / "good.onnx", (SPEC,)) == ""
    onnx.save(made([node("Hardmax")], (3, 8, 8), {}, 17, 1, np.float32), str(tmp_path / "bad.onnx"))
    assert why_unreadable(tmp_path / "bad.onnx", (SPEC,)).startswith("node '/net/Hardmax', a Hardmax")


def test_inputs_are_taken_in_the_projects_order_and_shapes() -> None:
    graph = helper.make_graph(
        [node("Sub", "a b")],
        "net",
        [nets.value("b", [1, 3]), nets.value("a", [1, 3])],
        [nets.value("y", [1, 3])],
    )
    specs = tuple(TensorSpec(name=name, shape=("batch", 3), dtype="float32") for name in ("a", "b"))
    module = read_module(arranged(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), specs))
    assert module(torch.full((4, 3), 5.0), torch.full((4, 3), 2.0)).tolist() == [[3.0] * 3] * 4


def test_the_first_node_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made([node("Relu", "x", "r"), node("Sigmoid", "r", "s"), node("Tanh", "s")], ROWS, {}, 17, 1, np.float32)
    feeds = {"x": random(1, *ROWS)}
    assert first_difference(model, feeds) == ""
    monkeypatch.setattr(nn.Sigmoid, "forward", lambda _, x: x * 0.9)
    assert first_difference(model, feeds) == "/net/Sigmoid_s"


@given(st.lists(st.text(max_size=12), max_size=8))
def test_names_are_identifiers_and_of_one_thing_each(wanted: list[str]) -> None:
    builder = Builder()
    names = [builder.name(each) for each in wanted]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name not in dir(nn.Module()) for name in names)
