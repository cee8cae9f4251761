"""Layers with chains behind and before them, written node by node, and what holds of each after folding."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgebuild.models.folding.fold import Folded, fold
from edgebuild.models.host_session import HostSession
from edgebuild.models.onnx_graphs import fault_of, tidy
from tests.models import nets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Channels of a layer's output and of its input, both free of others' sizes.
OUT, IN = 6, 4


class Layer(NamedTuple):
    """How a layer is written: its node, its weights, its input's shape, and its channels' axis from the end."""

    op: str
    shape: tuple[int, ...]
    weights: dict[str, tuple[int, ...]]
    axis: int
    rank: int
    attributes: Mapping[str, Any] = MappingProxyType({})


LAYERS = {
    "conv": Layer("Conv", (2, IN, 7, 5), {"w": (OUT, IN, 3, 3)}, -3, 4),
    "conv with bias": Layer("Conv", (2, IN, 7, 5), {"w": (OUT, IN, 3, 3), "b": (OUT,)}, -3, 4, {"strides": [2, 2]}),
    "padded conv": Layer("Conv", (1, IN, 7, 5), {"w": (OUT, IN, 3, 3), "b": (OUT,)}, -3, 4, {"pads": [1, 1, 1, 1]}),
    "grouped conv": Layer("Conv", (1, IN, 6, 6), {"w": (OUT, IN // 2, 3, 3)}, -3, 4, {"group": 2}),
    "depthwise conv": Layer("Conv", (1, OUT, 6, 6), {"w": (OUT, 1, 3, 3)}, -3, 4, {"group": OUT}),
    "conv of signals": Layer("Conv", (2, IN, 9), {"w": (OUT, IN, 3), "b": (OUT,)}, -2, 3),
    "transposed conv": Layer("ConvTranspose", (1, IN, 4, 4), {"w": (IN, OUT, 3, 3)}, -3, 4, {"strides": [2, 2]}),
    "gemm": Layer("Gemm", (3, IN), {"w": (IN, OUT)}, -1, 2),
    "gemm as torch writes it": Layer("Gemm", (3, IN), {"w": (OUT, IN), "b": (OUT,)}, -1, 2, {"transB": 1}),
    "gemm with factors": Layer(
        "Gemm", (3, IN), {"w": (OUT, IN), "b": (1, OUT)}, -1, 2, {"transB": 1, "alpha": 0.5, "beta": -2.0}
    ),
    "gemm with one bias": Layer("Gemm", (3, IN), {"w": (IN, OUT), "b": (1, 1)}, -1, 2, {"beta": 0.25}),
    "product": Layer("MatMul", (3, IN), {"w": (IN, OUT)}, -1, 2),
    "product of sequences": Layer("MatMul", (2, 5, IN), {"w": (IN, OUT)}, -1, 3),
}
CONVOLUTIONS = [name for name, layer in LAYERS.items() if layer.op == "Conv"]
LINKS = ("x + c", "c + x", "x - c", "c - x", "x * c", "c * x", "x / c", "-x", "normalisation", "transpose", "nothing")
FORMS = ("number", "one", "aligned", "full")


class Net:
    """Writes a small net node by node: tensors, constants in nodes or initialisers."""

    def __init__(self, seed: int, *, as_nodes: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.as_nodes = as_nodes
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{op}_{output}", **attributes))
        return output

    def constant(self, values: NDArray[Any]) -> str:
        tensor = numpy_helper.from_array(np.asarray(values), self.name())
        if self.as_nodes:
            return self.add("Constant", output=tensor.name, value=tensor)
        self.weights.append(tensor)
        return str(tensor.name)

    def away_from_zero(self, *shape: int) -> NDArray[np.float32]:
        signs = self.random.choice([-1, 1], shape)
        return np.asarray(signs * self.random.uniform(0.4, 2.5, shape), np.float32)

    def layer(self, layer: Layer, data: str) -> str:
        weights = [self.constant(self.random.standard_normal(s).astype(np.float32)) for s in layer.weights.values()]
        return self.add(layer.op, data, *weights, **layer.attributes)

    def link(self, kind: str, data: str, channels: int, axis: int, rank: int, form: str) -> tuple[str, int]:
        """Add an operator of a chain; return its output and where the channels then lie."""
        if kind == "nothing":
            return self.add("Identity", data), axis
        if kind == "-x":
            return self.add("Neg", data), axis
        if kind == "transpose":
            perm = [int(i) for i in self.random.permutation(rank)]
            return self.add("Transpose", data, perm=perm), perm.index(rank + axis) - rank
        if kind == "normalisation":
            if axis != 1 - rank:
                return data, axis
            parts = [self.away_from_zero(channels) for _ in range(3)]
            parts.append(np.abs(self.away_from_zero(channels)))
            return self.add("BatchNormalization", data, *map(self.constant, parts), epsilon=1e-3), axis
        shapes = {"number": (), "one": (1,), "aligned": (channels, *[1] * (-axis - 1))}
        full = [channels if i == rank + axis else 1 for i in range(rank)]
        c = self.constant(self.away_from_zero(*shapes.get(form, full)))
        op = {"+": "Add", "-": "Sub", "*": "Mul", "/": "Div"}[kind[2]]
        return self.add(op, *((data, c) if kind[0] == "x" else (c, data))), axis

    def model(self, shape: Sequence[int], output: str, *more: str) -> Any:
        outputs = [nets.value(name, None) for name in (output, *more)]
        model = nets.model(self.nodes, [nets.value("x", shape)], outputs, self.weights)
        return inferred(model)


def inferred(model: Any) -> Any:
    return onnx.shape_inference.infer_shapes(tidy(model), strict_mode=True, data_prop=True)


def ops(model: Any) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type != "Constant"]


def require_same(model: Any, folded: Any, *, seed: int = 0) -> None:
    """Both answer alike, within 1e-5 of the largest number, in onnxruntime without optimisations."""
    assert fault_of(folded) is None
    onnx.checker.check_model(folded, full_check=True)
    random = np.random.default_rng(seed)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    expected, found = HostSession(model)(feeds), HostSession(folded)(feeds)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert np.abs(found[name] - values).max() <= 1e-5 * max(np.abs(values).max(), 1.0)


def folded(model: Any) -> Folded:
    before = model.SerializeToString()
    result = fold(model)
    assert model.SerializeToString() == before, "the given model stays as it is"
    require_same(model, result.model)
    return result


def require_alone(model: Any) -> Folded:
    result = folded(model)
    assert ops(result.model) == ops(model)
    assert result.operators == 0
    return result


def chain(name: str, kinds: Sequence[str], forms: Sequence[str] = ("aligned",), *, seed: int = 0) -> Any:
    """Return a layer with such operators behind it."""
    net, layer = Net(seed), LAYERS[name]
    data, axis = net.layer(layer, "x"), layer.axis
    for index, kind in enumerate(kinds):
        data, axis = net.link(kind, data, OUT, axis, layer.rank, forms[index % len(forms)])
    return net.model(layer.shape, data)
