"""Runnable ONNX of known architectures with random weights: for latency, memory and int8 error, never for accuracy.

`squeezenet` and `resnet50` are the `onnx` wheel's weightless graphs; `mobilenet` is written here after MobileNetV2.
Each takes float32 `image` (1, 3, 224, 224) and gives float32 `logits`; the same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

if TYPE_CHECKING:
    from collections.abc import Callable

LIGHT_FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
OPSET = 17
IR_VERSION = 8  # the one that came with opset 17
BIAS_SPREAD = 0.1
CLASSES = 1000

# (expansion, channels, repeats, stride): Sandler et al. 2018, table 2.
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

Floats = npt.NDArray[np.float32]


def squeezenet(seed: int = 0) -> onnx.ModelProto:
    """SqueezeNet 1.0: 26 convolutions, 8 concatenations, no batch norm."""
    return _filled("light_squeezenet.onnx", seed)


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """ResNet-50: 53 convolutions with batch norm, 16 residual sums."""
    return _filled("light_resnet50.onnx", seed)


def mobilenet(seed: int = 0) -> onnx.ModelProto:
    """MobileNetV2, width 1.0: 52 convolutions, 17 of them depthwise."""
    graph = _Graph(np.random.default_rng(seed))
    x = graph.convolution("image", 3, 32, kernel=3, stride=2, clipped=True)
    channels = 32
    for expansion, channels_out, repeats, first_stride in MOBILENET_V2:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            x = graph.inverted_residual(x, channels, channels_out, stride=stride, expansion=expansion)
            channels = channels_out
    x = graph.convolution(x, channels, 1280, clipped=True)
    x = graph.add("Flatten", [graph.add("GlobalAveragePool", [x])])
    weight = graph.constant("classifier_w", _scaled(graph.random, (CLASSES, 1280), gain=1.0))
    bias = graph.constant("classifier_b", _bias(graph.random, CLASSES))
    graph.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["logits"], name="classifier", transB=1))
    return _finished(graph.model("mobilenet_v2"))


NETS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "resnet50": resnet50,
    "mobilenet": mobilenet,
    "squeezenet": squeezenet,
}


def _scaled(random: np.random.Generator, shape: tuple[int, ...], *, gain: float) -> Floats:
    """Normal weights of variance gain / fan-in (He et al. 2015): gain 2 before a ReLU, 1 before a sum or the output."""
    fan_in = math.prod(shape[1:])
    return random.normal(0.0, math.sqrt(gain / fan_in), shape).astype(np.float32)


def _bias(random: np.random.Generator, size: int) -> Floats:
    return random.normal(0.0, BIAS_SPREAD, size).astype(np.float32)


def _finished(model: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(model, full_check=True)
    return model


# The onnx wheel's graphs ------------------------------------------------------------------------------------


def _filled(name: str, seed: int) -> onnx.ModelProto:
    model = onnx.load(LIGHT_FOLDER / name)
    graph = model.graph
    shapes = _weight_shapes(graph)
    _drop_softmax(graph)
    uses = {value: node for node in reversed(graph.node) for value in node.input}
    random = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(_weight(uses, w, shape, random), w) for w, shape in shapes.items() if w in uses]
    kept = [i for i in graph.initializer if i.name in uses and i.name not in shapes]
    del graph.initializer[:]
    graph.initializer.extend(kept + weights)
    known = {i.name for i in graph.initializer}
    inputs = [i for i in graph.input if i.name in uses and i.name not in known]
    del graph.input[:]
    graph.input.extend(inputs)
    _rename(graph, graph.input[0].name, "image")
    _rename(graph, graph.output[0].name, "logits")
    model.ir_version = IR_VERSION
    return _finished(version_converter.convert_version(model, OPSET))


def _weight_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Name and shape of every float weight; takes out the ConstantOfShape nodes that stood for them."""
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    shapes = {name: value.shape for name, value in values.items() if value.dtype == np.float32}
    for node in [node for node in graph.node if node.op_type == "ConstantOfShape"]:
        shapes[node.output[0]] = tuple(int(size) for size in values[node.input[0]])
        graph.node.remove(node)
    return dict(sorted(shapes.items()))


def _drop_softmax(graph: onnx.GraphProto) -> None:
    """End at the logits: behind random weights a softmax is flat or one-hot, and either would hide an int8 error."""
    last = graph.node[-1]
    if last.op_type != "Softmax":
        raise ValueError(f"the last node of {graph.name} is {last.op_type}, not Softmax")
    graph.node.remove(last)
    shape = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    graph.output[0].CopyFrom(helper.make_tensor_value_info(last.input[0], TensorProto.FLOAT, shape))


def _weight(uses: dict[str, onnx.NodeProto], name: str, shape: tuple[int, ...], random: np.random.Generator) -> Floats:
    node = uses[name]
    position = list(node.input).index(name)
    if node.op_type == "BatchNormalization":
        # scale, bias, mean, variance
        return np.ones(shape, np.float32) if position in (1, 4) else _bias(random, shape[0])
    if node.op_type == "Mul":
        return np.ones(shape, np.float32)
    if position == 1 and node.op_type in ("Conv", "Gemm"):
        return _scaled(random, shape, gain=2.0 if _meets_relu(uses, node) else 1.0)
    return _bias(random, shape[0])


def _meets_relu(uses: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> bool:
    follower = uses.get(node.output[0])
    if follower is not None and follower.op_type == "BatchNormalization":
        follower = uses.get(follower.output[0])
    return follower is not None and follower.op_type == "Relu"


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


# MobileNetV2 ------------------------------------------------------------------------------------------------


class _Graph:
    """Collects nodes and weights of a net with one chain of names."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.constant("clip_low", np.float32(0.0))
        self.constant("clip_high", np.float32(6.0))

    def constant(self, name: str, value: Floats | np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def convolution(
        self,
        x: str,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        clipped: bool = False,
    ) -> str:
        """A convolution with batch norm and, where `clipped`, a ReLU6."""
        base = f"conv{len(self.nodes)}"
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self.constant(f"{base}_w", _scaled(self.random, shape, gain=2.0 if clipped else 1.0))
        around = [kernel // 2] * 4
        strides = [stride, stride]
        x = self.add("Conv", [x, weight], kernel_shape=[kernel, kernel], strides=strides, pads=around, group=groups)
        norm = {"s": np.ones(outputs, np.float32), "b": _bias(self.random, outputs)}
        norm |= {"m": _bias(self.random, outputs), "v": np.ones(outputs, np.float32)}
        x = self.add("BatchNormalization", [x, *(self.constant(f"{base}_bn_{k}", v) for k, v in norm.items())])
        return self.add("Clip", [x, "clip_low", "clip_high"]) if clipped else x

    def inverted_residual(self, x: str, inputs: int, outputs: int, *, stride: int, expansion: int) -> str:
        wide = inputs * expansion
        y = self.convolution(x, inputs, wide, clipped=True) if expansion > 1 else x
        y = self.convolution(y, wide, wide, kernel=3, stride=stride, groups=wide, clipped=True)
        y = self.convolution(y, wide, outputs)
        return self.add("Add", [x, y]) if stride == 1 and inputs == outputs else y

    def model(self, name: str) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 224, 224])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])
        graph = helper.make_graph(self.nodes, name, [image], [logits], self.weights)
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the nets with random weights as NAME.onnx.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, net in NETS.items():
        onnx.save(net(arguments.seed), arguments.folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
